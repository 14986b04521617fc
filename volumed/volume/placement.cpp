#include "volumed/volume/placement.h"

#include <fmt/format.h>

#include <algorithm>
#include <tuple>

namespace cvol::volume {

Result<std::vector<DiskChoice>> place_replicas(const std::vector<DiskChoice>& disks, uint32_t count,
                                               const std::set<std::string>& taken_nodes,
                                               const std::multiset<std::string>& taken_zones,
                                               bool zone_spread, const std::string& left_out) {
  std::set<std::string> nodes = taken_nodes;
  std::multiset<std::string> zones = taken_zones;
  std::vector<DiskChoice> chosen;
  while (chosen.size() < count) {
    const DiskChoice* best = nullptr;
    const auto rank = [&](const DiskChoice& disk) {
      return std::make_tuple(zones.count(disk.zone), UINT64_MAX - disk.free_bytes, disk.disk_id);
    };
    for (const DiskChoice& disk : disks) {
      if (nodes.contains(disk.node_id) || disk.free_bytes == 0) continue;
      if (zone_spread && (disk.zone.empty() || zones.contains(disk.zone))) continue;
      if (best == nullptr || rank(disk) < rank(*best)) best = &disk;
    }
    if (best == nullptr) {
      std::set<std::string> usable;
      for (const DiskChoice& disk : disks) usable.insert(disk.node_name);
      std::string names;
      for (const std::string& name : usable) names += (names.empty() ? "" : ", ") + name;
      return Status(
          Code::kFailedPrecondition,
          fmt::format("{} replicas need a node each{}; {} can be placed. Nodes with a disk "
                      "that works and takes replicas: {}{}. Start more nodes, or ask for "
                      "fewer replicas",
                      count + taken_nodes.size(), zone_spread ? ", each in another zone" : "",
                      chosen.size() + taken_nodes.size(), names.empty() ? "none" : names,
                      left_out.empty() ? "" : fmt::format(" ({})", left_out)));
    }
    nodes.insert(best->node_id);
    zones.insert(best->zone);
    chosen.push_back(*best);
  }
  return chosen;
}

}  // namespace cvol::volume
