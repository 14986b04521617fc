// Whether anything at all is stored in a volume, asked of whoever knows: its engine or primary.
//
// Threading: the thread of the device's reactor. Others get their turns in between.
#pragma once

#include "volumed/base/block_device.h"
#include "volumed/io/reactor.h"

namespace cvol::volume {

// True if every block reads as zeroes because no block is stored. Costs a step for each part of the
// volume that holds something, not one for each hole. The device outlives the task.
Task<Result<bool>> stores_nothing(io::Reactor& reactor, BlockDevice& device);

}  // namespace cvol::volume
