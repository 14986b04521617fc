// ShardState: what the connections of one shard share: payload memory, their tasks, and the
// generations of front-end sessions (rule R12). One thread: that shard's.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "nbd/server/memory_shares.h"
#include "volumed/base/buffer_pool.h"
#include "volumed/io/scope.h"

namespace cvol::nbd {

class Transmission;

class ShardState {
 public:
  ShardState(io::Reactor& reactor, uint64_t buffer_bytes);

  io::Reactor& reactor() { return reactor_; }
  io::Scope& scope() { return scope_; }

  MemoryShares& memory() { return memory_; }
  // To be called when memory is short: as long as it is, a client that does not read its replies,
  // and so keeps memory that others need, is cut off after kStuckTime.
  void watch_memory();
  // For bytes that came along with a payload; empty if too many connections have some. Apart from
  // the pool: whoever waits for that may hold one of these.
  Buffer take_staging(std::size_t bytes) { return staging_.try_take(bytes); }

  // Waits for what runs here, then calls `closed`; the state may be destroyed in a later turn of
  // this shard's loop.
  void close_then(std::function<void()> closed) { closer_.spawn(close(std::move(closed))); }

  void add(Transmission* connection) { connections_.push_back(connection); }
  void remove(Transmission* connection) { std::erase(connections_, connection); }

  // A session's connection with `generation` asks to be admitted: those with a lower one are ended
  // and waited for. False if a newer one is already there.
  Task<bool> enter_session(std::string session, uint64_t generation, Transmission* connection);
  void leave_session(const std::string& session, Transmission* connection);

 private:
  struct Session {
    uint64_t generation = 0;
    std::map<Transmission*, uint64_t> members;  // generation of each; looked up, ended, counted
  };

  Task<void> cut_stuck_clients();
  Task<void> close(std::function<void()> closed);

  io::Reactor& reactor_;
  MemoryShares memory_;
  BufferPool staging_;
  bool watching_ = false;  // cut_stuck_clients() runs
  std::vector<Transmission*> connections_;
  io::WaitList session_waiters_;
  std::map<std::string, Session> sessions_;
  io::CancelToken closing_;
  io::Scope scope_;
  io::Scope closer_;
};

}  // namespace cvol::nbd
