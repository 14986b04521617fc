// What the manager knows that is not as it should be, as conditions. Each source looks at memory
// only.
#include <fmt/format.h>
#include <time.h>

#include <algorithm>
#include <set>

#include "volumed/base/units.h"
#include "volumed/volume/hosted.h"

namespace cvol::volume {
namespace {

using namespace std::chrono_literals;

// A request that takes longer waits for something.
constexpr auto kLongRequest = 10s;
constexpr auto kMostClockDifference = 10s;

// On the clock of the reactors.
std::chrono::nanoseconds boot_time() {
  timespec now{};
  ::clock_gettime(CLOCK_BOOTTIME, &now);
  return std::chrono::seconds(now.tv_sec) + std::chrono::nanoseconds(now.tv_nsec);
}

bool is_in_sync(const v1::VolumeRecord& record, const std::string& replica) {
  return std::any_of(record.in_sync().begin(), record.in_sync().end(),
                     [&](const auto& member) { return member.replica_id() == replica; });
}

// "a" and "b", "c" for sentences.
std::string join(const std::set<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

}  // namespace

std::vector<Condition> VolumeManager::conditions() {
  std::vector<Condition> found;
  add_store_conditions(found);
  add_record_conditions(found);
  add_lost_records(found);
  add_disk_conditions(found);
  add_host_conditions(found);
  add_io_conditions(found);
  if (cluster_) {
    add_node_conditions(found);
    add_copy_conditions(found);
  }
  return condition_book_.settle(std::move(found), std::chrono::system_clock::now());
}

std::vector<std::string> VolumeManager::problems() {
  std::vector<std::string> all;
  for (const Condition& condition : conditions()) all.push_back(condition.sentence());
  return all;
}

void VolumeManager::explain_conditions(const std::string& name, std::vector<std::string>& lines) {
  for (const Condition& condition : conditions()) {
    const bool of_all =
        condition.kind == ConditionKind::kStoreAway || condition.kind == ConditionKind::kStoreFull;
    const bool of_volume =
        condition.subject == name && (condition.kind == ConditionKind::kIoWaits ||
                                      condition.kind == ConditionKind::kCopyStopped ||
                                      condition.kind == ConditionKind::kVolumeDamaged ||
                                      condition.kind == ConditionKind::kRecordLost);
    if (!of_all && !of_volume) continue;
    std::string text = condition.text + ".";
    if (text[0] >= 'a' && text[0] <= 'z') text[0] = static_cast<char>(text[0] - 'a' + 'A');
    lines.push_back(std::move(text));
  }
}

void VolumeManager::add_store_conditions(std::vector<Condition>& found) {
  const auto now = std::chrono::system_clock::now();
  if (const auto away = store_health_->away())
    found.push_back({ConditionKind::kStoreAway, "",
                     fmt::format("the metadata store {} has not answered {} ({})",
                                 options_.metadata, for_how_long(now - away->since), away->error),
                     away->since});
  if (const auto full = store_health_->full())
    found.push_back({ConditionKind::kStoreFull, "",
                     fmt::format("the metadata store {} has refused all changes {}, for want of "
                                 "space ({})",
                                 options_.metadata, for_how_long(now - full->since), full->error),
                     full->since});
}

void VolumeManager::add_record_conditions(std::vector<Condition>& found) {
  std::lock_guard lock(mutex_);
  for (const std::string& problem : problems_)
    found.push_back({ConditionKind::kRecordProblem, problem, problem, {}});
  for (const auto& [name, hosted] : volumes_) {
    if (!hosted->problem.empty())
      found.push_back({ConditionKind::kVolumeDamaged,
                       name,
                       "volume '" + name + "' is damaged: " + hosted->problem,
                       {}});
    if (!hosted->waits.empty())
      found.push_back(
          {ConditionKind::kUnmountWaits, name, "volume '" + name + "': " + hosted->waits, {}});
  }
}

void VolumeManager::add_disk_conditions(std::vector<Condition>& found) {
  for (const DiskView& disk : disks()) {
    if (!disk.problem.empty()) {
      found.push_back(
          {ConditionKind::kDiskFailed, disk.path, "disk " + disk.path + ": " + disk.problem, {}});
      continue;
    }
    add_fullness(found, ConditionKind::kPoolNearlyFull, ConditionKind::kPoolFull, disk.path,
                 "disk " + disk.path, disk.info.allocated_bytes, disk.info.capacity_bytes);
    if (!disk.damage.empty())
      found.push_back(
          {ConditionKind::kDiskDamaged,
           disk.path,
           fmt::format("{} blocks of disk {} are damaged", disk.damage.size(), disk.path),
           {}});
  }
}

// A file system that several of ours lie on is told once.
void VolumeManager::add_host_conditions(std::vector<Condition>& found) {
  std::vector<std::string> paths = {options_.data_dir};
  for (Disk* disk : disk_set_.all()) paths.push_back(disk->path());
  std::set<uint64_t> told;
  for (const std::string& path : paths) {
    const std::optional<HostSpace> space = host_spaces_.look(path);
    if (!space || !told.insert(space->device).second) continue;
    add_fullness(found, ConditionKind::kHostNearlyFull, ConditionKind::kHostFull, path,
                 "the host's file system at " + path,
                 space->total_bytes - std::min(space->total_bytes, space->available_bytes),
                 space->total_bytes);
  }
}

// --- requests that wait ---

// The reason, as far as records and leases tell it.
std::string VolumeManager::waits_for(const v1::VolumeRecord& record) {
  const bool store_away = store_health_->away().has_value();
  if (!cluster_) return "for the disk, or for space on it";
  std::set<std::string> away;
  for (const v1::MemberRecord& member : record.members()) {
    const bool counts =
        member.replica_id() == record.primary() || is_in_sync(record, member.replica_id());
    if (counts && !cluster_->is_alive(member.node_id())) away.insert(node_name(member.node_id()));
  }
  const std::string and_store =
      store_away ? "; a copy that is away can only be left behind with the metadata store, which "
                   "does not answer"
                 : "";
  if (!away.empty()) return "for node " + join(away) + ", which is away" + and_store;
  if (record.in_sync_size() < static_cast<int>(record.min_in_sync()))
    return fmt::format("until {} copies are in sync (min_in_sync), {} are", record.min_in_sync(),
                       record.in_sync_size());
  if (store_away)
    return "for a copy that does not answer, which can only be left behind with the metadata "
           "store, and that does not answer either";
  for (const v1::MemberRecord& member : record.members()) {
    if (member.replica_id() == record.primary())
      return "for the primary on node " + node_name(member.node_id());
  }
  return "for a primary";
}

// Writes that found the pool full, and are made again until they find space.
std::optional<Condition> VolumeManager::waiting_for_space(const std::string& name) {
  std::shared_ptr<VolumeMetrics> metrics;
  {
    std::lock_guard lock(mutex_);
    const auto at = volumes_.find(name);
    if (at == volumes_.end() || at->second->metrics == nullptr) return std::nullopt;
    metrics = at->second->metrics;
  }
  const WaitingRequests::Look look = metrics->for_space.look();
  if (look.count == 0) return std::nullopt;
  const auto waited = boot_time() - std::chrono::nanoseconds(look.oldest_since);
  const auto time = std::chrono::duration_cast<std::chrono::system_clock::duration>(waited);
  return Condition{ConditionKind::kIoWaits, name,
                   fmt::format("{} write{} of volume '{}' wait{} for space in the pool, the oldest "
                               "{}: trim or remove volumes that have copies on the same disk",
                               look.count, look.count == 1 ? "" : "s", name,
                               look.count == 1 ? "s" : "", for_how_long(time)),
                   std::chrono::system_clock::now() - time};
}

std::optional<Condition> VolumeManager::waiting_requests(const std::string& name) {
  std::shared_ptr<VolumeMetrics> metrics;
  v1::VolumeRecord record;
  {
    std::lock_guard lock(mutex_);
    const auto at = volumes_.find(name);
    if (at == volumes_.end() || at->second->metrics == nullptr) return std::nullopt;
    metrics = at->second->metrics;
    if (metrics->requests.look().count == 0) return std::nullopt;
    record = at->second->entry.record;
  }
  const WaitingRequests::Look look = metrics->requests.look();
  if (look.count == 0) return std::nullopt;
  const auto waited = boot_time() - std::chrono::nanoseconds(look.oldest_since);
  if (waited < kLongRequest) return std::nullopt;
  const auto time = std::chrono::duration_cast<std::chrono::system_clock::duration>(waited);
  return Condition{ConditionKind::kIoWaits, name,
                   fmt::format("{} request{} of volume '{}' wait{}, the oldest {}: {}", look.count,
                               look.count == 1 ? "" : "s", name, look.count == 1 ? "s" : "",
                               for_how_long(time), waits_for(record)),
                   std::chrono::system_clock::now() - time};
}

void VolumeManager::add_io_conditions(std::vector<Condition>& found) {
  std::vector<std::string> names;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [name, hosted] : volumes_) {
      if (hosted->metrics == nullptr) continue;
      if (hosted->metrics->requests.look().count + hosted->metrics->for_space.look().count > 0)
        names.push_back(name);
    }
  }
  for (const std::string& name : names) {
    auto waiting = waiting_for_space(name);
    if (!waiting) waiting = waiting_requests(name);
    if (waiting) found.push_back(std::move(*waiting));
  }
}

// --- of the cluster ---

void VolumeManager::add_node_conditions(std::vector<Condition>& found) {
  if (cluster_->is_twice())
    found.push_back({ConditionKind::kNodeTwice,
                     node_.name,
                     "another volumed lives under the id of this node: one of the two data "
                     "directories is a copy of the other",
                     {}});
  const std::vector<ClusterNode> all = cluster_->nodes();
  const auto self = std::find_if(all.begin(), all.end(), [this](const ClusterNode& node) {
    return node.record.id() == node_.id;
  });
  for (const ClusterNode& node : all) {
    const std::string& name = node.record.name();
    if (node.record.id() == node_.id) continue;
    if (!node.alive) {
      found.push_back({ConditionKind::kNodeAway, name, "node " + name + " is away", {}});
      continue;
    }
    if (node.clock_ahead >= kMostClockDifference)
      found.push_back({ConditionKind::kClocksDiffer,
                       name,
                       fmt::format("the clock of node {} is {} s ahead of the one here", name,
                                   node.clock_ahead.count()),
                       {}});
    // (A node of an older version says nothing of its settings.)
    if (self == all.end() || !self->alive || node.alive->settings().empty()) continue;
    std::set<std::string> differ;
    for (const auto& [key, value] : self->alive->settings()) {
      const auto there = node.alive->settings().find(key);
      if (there != node.alive->settings().end() && there->second != value)
        differ.insert(fmt::format("{} (here {}, there {})", key, value, there->second));
    }
    if (!differ.empty())
      found.push_back({ConditionKind::kSettingsDiffer,
                       name,
                       "node " + name + " has other settings than this one: " + join(differ),
                       {}});
  }
}

// Nobody can read or write a volume none of whose nodes with a whole copy lives.
std::optional<Condition> VolumeManager::all_copies_away(const v1::VolumeRecord& record) {
  std::set<std::string> nodes;
  for (const v1::MemberRecord& member : record.members()) {
    if (!is_in_sync(record, member.replica_id())) continue;
    if (cluster_->is_alive(member.node_id())) return std::nullopt;
    nodes.insert(node_name(member.node_id()));
  }
  if (nodes.empty()) return std::nullopt;
  return Condition{ConditionKind::kVolumeAway,
                   record.name(),
                   fmt::format("volume '{}' cannot be used: all of its copies that are in sync are "
                               "on nodes that are away ({})",
                               record.name(), join(nodes)),
                   {}};
}

void VolumeManager::add_copy_conditions(std::vector<Condition>& found) {
  for (auto& [subject, problem] : cluster_->stopped_copies())
    found.push_back(
        {ConditionKind::kCopyStopped, subject, "volume '" + subject + "': " + problem, {}});
  std::vector<v1::VolumeRecord> ready, lacking;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [name, hosted] : volumes_) {
      if (hosted->entry.record.state() == "ready") ready.push_back(hosted->entry.record);
    }
  }
  for (const v1::VolumeRecord& record : ready) {
    if (auto away = all_copies_away(record)) {
      found.push_back(std::move(*away));
    } else if (static_cast<uint32_t>(record.in_sync_size()) < record.replicas()) {
      lacking.push_back(record);
    }
  }
  for (const v1::VolumeRecord& record : lacking) {
    std::set<std::string> why;
    for (const v1::MemberRecord& member : record.members()) {
      if (member.wanted() == "removed" || is_in_sync(record, member.replica_id())) continue;
      const std::string node = node_name(member.node_id());
      why.insert(cluster_->is_alive(member.node_id()) ? "the copy on node " + node + " is behind"
                                                      : "node " + node + " is away");
    }
    if (static_cast<uint32_t>(record.members_size()) < record.replicas())
      why.insert("a copy has no place yet");
    const bool last = record.in_sync_size() <= 1;
    found.push_back({last ? ConditionKind::kFewCopies : ConditionKind::kCopiesMissing,
                     record.name(),
                     fmt::format("volume '{}' has {} of {} replicas in sync{}{}; 'cvol volume "
                                 "explain {}' says more",
                                 record.name(), record.in_sync_size(), record.replicas(),
                                 why.empty() ? "" : " (" + join(why) + ")",
                                 last ? ": one more failure loses data" : "", record.name()),
                     {}});
  }
}

}  // namespace cvol::volume
