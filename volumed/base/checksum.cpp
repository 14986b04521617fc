#include "volumed/base/checksum.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "volumed/base/units.h"

namespace cvol {

uint64_t checksum_salt(const Uuid& volume) {
  return XXH3_64bits(volume.bytes.data(), volume.bytes.size());
}

uint64_t block_checksum(uint64_t salt, uint64_t block, const std::byte* data) {
  return XXH3_64bits_withSeed(data, kBlockBytes, salt ^ (block * 0x9e3779b97f4a7c15ULL));
}

uint64_t plain_checksum(std::span<const std::byte> data) {
  return XXH3_64bits(data.data(), data.size());
}

}  // namespace cvol
