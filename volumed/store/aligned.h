// Memory for direct I/O of a few blocks, outside of any pool: for opening, marks and probes.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "volumed/base/assert.h"
#include "volumed/base/units.h"

namespace cvol::store {

struct AlignedFree {
  void operator()(std::byte* memory) const { std::free(memory); }
};
using AlignedBytes = std::unique_ptr<std::byte, AlignedFree>;

// `bytes`: whole blocks, zeroed.
inline AlignedBytes aligned_zeroes(std::size_t bytes) {
  AlignedBytes memory(static_cast<std::byte*>(std::aligned_alloc(kBlockBytes, bytes)));
  CVOL_ASSERT(memory != nullptr);
  std::memset(memory.get(), 0, bytes);
  return memory;
}

}  // namespace cvol::store
