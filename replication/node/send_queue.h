// SendQueue: bytes that wait for a connection. Blocks of one size, so that a frame of megabytes
// costs one copy and neither a larger allocation nor the moving of what waits already. A few blocks
// are kept for the next use.
//
// Threading: none of its own.
#pragma once

#include <sys/uio.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <memory>
#include <span>
#include <vector>

namespace cvol::replication {

class SendQueue {
 public:
  static constexpr std::size_t kBlockBytes = 256 * 1024;
  static constexpr std::size_t kMostKept = 16;   // blocks
  static constexpr std::size_t kMostParts = 64;  // of one call to the kernel

  bool empty() const { return bytes_ == 0; }
  std::size_t bytes() const { return bytes_; }

  void append(std::span<const std::byte> data) {
    bytes_ += data.size();
    while (!data.empty()) {
      // What front() has shown is not touched any more.
      if (blocks_.size() == parts_.size() || blocks_.back().end == kBlockBytes)
        blocks_.push_back(take());
      Block& block = blocks_.back();
      const std::size_t count = std::min(data.size(), kBlockBytes - block.end);
      std::memcpy(block.memory.get() + block.end, data.data(), count);
      block.end += count;
      data = data.subspan(count);
    }
  }

  // The oldest bytes, as much as one call takes. They stay as they are until drop(), while more may
  // be appended.
  std::span<const iovec> front() {
    parts_.clear();
    for (const Block& block : blocks_) {
      if (parts_.size() == kMostParts) break;
      parts_.push_back({block.memory.get(), block.end});
    }
    return parts_;
  }
  // What front() has shown is sent.
  void drop() {
    for (std::size_t i = parts_.size(); i > 0; --i) {
      bytes_ -= blocks_.front().end;
      if (kept_.size() < kMostKept) kept_.push_back(std::move(blocks_.front().memory));
      blocks_.pop_front();
    }
    parts_.clear();
  }

 private:
  struct Block {
    std::unique_ptr<std::byte[]> memory;
    std::size_t end = 0;
  };

  Block take() {
    if (kept_.empty()) return {std::make_unique_for_overwrite<std::byte[]>(kBlockBytes)};
    Block block{std::move(kept_.back())};
    kept_.pop_back();
    return block;
  }

  std::deque<Block> blocks_;
  std::vector<iovec> parts_;
  std::vector<std::unique_ptr<std::byte[]>> kept_;
  std::size_t bytes_ = 0;
};

}  // namespace cvol::replication
