// Placement and repair: every volume gets back the replicas that its record asks for.
#include <fmt/format.h>
#include <google/protobuf/util/time_util.h>

#include <algorithm>

#include "volumed/base/log.h"
#include "volumed/volume/cluster.h"
#include "volumed/volume/cluster_register.h"

namespace cvol::volume {
namespace {

using google::protobuf::util::TimeUtil;
constexpr int64_t kUnfinishedSeconds = 60;

bool is_in_sync(const v1::VolumeRecord& record, const std::string& replica) {
  return std::any_of(record.in_sync().begin(), record.in_sync().end(),
                     [&](const v1::InSyncRecord& entry) { return entry.replica_id() == replica; });
}

std::string new_id() {
  Random random = Random::from_system();
  return Uuid::make(random).to_string();
}

}  // namespace

Result<std::vector<DiskChoice>> Cluster::choose(uint32_t count, const v1::VolumeRecord* existing,
                                                bool zone_spread,
                                                const std::vector<std::string>& preferred_nodes,
                                                const std::set<std::string>& lost_replicas) {
  std::vector<DiskChoice> disks;
  std::set<std::string> taken_nodes;
  std::multiset<std::string> taken_zones;
  std::string left_out;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [id, record] : node_records_) {
      const auto alive = alive_.find(id);
      const char* why = record.draining()       ? "is being drained"
                        : record.cordoned()     ? "is cordoned"
                        : alive == alive_.end() ? "is away"
                                                : nullptr;
      if (why != nullptr) {
        left_out += fmt::format("{}{} {}", left_out.empty() ? "" : ", ", record.name(), why);
        continue;
      }
      for (const v1::AliveDisk& disk : alive->second.disks()) {
        if (disk.failed() || disk.leaving()) continue;
        DiskChoice choice;
        choice.node_id = id;
        choice.node_name = record.name();
        choice.zone = record.zone();
        choice.disk_id = disk.id();
        choice.free_bytes =
            disk.capacity_bytes() - std::min(disk.capacity_bytes(), disk.allocated_bytes());
        disks.push_back(std::move(choice));
      }
    }
    if (existing != nullptr) {
      for (const v1::MemberRecord& member : existing->members()) {
        if (lost_replicas.contains(member.replica_id())) continue;
        taken_nodes.insert(member.node_id());
        if (member.wanted() == "removed") continue;
        const auto record = node_records_.find(member.node_id());
        if (record != node_records_.end()) taken_zones.insert(record->second.zone());
      }
    }
  }
  std::vector<DiskChoice> chosen;
  for (const std::string& prefer_node : preferred_nodes) {
    if (count == 0 || taken_nodes.contains(prefer_node)) continue;
    std::vector<DiskChoice> there;
    for (const DiskChoice& disk : disks) {
      if (disk.node_id == prefer_node) there.push_back(disk);
    }
    auto first = place_replicas(there, 1, taken_nodes, taken_zones, zone_spread, left_out);
    if (first) {
      chosen.push_back(first->front());
      taken_nodes.insert(prefer_node);
      taken_zones.insert(first->front().zone);
      --count;
    }
  }
  auto rest = place_replicas(disks, count, taken_nodes, taken_zones, zone_spread, left_out);
  if (!rest) return rest.status();
  chosen.insert(chosen.end(), rest->begin(), rest->end());
  return chosen;
}

bool Cluster::repair_all() {
  std::vector<VolumeEntry> all;
  std::string first_alive;
  {
    std::lock_guard lock(mutex_);
    const std::unordered_set<std::string> steady = steady_disks();
    for (const auto& [id, entry] : entries_) {
      if (!unusable_.contains(id) && !is_whole(entry.record, steady)) all.push_back(entry);
    }
    if (!alive_.empty()) first_alive = alive_.begin()->first;
  }
  for (const VolumeEntry& entry : all) {
    const v1::VolumeRecord& record = entry.record;
    if (record.state() == "creating" && first_alive == options_.node_id) settle_unfinished(entry);
    if (record.state() != "ready") continue;
    // The node of the primary looks after the volume.
    for (const v1::MemberRecord& member : record.members()) {
      if (member.replica_id() == record.primary() && member.node_id() == options_.node_id)
        repair(entry);
    }
  }
  return all.empty();
}

// "NODE DISK" of the disks that work, on nodes that live and are to keep their copies. The caller
// holds mutex_.
std::unordered_set<std::string> Cluster::steady_disks() const {
  std::unordered_set<std::string> steady;
  for (const auto& [id, alive] : alive_) {
    const auto node = node_records_.find(id);
    if (node == node_records_.end() || node->second.draining()) continue;
    for (const v1::AliveDisk& disk : alive.disks()) {
      if (!disk.failed() && !disk.leaving()) steady.insert(id + ' ' + disk.id());
    }
  }
  return steady;
}

// Nothing is to be done for it.
bool Cluster::is_whole(const v1::VolumeRecord& record,
                       const std::unordered_set<std::string>& steady) {
  const int wanted = static_cast<int>(record.replicas());
  if (record.state() != "ready" || record.members_size() != wanted ||
      record.in_sync_size() != wanted)
    return false;
  std::string key;
  return std::all_of(record.members().begin(), record.members().end(),
                     [&](const v1::MemberRecord& member) {
                       key.assign(member.node_id()).append(1, ' ').append(member.disk_id());
                       return member.wanted() != "removed" && steady.contains(key);
                     });
}

// A creation whose node died in the middle.
void Cluster::settle_unfinished(const VolumeEntry& entry) {
  VolumeEntry changed = entry;
  // Made everywhere: the caller may be gone, but nothing is missing.
  const auto& members = entry.record.members();
  if (std::all_of(members.begin(), members.end(),
                  [](const v1::MemberRecord& member) { return member.made(); })) {
    v1::VolumeRecord next = entry.record;
    next.set_state("ready");
    if (catalog_.update_volume(changed, std::move(next))) learned(changed);
    return;
  }
  const int64_t age = std::time(nullptr) - entry.record.created().seconds();
  if (age < kUnfinishedSeconds) return;
  if (catalog_.begin_removal(changed)) learned(changed);
}

// How the members of a volume do, for repair.
struct Cluster::Survey {
  uint32_t good = 0;           // wanted, and in sync or on the way to it
  uint32_t in_sync = 0;        // of those, in sync
  std::set<std::string> lost;  // not in sync, and their time is over or their disk does not work
  std::string to_drop;         // on a node or disk that is being emptied
  bool in_place = false;       // to_drop may go before its successor is made
  bool goes_in_place = false;  // one that is marked as removed may leave the set before that
};

// The caller holds mutex_.
Cluster::Survey Cluster::survey(const v1::VolumeRecord& record) {
  Survey found;
  const auto now = std::chrono::steady_clock::now();
  for (const v1::MemberRecord& member : record.members()) {
    const auto node = node_records_.find(member.node_id());
    const auto missing = missing_since_.find(member.node_id());
    const auto alive = alive_.find(member.node_id());
    const v1::AliveDisk* disk = nullptr;
    if (alive != alive_.end()) {
      for (const v1::AliveDisk& known : alive->second.disks()) {
        if (known.id() == member.disk_id()) disk = &known;
      }
    }
    const bool disk_leaves = disk != nullptr && disk->leaving();
    if (member.wanted() == "removed") {
      found.goes_in_place = found.goes_in_place || (disk_leaves && disk->in_place());
      continue;
    }
    // A disk that is not there (mounted late, moved, slow to open) has the time of a lost node; one
    // that has failed, or is taken out of the pool, has none.
    const bool failed_disk = disk != nullptr && disk->failed();
    bool disk_gone = false;
    if (disk != nullptr) {
      disk_missing_since_.erase(member.disk_id());
    } else if (alive != alive_.end()) {
      const auto since = disk_missing_since_.emplace(member.disk_id(), now).first->second;
      disk_gone = now - since > options_.rebuild_after;
    }
    const bool synced = is_in_sync(record, member.replica_id());
    const bool away_long =
        missing != missing_since_.end() && now - missing->second > options_.rebuild_after;
    if (!synced && (away_long || node == node_records_.end() || failed_disk || disk_gone)) {
      found.lost.insert(member.replica_id());
      continue;
    }
    if (disk_leaves || (node != node_records_.end() && node->second.draining())) {
      if (found.to_drop.empty() || !synced) {
        found.to_drop = member.replica_id();
        found.in_place = disk_leaves && disk->in_place();
      }
      continue;
    }
    ++found.good;
    if (synced) ++found.in_sync;
  }
  return found;
}

void Cluster::mark_removed(const v1::VolumeRecord& record, const std::string& replica) {
  (void)update(record.id(),
               [&](v1::VolumeRecord& next) {
                 for (v1::MemberRecord& member : *next.mutable_members()) {
                   if (member.replica_id() == replica) member.set_wanted("removed");
                 }
                 next.set_epoch(next.epoch() + 1);
                 return Status::ok();
               })
      .status()
      .is_ok();
}

// False: no disk can take it. A lost replica on the node that gets its successor is marked with the
// same change: a node serves one replica of a volume.
bool Cluster::add_successor(const v1::VolumeRecord& record, const Survey& found) {
  auto chosen = choose(1, &record, record.zone_spread(), {}, found.lost);
  if (!chosen) return false;  // waits for a node or disk; status tells
  const DiskChoice& disk = chosen->front();
  const auto added = update(record.id(), [&](v1::VolumeRecord& next) {
    if (next.epoch() != record.epoch() || next.members_size() != record.members_size())
      return Status(Code::kCancelled, "it changed meanwhile");
    for (v1::MemberRecord& other : *next.mutable_members()) {
      if (other.node_id() != disk.node_id || other.wanted() == "removed") continue;
      if (!found.lost.contains(other.replica_id()) || is_in_sync(next, other.replica_id()))
        return Status(Code::kCancelled, "the node has a replica of it meanwhile");
      other.set_wanted("removed");
    }
    v1::MemberRecord& member = *next.add_members();
    member.set_replica_id(new_id());
    member.set_node_id(disk.node_id);
    member.set_disk_id(disk.disk_id);
    member.set_wanted("present");
    next.set_epoch(next.epoch() + 1);
    return Status::ok();
  });
  if (added && options_.on_event)
    options_.on_event("rebuild", record.name(), "a new replica is made on node " + disk.node_name);
  return true;
}

// A member that is to go but is still in the set: its primary, which is here, puts it out.
void Cluster::put_out_removed(const v1::VolumeRecord& record) {
  for (const v1::MemberRecord& member : record.members()) {
    if (member.wanted() != "removed" || !is_in_sync(record, member.replica_id())) continue;
    const auto local = local_of(record.id());
    auto replica = Uuid::parse(member.replica_id());
    if (!local || !local->host || !replica) return;
    io::Shard* shard = local->disk->shard;
    shard->invoke([&] {
      replication::ReplicaHost* host = local->host->get();
      if (host == nullptr) return;
      if (*replica != host->self()) {
        host->core().put_out(shard->reactor().now(), *replica, "it is to be removed");
        return;
      }
      for (const replication::InSync& other : host->core().record().in_sync) {
        if (other.replica != host->self() && host->hand_over(other.replica)) return;
      }
    });
    return;
  }
}

void Cluster::repair(const VolumeEntry& entry) {
  const v1::VolumeRecord& record = entry.record;
  Survey found;
  {
    std::lock_guard lock(mutex_);
    found = survey(record);
  }
  if (found.good < record.replicas()) {
    if (add_successor(record, found)) return;
    // Nowhere to go but to another disk of the same node, which serves one replica of a volume.
    const uint32_t enough = std::max(1u, record.min_in_sync());
    if (found.in_sync < enough) return;
    if (!found.to_drop.empty() && found.in_place) return mark_removed(record, found.to_drop);
    if (found.goes_in_place) put_out_removed(record);
    return;
  }
  // Enough good ones: those that were replaced, drained or are too many may go; never before.
  if (found.in_sync < record.replicas()) return;
  if (!found.lost.empty()) return mark_removed(record, *found.lost.begin());
  if (!found.to_drop.empty()) return mark_removed(record, found.to_drop);
  if (found.good > record.replicas()) {
    // One that is not in sync, if there is one: those that are have all that counts.
    const v1::MemberRecord* one_too_many = nullptr;
    for (const v1::MemberRecord& member : record.members()) {
      if (member.wanted() == "removed" || member.replica_id() == record.primary()) continue;
      if (one_too_many == nullptr || !is_in_sync(record, member.replica_id()))
        one_too_many = &member;
    }
    if (one_too_many != nullptr) return mark_removed(record, one_too_many->replica_id());
  }
  put_out_removed(record);
}

}  // namespace cvol::volume
