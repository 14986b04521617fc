// 128-bit identifiers of volumes, replicas, disks and nodes; RFC 4122 version 4 in text.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

#include "volumed/base/random.h"
#include "volumed/base/result.h"

namespace cvol {

struct Uuid {
  std::array<uint8_t, 16> bytes{};

  // In the order of the bytes. Two words instead of a call of memcmp: ids are compared for every
  // message.
  bool operator==(const Uuid& other) const {
    return word(0) == other.word(0) && word(8) == other.word(8);
  }
  std::strong_ordering operator<=>(const Uuid& other) const {
    const uint64_t mine = word(0), theirs = other.word(0);
    if (mine != theirs) return __builtin_bswap64(mine) <=> __builtin_bswap64(theirs);
    return __builtin_bswap64(word(8)) <=> __builtin_bswap64(other.word(8));
  }
  bool is_nil() const { return *this == Uuid{}; }
  std::string to_string() const;  // 36 characters, lower case
  static Result<Uuid> parse(std::string_view text);
  // Drawn from `random`, so that a simulated run is repeatable.
  static Uuid make(Random& random);

 private:
  uint64_t word(std::size_t at) const {
    uint64_t value = 0;
    std::memcpy(&value, bytes.data() + at, sizeof value);
    return value;
  }
};

}  // namespace cvol
