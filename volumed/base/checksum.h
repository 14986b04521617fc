// Block checksums: XXH3-64 (xxHash) of 4 KiB, salted with the volume and the block number, so that
// a block that was stored or read at the wrong place does not pass.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "volumed/base/uuid.h"

namespace cvol {

// The volume's part of the salt; computed once per volume.
uint64_t checksum_salt(const Uuid& volume);

// The seed of the block's XXH3-64.
inline uint64_t block_checksum_seed(uint64_t salt, uint64_t block) {
  return salt ^ (block * 0x9e3779b97f4a7c15ULL);
}

// Checksum of exactly 4 KiB at `data`, which is block number `block` of the volume.
uint64_t block_checksum(uint64_t salt, uint64_t block, const std::byte* data);

// The part that the chunk table keeps.
inline uint32_t short_checksum(uint64_t checksum) {
  return static_cast<uint32_t>(checksum >> 32);
}

// Unsalted checksum of a header or record.
uint64_t plain_checksum(std::span<const std::byte> data);

}  // namespace cvol
