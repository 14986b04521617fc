// The volume's record as replication sees it, and back. Pure.
#pragma once

#include <cvol/v1/records.pb.h>

#include "replication/core/types.h"
#include "volumed/base/result.h"

namespace cvol::volume {

// kDamaged if an id does not parse.
Result<replication::Record> to_replication(const v1::VolumeRecord& record, uint64_t revision);

// What replication decides (epoch, primary, in-sync set) goes into the record; nothing else does.
void from_replication(const replication::Record& decided, v1::VolumeRecord& record);

}  // namespace cvol::volume
