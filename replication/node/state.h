// What replication keeps with a replica on its disk (DiskEngine::put_replica_state), as bytes.
//
// version (2), flags (2: bit 0 rebuilding, bit 1 given up), promised (8), incarnation (8),
// revision (8), then the record as frames carry it, then XXH3-64 of all before. A newer version is
// refused.
#pragma once

#include <string>
#include <string_view>

#include "replication/core/types.h"
#include "volumed/base/result.h"

namespace cvol::replication {

constexpr uint16_t kStateVersion = 1;

std::string encode_state(const Durable& state);
// kDamaged, kUnsupported. An empty text is no state: do not ask.
Result<Durable> decode_state(std::string_view bytes);

}  // namespace cvol::replication
