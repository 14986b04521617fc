#include "volumed/base/checksum.h"

// On x86-64 the library chooses AVX2 or AVX-512 where the processor has it: half the time of SSE2.
#if defined(__x86_64__)
#include <xxh_x86dispatch.h>
#else
#define XXH_INLINE_ALL
#include <xxhash.h>
#endif

#include "volumed/base/units.h"

namespace cvol {

uint64_t checksum_salt(const Uuid& volume) {
  return XXH3_64bits(volume.bytes.data(), volume.bytes.size());
}

uint64_t block_checksum(uint64_t salt, uint64_t block, const std::byte* data) {
  return XXH3_64bits_withSeed(data, kBlockBytes, block_checksum_seed(salt, block));
}

uint64_t plain_checksum(std::span<const std::byte> data) {
  return XXH3_64bits(data.data(), data.size());
}

}  // namespace cvol
