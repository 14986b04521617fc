#include "volumed/volume/replica_index.h"

namespace cvol::volume {

ReplicaIndex::ReplicaIndex(const std::vector<Disk*>& disks) {
  for (Disk* disk : disks) {
    if (disk->engine == nullptr) continue;
    for (const auto& info : disk->invoke([](auto& engine) { return engine.replicas(); }))
      replicas_[{disk, info.replica.to_string()}] = info;
  }
}

std::optional<store::ReplicaInfo> ReplicaIndex::find(const Disk& disk,
                                                     const std::string& replica_id) const {
  const auto found = replicas_.find({&disk, replica_id});
  if (found == replicas_.end()) return std::nullopt;
  return found->second;
}

}  // namespace cvol::volume
