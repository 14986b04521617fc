// Mesh: one connection between this shard and each shard of another node that it works with.
//
// It dials the endpoints it is told to want, again and again with growing waits, and takes
// connections that others dial. Of two that are dialed at the same moment the one of the smaller
// endpoint stays. Frames leave in the order of send(); what was on its way when a connection ends
// is lost, which both ends are told (down). A connection that begins fences the one before it:
// frames of that one are not delivered any more. One whose other end does not say within 3 s who it
// is ends.
//
// A greeting names the node that is meant: another one that has come to its address refuses it, and
// no connection of its own suffers. Where another node answers, and where the metadata store says
// that the node is away, the waits grow up to 30 s; else up to 1 s. News of a node (set_address)
// end such a wait.
//
// Strangers cost little: before its greeting a connection has 4 KiB and may announce 8 KiB; of
// those that have not greeted, 64 may wait, and the oldest makes room for the next. Payloads are
// taken only from nodes whose address is known. A frame that has begun has to go on: a connection
// that stands still in the middle of one for 10 s, or is slower than 1 MiB a second, ends.
//
// Threading: the reactor's thread. send() copies and never blocks; queued_bytes() is for those who
// can slow down. Handler calls come from the loop, never from within send().
#pragma once

#include <map>
#include <memory>
#include <string>

#include "replication/wire/frame.h"
#include "volumed/base/buffer_pool.h"
#include "volumed/io/scope.h"

namespace cvol::replication {

// A shard of a node.
struct Endpoint {
  NodeId node;
  uint16_t shard = 0;
  auto operator<=>(const Endpoint&) const = default;
};

// One received frame. `body` holds until the handler returns; the payload is the handler's.
struct Frame {
  wire::FrameHeader header;
  std::span<const std::byte> body;
  Buffer payload;
  std::span<const std::byte> payload_bytes() const {
    return payload.empty() ? std::span<const std::byte>() : payload.first(header.payload_bytes);
  }
};

class MeshHandler {
 public:
  virtual ~MeshHandler() = default;
  virtual void on_frame(const Endpoint& from, Frame frame) = 0;
  // `process`: of the node at the other end.
  virtual void on_up(const Endpoint& peer, const Uuid& process) = 0;
  virtual void on_down(const Endpoint& peer) = 0;
};

class Mesh {
 public:
  struct Options {
    Endpoint self;
    Uuid cluster;
    Uuid process;
    // Of payloads that are received and not on the disk yet: a disk that hangs keeps up to 64 MiB
    // of each volume (R13). While there is no more, nothing is received.
    uint64_t buffer_bytes = 512 * 1024 * 1024;
    // Open at once, from 2. Beyond it none is accepted, but in the place of one that has not
    // greeted.
    uint64_t most_connections = 1024;
  };

  Mesh(io::Reactor& reactor, MeshHandler& handler, Options options);
  ~Mesh();

  // Takes connections at `address` until close().
  Status listen(const std::string& address);
  // The endpoint's node is there, and can be dialed at `address`, which is done soon; a change ends
  // no connection that works.
  void set_address(const Endpoint& peer, const std::string& address);
  // The endpoint's node is not there, as far as is known: it is dialed seldom, until set_address.
  void set_away(const Endpoint& peer);
  // The endpoint's node is no part of the cluster any more: it is not dialed until it is wanted and
  // has an address again. A connection that is there stays.
  void forget(const Endpoint& peer);
  // Keeps a connection to the endpoint, as soon as its address is known.
  void want(const Endpoint& peer);
  bool is_up(const Endpoint& peer) const;
  // Dropped if there is no connection.
  void send(const Endpoint& peer, const wire::FrameHeader& header, std::span<const std::byte> body,
            std::span<const std::byte> payload = {});
  uint64_t queued_bytes(const Endpoint& peer) const;
  // Ends the connection; it is dialed again.
  void reset(const Endpoint& peer);
  // The same, and the handler is told at once. Not from within one of its calls for this peer.
  void drop(const Endpoint& peer);
  // Ends everything; no handler is called any more.
  Task<void> close();

  const Uuid& process() const { return options_.process; }  // this one
  uint64_t sent_frames() const { return sent_frames_; }
  uint64_t connections() const { return connections_; }  // that were ever up
  uint64_t dials() const { return dials_; }              // that were ever begun
  uint64_t open_connections() const { return links_.size(); }
  uint64_t buffered_bytes() const { return pool_.used_bytes(); }  // of payloads

 private:
  struct Link;
  struct Peer;

  Task<void> accept_loop();
  bool make_room();
  bool is_known(const Endpoint& endpoint) const;
  static Task<bool> receive_rest(io::Reactor& reactor, Link& link, std::span<std::byte> into);
  void begin_frame(const std::shared_ptr<Link>& link, uint64_t bytes);
  Task<void> watch_frames(std::shared_ptr<Link> link);
  void forget_stranger(const Endpoint& endpoint);
  Task<void> serve_incoming(io::Stream stream);
  Task<void> dial_loop(Endpoint peer);
  Task<std::shared_ptr<Link>> dial(Endpoint endpoint);
  Task<std::string> greet(std::shared_ptr<Link> link);
  Task<bool> rest(Peer& peer, io::Nanoseconds& wait);
  void note_another(Peer& peer, const Endpoint& endpoint, const std::string& who);
  static void wake(Peer& peer);
  Task<void> run_link(std::shared_ptr<Link> link);
  Task<void> send_loop(std::shared_ptr<Link> link);
  static Task<bool> send_front(Link& link);
  Task<bool> receive_frame(std::shared_ptr<Link> link, Frame& frame);
  Task<Result<wire::Hello>> receive_hello(std::shared_ptr<Link> link, wire::FrameType type);
  Task<bool> fill(Link& link, std::size_t bytes);
  Task<Buffer> take(std::size_t bytes);
  Task<void> limit_greeting(std::shared_ptr<Link> link);
  Task<void> end_greeting(std::shared_ptr<Link> link);
  void send_hello(Link& link, wire::FrameType type, const std::string& refusal);
  std::string why_refused(const wire::Hello& hello) const;
  std::string why_not_meant(const wire::Hello& hello) const;
  void enqueue(const std::shared_ptr<Link>& link, const wire::FrameHeader& header,
               std::span<const std::byte> body, std::span<const std::byte> payload);
  void install(const std::shared_ptr<Link>& link);
  void fence(Peer& peer);
  Peer& peer_of(const Endpoint& endpoint);

  io::Reactor& reactor_;
  MeshHandler& handler_;
  const Options options_;
  BufferPool pool_;
  io::WaitList pool_waiters_;
  io::Listener listener_;
  std::map<Endpoint, std::unique_ptr<Peer>> peers_;
  std::vector<std::shared_ptr<Link>> links_;  // in the order of their coming
  uint64_t next_session_;
  uint64_t sent_frames_ = 0;
  uint64_t connections_ = 0;
  uint64_t dials_ = 0;
  bool closing_ = false;
  io::CancelToken cancel_;
  io::Scope scope_;
};

}  // namespace cvol::replication
