#include "replication/node/block_set.h"

#include <gtest/gtest.h>

#include <random>
#include <set>

namespace cvol::replication {
namespace {

TEST(BlockSet, RangesThatMeetBecomeOne) {
  BlockSet set;
  EXPECT_TRUE(set.empty());
  set.add({5, 5});
  EXPECT_TRUE(set.empty());
  set.add({10, 12});
  set.add({14, 16});
  set.add({12, 14});
  EXPECT_EQ(set.ranges(), 1u);
  EXPECT_EQ(set.blocks(), 6u);
  EXPECT_FALSE(set.overlaps({0, 10}));
  EXPECT_FALSE(set.overlaps({16, 20}));
  EXPECT_TRUE(set.overlaps({15, 20}));
  EXPECT_EQ(set.first_in({0, 100}), 10u);
  EXPECT_EQ(set.first_in({11, 100}), 11u);
}

TEST(BlockSet, RemovingCutsInTwo) {
  BlockSet set;
  set.add({10, 20});
  set.remove({12, 15});
  EXPECT_EQ(set.ranges(), 2u);
  EXPECT_TRUE(set.contains(11));
  EXPECT_FALSE(set.contains(12));
  EXPECT_TRUE(set.contains(15));
  set.remove({0, 100});
  EXPECT_TRUE(set.empty());
}

TEST(BlockSet, DoesWhatASetOfBlocksDoes) {
  std::mt19937 random(1);
  for (int round = 0; round < 200; ++round) {
    BlockSet set;
    std::set<uint64_t> model;
    for (int step = 0; step < 40; ++step) {
      const uint64_t begin = random() % 40;
      const BlockRange range{begin, begin + random() % 8};
      const bool add = random() % 2 == 0;
      add ? set.add(range) : set.remove(range);
      for (uint64_t block = range.begin; block < range.end; ++block)
        add ? void(model.insert(block)) : void(model.erase(block));
      std::size_t runs = 0;
      for (const uint64_t block : model) runs += block > 0 && model.contains(block - 1) ? 0 : 1;
      ASSERT_EQ(set.ranges(), runs);
      ASSERT_EQ(set.blocks(), model.size());
      for (uint64_t block = 0; block < 50; ++block)
        ASSERT_EQ(set.contains(block), model.contains(block));
      const BlockRange probe{random() % 40, random() % 40 + 5};
      if (probe.empty()) continue;
      const auto first = model.lower_bound(probe.begin);
      const bool any = first != model.end() && *first < probe.end;
      ASSERT_EQ(set.overlaps(probe), any);
      if (any) {
        ASSERT_EQ(set.first_in(probe), *first);
      }
    }
  }
}

}  // namespace
}  // namespace cvol::replication
