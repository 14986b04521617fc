// Overlay: for every block whose newest content is in the journal, where it is there.
//
// Entries are per chunk. An entry also exists, with no blocks, while a write to a chunk without a
// place is on its way: it then carries the reservation of the place (`reserved`). One thread.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "volumed/store/chunk_key.h"
#include "volumed/store/format.h"
#include "volumed/store/key_index.h"

namespace cvol::store {

struct OverlayChunk {
  ChunkKey key;
  uint64_t version = 0;   // seq of the newest block
  uint16_t mask = 0;      // blocks that are here
  uint16_t writers = 0;   // journaled writes to the chunk that are not applied yet
  bool reserved = false;  // a place is set aside for the chunk
  std::array<uint32_t, kBlocksPerChunk> position{};  // ring block in the journal
  std::array<uint32_t, kBlocksPerChunk> checksum{};  // short checksum
};

class Overlay {
 public:
  // nullptr if the chunk has none. Pointers hold until the entry is dropped.
  OverlayChunk* find(ChunkKey key) const {
    const uint32_t id = index_.find(key, KeyOf{this});
    return id == KeyIndex::kNone ? nullptr : &at(id);
  }
  OverlayChunk& find_or_make(ChunkKey key);
  // Drops the entry; it must hold no block, writer or reservation.
  void drop(ChunkKey key);
  bool idle(const OverlayChunk& chunk) const { return chunk.mask == 0 && chunk.writers == 0; }
  uint64_t size() const { return index_.size(); }
  // Visits every entry, in the order of their making; the visitor must not add or drop any.
  template <typename Visit>
  void for_each(Visit visit) {
    for (std::size_t slab = 0; slab < slabs_.size(); ++slab) for_each_of(slab, visit);
  }
  // The same, a part at a time.
  std::size_t slabs() const { return slabs_.size(); }
  template <typename Visit>
  void for_each_of(std::size_t slab, Visit visit) {
    for (uint32_t i = 0; i < kSlab; ++i) {
      if (!slabs_[slab][i].key.is_none()) visit(slabs_[slab][i]);
    }
  }

 private:
  static constexpr uint32_t kSlab = 256;
  struct KeyOf {
    const Overlay* overlay;
    ChunkKey operator()(uint32_t id) const { return overlay->at(id).key; }
  };
  OverlayChunk& at(uint32_t id) const { return slabs_[id / kSlab][id % kSlab]; }

  std::vector<std::unique_ptr<OverlayChunk[]>> slabs_;
  std::vector<uint32_t> free_;
  KeyIndex index_;
};

}  // namespace cvol::store
