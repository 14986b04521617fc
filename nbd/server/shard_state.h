// ShardState: what the connections of one shard share: payload memory, their tasks, and the
// generations of front-end sessions (rule R12). One thread: that shard's.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "volumed/base/buffer_pool.h"
#include "volumed/io/scope.h"

namespace cvol::nbd {

class Transmission;

class ShardState {
 public:
  ShardState(io::Reactor& reactor, uint64_t buffer_bytes);

  io::Reactor& reactor() { return reactor_; }
  io::Scope& scope() { return scope_; }

  // Waits until the pool's bound allows it.
  Task<Buffer> take(std::size_t bytes);

  // A session's connection with `generation` asks to be admitted: those with a lower one are ended
  // and waited for. False if a newer one is already there.
  Task<bool> enter_session(std::string session, uint64_t generation, Transmission* connection);
  void leave_session(const std::string& session, Transmission* connection);

 private:
  struct Session {
    uint64_t generation = 0;
    std::map<Transmission*, uint64_t> members;  // generation of each; looked up, ended, counted
  };

  io::Reactor& reactor_;
  BufferPool pool_;
  io::WaitList pool_waiters_;
  io::WaitList session_waiters_;
  std::map<std::string, Session> sessions_;
  io::Scope scope_;
};

}  // namespace cvol::nbd
