// BlockSet: blocks of a volume, as ranges that neither overlap nor touch. For few of them.
//
// Threading: none of its own.
#pragma once

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <map>
#include <vector>

#include "replication/core/types.h"

namespace cvol::replication {

class BlockSet {
 public:
  bool empty() const { return ranges_.empty(); }
  std::size_t ranges() const { return ranges_.size(); }
  uint64_t blocks() const {
    uint64_t sum = 0;
    for (const auto& [begin, end] : ranges_) sum += end - begin;
    return sum;
  }
  bool overlaps(BlockRange range) const {
    const auto next = ranges_.lower_bound(range.end);
    return next != ranges_.begin() && std::prev(next)->second > range.begin;
  }
  bool contains(uint64_t block) const { return overlaps({block, block + 1}); }
  // The first block of `range` that is in the set; there is one.
  uint64_t first_in(BlockRange range) const {
    auto at = ranges_.upper_bound(range.begin);
    if (at != ranges_.begin() && std::prev(at)->second > range.begin) return range.begin;
    return at->first;
  }

  void add(BlockRange range) {
    if (range.empty()) return;
    auto at = ranges_.upper_bound(range.begin);
    if (at != ranges_.begin() && std::prev(at)->second >= range.begin) --at;
    while (at != ranges_.end() && at->first <= range.end) {
      range.begin = std::min(range.begin, at->first);
      range.end = std::max(range.end, at->second);
      at = ranges_.erase(at);
    }
    ranges_[range.begin] = range.end;
  }
  void remove(BlockRange range) {
    if (range.empty()) return;
    auto at = ranges_.upper_bound(range.begin);
    if (at != ranges_.begin() && std::prev(at)->second > range.begin) --at;
    while (at != ranges_.end() && at->first < range.end) {
      const BlockRange old{at->first, at->second};
      at = ranges_.erase(at);
      if (old.begin < range.begin) ranges_[old.begin] = range.begin;
      if (old.end > range.end) ranges_[range.end] = old.end;
    }
  }

  // Ascending.
  std::vector<BlockRange> list() const {
    std::vector<BlockRange> all;
    for (const auto& [begin, end] : ranges_) all.push_back({begin, end});
    return all;
  }
  bool operator==(const BlockSet&) const = default;

 private:
  std::map<uint64_t, uint64_t> ranges_;  // begin -> end
};

}  // namespace cvol::replication
