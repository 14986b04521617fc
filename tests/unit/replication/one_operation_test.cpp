#include <gtest/gtest.h>

#include "replication/node/replica_host.h"
#include "volumed/base/units.h"

namespace cvol::replication {
namespace {

alignas(kBlockBytes) std::byte memory[2 * kBlockBytes];

uint64_t blocks_of(uint64_t offset, uint64_t length) {
  return (offset + length + kBlockBytes - 1) / kBlockBytes - offset / kBlockBytes;
}

TEST(OneOperation, AnAlignedWriteIsOne) {
  EXPECT_EQ(one_operation(kBlockBytes, 32 * kMiB, memory), 32 * kMiB);
}

TEST(OneOperation, WhatIsPutTogetherInMemoryIsBounded) {
  EXPECT_EQ(one_operation(512, 4096, memory), 4096u);
  EXPECT_EQ(one_operation(0, 3 * kMiB, memory + 1), kMiB);  // memory that is not aligned
  const uint64_t first = one_operation(512, 3 * kMiB, memory);
  EXPECT_EQ(blocks_of(512, first), kMiB / kBlockBytes);
  EXPECT_EQ((512 + first) % kBlockBytes, 0u);  // no block is in two of them
}

TEST(OneOperation, ZeroesAreCutAtBlocks) {
  EXPECT_EQ(one_operation(512, 100, nullptr), 100u);
  EXPECT_EQ(one_operation(512, 10 * kBlockBytes, nullptr), kBlockBytes - 512);
  EXPECT_EQ(one_operation(0, 10 * kBlockBytes + 512, nullptr), 10 * kBlockBytes);
  EXPECT_EQ(one_operation(10 * kBlockBytes, 512, nullptr), 512u);
  EXPECT_EQ(one_operation(kGiB - kBlockBytes, 5 * kGiB, nullptr), kBlockBytes);
  EXPECT_EQ(one_operation(kGiB, 5 * kGiB, nullptr), kGiB);
}

// What may have to be taken back, as data, is no more than a payload.
TEST(OneOperation, ZeroesThatKeepTheirSpaceAreBoundedByAPayload) {
  EXPECT_EQ(one_operation(0, 200 * kMiB, nullptr, /*keep=*/true), kMaxRequestBytes);
  EXPECT_EQ(one_operation(kMiB, 200 * kMiB, nullptr, /*keep=*/true), kMaxRequestBytes - kMiB);
  EXPECT_EQ(one_operation(0, kBlockBytes, nullptr, /*keep=*/true), kBlockBytes);
}

TEST(OneOperation, PiecesCoverTheWhole) {
  const std::byte* const starts[] = {nullptr, memory, memory + 7};
  for (const std::byte* data : starts) {
    for (uint64_t offset : {0ull, 1ull, 4095ull, 4096ull, 1048575ull}) {
      for (uint64_t length : {1ull, 4096ull, 4097ull, 1048577ull, 3145729ull}) {
        uint64_t at = offset;
        while (at < offset + length) {
          // Only the alignment of the address counts; it is never read.
          const std::byte* here = data == nullptr ? nullptr : data + (at - offset) % kBlockBytes;
          const uint64_t piece = one_operation(at, offset + length - at, here);
          ASSERT_GT(piece, 0u);
          ASSERT_LE(piece, offset + length - at);
          at += piece;
        }
      }
    }
  }
}

}  // namespace
}  // namespace cvol::replication
