// 128-bit identifiers of volumes, replicas, disks and nodes; RFC 4122 version 4 in text.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <string>
#include <string_view>

#include "volumed/base/random.h"
#include "volumed/base/result.h"

namespace cvol {

struct Uuid {
  std::array<uint8_t, 16> bytes{};

  auto operator<=>(const Uuid&) const = default;
  bool is_nil() const { return *this == Uuid{}; }
  std::string to_string() const;  // 36 characters, lower case
  static Result<Uuid> parse(std::string_view text);
  // Drawn from `random`, so that a simulated run is repeatable.
  static Uuid make(Random& random);
};

}  // namespace cvol
