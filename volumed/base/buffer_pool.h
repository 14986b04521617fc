// Buffers for data on its way: 4 KiB aligned, from one bounded pool per shard.
//
// Threading: one thread. A Buffer goes back to its pool when it is destroyed and must not outlive
// the pool. Sizes are rounded up to a power of two from 4 KiB; memory beyond `keep_bytes` of free
// buffers is given back to the system.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace cvol {

class BufferPool;

class Buffer {
 public:
  Buffer() = default;
  Buffer(Buffer&& other) noexcept
      : pool_(std::exchange(other.pool_, nullptr)),
        data_(std::exchange(other.data_, nullptr)),
        capacity_(std::exchange(other.capacity_, 0)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    if (this != &other) {
      reset();
      pool_ = std::exchange(other.pool_, nullptr);
      data_ = std::exchange(other.data_, nullptr);
      capacity_ = std::exchange(other.capacity_, 0);
    }
    return *this;
  }
  ~Buffer() { reset(); }

  void reset();
  bool empty() const { return data_ == nullptr; }
  std::byte* data() const { return data_; }
  std::size_t capacity() const { return capacity_; }
  std::span<std::byte> first(std::size_t bytes) const { return {data_, bytes}; }

 private:
  friend class BufferPool;
  BufferPool* pool_ = nullptr;
  std::byte* data_ = nullptr;
  std::size_t capacity_ = 0;
};

class BufferPool {
 public:
  // `most_bytes`: bound of memory handed out and kept together. One request that is larger than
  // what is left is still served when nothing else is out, so that no request waits for ever.
  explicit BufferPool(uint64_t most_bytes, uint64_t keep_bytes);
  ~BufferPool();
  BufferPool(const BufferPool&) = delete;
  BufferPool& operator=(const BufferPool&) = delete;

  // An empty Buffer if the bound is reached: wait for others to be returned (io/buffer_wait.h).
  Buffer try_take(std::size_t bytes);

  // What a buffer for `bytes` takes of the bound.
  static std::size_t capacity_of(std::size_t bytes);

  // Gives the memory of free buffers back to the system.
  void trim();

  uint64_t used_bytes() const { return used_; }
  uint64_t most_bytes() const { return most_; }

  // Called (on this thread) whenever a buffer came back.
  void set_on_return(void (*hook)(void*), void* context) {
    hook_ = hook;
    hook_context_ = context;
  }

 private:
  friend class Buffer;
  static constexpr std::size_t kClasses = 16;  // 4 KiB ... 128 MiB
  void give_back(std::byte* data, std::size_t capacity);

  uint64_t most_;
  uint64_t keep_;
  uint64_t used_ = 0;
  uint64_t kept_ = 0;
  std::array<std::vector<std::byte*>, kClasses> free_;
  void (*hook_)(void*) = nullptr;
  void* hook_context_ = nullptr;
};

}  // namespace cvol
