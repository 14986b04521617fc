// ChunkMap: the working chunk table in memory: which place a chunk has, and what lies there.
//
// It is the committed table plus the effects of durable kMap and kZero records; what block writes
// are still in the journal is the overlay's business. 88 to 91 bytes a chunk: at most 1.42 GiB of
// memory per TiB allocated. Slots are indexed by place, so an allocated place is owned exactly once
// (I12). One thread.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "volumed/store/chunk_key.h"
#include "volumed/store/format.h"
#include "volumed/store/key_index.h"

namespace cvol::store {

constexpr uint32_t kNoPlace = UINT32_MAX;

struct ChunkSlot {
  uint64_t key = UINT64_MAX;
  uint64_t version = 0;
  // No std::array: the compiler knows that members of ours are not aligned, its own do not.
  uint32_t checksums[kBlocksPerChunk] = {};
  uint16_t present = 0;

  ChunkKey chunk_key() const {
    ChunkKey result;
    result.word = key;
    return result;
  }
  std::array<uint32_t, kBlocksPerChunk> all_checksums() const {
    std::array<uint32_t, kBlocksPerChunk> all;
    for (std::size_t i = 0; i < all.size(); ++i) all[i] = checksums[i];
    return all;
  }
  void set_checksums(const std::array<uint32_t, kBlocksPerChunk>& all) {
    for (std::size_t i = 0; i < all.size(); ++i) checksums[i] = all[i];
  }
} __attribute__((packed, aligned(2)));
static_assert(sizeof(ChunkSlot) == 82);

class ChunkMap {
 public:
  explicit ChunkMap(uint32_t capacity) : capacity_(capacity) {}

  // The chunk's place, or kNoPlace.
  uint32_t find(ChunkKey key) const { return index_.find(key, KeyOf{this}); }
  // Makes `place` (not owned by anyone) the chunk's, which had none.
  ChunkSlot& insert(ChunkKey key, uint32_t place);
  // The same, but find() does not know the chunk before index_loaded(): a whole table is loaded so,
  // several times as fast. No chunk is loaded twice.
  ChunkSlot& load(ChunkKey key, uint32_t place);
  void index_loaded();
  // Takes the chunk out; its place is owned by nobody then.
  void erase(ChunkKey key);

  // `place` must be owned.
  ChunkSlot& slot(uint32_t place) {
    CVOL_ASSERT(place < capacity_ && slabs_[place / kSlabSlots] != nullptr);
    return slabs_[place / kSlabSlots][place % kSlabSlots];
  }
  const ChunkSlot& slot(uint32_t place) const { return const_cast<ChunkMap*>(this)->slot(place); }
  bool owned(uint32_t place) const {
    return place / kSlabSlots < slabs_.size() && slabs_[place / kSlabSlots] != nullptr &&
           slabs_[place / kSlabSlots][place % kSlabSlots].key != UINT64_MAX;
  }

  uint32_t capacity() const { return capacity_; }
  uint64_t size() const { return index_.size(); }
  // One past the highest place that was ever owned.
  uint32_t end_place() const { return static_cast<uint32_t>(slabs_.size() * kSlabSlots); }
  uint64_t memory_bytes() const;

 private:
  static constexpr uint32_t kSlabSlots = 1024;
  struct KeyOf {
    const ChunkMap* map;
    ChunkKey operator()(uint32_t place) const { return map->slot(place).chunk_key(); }
  };

  ChunkSlot& occupy(ChunkKey key, uint32_t place);

  uint32_t capacity_;
  std::vector<std::unique_ptr<ChunkSlot[]>> slabs_;
  KeyIndex index_;
};

}  // namespace cvol::store
