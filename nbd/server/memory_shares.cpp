#include "nbd/server/memory_shares.h"

#include <limits>
#include <utility>

#include "volumed/base/assert.h"

namespace cvol::nbd {

// The pool refuses nothing: may_take() decides.
MemoryShares::MemoryShares(uint64_t most_bytes, uint64_t keep_bytes)
    : most_(most_bytes), pool_(std::numeric_limits<uint64_t>::max(), keep_bytes) {
  CVOL_ASSERT(most_bytes >= kMiB);
}

MemoryShares::~MemoryShares() {
  CVOL_ASSERT(shares_.empty() && waiting_.empty());
}

MemoryShares::Share& MemoryShares::join(const std::string& name) {
  Share& share = shares_[name];
  ++share.connections_;
  return share;
}

void MemoryShares::leave(const std::string& name) {
  const auto found = shares_.find(name);
  CVOL_ASSERT(found != shares_.end());
  Share& share = found->second;
  if (--share.connections_ != 0) return;
  CVOL_ASSERT(share.held_ == 0 && share.queue_.empty());
  shares_.erase(found);
}

bool MemoryShares::may_take(const Share& share, std::size_t capacity) const {
  const uint64_t held = share.held_ + capacity;
  if (share.held_ == 0 || held <= little_bytes()) return true;
  const uint64_t used = pool_.used_bytes() + capacity;
  return used <= most_ && held <= most_ - used;
}

Buffer MemoryShares::grant(Share& share, std::size_t capacity) {
  Buffer buffer = pool_.try_take(capacity);
  CVOL_ASSERT(buffer.capacity() == capacity);
  share.held_ += capacity;
  return buffer;
}

Buffer MemoryShares::try_take(Share& share, std::size_t bytes) {
  const std::size_t capacity = BufferPool::capacity_of(bytes);
  if (!share.queue_.empty() || !may_take(share, capacity)) return {};
  return grant(share, capacity);
}

Task<Buffer> MemoryShares::wait_and_take(Share& share, std::size_t bytes) {
  Buffer buffer = try_take(share, bytes);
  if (!buffer.empty()) co_return buffer;
  Share::Waiter waiter;
  waiter.capacity = BufferPool::capacity_of(bytes);
  if (share.queue_.empty()) waiting_.push_back(&share);
  share.queue_.push_back(&waiter);
  co_await waiter.granted.wait();
  co_return std::move(waiter.buffer);
}

void MemoryShares::give_back(Share& share, Buffer& buffer) {
  CVOL_ASSERT(share.held_ >= buffer.capacity());
  share.held_ -= buffer.capacity();
  buffer.reset();
  serve_waiters();
}

// Gives memory to all who may have it now, the exports in turn. The memory changes hands here, not
// when the waiter runs, so nobody comes in between and no wake-up is lost. Who was passed over
// cannot have become able later in the pass: that only makes the memory less.
void MemoryShares::serve_waiters() {
  for (auto at = waiting_.begin(); at != waiting_.end();) {
    const auto here = at++;
    Share& share = **here;
    Share::Waiter& first = *share.queue_.front();
    if (!may_take(share, first.capacity)) continue;
    share.queue_.pop_front();
    first.buffer = grant(share, first.capacity);
    first.granted.set();
    if (share.queue_.empty()) {
      waiting_.erase(here);
    } else {
      waiting_.splice(waiting_.end(), waiting_, here);
      if (at == waiting_.end()) at = here;
    }
  }
}

}  // namespace cvol::nbd
