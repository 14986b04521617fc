#include "volumed/volume/bounce_pool.h"

namespace cvol::volume {

BouncePool::BouncePool(uint64_t most_bytes) : pool_(most_bytes, most_bytes / 8) {
  pool_.set_on_return([](void* self) { static_cast<BouncePool*>(self)->waiting_.wake_one(); },
                      this);
}

Task<Buffer> BouncePool::take(std::size_t bytes) {
  Buffer buffer = pool_.try_take(bytes);
  while (buffer.empty()) {
    co_await waiting_.wait();
    buffer = pool_.try_take(bytes);
  }
  // What came back may serve more than one.
  if (pool_.used_bytes() < pool_.most_bytes()) waiting_.wake_one();
  co_return buffer;
}

}  // namespace cvol::volume
