// The node's process, disk and events from outside; node_driver.cpp has what its replica asks for.
#include "tests/sim/protocol/node.h"

#include <fmt/format.h>

#include <algorithm>

#include "volumed/base/assert.h"

namespace cvol::sim {

using replication::Durable;
using replication::InSync;
using replication::Member;

Node::Node(const Ground& on, int index, const Settings& settings)
    : world_(on.world),
      network_(on.network),
      register_(on.record),
      invariants_(on.invariants),
      directory_(on.directory),
      index_(index),
      settings_(settings),
      copier_(*this) {
  CVOL_ASSERT(check(settings.options).empty());
}

Nanoseconds Node::clock() const {
  const Nanoseconds now = world_.now();
  const Nanoseconds start = (index_ + 1) * 1000 * kSecond;  // clocks have nothing in common
  return start + now + now / 1000000 * settings_.clock_error;
}

// --- the process ---

void Node::start() {
  CVOL_ASSERT(replica_ == nullptr);
  ++process_;
  world_.note(2, static_cast<uint64_t>(index_), process_);
  if (world_.tracing()) world_.trace(fmt::format("node {}: starts", index_));
  if (settings_.options.mutant == replication::Mutant::kTailRolledBack) disk_->roll_tail_back();
  Replica::Start start;
  start.self = id_;
  start.durable = disk_->durable();
  incarnation_ = start.durable.incarnation;
  start.commit_point = disk_->commit_point();
  start.last_seq = disk_->highest_seq();
  start.now = clock();
  stopped_ = false;
  replica_.reset(new Replica(*this, settings_.options, start));
  if (disk_->failed()) {
    later(0, [](Replica& replica, Nanoseconds now) { replica.on_disk_failed(now); });
  }
  announce_peers();
  beat(process_);
  register_.list(index_);
  invariants_.on_restart();
}

void Node::crash(bool kernel_lives) {
  if (replica_ == nullptr) return;
  world_.note(3, static_cast<uint64_t>(index_), process_);
  if (world_.tracing())
    world_.trace(fmt::format("node {}: {}", index_, kernel_lives ? "killed" : "loses power"));
  replica_.reset();
  stopped_ = false;
  waiting_.clear();
  works_.clear();
  prepared_.clear();
  peer_process_.clear();
  announced_.clear();
  copier_.reset();
  disk_->crash();
  network_.on_death(index_, kernel_lives);
}

void Node::stop() {
  if (replica_ != nullptr) stopped_ = true;
}

void Node::go_on() {
  if (!stopped_) return;
  stopped_ = false;
  std::deque<std::function<void()>> waiting;
  waiting.swap(waiting_);
  for (const auto& what : waiting) what();
}

void Node::enter(const std::function<void(Replica&, Nanoseconds)>& what) {
  if (replica_ == nullptr || world_.failed()) return;
  const Epoch before = replica_->epoch();
  what(*replica_, clock());
  if (replica_->epoch() < before) world_.fail("I4: an epoch of a replica falls");
}

void Node::run(const std::function<void(Replica&, Nanoseconds)>& what) {
  if (replica_ == nullptr) return;
  if (stopped_) {
    waiting_.push_back(of_this_life(what));
    return;
  }
  enter(what);
  announce_peers();
}

std::function<void()> Node::of_this_life(std::function<void(Replica&, Nanoseconds)> what) {
  return [this, process = process_, what = std::move(what)] {
    if (process == process_) run(what);
  };
}

void Node::later(Nanoseconds delay, std::function<void(Replica&, Nanoseconds)> what) {
  world_.after(delay, of_this_life(std::move(what)));
}

void Node::beat(uint64_t process) {
  if (process != process_ || replica_ == nullptr) return;
  if (!stopped_) {
    run([this](Replica& replica, Nanoseconds now) {
      replica.tick(now);
      if (!replica.wants_beacons() || now - last_beacons_ < settings_.options.beacon) return;
      last_beacons_ = now;
      replica.send_beacons(now);
    });
  }
  const Nanoseconds step = world_.between(settings_.tick * 4 / 5, settings_.tick * 6 / 5);
  world_.after(step, [this, process] { beat(process); });
}

// --- the disk ---

void Node::replace_disk(const ReplicaId& id, uint64_t incarnation, const Record& record) {
  CVOL_ASSERT(replica_ == nullptr);
  if (disk_ != nullptr) old_disks_.push_back(std::move(disk_));
  disk_ = std::make_unique<Disk>(world_, settings_.blocks, settings_.disk);
  disk_->keep_older(settings_.options.mutant == replication::Mutant::kTailRolledBack);
  id_ = id;
  Durable durable;
  durable.record = record;
  durable.incarnation = incarnation;
  disk_->format(durable);
}

void Node::fail_disk() {
  disk_->set_failed(true);
  if (world_.percent(50)) return;  // the next write finds it
  run([](Replica& replica, Nanoseconds now) { replica.on_disk_failed(now); });
}

// --- events from outside ---

void Node::on_record(const Record& record) {
  run([record](Replica& replica, Nanoseconds now) { replica.on_record(now, record); });
}

void Node::on_link(int peer, bool up, uint64_t process) {
  const ReplicaId id = directory_.replica_at(peer);
  if (id.is_nil()) return;  // a front end: its requests tell
  run([this, peer, id, up, process](Replica& replica, Nanoseconds now) {
    if (up) peer_process_[peer] = process;
    world_.note(4, static_cast<uint64_t>(index_), static_cast<uint64_t>(peer), up);
    if (world_.tracing())
      world_.trace(fmt::format("node {}: link to {} {}", index_, peer, up ? "up" : "down"));
    std::erase(announced_, id);
    if (replica.record().find_member(id) != nullptr) announced_.push_back(id);
    replica.on_link(now, id, up);
    if (!up) copier_.on_link_down(id);
  });
}

// A replica hears of links to those that its record has; of one that is new in it, now.
void Node::announce_peers() {
  if (replica_ == nullptr) return;
  for (const Member& member : replica_->record().members) {
    if (member.replica == id_) continue;
    const int peer = directory_.node_of(member.replica);
    if (peer < 0 || !network_.is_up(index_, peer)) continue;
    if (std::find(announced_.begin(), announced_.end(), member.replica) != announced_.end())
      continue;
    announced_.push_back(member.replica);
    later(0, [this, peer, id = member.replica](Replica& replica, Nanoseconds now) {
      if (network_.is_up(index_, peer)) replica.on_link(now, id, true);
    });
  }
}

void Node::on_death_notice(int peer, const ReplicaId& replica_id, uint64_t process) {
  run([this, peer, replica_id, process](Replica& replica, Nanoseconds now) {
    if (peer_process_[peer] > process) return;  // a newer one is known
    if (world_.tracing()) world_.trace(fmt::format("node {}: knows that {} is dead", index_, peer));
    replica.on_peer_dead(now, replica_id);
  });
}

void Node::on_packet(int from, const PacketPointer& packet) {
  run([this, from, packet](Replica& replica, Nanoseconds now) {
    switch (packet->kind) {
      case Packet::Kind::kMessage: {
        Message message = packet->message;
        if (message.to != id_) return;  // a replica that was here before
        world_.note(5, static_cast<uint64_t>(index_), static_cast<uint64_t>(message.type),
                    message.seq.value);
        if (world_.tracing())
          world_.trace(fmt::format("node {}: {}", index_, describe_message(from, message)));
        if (message.type == replication::MessageType::kPrepare) {
          message.ticket = next_ticket_++;
          prepared_[message.ticket] = packet->blocks;
        }
        return replica.on_message(now, message);
      }
      case Packet::Kind::kOpen:
        return take_open(from, *packet);
      case Packet::Kind::kRequest:
        return take_request(from, *packet);
      default:
        break;
    }
    if (packet->to == id_) copier_.on_packet(*packet);
  });
}

std::string describe_message(int from, const Message& message) {
  std::string text =
      fmt::format("{} from {}, epoch {}", name_of(message.type), from, message.epoch.value);
  if (message.seq.value != 0) text += fmt::format(", seq {}", message.seq.value);
  if (!message.range.empty())
    text += fmt::format(", blocks {} to {}", message.range.begin, message.range.end);
  if (message.commit_point.value != 0)
    text += fmt::format(", commit point {}", message.commit_point.value);
  if (message.join != 0) text += fmt::format(", join {}", message.join);
  if (message.refusal != replication::Refusal::kNone)
    text += fmt::format(", refusal {}", static_cast<int>(message.refusal));
  return text;
}

std::string Node::describe() const {
  const Durable& durable = disk_->durable();
  std::string text = fmt::format(
      "node {}: durable epoch {} promised {} incarnation {}{} commit point {} highest seq {}{}",
      index_, durable.record.epoch.value, durable.promised.value, durable.incarnation,
      durable.rebuilding ? " rebuilding" : "", disk_->commit_point().value,
      disk_->highest_seq().value, disk_->failed() ? " DISK FAILED" : "");
  if (replica_ == nullptr) return text + "; not running";
  text +=
      fmt::format("; {}{} epoch {} in flight {} operations {} required {} leases {}{}",
                  name_of(replica_->role()), stopped_ ? " STOPPED" : "", replica_->epoch().value,
                  replica_->in_flight(), replica_->operations(), replica_->required().size(),
                  replica_->has_leases(clock()), replica_->joining() ? " joining" : "");
  const std::string waits = replica_->waits_for(clock());
  if (!waits.empty()) text += "; " + waits;
  return text + copier_.describe();
}

}  // namespace cvol::sim
