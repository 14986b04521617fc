// The engine's in-memory parts against plain models.
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "volumed/base/random.h"
#include "volumed/store/chunk_map.h"
#include "volumed/store/overlay.h"
#include "volumed/store/place_allocator.h"

namespace cvol::store {
namespace {

TEST(ChunkMap, behaves_like_a_map) {
  Random random(3);
  ChunkMap map(20000);
  std::map<uint64_t, uint32_t> model;
  std::set<uint32_t> free;
  for (uint32_t place = 0; place < 20000; ++place) free.insert(place);
  for (int i = 0; i < 200000; ++i) {
    const ChunkKey key(static_cast<uint32_t>(random.below(3)), random.below(9000));
    const auto found = model.find(key.word);
    EXPECT_EQ(map.find(key), found == model.end() ? kNoPlace : found->second);
    if (found == model.end()) {
      const uint32_t place = *free.lower_bound(static_cast<uint32_t>(random.below(19000)));
      free.erase(place);
      map.insert(key, place);
      model[key.word] = place;
    } else if (random.chance(1, 2)) {
      free.insert(found->second);
      map.erase(key);
      model.erase(found);
    }
  }
  EXPECT_EQ(map.size(), model.size());
}

TEST(ChunkMap, holds_to_its_memory_budget) {
  constexpr uint32_t kChunks = 1 << 20;  // 64 GiB
  ChunkMap map(kChunks);
  for (uint32_t i = 0; i < kChunks; ++i) map.insert(ChunkKey(1, uint64_t{i} * 3), i);
  const double per_chunk = static_cast<double>(map.memory_bytes()) / kChunks;
  EXPECT_LE(per_chunk, 96.0);  // 1.5 GiB for the 16 Mi chunks of a TiB
}

TEST(ChunkMap, a_map_that_was_loaded_at_once_is_like_one_that_grew) {
  constexpr uint32_t kChunks = 50000;
  ChunkMap loaded(3 * kChunks);
  ChunkMap grown(3 * kChunks);
  for (uint32_t i = 0; i < kChunks; ++i) {
    const ChunkKey key(1 + i % 3, uint64_t{i} * 7919);
    loaded.load(key, (i * 7) % (2 * kChunks));
    grown.insert(key, (i * 7) % (2 * kChunks));
  }
  loaded.index_loaded();
  EXPECT_EQ(loaded.size(), grown.size());
  EXPECT_EQ(loaded.find(ChunkKey(2, 5)), kNoPlace);
  for (uint32_t i = 0; i < kChunks; i += 2) {
    const ChunkKey key(1 + i % 3, uint64_t{i} * 7919);
    loaded.erase(key);
    grown.erase(key);
  }
  for (uint32_t i = 0; i < kChunks; i += 4)
    loaded.insert(ChunkKey(9, i), 2 * kChunks + i), grown.insert(ChunkKey(9, i), 2 * kChunks + i);
  for (uint32_t i = 0; i < kChunks; ++i) {
    const ChunkKey key(1 + i % 3, uint64_t{i} * 7919);
    ASSERT_EQ(loaded.find(key), grown.find(key)) << i;
    ASSERT_EQ(loaded.find(ChunkKey(9, i)), grown.find(ChunkKey(9, i))) << i;
  }
}

TEST(Overlay, entries_come_and_go) {
  Overlay overlay;
  for (uint64_t i = 0; i < 5000; ++i) overlay.find_or_make(ChunkKey(1, i * 7)).mask = 1;
  EXPECT_EQ(overlay.size(), 5000u);
  for (uint64_t i = 0; i < 5000; i += 2) {
    overlay.find(ChunkKey(1, i * 7))->mask = 0;
    overlay.drop(ChunkKey(1, i * 7));
  }
  EXPECT_EQ(overlay.find(ChunkKey(1, 0)), nullptr);
  EXPECT_NE(overlay.find(ChunkKey(1, 7)), nullptr);
  EXPECT_EQ(overlay.size(), 2500u);
}

TEST(PlaceAllocator, hands_out_runs_and_keeps_promises) {
  PlaceAllocator places(1000);
  EXPECT_EQ(places.allocate(1, false).count, 0u);  // nothing is backed yet
  places.set_backed(100);
  EXPECT_TRUE(places.reserve(30));
  const PlaceAllocator::Run run = places.allocate(1000, false);
  EXPECT_EQ(run.count, 70u);  // the reserved ones are not touched
  EXPECT_FALSE(places.reserve(1));
  EXPECT_EQ(places.allocate(30, true).count, 30u);
  EXPECT_EQ(places.reserved(), 0u);
  places.release(5);
  EXPECT_EQ(places.allocate(1, false).first, 5u);
}

TEST(PlaceAllocator, bare_places_are_not_handed_out_and_promises_keep_their_space) {
  PlaceAllocator places(300);
  places.set_backed(200);
  EXPECT_TRUE(places.reserve(30));
  EXPECT_EQ(places.allocate(20, false).first, 0u);
  const PlaceAllocator::Run high = places.strip(50);
  EXPECT_EQ(high.first, 150u);
  EXPECT_EQ(high.count, 50u);
  EXPECT_EQ(places.available(), 100u);
  EXPECT_FALSE(places.strip_at(3)) << "it is used";
  EXPECT_EQ(places.strip(100).count, 100u);
  EXPECT_FALSE(places.strip_at(25)) << "what is left is promised";
  EXPECT_EQ(places.allocate(1, false).count, 0u);
  EXPECT_EQ(places.allocate(30, true).first, 20u);
  const PlaceAllocator::Run bare = places.next_bare(0, 1000);
  EXPECT_EQ(bare.first, 50u);
  EXPECT_EQ(bare.count, 150u);
  EXPECT_EQ(places.next_bare(200, 1000).count, 0u);
  places.fill({60, 5});
  EXPECT_FALSE(places.is_bare(60));
  const PlaceAllocator::Run again = places.allocate(10, false);
  EXPECT_EQ(again.first, 60u);
  EXPECT_EQ(again.count, 5u);
  EXPECT_EQ(places.bare(), 145u);
}

TEST(PlaceAllocator, never_gives_a_place_twice) {
  Random random(9);
  PlaceAllocator places(5000);
  places.set_backed(5000);
  std::set<uint32_t> owned;
  for (int i = 0; i < 20000; ++i) {
    if (random.chance(1, 2)) {
      const PlaceAllocator::Run run =
          places.allocate(1 + static_cast<uint32_t>(random.below(40)), false);
      for (uint32_t k = 0; k < run.count; ++k) EXPECT_TRUE(owned.insert(run.first + k).second);
    } else if (!owned.empty()) {
      auto at = owned.lower_bound(static_cast<uint32_t>(random.below(5000)));
      if (at == owned.end()) at = owned.begin();
      places.release(*at);
      owned.erase(at);
    }
    EXPECT_EQ(places.used(), owned.size());
  }
}

}  // namespace
}  // namespace cvol::store
