// The list of zeroed ranges: it may name more than was zeroed, never less, in bounded memory.
#include "volumed/store/zeroed_ranges.h"

#include <gtest/gtest.h>

#include <map>

#include "volumed/base/random.h"

namespace cvol::store {
namespace {

TEST(ZeroedRanges, are_told_by_seq_and_sorted_by_block) {
  ZeroedRanges ranges;
  ranges.add({50, 5, 3});
  ranges.add({10, 5, 4});
  ranges.add({10, 2, 9});
  EXPECT_EQ(ranges.after(3).size(), 2u);
  EXPECT_TRUE(ranges.after(9).empty());
  const std::vector<ZeroedRange> all = ranges.after(0);
  ASSERT_EQ(all.size(), 3u);
  EXPECT_EQ(all[2], (ZeroedRange{50, 5, 3}));
}

TEST(ZeroedRanges, up_to_a_seq_are_forgotten) {
  ZeroedRanges ranges;
  EXPECT_FALSE(ranges.forget(100));
  ranges.add({50, 5, 3});
  ranges.add({10, 5, 4});
  EXPECT_FALSE(ranges.forget(2));
  EXPECT_TRUE(ranges.forget(3));
  EXPECT_EQ(ranges.after(0), (std::vector<ZeroedRange>{{10, 5, 4}}));
  EXPECT_TRUE(ranges.forget(4));
  EXPECT_TRUE(ranges.empty());
  ranges.add({1, 1, 2});
  EXPECT_TRUE(ranges.forget(2));
}

TEST(ZeroedRanges, that_overlap_become_one_when_they_are_many) {
  ZeroedRanges ranges;
  for (uint64_t i = 0; i <= kMostZeroedRanges; ++i) ranges.add({i * 4, 8, i + 1});
  EXPECT_EQ(ranges.all(),
            (std::vector<ZeroedRange>{{0, kMostZeroedRanges * 4 + 8, kMostZeroedRanges + 1}}));
}

TEST(ZeroedRanges, cover_everything_that_was_added_however_many) {
  Random random(3);
  for (int run = 0; run < 5; ++run) {
    ZeroedRanges ranges;
    std::map<uint64_t, uint64_t> newest;  // by block
    uint64_t forgotten = 0;
    for (uint64_t seq = 1; seq <= 20000; ++seq) {
      const uint64_t first = random.below(1 << 20);
      const uint64_t blocks = 1 + random.below(3);
      ranges.add({first, blocks, seq});
      for (uint64_t block = first; block < first + blocks; ++block) newest[block] = seq;
      ASSERT_LE(ranges.all().size(), kMostZeroedRanges);
      if (!random.chance(1, 3000)) continue;
      forgotten = std::max(forgotten, random.below(seq));
      ranges.forget(forgotten);
    }
    const std::vector<ZeroedRange> all = ranges.after(0);
    std::size_t at = 0;
    uint64_t covered = 0;
    for (const auto& [block, seq] : newest) {
      if (seq <= forgotten) continue;
      uint64_t found = 0;
      while (at < all.size() && all[at].first_block + all[at].blocks + 8 < block) ++at;
      for (std::size_t i = at; i < all.size() && all[i].first_block <= block; ++i) {
        if (block < all[i].first_block + all[i].blocks) found = std::max(found, all[i].seq);
      }
      ASSERT_GE(found, seq) << "block " << block;
      ++covered;
    }
    EXPECT_GT(covered, 0u);
  }
}

}  // namespace
}  // namespace cvol::store
