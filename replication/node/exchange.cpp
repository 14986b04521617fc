#include "replication/node/exchange.h"

#include <algorithm>
#include <optional>

#include "replication/node/gateway.h"
#include "replication/node/replica_host.h"
#include "volumed/base/assert.h"
#include "volumed/base/log.h"

namespace cvol::replication {
namespace {

constexpr io::Nanoseconds kBusyTurn = 20 * io::kMillisecond;
constexpr io::Nanoseconds kPingTurn = 20 * io::kMillisecond;
// A word of death against a connection that stands: how long its answer may take.
constexpr io::Nanoseconds kWordPatience = 300 * io::kMillisecond;
constexpr io::Nanoseconds kWordTurn = 2 * io::kMillisecond;
constexpr uint64_t kMostWeighed = 64;

}  // namespace

Exchange::Exchange(io::Reactor& reactor, Register& reg, Mesh::Options mesh, Options options)
    : reactor_(reactor),
      register_(reg),
      options_(options),
      self_(mesh.self),
      mesh_(reactor, *this, std::move(mesh)),
      next_ping_(reactor.random().next() >> 1) {
  CVOL_ASSERT(check(options).empty());
}

Exchange::~Exchange() {
  CVOL_ASSERT(hosts_.empty() && gateways_.empty() && scope_.running() == 0);
}

void Exchange::set_node(const NodeId& node, NodeEntry entry) {
  for (uint16_t shard = 0; shard < entry.addresses.size(); ++shard)
    mesh_.set_address({node, shard}, entry.addresses[shard]);
  nodes_[node] = std::move(entry);
  for (const Hosted& hosted : hosts_) hosted.host->wake_links();
  for (Gateway* gateway : all_gateways()) gateway->wake();
}

void Exchange::set_away(const NodeId& node) {
  const auto at = nodes_.find(node);
  if (at == nodes_.end()) return;
  for (uint16_t shard = 0; shard < at->second.addresses.size(); ++shard)
    mesh_.set_away({node, shard});
}

void Exchange::forget_node(const NodeId& node) {
  const auto at = nodes_.find(node);
  if (at == nodes_.end()) return;
  for (uint16_t shard = 0; shard < at->second.addresses.size(); ++shard)
    mesh_.forget({node, shard});
  nodes_.erase(at);
}

std::optional<Endpoint> Exchange::endpoint_of(const Member& member) const {
  const auto node = nodes_.find(member.node);
  if (node == nodes_.end()) return std::nullopt;
  const auto disk = node->second.disks.find(member.disk);
  return Endpoint{member.node, disk == node->second.disks.end() ? uint16_t{0} : disk->second};
}

// --- who is here ---

void Exchange::add(ReplicaHost* host) {
  hosts_by_tag_[wire::tag_of(host->volume())] = host;
  hosts_.push_back({host});
  start_clock();
}

void Exchange::remove(ReplicaHost* host) {
  const auto at = hosts_by_tag_.find(wire::tag_of(host->volume()));
  if (at != hosts_by_tag_.end() && at->second == host) hosts_by_tag_.erase(at);
  std::erase_if(hosts_, [host](const Hosted& hosted) { return hosted.host == host; });
}

void Exchange::add(Gateway* gateway) {
  gateways_[wire::tag_of(gateway->volume())].push_back(gateway);
}

void Exchange::remove(Gateway* gateway) {
  const auto at = gateways_.find(wire::tag_of(gateway->volume()));
  if (at == gateways_.end()) return;
  std::erase(at->second, gateway);
  if (at->second.empty()) gateways_.erase(at);
}

std::vector<Gateway*> Exchange::all_gateways() const {
  std::vector<Gateway*> all;
  for (const auto& [tag, gateways] : gateways_)
    all.insert(all.end(), gateways.begin(), gateways.end());
  return all;
}

ReplicaHost* Exchange::host_of(const Uuid& volume) const {
  const auto at = hosts_by_tag_.find(wire::tag_of(volume));
  return at == hosts_by_tag_.end() ? nullptr : at->second;
}

void Exchange::set_record(const Uuid& volume, const Record& record) {
  if (ReplicaHost* host = host_of(volume)) host->set_record(record);
  const auto at = gateways_.find(wire::tag_of(volume));
  if (at == gateways_.end()) return;
  const std::vector<Gateway*> here = at->second;
  for (Gateway* gateway : here) gateway->set_record(record);
}

// --- time ---

void Exchange::start_clock() {
  if (clock_runs_ || closing_) return;
  clock_runs_ = true;
  scope_.spawn(clock());
}

Task<void> Exchange::clock() {
  while (!closing_ && !hosts_.empty()) {
    bool busy = false;
    for (const Hosted& hosted : hosts_) busy = busy || hosted.busy;
    // With nothing under way there is nothing to look at but beacons.
    const int64_t slept = co_await reactor_.sleep(busy ? kBusyTurn : options_.beacon, &cancel_);
    if (slept < 0) break;
    turn(reactor_.now());
  }
  clock_runs_ = false;
}

void Exchange::turn(io::Nanoseconds now) {
  const bool beacons = now - last_beacons_ >= options_.beacon - kBusyTurn;
  const bool all = beacons && all_next_;
  if (beacons) {
    last_beacons_ = now;
    all_next_ = !all_next_;
  }
  for (Hosted& hosted : hosts_) {
    if (hosted.rests && !all) continue;
    ReplicaHost& host = *hosted.host;
    if (beacons) host.send_beacons(now, all);
    host.tick(now);
    hosted.busy = host.busy();
    hosted.rests = all && !hosted.busy && host.rests();  // until the next round of all
  }
}

// --- what comes ---

void Exchange::on_frame(const Endpoint& from, Frame frame) {
  const auto type = static_cast<wire::FrameType>(frame.header.type);
  if (type == wire::FrameType::kDead) {
    auto death = wire::decode_death(frame.body);
    if (death) hear_of_death(death->node, death->process);
    return;
  }
  if (type == wire::FrameType::kPing) {
    wire::FrameHeader header;
    header.type = static_cast<uint8_t>(wire::FrameType::kPong);
    header.seq = frame.header.seq;
    return send(from, header, {});
  }
  if (type == wire::FrameType::kPong) {
    const auto ping = pings_.find(frame.header.seq);
    if (ping != pings_.end()) ping->second = true;
    return;
  }
  if (type == wire::FrameType::kAsk) return answer_question(from, frame);
  if (type == wire::FrameType::kTold) {
    const auto question = questions_.find(frame.header.seq);
    if (question != questions_.end() && frame.body.size() <= wire::kMostToldBytes)
      question->second.emplace(reinterpret_cast<const char*>(frame.body.data()), frame.body.size());
    return;
  }
  if (type == wire::FrameType::kAnswer) {
    const auto at = gateways_.find(frame.header.volume);
    if (at == gateways_.end()) return;
    for (Gateway* gateway : at->second) {
      if (gateway->waits_for_answer(from, frame.header.seq))
        return gateway->on_answer(from, std::move(frame));
    }
    return;
  }
  const auto host = hosts_by_tag_.find(frame.header.volume);
  if (host != hosts_by_tag_.end()) {
    host->second->on_frame(from, std::move(frame));
    return;
  }
  say_nobody_is_here(from, frame.header);
}

// Whoever looks for a replica in the wrong place, or too early, must not wait.
void Exchange::say_nobody_is_here(const Endpoint& to, const wire::FrameHeader& question) {
  wire::FrameHeader header;
  header.volume = question.volume;
  header.to = question.from;
  header.seq = question.seq;
  const auto type = static_cast<wire::FrameType>(question.type);
  if (wire::is_request(type)) {
    wire::Answer answer;
    answer.outcome = static_cast<uint8_t>(Outcome::kNotPrimary);
    header.type = static_cast<uint8_t>(wire::FrameType::kAnswer);
    send(to, header, wire::encode_answer(answer));
  } else if (const auto answer = wire::answer_of(type)) {
    header.type = static_cast<uint8_t>(*answer);
    send(to, header, {});  // says nothing: the question has failed
  }
}

Task<bool> Exchange::ping(Endpoint endpoint, io::Nanoseconds patience) {
  if (endpoint == self_) co_return true;
  const io::Nanoseconds until = reactor_.now() + patience;
  const uint64_t number = next_ping_++;
  pings_[number] = false;
  bool sent = false;
  while (!closing_ && !pings_[number] && reactor_.now() < until) {
    mesh_.want(endpoint);
    if (!is_up(endpoint)) {
      sent = false;
    } else if (!sent) {
      wire::FrameHeader header;
      header.type = static_cast<uint8_t>(wire::FrameType::kPing);
      header.seq = number;
      send(endpoint, header, {});
      sent = true;
    }
    const int64_t slept = co_await reactor_.sleep(kPingTurn, &cancel_);
    if (slept < 0) break;
  }
  const bool answered = pings_[number];
  pings_.erase(number);
  co_return answered;
}

void Exchange::answer_question(const Endpoint& from, const Frame& frame) {
  std::string answer;
  if (on_question && frame.body.size() <= wire::kMostAskBytes)
    answer = on_question({reinterpret_cast<const char*>(frame.body.data()), frame.body.size()});
  if (answer.size() > wire::kMostToldBytes) answer.clear();
  wire::FrameHeader header;
  header.type = static_cast<uint8_t>(wire::FrameType::kTold);
  header.seq = frame.header.seq;
  send(from, header, std::as_bytes(std::span(answer)));
}

Task<std::optional<std::string>> Exchange::ask(Endpoint endpoint, std::string question,
                                               io::Nanoseconds patience) {
  const io::Nanoseconds until = reactor_.now() + patience;
  const uint64_t number = next_ping_++;
  questions_[number];
  bool sent = false;
  while (!closing_ && !questions_[number] && reactor_.now() < until) {
    mesh_.want(endpoint);
    if (!is_up(endpoint)) {
      sent = false;
    } else if (!sent) {
      wire::FrameHeader header;
      header.type = static_cast<uint8_t>(wire::FrameType::kAsk);
      header.seq = number;
      send(endpoint, header, std::as_bytes(std::span(question)));
      sent = true;
    }
    const int64_t slept = co_await reactor_.sleep(kWordTurn, &cancel_);
    if (slept < 0) break;
  }
  std::optional<std::string> answer = std::move(questions_[number]);
  questions_.erase(number);
  if (answer && answer->empty()) answer.reset();
  co_return answer;
}

void Exchange::on_up(const Endpoint& peer, const Uuid& process) {
  processes_[peer] = process;
  for (const Hosted& hosted : hosts_) hosted.host->on_link(peer, true);
  for (Gateway* gateway : all_gateways()) gateway->wake();
}

void Exchange::on_down(const Endpoint& peer) {
  for (const Hosted& hosted : hosts_) hosted.host->on_link(peer, false);
  for (Gateway* gateway : all_gateways()) gateway->on_down(peer);
}

// --- who is dead ---

bool Exchange::is_linked(const NodeId& node, const Uuid& process) const {
  for (const auto& [endpoint, last] : processes_) {
    if (endpoint.node == node && last == process && is_up(endpoint)) return true;
  }
  return false;
}

// All of its shards are asked: one that answers is enough, and one may hang.
Task<bool> Exchange::link_answers(NodeId node, Uuid process, io::Nanoseconds patience) {
  const io::Nanoseconds until = reactor_.now() + patience;
  std::vector<uint64_t> numbers;
  for (const auto& [endpoint, last] : processes_) {
    if (endpoint.node != node || last != process || !is_up(endpoint)) continue;
    wire::FrameHeader header;
    header.type = static_cast<uint8_t>(wire::FrameType::kPing);
    header.seq = next_ping_++;
    numbers.push_back(header.seq);
    pings_[header.seq] = false;
    send(endpoint, header, {});
  }
  bool answered = false;
  while (!numbers.empty() && !answered && !closing_) {
    for (const uint64_t number : numbers) answered = answered || pings_[number];
    // A process that has died takes its connections along.
    if (answered || reactor_.now() >= until || !is_linked(node, process)) break;
    const int64_t slept = co_await reactor_.sleep(kWordTurn, &cancel_);
    if (slept < 0) break;
  }
  for (const uint64_t number : numbers) pings_.erase(number);
  co_return answered;
}

void Exchange::hear_of_death(const NodeId& node, const Uuid& process) {
  if (node == self_.node && process == mesh_.process()) return;  // it is this one
  if (!is_linked(node, process)) return process_died(node, process);
  if (weighed_ >= kMostWeighed || closing_) return;  // somebody repeats himself
  ++weighed_;
  scope_.spawn(weigh_death(node, process));
}

Task<void> Exchange::weigh_death(NodeId node, Uuid process) {
  const bool lives = co_await link_answers(node, process, kWordPatience);
  --weighed_;
  if (closing_) co_return;
  if (!lives) {
    process_died(node, process);
    co_return;
  }
  log::warning("replication", "a process that answers was said to be dead; it is not believed",
               {{"node", node.to_string()}, {"process", process.to_string()}});
}

void Exchange::process_died(const NodeId& node, const Uuid& process) {
  log::info("replication", "a process is known to be dead",
            {{"node", node.to_string()}, {"process", process.to_string()}});
  for (const auto& [endpoint, last] : processes_) {
    if (endpoint.node != node || last != process) continue;
    mesh_.drop(endpoint);  // at once: a connection that is still there says that it lives
    for (const Hosted& hosted : hosts_) hosted.host->on_process_dead(endpoint);
  }
  if (on_death) on_death(node, process);
}

void Exchange::reset(const Member& member) {
  if (const auto endpoint = endpoint_of(member)) mesh_.reset(*endpoint);
}

Task<void> Exchange::close() {
  closing_ = true;
  cancel_.cancel();
  co_await scope_.join();
  co_await mesh_.close();
}

}  // namespace cvol::replication
