// ChunkKey: replica number (24 bits) and chunk number (40 bits) in one word; the order of keys is
// the order of chunks within each replica.
#pragma once

#include <compare>
#include <cstdint>

#include "volumed/base/assert.h"

namespace cvol::store {

constexpr uint32_t kMaxReplicaNumber = (1u << 24) - 2;

struct ChunkKey {
  uint64_t word = UINT64_MAX;  // the default is no chunk

  ChunkKey() = default;
  ChunkKey(uint32_t replica, uint64_t chunk) : word((uint64_t{replica} << 40) | chunk) {
    CVOL_ASSERT(replica <= kMaxReplicaNumber && chunk < (uint64_t{1} << 40));
  }
  uint32_t replica() const { return static_cast<uint32_t>(word >> 40); }
  uint64_t chunk() const { return word & ((uint64_t{1} << 40) - 1); }
  bool is_none() const { return word == UINT64_MAX; }
  auto operator<=>(const ChunkKey&) const = default;

  // Mixes all bits (the finaliser of SplitMix64).
  uint64_t hash() const {
    uint64_t z = word + 0x9e3779b97f4a7c15ULL;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
  }
};

}  // namespace cvol::store
