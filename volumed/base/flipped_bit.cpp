// XXH3-64 of long input keeps eight 64-bit lanes. Input is taken in blocks of 1024 bytes of sixteen
// stripes of eight words; word i of a stripe adds to lanes i and i ^ 1 only, additions commute, and
// between blocks every lane is scrambled by itself. So after a flip only one pair of lanes has to
// be followed to the end, from sums that are computed once; and the pair goes into the digest by
// one multiplication. That makes a candidate some 50 times cheaper than hashing everything again.
#include "volumed/base/flipped_bit.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <vector>

#include "volumed/base/assert.h"
#include "volumed/base/bytes.h"

namespace cvol {
namespace {

constexpr std::size_t kStripe = 64;
constexpr std::size_t kLanes = 8;
constexpr std::size_t kSecretBytes = 192;
constexpr std::size_t kStripesPerBlock = (kSecretBytes - kStripe) / 8;
constexpr std::size_t kBlock = kStripe * kStripesPerBlock;
constexpr std::size_t kShortest = 241;
constexpr uint64_t kPrime32_1 = 0x9E3779B1, kPrime32_2 = 0x85EBCA77, kPrime32_3 = 0xC2B2AE3D;
constexpr uint64_t kPrime64_1 = 0x9E3779B185EBCA87, kPrime64_2 = 0xC2B2AE3D27D4EB4F,
                   kPrime64_3 = 0x165667B19E3779F9, kPrime64_4 = 0x85EBCA77C2B2AE63,
                   kPrime64_5 = 0x27D4EB2F165667C5;
__extension__ using Wide = unsigned __int128;
using Lanes = std::array<uint64_t, kLanes>;

uint64_t product(uint64_t keyed) {
  return (keyed & 0xffffffff) * (keyed >> 32);
}

uint64_t fold(uint64_t a, uint64_t b) {
  const Wide wide = static_cast<Wide>(a) * b;
  return static_cast<uint64_t>(wide) ^ static_cast<uint64_t>(wide >> 64);
}

uint64_t avalanche(uint64_t hash) {
  hash = (hash ^ (hash >> 37)) * 0x165667919E3779F9;
  return hash ^ (hash >> 32);
}

class Search {
 public:
  Search(std::span<const std::byte> data, uint64_t seed) : data_(data) {
    XXH3_generateSecret_fromSeed(secret_.data(), seed);
    blocks_ = (data.size() - 1) / kBlock;
    add_up();
  }

  uint64_t digest() const {
    uint64_t sum = data_.size() * kPrime64_1;
    for (std::size_t i = 0; i < kLanes; i += 2) sum += term(i, final_[i], final_[i + 1]);
    return avalanche(sum);
  }

  // What the checksum would be with this bit flipped; the bit lies before the last stripe.
  uint64_t digest_with(std::size_t bit) const {
    const std::size_t byte = bit / 8;
    const std::size_t block = byte / kBlock;
    const std::size_t stripe = byte % kBlock / kStripe;
    const std::size_t lane = byte % kStripe / 8;
    const uint64_t word = load_le<uint64_t>(&data_[byte / 8 * 8]);
    const uint64_t flipped = word ^ (uint64_t{1} << (bit % 64));
    const uint64_t key = secret(stripe * 8 + lane * 8);
    uint64_t own = product(flipped ^ key) - product(word ^ key);  // change of `lane`
    uint64_t other = flipped - word;                              // change of `lane ^ 1`
    own += start_[block][lane] + sums_[block][lane];
    other += start_[block][lane ^ 1] + sums_[block][lane ^ 1];
    for (std::size_t next = block + 1; next <= blocks_; ++next) {
      own = scramble(own, lane) + sums_[next][lane];
      other = scramble(other, lane ^ 1) + sums_[next][lane ^ 1];
    }
    uint64_t sum = data_.size() * kPrime64_1;
    const std::size_t pair = lane & ~std::size_t{1};
    for (std::size_t i = 0; i < kLanes; i += 2) {
      if (i != pair) sum += term(i, final_[i], final_[i + 1]);
    }
    sum += (lane & 1) == 0 ? term(pair, own, other) : term(pair, other, own);
    return avalanche(sum);
  }

 private:
  uint64_t secret(std::size_t at) const { return load_le<uint64_t>(&secret_[at]); }
  uint64_t term(std::size_t lane, uint64_t a, uint64_t b) const {
    return fold(a ^ secret(11 + lane * 8), b ^ secret(11 + lane * 8 + 8));
  }
  uint64_t scramble(uint64_t lane_value, std::size_t lane) const {
    lane_value ^= lane_value >> 47;
    lane_value ^= secret(kSecretBytes - kStripe + lane * 8);
    return lane_value * kPrime32_1;
  }
  void add_stripe(Lanes& sums, std::size_t at, std::size_t secret_at) const {
    for (std::size_t i = 0; i < kLanes; ++i) {
      const uint64_t word = load_le<uint64_t>(&data_[at + i * 8]);
      sums[i ^ 1] += word;
      sums[i] += product(word ^ secret(secret_at + i * 8));
    }
  }
  void add_up() {
    start_.resize(blocks_ + 1);
    sums_.resize(blocks_ + 1, Lanes{});
    start_[0] = {kPrime32_3, kPrime64_1, kPrime64_2, kPrime64_3,
                 kPrime64_4, kPrime32_2, kPrime64_5, kPrime32_1};
    const std::size_t last = (data_.size() - 1 - kBlock * blocks_) / kStripe;
    for (std::size_t block = 0; block <= blocks_; ++block) {
      const std::size_t stripes = block == blocks_ ? last : kStripesPerBlock;
      for (std::size_t i = 0; i < stripes; ++i)
        add_stripe(sums_[block], block * kBlock + i * kStripe, i * 8);
      if (block == blocks_)
        add_stripe(sums_[block], data_.size() - kStripe, kSecretBytes - kStripe - 7);
      for (std::size_t lane = 0; lane < kLanes; ++lane) {
        const uint64_t value = start_[block][lane] + sums_[block][lane];
        (block == blocks_ ? final_ : start_[block + 1])[lane] =
            block == blocks_ ? value : scramble(value, lane);
      }
    }
  }

  std::span<const std::byte> data_;
  std::array<std::byte, kSecretBytes> secret_{};
  std::size_t blocks_ = 0;    // whole blocks that are followed by more
  std::vector<Lanes> start_;  // lanes before each block
  std::vector<Lanes> sums_;   // what each block adds
  Lanes final_{};
};

}  // namespace

std::optional<std::size_t> find_flipped_bit(std::span<const std::byte> data, uint64_t seed,
                                            uint64_t expected, std::size_t first, std::size_t end) {
  CVOL_ASSERT(first <= end && end <= data.size() * 8);
  if (data.size() < kShortest) return std::nullopt;
  const Search search(data, seed);
  CVOL_ASSERT(search.digest() == XXH3_64bits_withSeed(data.data(), data.size(), seed));
  // The last stripe may lap over the one before it: its bits the plain way.
  const std::size_t lapped = (data.size() - kStripe) / 8 * 64;
  for (std::size_t bit = first; bit < std::min(end, lapped); ++bit) {
    if (search.digest_with(bit) == expected) return bit;
  }
  std::vector<std::byte> copy;
  for (std::size_t bit = std::max(first, lapped); bit < end; ++bit) {
    if (copy.empty()) copy.assign(data.begin(), data.end());
    flip_bit(copy, bit);
    if (XXH3_64bits_withSeed(copy.data(), copy.size(), seed) == expected) return bit;
    flip_bit(copy, bit);
  }
  return std::nullopt;
}

}  // namespace cvol
