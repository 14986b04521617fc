#include "volumed/store/place_allocator.h"

#include <algorithm>
#include <bit>

#include "volumed/base/assert.h"

namespace cvol::store {

void PlaceAllocator::set_backed(uint32_t places) {
  CVOL_ASSERT(places >= backed_ && places <= capacity_);
  bits_.resize((uint64_t{places} + 63) / 64, 0);
  bare_bits_.resize(bits_.size(), 0);
  backed_ = places;
}

void PlaceAllocator::mark_used(uint32_t place) {
  CVOL_ASSERT(place < backed_ && !is_taken(place));  // I12
  bits_[place / 64] |= uint64_t{1} << (place % 64);
  ++used_;
}

bool PlaceAllocator::reserve(uint32_t places) {
  if (available() < places) return false;
  reserved_ += places;
  return true;
}

void PlaceAllocator::unreserve(uint32_t places) {
  CVOL_ASSERT(reserved_ >= places);
  reserved_ -= places;
}

uint32_t PlaceAllocator::next_free(uint32_t from, uint32_t to) const {
  while (from < to) {
    const uint64_t free_bits = ~bits_[from / 64] >> (from % 64);
    if (free_bits != 0)
      return std::min(to, from + static_cast<uint32_t>(std::countr_zero(free_bits)));
    from = (from / 64 + 1) * 64;
  }
  return to;
}

PlaceAllocator::Run PlaceAllocator::allocate(uint32_t most, bool from_reserved) {
  const uint32_t allowed = from_reserved ? reserved_ : available();
  most = std::min(most, allowed);
  if (most == 0) return {};
  uint32_t first = next_free(cursor_, backed_);
  if (first == backed_) first = next_free(0, backed_);
  CVOL_ASSERT(first < backed_);  // used + reserved + bare <= backed
  Run run{first, 0};
  while (run.count < most && first + run.count < backed_ && !is_taken(first + run.count)) {
    mark_used(first + run.count);
    ++run.count;
  }
  if (from_reserved) reserved_ -= run.count;
  cursor_ = first + run.count;
  return run;
}

void PlaceAllocator::release(uint32_t place) {
  CVOL_ASSERT(place < backed_ && is_taken(place) && !is_bare(place));
  bits_[place / 64] &= ~(uint64_t{1} << (place % 64));
  --used_;
}

PlaceAllocator::Run PlaceAllocator::strip(uint32_t most) {
  CVOL_ASSERT(most > 0 && most <= available());
  uint32_t word = static_cast<uint32_t>(bits_.size());
  uint32_t end = 0;  // one past the highest free place
  while (end == 0) {
    CVOL_ASSERT(word > 0);
    --word;
    uint64_t free = ~bits_[word];
    if (word == backed_ / 64) free &= (uint64_t{1} << (backed_ % 64)) - 1;
    if (free != 0) end = word * 64 + 64 - static_cast<uint32_t>(std::countl_zero(free));
  }
  Run run{end, 0};
  while (run.count < most && run.first > 0 && !is_taken(run.first - 1)) {
    --run.first;
    ++run.count;
    const bool stripped = strip_at(run.first);
    CVOL_ASSERT(stripped);
  }
  return run;
}

bool PlaceAllocator::strip_at(uint32_t place) {
  CVOL_ASSERT(place < backed_);
  if (is_taken(place) || available() == 0) return false;
  bits_[place / 64] |= uint64_t{1} << (place % 64);
  bare_bits_[place / 64] |= uint64_t{1} << (place % 64);
  ++bare_;
  return true;
}

PlaceAllocator::Run PlaceAllocator::next_bare(uint32_t from, uint32_t most) const {
  while (from < backed_ && !is_bare(from)) {
    from = bare_bits_[from / 64] >> (from % 64) == 0 ? (from / 64 + 1) * 64 : from + 1;
  }
  Run run{from, 0};
  while (run.count < most && from + run.count < backed_ && is_bare(from + run.count)) ++run.count;
  return run;
}

void PlaceAllocator::fill(Run run) {
  for (uint32_t place = run.first; place < run.first + run.count; ++place) {
    CVOL_ASSERT(place < backed_ && is_bare(place));
    bits_[place / 64] &= ~(uint64_t{1} << (place % 64));
    bare_bits_[place / 64] &= ~(uint64_t{1} << (place % 64));
    --bare_;
  }
}

}  // namespace cvol::store
