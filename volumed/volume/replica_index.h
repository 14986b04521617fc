// ReplicaIndex: the replicas that open disks have, asked for once, for those who look for many.
//
// Threading: made on any thread but a shard's (each disk's shard is asked); read on any.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "volumed/volume/disk_set.h"

namespace cvol::volume {

class ReplicaIndex {
 public:
  // Disks that are not open are left out.
  explicit ReplicaIndex(const std::vector<Disk*>& disks);

  // As it was when the index was made.
  std::optional<store::ReplicaInfo> find(const Disk& disk, const std::string& replica_id) const;

 private:
  std::map<std::pair<const Disk*, std::string>, store::ReplicaInfo> replicas_;
};

}  // namespace cvol::volume
