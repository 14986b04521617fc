// MemoryShares: which export may hold how much of a shard's payload memory. One thread: that
// shard's.
//
// What all connections of an export hold counts together, those that are dying too: a stalled
// volume gains nothing when its client reconnects. A request gets memory if its export
//   * held none, or then holds `little` at most: at once, even beyond the bound; or
//   * then holds no more than is left free: alone half of the bound, less the more others hold.
// So a volume waits only for its own requests or while others are busy, never for one that is
// stalled. Requests of one export get memory in the order in which they asked.
#pragma once

#include <cstdint>
#include <deque>
#include <list>
#include <map>
#include <string>

#include "volumed/base/buffer_pool.h"
#include "volumed/base/units.h"
#include "volumed/io/scope.h"

namespace cvol::nbd {

class MemoryShares {
 public:
  // One export's part.
  class Share {
   public:
    uint64_t held_bytes() const { return held_; }

   private:
    friend class MemoryShares;
    struct Waiter {
      std::size_t capacity = 0;
      Buffer buffer;
      io::Event granted;
    };
    uint64_t held_ = 0;
    uint64_t connections_ = 0;
    std::deque<Waiter*> queue_;
  };

  // `most_bytes`: the bound, from 1 MiB. Beyond it there is at most, for each export, its little or
  // one request. `keep_bytes` of what came back are kept for the next.
  MemoryShares(uint64_t most_bytes, uint64_t keep_bytes);
  ~MemoryShares();

  // Each connection joins the share of its export, and leaves it when it holds nothing any more.
  Share& join(const std::string& name);
  void leave(const std::string& name);

  // An empty Buffer if this request has to wait.
  Buffer try_take(Share& share, std::size_t bytes);
  // The same, but waits for its turn.
  Task<Buffer> wait_and_take(Share& share, std::size_t bytes);
  // Every Buffer comes back through this, and to the share that it was taken for.
  void give_back(Share& share, Buffer& buffer);

  bool anyone_waits() const { return !waiting_.empty(); }
  // More is out than one export alone could take.
  bool is_overdrawn() const { return used_bytes() > most_ + kMaxRequestBytes; }
  uint64_t used_bytes() const { return pool_.used_bytes(); }
  uint64_t most_bytes() const { return most_; }
  uint64_t little_bytes() const { return most_ / 256; }

 private:
  bool may_take(const Share& share, std::size_t capacity) const;
  Buffer grant(Share& share, std::size_t capacity);
  void serve_waiters();

  const uint64_t most_;
  BufferPool pool_;
  std::map<std::string, Share> shares_;
  std::list<Share*> waiting_;  // shares with a queue, the one that was served last at the end
};

}  // namespace cvol::nbd
