// find_flipped_bit: which single bit, flipped back, makes the checksum of some bytes hold again?
//
// A match is proof, not a guess: that one of n bits explains a wrong 64-bit checksum by chance has
// a probability of n / 2^64. Pure; blocks the caller for about 30 ns a bit of a 4 KiB block, and
// 0.1 us a bit at 64 KiB, so for a millisecond up to some tens of milliseconds.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace cvol {

// Searches bits [first, end) of `data` (bit i is bit i % 8 of byte i / 8) for the one whose flip
// gives `expected`; `seed` as for the checksum: 0 for plain_checksum, block_checksum_seed() for
// blocks. Data shorter than 241 bytes is not searched.
std::optional<std::size_t> find_flipped_bit(std::span<const std::byte> data, uint64_t seed,
                                            uint64_t expected, std::size_t first, std::size_t end);

inline std::optional<std::size_t> find_flipped_bit(std::span<const std::byte> data, uint64_t seed,
                                                   uint64_t expected) {
  return find_flipped_bit(data, seed, expected, 0, data.size() * 8);
}

inline void flip_bit(std::span<std::byte> data, std::size_t bit) {
  data[bit / 8] ^= std::byte{1} << (bit % 8);
}

}  // namespace cvol
