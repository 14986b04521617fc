// Placement: which disks new replicas go to. Pure.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "volumed/base/result.h"

namespace cvol::volume {

struct DiskChoice {
  std::string node_id;
  std::string node_name;
  std::string zone;
  std::string disk_id;
  uint64_t free_bytes = 0;
};

// `count` disks on nodes that are not in `taken_nodes` (one replica of a volume per node), in zones
// that are used as little as possible, `taken_zones` counted, then by free space. `zone_spread`: no
// zone twice. kFailedPrecondition says what is missing, and `left_out` of the nodes that are not
// among `disks`: "node3 is away, node4 is cordoned".
Result<std::vector<DiskChoice>> place_replicas(const std::vector<DiskChoice>& disks, uint32_t count,
                                               const std::set<std::string>& taken_nodes,
                                               const std::multiset<std::string>& taken_zones,
                                               bool zone_spread, const std::string& left_out);

}  // namespace cvol::volume
