#include "volumed/store/batch_repair.h"

#include <algorithm>
#include <array>
#include <bit>
#include <vector>

#include "volumed/base/assert.h"
#include "volumed/base/bytes.h"
#include "volumed/base/checksum.h"
#include "volumed/base/flipped_bit.h"
#include "volumed/store/format.h"

namespace cvol::store {
namespace {

// Offsets in the fixed part (format.cpp, docs/formats.md).
constexpr std::size_t kChecksumAt = 8;
constexpr std::size_t kCoveredFrom = 16;  // by the checksum
constexpr std::size_t kVersionAt = 32;
constexpr std::size_t kHeaderBlocksAt = 36;
constexpr std::size_t kRecordBytesAt = 48;

struct Range {
  std::size_t first, end;
};
// What is the same in every batch of this journal with this version, LSN and position.
constexpr Range kKnown[] = {{0, 8}, {16, 36}, {52, 64}, {72, 80}, {96, 112}};

struct Difference {
  std::size_t bits = 0;
  std::size_t last = 0;  // one of them
};

// Bits of the known fields that are not as they must be.
Difference known_difference(std::span<const std::byte> block, const Uuid& journal, uint32_t version,
                            uint64_t lsn, uint64_t position) {
  std::array<std::byte, kBlockBytes> expected;
  BatchHeader header;
  header.lsn = lsn;
  header.position = position;
  (void)BatchEncoder(expected).seal(header, journal);
  store_le<uint32_t>(&expected[kVersionAt], version);
  Difference found;
  for (const Range& range : kKnown) {
    for (std::size_t at = range.first; at < range.end; ++at) {
      const auto wrong = static_cast<unsigned>(block[at] ^ expected[at]);
      if (wrong == 0) continue;
      found.bits += static_cast<std::size_t>(std::popcount(wrong));
      found.last = at * 8 + static_cast<std::size_t>(std::countr_zero(wrong));
    }
  }
  return found;
}

// The area as its own field says; empty if that is impossible.
std::span<std::byte> area_of(std::span<std::byte> bytes) {
  const uint32_t blocks = load_le<uint32_t>(&bytes[kHeaderBlocksAt]);
  if (blocks == 0 || blocks > bytes.size() / kBlockBytes) return {};
  return bytes.first(blocks * kBlockBytes);
}

bool holds(std::span<const std::byte> area) {
  return !area.empty() &&
         load_le<uint64_t>(&area[kChecksumAt]) == plain_checksum(area.subspan(kCoveredFrom));
}

// The flipped bit is the one that says how long the area is.
std::optional<std::size_t> mend_length(std::span<std::byte> bytes) {
  for (std::size_t bit = 0; bit < 32; ++bit) {
    flip_bit(bytes, kHeaderBlocksAt * 8 + bit);
    const std::span<const std::byte> area = area_of(bytes);
    if (holds(area)) return area.size();
    flip_bit(bytes, kHeaderBlocksAt * 8 + bit);
  }
  return std::nullopt;
}

// Flips the bit that is found in bytes [first, end) of the area back.
bool mend_range(std::span<std::byte> area, std::size_t first, std::size_t end) {
  const std::span<std::byte> covered = area.subspan(kCoveredFrom);
  const std::optional<std::size_t> bit =
      find_flipped_bit(covered, 0, load_le<uint64_t>(&area[kChecksumAt]),
                       (first - kCoveredFrom) * 8, (end - kCoveredFrom) * 8);
  if (bit.has_value()) flip_bit(covered, *bit);
  return bit.has_value();
}

// What follows the records is zero: a bit that is set there is the flipped one, and with several
// the area is no whole one. Only with none is it worth while to try every bit of the records.
bool mend_records(std::span<std::byte> area) {
  const uint64_t used = kBatchFixedBytes + uint64_t{load_le<uint32_t>(&area[kRecordBytesAt])};
  if (used > area.size()) return false;
  std::size_t set = 0;
  std::size_t where = 0;
  for (std::size_t at = used; at < area.size() && set < 2; ++at) {
    if (area[at] == std::byte{0}) continue;
    set += static_cast<std::size_t>(std::popcount(static_cast<unsigned>(area[at])));
    where = at;
  }
  if (set > 1) return false;
  return set == 1 ? mend_range(area, where, where + 1) : mend_range(area, kBatchFixedBytes, used);
}

}  // namespace

bool nearly_batch(std::span<const std::byte> block, const Uuid& journal, uint64_t lsn,
                  uint64_t position) {
  CVOL_ASSERT(block.size() >= kBatchFixedBytes);
  for (uint32_t version = 1; version <= kBatchVersion; ++version) {
    if (known_difference(block, journal, version, lsn, position).bits <= 1) return true;
  }
  return false;
}

std::optional<std::size_t> mend_batch(std::span<std::byte> bytes, const Uuid& journal, uint64_t lsn,
                                      uint64_t position) {
  CVOL_ASSERT(bytes.size() >= kBlockBytes && bytes.size() % kBlockBytes == 0);
  bool known_holds = false;  // for one of the versions
  for (uint32_t version = 1; version <= kBatchVersion; ++version) {
    const Difference known = known_difference(bytes, journal, version, lsn, position);
    known_holds = known_holds || known.bits == 0;
    if (known.bits != 1) continue;
    flip_bit(bytes, known.last);
    const std::span<std::byte> area = area_of(bytes);
    if (holds(area)) return area.size();
    flip_bit(bytes, known.last);
  }
  if (!known_holds) return std::nullopt;
  const std::span<std::byte> area = area_of(bytes);
  if (area.empty()) return mend_length(bytes);
  const uint64_t stored = load_le<uint64_t>(&area[kChecksumAt]);
  const uint64_t computed = plain_checksum(area.subspan(kCoveredFrom));
  if (std::popcount(stored ^ computed) <= 1) {
    store_le<uint64_t>(&area[kChecksumAt], computed);
    return area.size();
  }
  if (mend_range(area, kCoveredFrom, kBatchFixedBytes) || mend_records(area)) return area.size();
  return mend_length(bytes);
}

}  // namespace cvol::store
