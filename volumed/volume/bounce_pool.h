// BouncePool: aligned memory for requests that are not, bounded per shard; who finds none waits.
//
// Threading: the shard's thread.
#pragma once

#include "volumed/base/buffer_pool.h"
#include "volumed/base/task.h"
#include "volumed/io/scope.h"

namespace cvol::volume {

class BouncePool {
 public:
  explicit BouncePool(uint64_t most_bytes);

  Task<Buffer> take(std::size_t bytes);

 private:
  io::WaitList waiting_;
  BufferPool pool_;  // after waiting_: buffers that come back wake waiters
};

}  // namespace cvol::volume
