#include "volumed/store/overlay.h"

namespace cvol::store {

OverlayChunk& Overlay::find_or_make(ChunkKey key) {
  if (OverlayChunk* found = find(key)) return *found;
  if (free_.empty()) {
    const uint32_t first = static_cast<uint32_t>(slabs_.size()) * kSlab;
    slabs_.push_back(std::make_unique<OverlayChunk[]>(kSlab));
    for (uint32_t i = kSlab; i > 0; --i) free_.push_back(first + i - 1);
  }
  const uint32_t id = free_.back();
  free_.pop_back();
  at(id) = OverlayChunk{};
  at(id).key = key;
  index_.insert(key, id, KeyOf{this});
  return at(id);
}

void Overlay::drop(ChunkKey key) {
  const uint32_t id = index_.find(key, KeyOf{this});
  CVOL_ASSERT(id != KeyIndex::kNone);
  CVOL_ASSERT(idle(at(id)) && !at(id).reserved);
  index_.erase(key, KeyOf{this});
  at(id).key = ChunkKey{};
  free_.push_back(id);
}

}  // namespace cvol::store
