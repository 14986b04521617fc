#include "volumed/volume/conditions.h"

#include <fmt/format.h>

#include <algorithm>

#include "volumed/base/assert.h"
#include "volumed/base/units.h"

namespace cvol::volume {

const char* severity_name(Severity severity) {
  switch (severity) {
    case Severity::kCritical:
      return "critical";
    case Severity::kWarning:
      return "warning";
    case Severity::kNotice:
      return "notice";
  }
  return "critical";
}

// In the order of the enumeration. docs/operations.md has the same rows.
const std::vector<ConditionRow>& condition_table() {
  using K = ConditionKind;
  using enum Severity;
  static const std::vector<ConditionRow> table = {
      {K::kStoreAway, "store_away", kCritical,
       "bring the metadata store back; until then volumes go on as long as no copy is lost, and "
       "nothing can be created, attached or removed"},
      {K::kStoreFull, "store_full", kCritical,
       "compact and defragment etcd, then 'etcdctl alarm disarm'; keep it so with "
       "--auto-compaction-retention"},
      {K::kIoWaits, "io_waits", kCritical, "'cvol volume explain NAME' says more"},
      {K::kDiskFailed, "disk_failed", kCritical, ""},
      {K::kPoolFull, "disk_full", kCritical,
       "trim or remove volumes that have copies on it; a new disk ('cvol disk add') takes new "
       "volumes"},
      {K::kHostFull, "host_full", kCritical, "free space on the file system"},
      {K::kVolumeAway, "volume_unavailable", kCritical, "start volumed on one of them"},
      {K::kVolumeDamaged, "volume_damaged", kCritical, ""},
      {K::kRecordLost, "record_lost", kCritical, ""},
      {K::kReplicaUnknown, "replica_without_record", kWarning, ""},
      {K::kCopyStopped, "copy_stopped", kWarning, ""},
      {K::kNodeTwice, "node_twice", kCritical,
       "stop the one that runs on the copy, and give it an empty --data-dir"},
      {K::kNodeAway, "node_away", kWarning,
       "start volumed there, or 'cvol node rm NAME' if it is gone for good"},
      {K::kFewCopies, "one_copy_left", kCritical, ""},
      {K::kCopiesMissing, "copies_missing", kWarning, ""},
      {K::kPoolNearlyFull, "disk_nearly_full", kWarning,
       "trim or remove volumes that have copies on it, and add a disk ('cvol disk add') for new "
       "ones"},
      {K::kHostNearlyFull, "host_nearly_full", kWarning, "free space on the file system"},
      {K::kClocksDiffer, "clocks_differ", kWarning, "let NTP set the clocks of both hosts"},
      {K::kSettingsDiffer, "settings_differ", kWarning,
       "give all nodes the same values, and restart volumed on those that change"},
      {K::kDiskDamaged, "disk_damaged", kWarning, "'cvol disk ls -o json' lists the blocks"},
      {K::kRecordProblem, "record_problem", kWarning, ""},
      {K::kUnmountWaits, "unmount_waits", kWarning, ""},
  };
  return table;
}

const ConditionRow& row_of(ConditionKind kind) {
  const ConditionRow& row = condition_table()[static_cast<std::size_t>(kind)];
  CVOL_ASSERT(row.kind == kind);
  return row;
}

std::string Condition::sentence() const {
  const std::string what_to_do = advice();
  return what_to_do.empty() ? text : text + "; " + what_to_do;
}

std::vector<Condition> ConditionBook::settle(std::vector<Condition> found, Condition::Time now) {
  {
    std::lock_guard lock(mutex_);
    decltype(since_) holds;
    for (Condition& condition : found) {
      const auto key = std::make_pair(condition.kind, condition.subject);
      const auto known = since_.find(key);
      if (condition.since == Condition::Time{})
        condition.since = known == since_.end() ? now : known->second;
      holds.emplace(key, condition.since);
    }
    since_ = std::move(holds);
  }
  std::stable_sort(found.begin(), found.end(), [](const Condition& a, const Condition& b) {
    if (a.severity() != b.severity()) return a.severity() < b.severity();
    return a.since < b.since;
  });
  return found;
}

std::string for_how_long(std::chrono::system_clock::duration time) {
  const int64_t seconds =
      std::max<int64_t>(std::chrono::duration_cast<std::chrono::seconds>(time).count(), 0);
  if (seconds < 120) return fmt::format("for {} s", seconds);
  if (seconds < 7200) return fmt::format("for {} min", seconds / 60);
  if (seconds < 48 * 3600) return fmt::format("for {} h", seconds / 3600);
  return fmt::format("for {} days", seconds / 86400);
}

void add_fullness(std::vector<Condition>& found, ConditionKind nearly, ConditionKind full,
                  const std::string& subject, const std::string& what, uint64_t used_bytes,
                  uint64_t total_bytes) {
  if (total_bytes == 0) return;
  const auto percent =
      static_cast<unsigned>(static_cast<double>(std::min(used_bytes, total_bytes)) * 100 /
                            static_cast<double>(total_bytes));
  if (percent < 80) return;
  const uint64_t left = total_bytes - std::min(used_bytes, total_bytes);
  found.push_back({percent >= 95 ? full : nearly,
                   subject,
                   fmt::format("{} is {} % full, {} left{}", what, percent, format_size(left),
                               percent >= 90 ? ": writes of new data will soon wait or fail" : ""),
                   {}});
}

}  // namespace cvol::volume
