#include "volumed/store/zeroed_ranges.h"

#include <algorithm>

#include "volumed/base/assert.h"

namespace cvol::store {
namespace {

// After shortening: so that it is not done again at once.
constexpr std::size_t kKeptRanges = kMostZeroedRanges / 2;

uint64_t end_of(const ZeroedRange& range) {
  return range.first_block + range.blocks;
}

bool by_first_block(const ZeroedRange& a, const ZeroedRange& b) {
  return a.first_block < b.first_block;
}

}  // namespace

ZeroedRanges::ZeroedRanges(std::vector<ZeroedRange> ranges) : ranges_(std::move(ranges)) {
  if (ranges_.size() > kMostZeroedRanges) shorten();
  find_lowest();
}

void ZeroedRanges::add(const ZeroedRange& range) {
  CVOL_ASSERT(range.blocks > 0);
  ranges_.push_back(range);
  lowest_ = std::min(lowest_, range.seq);
  if (ranges_.size() > kMostZeroedRanges) {
    shorten();
    find_lowest();
  }
}

bool ZeroedRanges::forget(uint64_t seq) {
  if (seq < lowest_ || ranges_.empty()) return false;
  std::erase_if(ranges_, [seq](const ZeroedRange& range) { return range.seq <= seq; });
  find_lowest();
  return true;
}

std::vector<ZeroedRange> ZeroedRanges::after(uint64_t seq) const {
  std::vector<ZeroedRange> found;
  for (const ZeroedRange& range : ranges_) {
    if (range.seq > seq) found.push_back(range);
  }
  std::sort(found.begin(), found.end(), by_first_block);
  return found;
}

void ZeroedRanges::shorten() {
  std::sort(ranges_.begin(), ranges_.end(), by_first_block);
  join(0);
  if (ranges_.size() <= kKeptRanges) return;
  std::vector<uint64_t> gaps;
  for (std::size_t i = 1; i < ranges_.size(); ++i)
    gaps.push_back(ranges_[i].first_block - end_of(ranges_[i - 1]));
  const auto last = gaps.begin() + static_cast<int64_t>(ranges_.size() - kKeptRanges - 1);
  std::nth_element(gaps.begin(), last, gaps.end());
  join(*last);
  CVOL_ASSERT(ranges_.size() <= kKeptRanges);
}

void ZeroedRanges::join(uint64_t gap) {
  std::size_t kept = 0;
  for (std::size_t i = 1; i < ranges_.size(); ++i) {
    ZeroedRange& before = ranges_[kept];
    const ZeroedRange& range = ranges_[i];
    if (range.first_block > end_of(before) + gap) {
      ranges_[++kept] = range;
      continue;
    }
    before.blocks = std::max(end_of(before), end_of(range)) - before.first_block;
    before.seq = std::max(before.seq, range.seq);
  }
  ranges_.resize(kept + 1);
}

void ZeroedRanges::find_lowest() {
  lowest_ = UINT64_MAX;
  for (const ZeroedRange& range : ranges_) lowest_ = std::min(lowest_, range.seq);
}

}  // namespace cvol::store
