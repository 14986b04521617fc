#include "volumed/store/batch_repair.h"

#include <gtest/gtest.h>

#include <vector>

#include "volumed/base/flipped_bit.h"
#include "volumed/base/random.h"
#include "volumed/store/format.h"

namespace cvol::store {
namespace {

constexpr uint64_t kLsn = 17;
constexpr uint64_t kPosition = 1234;
const Uuid kJournal{};

// A header area with `writes` records of one block each, as large as it has to be.
std::vector<std::byte> batch_with(uint64_t writes, bool commit_point = false) {
  std::vector<std::byte> area(kMaxHeaderBlocks * kBlockBytes);
  BatchEncoder encoder(area);
  for (uint64_t i = 0; i < writes; ++i) {
    const uint64_t sum = i * 0x123456789abcdef;
    encoder.add({RecordType::kWrite, 0, 7, 3, 41 + i, 100 + i, 1, static_cast<uint32_t>(i)}, &sum);
  }
  if (commit_point) encoder.add({RecordType::kCommitPoint, 0, 7, 0, 40, 0, 0, 0}, nullptr);
  BatchHeader header;
  header.lsn = kLsn;
  header.generation = 5;
  header.position = kPosition;
  header.durable_lsn = 16;
  header.tail_lsn = 9;
  header.payload_blocks = static_cast<uint32_t>(writes);
  const std::span<std::byte> sealed = encoder.seal(header, kJournal);
  return {sealed.begin(), sealed.end()};
}

TEST(BatchRepair, every_bit_of_a_small_area_is_flipped_back) {
  for (const bool commit_point : {false, true}) {  // version 1, version 2
    const std::vector<std::byte> good = batch_with(2, commit_point);
    ASSERT_EQ(good.size(), kBlockBytes);
    std::vector<std::byte> area = good;
    area.resize(kMaxHeaderBlocks * kBlockBytes, std::byte{0x5a});  // the payload follows
    const std::vector<std::byte> whole = area;
    for (std::size_t bit = 0; bit < good.size() * 8; bit += bit < 300 * 8 ? 1 : 53) {
      flip_bit(area, bit);
      ASSERT_TRUE(nearly_batch(area, kJournal, kLsn, kPosition)) << bit;
      ASSERT_EQ(mend_batch(area, kJournal, kLsn, kPosition), good.size()) << bit;
      ASSERT_TRUE(area == whole) << bit;
    }
  }
}

TEST(BatchRepair, bits_of_the_largest_area_are_flipped_back) {
  const std::vector<std::byte> good = batch_with(1300);
  ASSERT_EQ(good.size(), 16 * kBlockBytes);
  std::vector<std::byte> area = good;
  Random random(1);
  for (int i = 0; i < 40; ++i) {
    const std::size_t bit = random.below(area.size() * 8);
    flip_bit(area, bit);
    ASSERT_EQ(mend_batch(area, kJournal, kLsn, kPosition), good.size()) << bit;
    ASSERT_TRUE(area == good) << bit;
  }
}

TEST(BatchRepair, two_flipped_bits_are_left_as_they_are) {
  const std::vector<std::byte> good = batch_with(40);
  Random random(2);
  for (int i = 0; i < 200; ++i) {
    std::vector<std::byte> area = good;
    const std::size_t one = random.below(area.size() * 8);
    const std::size_t two = random.below(area.size() * 8);
    if (one == two) continue;
    flip_bit(area, one);
    flip_bit(area, two);
    const std::vector<std::byte> damaged = area;
    EXPECT_EQ(mend_batch(area, kJournal, kLsn, kPosition), std::nullopt) << one << " " << two;
    EXPECT_TRUE(area == damaged);
  }
}

TEST(BatchRepair, torn_areas_and_other_batches_are_none) {
  std::vector<std::byte> area = batch_with(200);
  EXPECT_EQ(mend_batch(area, kJournal, kLsn + 1, kPosition + 9), std::nullopt);
  EXPECT_FALSE(nearly_batch(area, kJournal, kLsn + 3, kPosition));
  EXPECT_FALSE(nearly_batch(std::vector<std::byte>(kBlockBytes), kJournal, kLsn, kPosition));
  EXPECT_TRUE(nearly_batch(area, kJournal, kLsn, kPosition));
  for (std::size_t cut = 512; cut < area.size() - 512; cut += 512) {
    std::vector<std::byte> torn(area.begin(), area.begin() + static_cast<std::ptrdiff_t>(cut));
    torn.resize(area.size());
    if (torn == area) continue;
    EXPECT_EQ(mend_batch(torn, kJournal, kLsn, kPosition), std::nullopt) << cut;
  }
}

}  // namespace
}  // namespace cvol::store
