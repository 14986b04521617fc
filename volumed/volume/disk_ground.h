// What lies under a disk: the file system of its directory, and whether it is fit for one.
//
// Threading: any thread; the calls block.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "volumed/base/result.h"
#include "volumed/store/disk_engine.h"

namespace cvol::volume {

struct Ground {
  uint64_t device = 0;     // the same for all directories of one file system, while it is mounted
  std::string type;        // "ext4", "xfs", "tmpfs"; a number if it is none of those that are known
  bool fit = false;        // it keeps what it has reserved for a file
  bool direct_io = false;  // O_DIRECT works
  uint64_t size_bytes = 0;             // all of it
  uint64_t largest_file = UINT64_MAX;  // bytes
};

// Of `path`, or of its nearest parent that is there.
Result<Ground> look_at_ground(const std::string& path);

// The capacity that a disk at `path` may have: as asked for, or, if that is left open, not more
// than the largest file that the file system has.
store::FormatOptions bound_capacity(const std::string& path, store::FormatOptions format);

// May a new disk be made or taken over at `path`? kFailedPrecondition or kInvalidArgument, with
// what to do. `others`: paths of the node's disks.
Status check_ground(const std::string& path, const store::FormatOptions& format,
                    const std::vector<std::string>& others);

}  // namespace cvol::volume
