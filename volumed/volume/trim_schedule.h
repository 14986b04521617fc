// When mounted file systems are trimmed: each volume at a time of the interval that its id gives,
// so that they are spread and a restart begins none. Pure.
#pragma once

#include <cstdint>
#include <string_view>

namespace cvol::volume {

// Rises by one at each time that the volume is due. `interval`: seconds, not 0.
inline uint64_t trim_slot(std::string_view id, uint64_t now, uint64_t interval) {
  uint64_t hash = 14695981039346656037ull;  // FNV-1a: the same in every process
  for (const char c : id) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211ull;
  return (now + hash % interval) / interval;
}

}  // namespace cvol::volume
