// Integers in byte strings: little-endian for files, big-endian for the network and sorted keys.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace cvol {

static_assert(std::endian::native == std::endian::little, "cvol runs on little-endian machines");

template <typename T>
void store_le(std::byte* at, T value) {
  std::memcpy(at, &value, sizeof value);
}

template <typename T>
T load_le(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

inline uint16_t swap_bytes(uint16_t value) {
  return __builtin_bswap16(value);
}
inline uint32_t swap_bytes(uint32_t value) {
  return __builtin_bswap32(value);
}
inline uint64_t swap_bytes(uint64_t value) {
  return __builtin_bswap64(value);
}

template <typename T>
void store_be(std::byte* at, T value) {
  store_le(at, swap_bytes(value));
}

template <typename T>
T load_be(const std::byte* at) {
  return swap_bytes(load_le<T>(at));
}

}  // namespace cvol
