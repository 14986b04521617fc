// ZeroedRanges: what was zeroed in a replica lately, for those who were away.
//
// A list in bounded memory: when it has grown too long, ranges that overlap, touch or lie close to
// each other become one, with the highest of their seqs. So it may name more than was zeroed, and
// what it names is forgotten later than it might be; never less, never sooner. One thread.
#pragma once

#include <cstdint>
#include <vector>

#include "volumed/store/format.h"

namespace cvol::store {

class ZeroedRanges {
 public:
  ZeroedRanges() = default;
  explicit ZeroedRanges(std::vector<ZeroedRange> ranges);

  void add(const ZeroedRange& range);
  // Those up to `seq`; true if there were any.
  bool forget(uint64_t seq);
  // Those after `seq`, by their first block.
  std::vector<ZeroedRange> after(uint64_t seq) const;

  bool empty() const { return ranges_.empty(); }
  const std::vector<ZeroedRange>& all() const { return ranges_; }

 private:
  void shorten();
  // Joins ranges with at most `gap` blocks between them. They must be sorted.
  void join(uint64_t gap);
  void find_lowest();

  std::vector<ZeroedRange> ranges_;
  uint64_t lowest_ = UINT64_MAX;  // seq of them
};

}  // namespace cvol::store
