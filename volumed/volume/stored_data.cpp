#include "volumed/volume/stored_data.h"

#include <algorithm>

#include "volumed/io/scope.h"

namespace cvol::volume {

Task<Result<bool>> stores_nothing(io::Reactor& reactor, BlockDevice& device) {
  const uint64_t size = device.size();
  for (uint64_t at = 0; at < size;) {
    const Result<std::vector<Extent>> extents = co_await device.block_status(at, size - at);
    if (!extents) co_return extents.status();
    const uint64_t before = at;
    for (const Extent& extent : *extents) {
      if (!extent.zero) co_return false;
      at += std::min(extent.length, size - at);
    }
    if (at == before) co_return Status(Code::kInternal, "the volume gave no allocation state");
    co_await io::yield(reactor);
  }
  co_return true;
}

}  // namespace cvol::volume
