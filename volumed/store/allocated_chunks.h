// AllocatedChunks: how many chunks of one replica have a place or a reservation, and in which parts
// of the volume. It finds the next part with a chunk in a few steps, however thin the volume is:
// 1 GiB a part, about 50 bytes of memory for each part that holds something. One thread.
#pragma once

#include <cstdint>
#include <map>

#include "volumed/base/assert.h"

namespace cvol::store {

class AllocatedChunks {
 public:
  static constexpr uint64_t kPartChunks = 16384;

  void add(uint64_t chunk) {
    ++total_;
    ++parts_[chunk / kPartChunks];
  }
  // The chunk was added before, and not removed since.
  void remove(uint64_t chunk) {
    const auto part = parts_.find(chunk / kPartChunks);
    CVOL_ASSERT(total_ > 0 && part != parts_.end());
    --total_;
    if (--part->second == 0) parts_.erase(part);
  }

  uint64_t total() const { return total_; }
  // No chunk in [chunk, next_candidate(chunk)) is allocated; the answer itself may be. UINT64_MAX:
  // none is allocated from `chunk` on.
  uint64_t next_candidate(uint64_t chunk) const {
    const auto part = parts_.lower_bound(chunk / kPartChunks);
    if (part == parts_.end()) return UINT64_MAX;
    const uint64_t first = part->first * kPartChunks;
    return first > chunk ? first : chunk;
  }

 private:
  uint64_t total_ = 0;
  std::map<uint64_t, uint64_t> parts_;  // chunks in each part, none with 0
};

}  // namespace cvol::store
