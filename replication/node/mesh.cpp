#include "replication/node/mesh.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "replication/node/send_queue.h"
#include "volumed/base/assert.h"
#include "volumed/base/log.h"
#include "volumed/base/units.h"

namespace cvol::replication {
namespace {

constexpr std::size_t kInputBytes = 256 * kKiB;
constexpr std::size_t kFirstInputBytes = 4 * kKiB;         // before the greeting
constexpr uint32_t kMostGreetingBytes = 8 * kKiB;          // of its body
constexpr std::size_t kMostStrangers = 64;                 // connections that have not greeted
constexpr io::Nanoseconds kStandstill = 10 * io::kSecond;  // in the middle of a frame
constexpr uint64_t kSlowestBytesPerSecond = kMiB;
constexpr io::Nanoseconds kFrameCheck = 2 * io::kSecond;
constexpr io::Nanoseconds kDialTimeout = io::kSecond;
constexpr io::Nanoseconds kGreetingTimeout = 3 * io::kSecond;  // of the other end's hello
constexpr io::Nanoseconds kFirstWait = 20 * io::kMillisecond;
constexpr io::Nanoseconds kLongestWait = io::kSecond;
constexpr io::Nanoseconds kLongestSeldomWait = 30 * io::kSecond;
constexpr io::Nanoseconds kAcceptWait = 100 * io::kMillisecond;

std::string name_of(const Endpoint& endpoint) {
  return fmt::format("{}.{}", endpoint.node.to_string().substr(0, 8), endpoint.shard);
}

}  // namespace

struct Mesh::Link {
  io::Stream stream;
  Endpoint peer;
  bool dialed = false;
  bool installed = false;
  bool over = false;
  Uuid process;
  std::vector<std::byte> input = std::vector<std::byte>(kFirstInputBytes);
  std::size_t begin = 0, end = 0;
  SendQueue queue;
  std::vector<std::byte> head;  // of the frame that is being queued
  bool sender_runs = false;
  io::CancelToken greeted;  // it has said who it is, or is given up
  // Of a frame whose bytes are awaited; 0: none is.
  io::Nanoseconds frame_until = 0;     // when all of it has to be there
  io::Nanoseconds frame_progress = 0;  // when bytes of it came last
  bool frames_watched = false;
  bool frames_seen = false;  // since the last look
  io::CancelToken ended;
  io::Scope scope;
};

struct Mesh::Peer {
  std::string address;
  bool wanted = false;
  bool dialing = false;                // the loop runs
  bool connecting = false;             // a connection of ours is on its way
  bool away = false;                   // its node is not there, as far as is known
  std::string another;                 // not empty: the node that answered in its place
  io::CancelToken* resting = nullptr;  // of the loop that waits for the next attempt
  std::shared_ptr<Link> link;
  io::Event changed;  // of address or link
};

Mesh::Mesh(io::Reactor& reactor, MeshHandler& handler, Options options)
    : reactor_(reactor),
      handler_(handler),
      options_(options),
      pool_(options.buffer_bytes, std::min<uint64_t>(options.buffer_bytes / 4, 32 * kMiB)),
      next_session_(reactor.random().next() >> 1) {
  pool_.set_on_return([](void* self) { static_cast<Mesh*>(self)->pool_waiters_.wake_one(); }, this);
}

Mesh::~Mesh() {
  CVOL_ASSERT(scope_.running() == 0);
}

Mesh::Peer& Mesh::peer_of(const Endpoint& endpoint) {
  auto& peer = peers_[endpoint];
  if (!peer) peer = std::make_unique<Peer>();
  return *peer;
}

Status Mesh::listen(const std::string& address) {
  auto listener = reactor_.listen(address, io::Watch::kClosely);
  if (!listener) return listener.status();
  listener_ = std::move(*listener);
  scope_.spawn(accept_loop());
  return Status::ok();
}

void Mesh::set_address(const Endpoint& endpoint, const std::string& address) {
  Peer& peer = peer_of(endpoint);
  peer.address = address;
  peer.away = false;
  peer.another.clear();
  wake(peer);
}

void Mesh::set_away(const Endpoint& endpoint) {
  const auto at = peers_.find(endpoint);
  if (at != peers_.end()) at->second->away = true;
}

void Mesh::forget(const Endpoint& endpoint) {
  const auto at = peers_.find(endpoint);
  if (at == peers_.end()) return;
  Peer& peer = *at->second;
  peer.wanted = false;
  peer.address.clear();
  wake(peer);
  forget_stranger(endpoint);
}

void Mesh::want(const Endpoint& endpoint) {
  if (endpoint == options_.self || closing_) return;
  Peer& peer = peer_of(endpoint);
  peer.wanted = true;
  if (peer.dialing) return;
  peer.dialing = true;
  scope_.spawn(dial_loop(endpoint));
}

bool Mesh::is_up(const Endpoint& endpoint) const {
  const auto at = peers_.find(endpoint);
  return at != peers_.end() && at->second->link != nullptr;
}

uint64_t Mesh::queued_bytes(const Endpoint& endpoint) const {
  const auto at = peers_.find(endpoint);
  if (at == peers_.end() || at->second->link == nullptr) return 0;
  return at->second->link->queue.bytes();
}

void Mesh::reset(const Endpoint& endpoint) {
  const auto at = peers_.find(endpoint);
  if (at != peers_.end() && at->second->link != nullptr) at->second->link->stream.shutdown();
}

void Mesh::drop(const Endpoint& endpoint) {
  const auto at = peers_.find(endpoint);
  if (at != peers_.end()) fence(*at->second);
}

// --- sending ---

void Mesh::send(const Endpoint& endpoint, const wire::FrameHeader& header,
                std::span<const std::byte> body, std::span<const std::byte> payload) {
  const auto at = peers_.find(endpoint);
  if (at == peers_.end() || at->second->link == nullptr) return;
  enqueue(at->second->link, header, body, payload);
}

void Mesh::enqueue(const std::shared_ptr<Link>& link, const wire::FrameHeader& header,
                   std::span<const std::byte> body, std::span<const std::byte> payload) {
  if (link->over) return;
  CVOL_ASSERT(payload.size() == header.payload_bytes);
  link->head.clear();
  wire::encode_frame(header, body, link->head);
  link->queue.append(link->head);
  link->queue.append(payload);
  ++sent_frames_;
  if (link->sender_runs) return;
  link->sender_runs = true;
  link->scope.spawn(send_loop(link));
}

Task<bool> Mesh::send_front(Link& link) {
  const std::span<const iovec> parts = link.queue.front();
  int64_t bytes = 0;
  for (const iovec& part : parts) bytes += static_cast<int64_t>(part.iov_len);
  const int64_t sent =
      co_await link.stream.sendv(parts.data(), static_cast<uint32_t>(parts.size()));
  link.queue.drop();
  co_return sent == bytes;
}

// Everything that was queued in one turn of the loop leaves in one call.
Task<void> Mesh::send_loop(std::shared_ptr<Link> link) {
  co_await io::yield(reactor_);
  while (!link->queue.empty() && !link->over) {
    const bool sent = co_await send_front(*link);
    if (!sent) {
      link->over = true;
      link->stream.shutdown();
    }
  }
  link->sender_runs = false;
}

// --- receiving ---

// The memory grows as bytes arrive, never because they are announced.
Task<bool> Mesh::fill(Link& link, std::size_t bytes) {
  if (link.end - link.begin >= bytes) co_return true;
  CVOL_ASSERT(bytes <= kInputBytes + kMiB);
  std::memmove(link.input.data(), link.input.data() + link.begin, link.end - link.begin);
  link.end -= link.begin;
  link.begin = 0;
  while (link.end < bytes) {
    if (link.end == link.input.size()) link.input.resize(std::min(bytes, 2 * link.input.size()));
    const int64_t got =
        co_await link.stream.recv(link.input.data() + link.end, link.input.size() - link.end);
    if (got <= 0) co_return false;
    link.end += static_cast<std::size_t>(got);
    if (link.frame_until != 0) link.frame_progress = reactor_.now();
  }
  co_return true;
}

// A frame of so many bytes is awaited from now on.
void Mesh::begin_frame(const std::shared_ptr<Link>& link, uint64_t bytes) {
  const io::Nanoseconds now = reactor_.now();
  link->frame_progress = now;
  link->frame_until = now + kStandstill +
                      static_cast<io::Nanoseconds>(bytes / kSlowestBytesPerSecond) * io::kSecond;
  link->frames_seen = true;
  if (link->frames_watched || link->over) return;
  link->frames_watched = true;
  link->scope.spawn(watch_frames(link));
}

// Runs while frames come; a silent connection has no timer.
Task<void> Mesh::watch_frames(std::shared_ptr<Link> link) {
  while (link->frames_seen || link->frame_until != 0) {
    link->frames_seen = false;
    const int64_t slept = co_await reactor_.sleep(kFrameCheck, &link->ended);
    if (slept != 0) break;
    const io::Nanoseconds now = reactor_.now();
    const bool late = link->frame_until != 0 &&
                      (now > link->frame_until || now - link->frame_progress > kStandstill);
    if (!late) continue;
    log::warning("replication", "closing a connection",
                 {{"peer", name_of(link->peer)}, {"why", "it stands still in a frame"}});
    link->stream.shutdown();
    break;
  }
  link->frames_watched = false;
}

// Whose payloads are taken: nodes that the metadata store has told of.
bool Mesh::is_known(const Endpoint& endpoint) const {
  if (endpoint.node == options_.self.node) return true;
  const auto at = peers_.find(endpoint);
  return at != peers_.end() && (at->second->wanted || !at->second->address.empty());
}

Task<Buffer> Mesh::take(std::size_t bytes) {
  Buffer buffer = pool_.try_take(bytes);
  while (buffer.empty()) {
    co_await pool_waiters_.wait();
    buffer = pool_.try_take(bytes);
    if (!buffer.empty()) pool_waiters_.wake_one();
  }
  co_return buffer;
}

Task<bool> Mesh::receive_rest(io::Reactor& reactor, Link& link, std::span<std::byte> into) {
  while (!into.empty()) {
    const int64_t got = co_await link.stream.recv(into.data(), into.size());
    if (got <= 0) co_return false;
    link.frame_progress = reactor.now();
    into = into.subspan(static_cast<std::size_t>(got));
  }
  co_return true;
}

Task<bool> Mesh::receive_frame(std::shared_ptr<Link> shared, Frame& frame) {
  Link& link = *shared;
  bool more = co_await fill(link, wire::kHeaderBytes);
  if (!more) co_return false;
  auto header = wire::decode_header({link.input.data() + link.begin, wire::kHeaderBytes});
  if (!header) {
    log::warning("replication", "closing a connection",
                 {{"peer", name_of(link.peer)}, {"why", header.message()}});
    co_return false;
  }
  // Nothing is kept for somebody who has not said who he is, or whom nobody knows.
  const bool greeted = link.greeted.cancelled();
  if (!greeted && (header->payload_bytes > 0 || header->body_bytes > kMostGreetingBytes))
    co_return false;
  if (header->payload_bytes > 0 && !is_known(link.peer)) {
    log::warning("replication", "closing a connection of a node that is not known here (yet)",
                 {{"peer", name_of(link.peer)}});
    co_return false;
  }
  const std::size_t bytes = wire::kHeaderBytes + header->body_bytes;
  if (greeted && link.end - link.begin < bytes) begin_frame(shared, bytes);
  more = co_await fill(link, bytes);
  link.frame_until = 0;
  if (!more) co_return false;
  const std::span<const std::byte> whole{link.input.data() + link.begin, bytes};
  if (Status held = wire::verify_frame(*header, whole); !held) {
    log::warning("replication", "closing a connection",
                 {{"peer", name_of(link.peer)}, {"why", held.message()}});
    co_return false;
  }
  frame.header = *header;
  if (header->payload_bytes > 0) {
    frame.payload = co_await take(header->payload_bytes);
    // The body must stay where it is while the payload comes.
    const std::size_t want = header->payload_bytes;
    const std::size_t have = std::min(want, link.end - link.begin - bytes);
    std::memcpy(frame.payload.data(), link.input.data() + link.begin + bytes, have);
    if (have < want) {
      begin_frame(shared, want - have);
      more = co_await receive_rest(reactor_, link, frame.payload.first(want).subspan(have));
      link.frame_until = 0;
      if (!more) co_return false;
    }
    frame.body = {link.input.data() + link.begin + wire::kHeaderBytes, header->body_bytes};
    link.begin += bytes + have;
    co_return true;
  }
  frame.body = whole.subspan(wire::kHeaderBytes);
  link.begin += bytes;
  co_return true;
}

// --- greetings ---

// A process that is stopped, or a stranger, may never greet. The connection would stay for ever;
// and while one that was dialed waits, those that the other end dials are refused.
Task<void> Mesh::limit_greeting(std::shared_ptr<Link> link) {
  const int64_t slept = co_await reactor_.sleep(kGreetingTimeout, &link->greeted);
  if (slept == 0 && !link->greeted.cancelled()) link->stream.shutdown();
}

// The stream is open until then: its handle may be another connection's afterwards.
Task<void> Mesh::end_greeting(std::shared_ptr<Link> link) {
  link->greeted.cancel();
  co_await link->scope.join();
}

void Mesh::send_hello(Link& link, wire::FrameType type, const std::string& refusal) {
  wire::Hello hello;
  hello.cluster = options_.cluster;
  hello.node = options_.self.node;
  hello.shard = options_.self.shard;
  hello.to_shard = link.peer.shard;
  if (type == wire::FrameType::kHello) hello.to_node = link.peer.node;
  hello.process = options_.process;
  hello.session = ++next_session_;
  hello.refusal = refusal;
  wire::FrameHeader header;
  header.type = static_cast<uint8_t>(type);
  std::vector<std::byte> frame;
  wire::encode_frame(header, wire::encode_hello(hello), frame);
  link.queue.append(frame);
}

std::string Mesh::why_refused(const wire::Hello& hello) const {
  if (hello.oldest_version > wire::kFrameVersion || hello.newest_version < wire::kFrameVersion)
    return fmt::format("frames of version {} are spoken here, of {} to {} there",
                       wire::kFrameVersion, hello.oldest_version, hello.newest_version);
  if (hello.cluster != options_.cluster) return "it belongs to another cluster";
  // (Another shard of this process is a peer like any other.)
  if (hello.node == options_.self.node && hello.process != options_.process)
    return "it has the same node id";
  return "";
}

// Of a greeting that has come here.
std::string Mesh::why_not_meant(const wire::Hello& hello) const {
  if (!hello.to_node.is_nil() && hello.to_node != options_.self.node)
    return fmt::format("this is node {}, and not {}, which is meant",
                       options_.self.node.to_string(), hello.to_node.to_string());
  if (hello.to_shard != options_.self.shard) return "there is no such shard here";
  return "";
}

Task<Result<wire::Hello>> Mesh::receive_hello(std::shared_ptr<Link> link, wire::FrameType type) {
  Frame frame;
  const bool got = co_await receive_frame(link, frame);
  if (!got) co_return Status(Code::kUnavailable, "the connection ended in the greeting");
  if (frame.header.type != static_cast<uint8_t>(type))
    co_return Status(Code::kDamaged, "it does not begin with a greeting");
  co_return wire::decode_hello(frame.body);
}

Task<void> Mesh::accept_loop() {
  while (!closing_) {
    const int64_t handle = co_await listener_.accept();
    if (closing_) {
      if (handle >= 0) io::Stream(&reactor_, static_cast<int>(handle)).close();
      co_return;
    }
    if (handle < 0) {  // descriptors or memory are short: they come back
      const int64_t slept = co_await reactor_.sleep(kAcceptWait, &cancel_);
      if (slept < 0) co_return;
      continue;
    }
    io::Stream stream(&reactor_, static_cast<int>(handle));
    if (!make_room()) continue;
    scope_.spawn(serve_incoming(std::move(stream)));
  }
}

// Whether one more connection may stay. Those who have not said who they are make room for it, the
// oldest first.
bool Mesh::make_room() {
  std::size_t strangers = 0;
  Link* oldest = nullptr;
  for (const auto& link : links_) {
    if (link->dialed || link->over || link->greeted.cancelled()) continue;
    ++strangers;
    if (oldest == nullptr) oldest = link.get();
  }
  const bool full = links_.size() >= options_.most_connections;
  if (!full && strangers < kMostStrangers) return true;
  if (oldest == nullptr) return false;
  oldest->over = true;
  oldest->stream.shutdown();
  return true;
}

Task<void> Mesh::serve_incoming(io::Stream stream) {
  auto link = std::make_shared<Link>();
  link->stream = std::move(stream);
  links_.push_back(link);
  link->scope.spawn(limit_greeting(link));
  Frame first;
  const bool got = co_await receive_frame(link, first);
  Result<wire::Hello> hello = Status(Code::kDamaged, "it does not begin with a greeting");
  if (got && first.header.type == static_cast<uint8_t>(wire::FrameType::kDead)) {
    // The watcher of a process that has ended: it says so, and goes.
    auto death = wire::decode_death(first.body);
    if (death && death->cluster == options_.cluster && !closing_)
      handler_.on_frame({death->node, 0}, std::move(first));
  } else if (got && first.header.type == static_cast<uint8_t>(wire::FrameType::kHello)) {
    hello = wire::decode_hello(first.body);
  }
  std::string refusal;
  if (hello) {
    link->peer = {hello->node, hello->shard};
    link->process = hello->process;
    refusal = why_refused(*hello);
    if (refusal.empty()) refusal = why_not_meant(*hello);
    if (refusal.empty()) {
      const Peer& peer = peer_of(link->peer);
      const bool ours_wins = options_.self < link->peer &&
                             (peer.connecting || (peer.link != nullptr && peer.link->dialed &&
                                                  peer.link->process == link->process));
      if (ours_wins) refusal = "a connection from here is there or on its way";
    }
    send_hello(*link, wire::FrameType::kWelcome, refusal);
    const bool sent = co_await send_front(*link);
    co_await end_greeting(link);
    if (refusal.empty() && sent && !closing_ && !link->over) {
      co_await run_link(link);
    }
  }
  co_await end_greeting(link);
  link->stream.close();
  std::erase(links_, link);
  if (hello) forget_stranger(link->peer);
}

// Says who is meant, and hears who is there. Empty: it is the one; else why there is no connection.
Task<std::string> Mesh::greet(std::shared_ptr<Link> link) {
  send_hello(*link, wire::FrameType::kHello, "");
  const bool sent = co_await send_front(*link);
  if (!sent) co_return "the connection ended in the greeting";
  auto hello = co_await receive_hello(link, wire::FrameType::kWelcome);
  if (!hello) co_return hello.message();
  link->process = hello->process;
  Peer& peer = peer_of(link->peer);
  const bool meant = hello->node == link->peer.node && hello->cluster == options_.cluster;
  note_another(peer, link->peer, meant ? "" : hello->node.to_string());
  if (!hello->refusal.empty()) co_return hello->refusal;
  if (!meant || hello->shard != link->peer.shard)
    co_return "another node answers at " + peer.address;
  co_return why_refused(*hello);
}

// `who` empty: it is the one that is meant.
void Mesh::note_another(Peer& peer, const Endpoint& endpoint, const std::string& who) {
  const bool news = !who.empty() && peer.another != who;
  peer.another = who;
  if (!news) return;
  log::warning("replication",
               "another node answers at the address of a node; it is dialed seldom until that node "
               "is back. If it is gone for good: cvol node rm",
               {{"node", endpoint.node.to_string()}, {"address", peer.address}, {"there", who}});
}

// A connection that has been greeted, or nullptr.
Task<std::shared_ptr<Mesh::Link>> Mesh::dial(Endpoint endpoint) {
  Peer& peer = peer_of(endpoint);
  peer.connecting = true;
  ++dials_;
  auto stream = co_await reactor_.dial(peer.address, kDialTimeout);
  std::shared_ptr<Link> link;
  std::string why;
  if (!stream) {
    why = stream.message();
  } else if (!closing_) {
    link = std::make_shared<Link>();
    link->stream = std::move(*stream);
    link->peer = endpoint;
    link->dialed = true;
    links_.push_back(link);
    link->scope.spawn(limit_greeting(link));
    why = co_await greet(link);
    co_await end_greeting(link);
  }
  peer.connecting = false;
  if (link != nullptr && why.empty() && !closing_) co_return link;
  log::debug("replication", "no connection", {{"peer", name_of(endpoint)}, {"why", why}});
  if (link != nullptr) {
    link->stream.close();
    std::erase(links_, link);
  }
  co_return nullptr;
}

Task<void> Mesh::dial_loop(Endpoint endpoint) {
  Peer& peer = peer_of(endpoint);
  io::Nanoseconds wait = kFirstWait;
  while (!closing_ && peer.wanted) {
    if (peer.link == nullptr && !peer.address.empty()) {
      const std::shared_ptr<Link> link = co_await dial(endpoint);
      if (link != nullptr) {
        wait = kFirstWait;
        co_await run_link(link);
        link->stream.close();
        std::erase(links_, link);
      }
    }
    while (peer.link != nullptr && !closing_) {  // the other end has dialed
      peer.changed.reset();
      co_await peer.changed.wait();
      wait = kFirstWait;
    }
    if (closing_ || !peer.wanted) break;
    const bool goes_on = co_await rest(peer, wait);
    if (!goes_on) break;
  }
  peer.dialing = false;
  if (!closing_) forget_stranger(endpoint);
}

// Until the next attempt is due, or there is news of the node. False: the mesh closes.
Task<bool> Mesh::rest(Peer& peer, io::Nanoseconds& wait) {
  io::CancelToken news;
  peer.resting = &news;
  const int64_t slept = co_await reactor_.sleep(wait, &news);
  peer.resting = nullptr;
  const bool seldom = peer.away || !peer.another.empty();
  wait = slept < 0 ? kFirstWait : std::min(wait * 2, seldom ? kLongestSeldomWait : kLongestWait);
  co_return !closing_;
}

void Mesh::wake(Peer& peer) {
  peer.changed.set();
  if (peer.resting != nullptr) peer.resting->cancel();
}

// --- links ---

// What it has still to say is not heard any more.
void Mesh::fence(Peer& peer) {
  if (peer.link == nullptr) return;
  const std::shared_ptr<Link> old = std::exchange(peer.link, nullptr);
  peer.changed.set();
  old->over = true;
  old->installed = false;
  old->stream.shutdown();
  handler_.on_down(old->peer);
}

void Mesh::install(const std::shared_ptr<Link>& link) {
  Peer& peer = peer_of(link->peer);
  fence(peer);  // by the newer one
  link->installed = true;
  ++connections_;
  peer.link = link;
  log::info("replication", "connected", {{"peer", name_of(link->peer)}, {"dialed", link->dialed}});
  handler_.on_up(link->peer, link->process);
}

Task<void> Mesh::run_link(std::shared_ptr<Link> link) {
  link->input.resize(std::max(link->input.size(), kInputBytes));
  install(link);
  while (!closing_ && !link->over) {
    Frame frame;
    const bool got = co_await receive_frame(link, frame);
    if (!got || closing_ || link->over) break;
    if (frame.header.type == static_cast<uint8_t>(wire::FrameType::kHello)) break;
    handler_.on_frame(link->peer, std::move(frame));
  }
  link->over = true;
  link->stream.shutdown();
  link->ended.cancel();
  co_await link->scope.join();
  if (!link->installed) {
    forget_stranger(link->peer);
    co_return;
  }
  link->installed = false;
  Peer& peer = peer_of(link->peer);
  if (peer.link == link) peer.link = nullptr;
  peer.changed.set();
  log::info("replication", "disconnected", {{"peer", name_of(link->peer)}});
  if (!closing_) handler_.on_down(link->peer);
  forget_stranger(link->peer);
}

// Names that somebody made up must not fill the memory.
void Mesh::forget_stranger(const Endpoint& endpoint) {
  const auto at = peers_.find(endpoint);
  if (at == peers_.end()) return;
  const Peer& peer = *at->second;
  if (peer.link != nullptr || peer.wanted || peer.dialing || !peer.address.empty()) return;
  peers_.erase(at);
}

Task<void> Mesh::close() {
  closing_ = true;
  cancel_.cancel();
  if (listener_.is_open()) listener_.shutdown();
  for (const auto& link : links_) link->stream.shutdown();
  pool_waiters_.wake_all();
  for (auto& [endpoint, peer] : peers_) wake(*peer);
  co_await scope_.join();
  listener_.close();
}

}  // namespace cvol::replication
