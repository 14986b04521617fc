#include "volumed/base/buffer_pool.h"

#include <bit>
#include <cstdlib>
#include <new>

#include "volumed/base/assert.h"
#include "volumed/base/units.h"

namespace cvol {
namespace {

std::size_t class_of(std::size_t bytes) {
  const std::size_t rounded = std::bit_ceil(bytes < kBlockBytes ? kBlockBytes : bytes);
  return static_cast<std::size_t>(std::countr_zero(rounded)) - 12;
}

}  // namespace

void Buffer::reset() {
  if (data_ == nullptr) return;
  pool_->give_back(std::exchange(data_, nullptr), capacity_);
  capacity_ = 0;
  pool_ = nullptr;
}

BufferPool::BufferPool(uint64_t most_bytes, uint64_t keep_bytes)
    : most_(most_bytes), keep_(keep_bytes) {
  CVOL_ASSERT(most_bytes >= kMiB);
}

BufferPool::~BufferPool() {
  CVOL_ASSERT(used_ == 0);
  trim();
}

void BufferPool::trim() {
  for (auto& list : free_) {
    for (std::byte* data : list) std::free(data);
    list.clear();
  }
  kept_ = 0;
}

std::size_t BufferPool::capacity_of(std::size_t bytes) {
  return kBlockBytes << class_of(bytes);
}

Buffer BufferPool::try_take(std::size_t bytes) {
  const std::size_t index = class_of(bytes);
  CVOL_ASSERT(index < kClasses);
  const std::size_t capacity = kBlockBytes << index;
  Buffer buffer;
  if (used_ + capacity > most_ && used_ != 0) return buffer;
  std::byte* data = nullptr;
  if (!free_[index].empty()) {
    data = free_[index].back();
    free_[index].pop_back();
    kept_ -= capacity;
  } else {
    data = static_cast<std::byte*>(std::aligned_alloc(kBlockBytes, capacity));
    if (data == nullptr) throw std::bad_alloc();
  }
  used_ += capacity;
  buffer.pool_ = this;
  buffer.data_ = data;
  buffer.capacity_ = capacity;
  return buffer;
}

void BufferPool::give_back(std::byte* data, std::size_t capacity) {
  used_ -= capacity;
  if (kept_ + capacity <= keep_) {
    free_[class_of(capacity)].push_back(data);
    kept_ += capacity;
  } else {
    std::free(data);
  }
  if (hook_ != nullptr) hook_(hook_context_);
}

}  // namespace cvol
