#include "volumed/base/flipped_bit.h"

#include <gtest/gtest.h>

#include <vector>

#include "volumed/base/checksum.h"
#include "volumed/base/random.h"
#include "volumed/base/units.h"

namespace cvol {
namespace {

std::vector<std::byte> random_bytes(Random& random, std::size_t size) {
  std::vector<std::byte> bytes(size);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random.next());
  return bytes;
}

TEST(FlippedBit, every_bit_of_a_block_is_found) {
  Random random(1);
  std::vector<std::byte> block = random_bytes(random, kBlockBytes);
  const uint64_t salt = random.next();
  const uint64_t good = block_checksum(salt, 77, block.data());
  for (std::size_t bit = 0; bit < block.size() * 8; bit += 97) {
    flip_bit(block, bit);
    EXPECT_EQ(find_flipped_bit(block, block_checksum_seed(salt, 77), good), bit);
    flip_bit(block, bit);
  }
}

TEST(FlippedBit, works_at_any_length) {
  Random random(2);
  for (const std::size_t size :
       {241u, 256u, 300u, 1024u, 1025u, 1088u, 2048u, 4080u, 8176u, 65520u}) {
    std::vector<std::byte> bytes = random_bytes(random, size);
    const uint64_t good = plain_checksum(bytes);
    std::vector<std::size_t> bits = {0, size * 8 - 1, (size - 64) * 8 - 1, (size - 64) * 8};
    for (int i = 0; i < 6; ++i) bits.push_back(random.below(size * 8));
    for (const std::size_t bit : bits) {
      flip_bit(bytes, bit);
      EXPECT_EQ(find_flipped_bit(bytes, 0, good), bit) << size;
      flip_bit(bytes, bit);
    }
  }
}

TEST(FlippedBit, two_flips_and_other_bytes_have_no_answer) {
  Random random(3);
  std::vector<std::byte> block = random_bytes(random, kBlockBytes);
  const uint64_t good = plain_checksum(block);
  flip_bit(block, 5);
  flip_bit(block, 9000);
  EXPECT_EQ(find_flipped_bit(block, 0, good), std::nullopt);
  EXPECT_EQ(find_flipped_bit(random_bytes(random, kBlockBytes), 0, good), std::nullopt);
}

TEST(FlippedBit, only_the_given_range_is_searched) {
  std::vector<std::byte> block(kBlockBytes);
  const uint64_t good = plain_checksum(block);
  flip_bit(block, 5000);
  EXPECT_EQ(find_flipped_bit(block, 0, good, 0, 5000), std::nullopt);
  EXPECT_EQ(find_flipped_bit(block, 0, good, 5000, 5001), 5000u);
}

}  // namespace
}  // namespace cvol
