#include "volumed/store/chunk_map.h"

namespace cvol::store {

ChunkSlot& ChunkMap::insert(ChunkKey key, uint32_t place) {
  ChunkSlot& made = occupy(key, place);
  index_.insert(key, place, KeyOf{this});
  return made;
}

ChunkSlot& ChunkMap::load(ChunkKey key, uint32_t place) {
  return occupy(key, place);
}

void ChunkMap::index_loaded() {
  index_.build([this](auto visit) {
    for (std::size_t slab = 0; slab < slabs_.size(); ++slab) {
      if (slabs_[slab] == nullptr) continue;
      for (uint32_t i = 0; i < kSlabSlots; ++i) {
        const ChunkSlot& slot = slabs_[slab][i];
        if (slot.key != UINT64_MAX)
          visit(slot.chunk_key(), static_cast<uint32_t>(slab * kSlabSlots + i));
      }
    }
  });
}

ChunkSlot& ChunkMap::occupy(ChunkKey key, uint32_t place) {
  CVOL_ASSERT(place < capacity_);
  CVOL_ASSERT(!owned(place));  // I12
  const std::size_t slab = place / kSlabSlots;
  if (slab >= slabs_.size()) slabs_.resize(slab + 1);
  if (slabs_[slab] == nullptr) slabs_[slab] = std::make_unique<ChunkSlot[]>(kSlabSlots);
  ChunkSlot& made = slabs_[slab][place % kSlabSlots];
  made = ChunkSlot{};
  made.key = key.word;
  return made;
}

void ChunkMap::erase(ChunkKey key) {
  const uint32_t place = find(key);
  CVOL_ASSERT(place != kNoPlace);
  index_.erase(key, KeyOf{this});
  slot(place).key = UINT64_MAX;
}

uint64_t ChunkMap::memory_bytes() const {
  uint64_t total = index_.memory_bytes() + slabs_.capacity() * sizeof slabs_[0];
  for (const auto& slab : slabs_) {
    if (slab != nullptr) total += kSlabSlots * sizeof(ChunkSlot);
  }
  return total;
}

}  // namespace cvol::store
