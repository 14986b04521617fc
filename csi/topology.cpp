// Where volumes may be, and how much room there is. Pure.
#include <algorithm>
#include <set>

#include "csi/parameters.h"

namespace cvol::csi {

bool is_at(const Place& place, const wire::Topology& topology) {
  for (const auto& [key, value] : topology.segments()) {
    if (key == kNodeTopology && value == place.node) continue;
    if (key == kZoneTopology && value == place.zone) continue;
    return false;
  }
  return true;
}

Result<std::vector<std::string>> order_nodes(const std::vector<Place>& places,
                                             const wire::TopologyRequirement& wanted) {
  std::vector<Place> roomiest = places;
  std::stable_sort(roomiest.begin(), roomiest.end(),
                   [](const Place& a, const Place& b) { return a.free_bytes > b.free_bytes; });
  std::vector<std::string> names;
  const auto take = [&](const wire::Topology& topology) {
    bool found = false;
    for (const Place& place : roomiest) {
      if (!is_at(place, topology)) continue;
      found = true;
      if (std::find(names.begin(), names.end(), place.node) == names.end())
        names.push_back(place.node);
    }
    return found;
  };
  for (const wire::Topology& topology : wanted.preferred()) take(topology);
  bool any = wanted.requisite().empty();
  for (const wire::Topology& topology : wanted.requisite()) any = take(topology) || any;
  if (!any)
    return Status(Code::kNoSpace, "none of the required topologies is one of this cluster's");
  // Others come last: every volume can be reached from every node.
  take(wire::Topology());
  return names;
}

// Replicas lie on different nodes (in different zones), so that of one volume a node (zone) bears
// at most its size: the best is the largest S with sum(min(room, S)) >= replicas * S.
Capacity capacity_of(std::vector<Place> places, uint32_t replicas, bool zone_spread) {
  std::vector<uint64_t> rooms;
  if (zone_spread) {
    std::map<std::string, uint64_t> zones;
    for (const Place& place : places) {
      if (!place.zone.empty()) zones[place.zone] = std::max(zones[place.zone], place.free_bytes);
    }
    for (const auto& [zone, room] : zones) rooms.push_back(room);
  } else {
    for (const Place& place : places) rooms.push_back(place.free_bytes);
  }
  std::sort(rooms.rbegin(), rooms.rend());
  Capacity capacity;
  if (replicas == 0 || rooms.size() < replicas) return capacity;
  capacity.largest = rooms[replicas - 1];
  uint64_t rest = 0;
  for (uint64_t room : rooms) rest += room;
  // Rooms larger than an even share count as that share.
  uint64_t shares = replicas;
  for (uint64_t room : rooms) {
    if (shares == 0 || room <= rest / shares) break;
    rest -= room;
    --shares;
  }
  capacity.available = shares == 0 ? capacity.largest : rest / shares;
  return capacity;
}

}  // namespace cvol::csi
