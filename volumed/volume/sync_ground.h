// Whether a sync can reach a medium, as far as the mount table and sysfs tell.
//
// Seen: a file system that is mounted without barriers, an overlay with "volatile", a loop device
// whose backing file is in memory (also below further loop devices), each also below a partition.
// Not seen: a drive or a hypervisor that confirms a flush which it does not make, a library that
// is preloaded, a backing file in another mount namespace, a device mapper target above any of
// those that are seen.
//
// Threading: any thread; reads files of the kernel only. Changes nothing.
#pragma once

#include <cstdint>
#include <string>

#include "volumed/base/result.h"

namespace cvol::volume {

struct KernelFiles {
  std::string sys = "/sys";
  std::string mountinfo = "/proc/self/mountinfo";
  std::string root = {};  // in front of the paths of backing files
};

// `device`: st_dev of the directory. kFailedPrecondition where it is certain that a sync reaches
// no medium, with the reason and what to do; ok otherwise, which proves nothing.
Status check_sync(uint64_t device, const KernelFiles& kernel = {});

}  // namespace cvol::volume
