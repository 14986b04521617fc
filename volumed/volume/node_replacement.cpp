#include "volumed/volume/node_replacement.h"

#include <algorithm>
#include <map>
#include <optional>
#include <set>

#include "volumed/base/random.h"
#include "volumed/volume/member_changes.h"

namespace cvol::volume {
namespace {

struct OwnDisk {
  std::string id;
  uint64_t free_bytes = 0;
  uint64_t promised_bytes = 0;  // of volumes that get a replica here by this call
};

uint64_t left(const OwnDisk& disk) {
  return disk.free_bytes - std::min(disk.free_bytes, disk.promised_bytes);
}

Result<std::vector<OwnDisk>> own_disks(Cluster& cluster) {
  for (const ClusterNode& node : cluster.nodes()) {
    if (node.record.id() != cluster.node_id()) continue;
    if (node.record.cordoned() || node.record.draining())
      return Status(Code::kFailedPrecondition,
                    "this node takes no new copies; say 'cvol node uncordon " + node.record.name() +
                        "' first");
    std::vector<OwnDisk> disks;
    if (!node.alive) break;
    for (const v1::AliveDisk& disk : node.alive->disks()) {
      if (disk.failed() || disk.leaving()) continue;
      const uint64_t used = std::min(disk.capacity_bytes(), disk.allocated_bytes());
      disks.push_back({disk.id(), disk.capacity_bytes() - used, 0});
    }
    if (!disks.empty()) return disks;
  }
  return Status(Code::kFailedPrecondition,
                "this node has no disk that works; add one first ('cvol disk add PATH')");
}

std::set<std::string> replicas_on(const v1::VolumeRecord& record, const std::string& node_id) {
  std::set<std::string> found;
  for (const v1::MemberRecord& member : record.members()) {
    if (member.node_id() == node_id) found.insert(member.replica_id());
  }
  return found;
}

// Nothing if this node may not take it: it has one of the volume, or its zone has.
std::optional<v1::MemberRecord> place_here(Cluster& cluster, const v1::VolumeRecord& record,
                                           const std::set<std::string>& lost,
                                           std::vector<OwnDisk>& disks) {
  auto chosen = cluster.choose(1, &record, record.zone_spread(), {cluster.node_id()}, lost);
  if (!chosen || chosen->front().node_id != cluster.node_id()) return std::nullopt;
  const auto most =
      std::max_element(disks.begin(), disks.end(),
                       [](const OwnDisk& a, const OwnDisk& b) { return left(a) < left(b); });
  Random random = Random::from_system();
  v1::MemberRecord member;
  member.set_replica_id(Uuid::make(random).to_string());
  member.set_node_id(cluster.node_id());
  member.set_disk_id(most->id);
  member.set_wanted("present");
  most->promised_bytes += record.size_bytes();
  return member;
}

}  // namespace

Result<TakenPlaces> replace_node(Cluster& cluster, Catalog& catalog, const v1::NodeRecord& lost,
                                 const std::vector<std::string>& volumes) {
  if (lost.id() == cluster.node_id())
    return Status(Code::kFailedPrecondition,
                  "that is this node; say it on the node that is to take its place");
  auto disks = own_disks(cluster);
  if (!disks) return disks.status();
  for (const std::string& id : volumes) {
    const auto entry = cluster.entry(id);
    if (!entry) continue;
    v1::VolumeRecord tried = entry->record;
    const Status may = leave_out_node(tried, lost.id(), lost.name());
    if (!may && may.code() != Code::kCancelled) return may;
  }
  TakenPlaces taken;
  for (const std::string& id : volumes) {
    const auto entry = cluster.entry(id);
    if (!entry) continue;
    const std::set<std::string> gone = replicas_on(entry->record, lost.id());
    if (gone.empty()) continue;
    const auto successor = place_here(cluster, entry->record, gone, *disks);
    bool added = false;
    auto changed = cluster.update(id, [&](v1::VolumeRecord& next) {
      return take_place(next, lost.id(), lost.name(), successor, added);
    });
    if (!changed && changed.code() != Code::kCancelled && changed.code() != Code::kNotFound)
      return changed.status();
    if (changed && changed->record.state() == "ready") ++(added ? taken.here : taken.elsewhere);
  }
  CVOL_TRY(catalog.erase_node(lost));
  return taken;
}

}  // namespace cvol::volume
