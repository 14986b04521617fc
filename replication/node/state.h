// What replication keeps with a replica on its disk (DiskEngine::put_replica_state), as bytes.
//
// version (2), flags (2: bit 0 rebuilding, bit 1 given up), promised (8), incarnation (8),
// revision (8); of version 2: number of ranges of lost blocks (2), of each its first block (8) and
// its blocks (8), ascending; then the record as frames carry it, then XXH3-64 of all before.
// Version 1 is written where nothing is lost. A newer version is refused.
#pragma once

#include <string>
#include <string_view>

#include "replication/core/types.h"
#include "replication/node/block_set.h"
#include "volumed/base/result.h"

namespace cvol::replication {

constexpr uint16_t kStateVersion = 2;
constexpr std::size_t kMostLostRanges = 64;

struct KeptState {
  Durable durable;
  // Blocks that this replica counts as damaged, whatever its disk has there: they could not be read
  // anywhere when it was copied to. At most kMostLostRanges ranges.
  BlockSet lost;
};

std::string encode_state(const KeptState& state);
// kDamaged, kUnsupported. An empty text is no state: do not ask.
Result<KeptState> decode_state(std::string_view bytes);

}  // namespace cvol::replication
