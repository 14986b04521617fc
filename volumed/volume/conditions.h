// Conditions: the one table of what is not as it should be. Status, problems, readiness, explain
// and orchestrators are told from it.
//
// A kind of condition is an entry of enum ConditionKind and a row of the table in conditions.cpp
// (name, severity, what to do). A source looks at what is in memory, and adds what it finds; it
// never waits for the metadata store, a disk or a lock that an operation holds
// (volume_conditions.cpp has those of the manager).
//
// Threading: ConditionBook on any thread, the rest is pure.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

namespace cvol::volume {

enum class Severity : uint8_t { kCritical, kWarning, kNotice };  // the most severe first
const char* severity_name(Severity severity);

enum class ConditionKind : uint8_t {
  kStoreAway,
  kStoreFull,
  kIoWaits,
  kDiskFailed,
  kPoolFull,
  kHostFull,
  kVolumeAway,
  kVolumeDamaged,
  kRecordLost,
  kReplicaUnknown,
  kCopyStopped,
  kNodeTwice,
  kNodeAway,
  kFewCopies,
  kCopiesMissing,
  kPoolNearlyFull,
  kHostNearlyFull,
  kClocksDiffer,
  kSettingsDiffer,
  kDiskDamaged,
  kRecordProblem,
  kUnmountWaits,
};

// A row of the table.
struct ConditionRow {
  ConditionKind kind;
  const char* name;  // as in JSON and metrics: "store_away"
  Severity severity;
  const char* advice;  // what to do; "" where the sentence says it
};
const std::vector<ConditionRow>& condition_table();
const ConditionRow& row_of(ConditionKind kind);

struct Condition {
  using Time = std::chrono::system_clock::time_point;
  ConditionKind kind = ConditionKind::kRecordProblem;
  std::string subject;  // name of the volume or node, path of the disk
  std::string text;     // a sentence without its full stop
  Time since{};         // not set: since it was seen first (ConditionBook)

  Severity severity() const { return row_of(kind).severity; }
  std::string advice() const { return row_of(kind).advice; }
  // Text and advice, for people.
  std::string sentence() const;
};

// Remembers since when conditions hold.
class ConditionBook {
 public:
  // Fills in `since`, sorts: the most severe first, then the longest. `found`: all that hold now.
  std::vector<Condition> settle(std::vector<Condition> found, Condition::Time now);

 private:
  std::mutex mutex_;
  std::map<std::pair<ConditionKind, std::string>, Condition::Time> since_;  // kind, subject
};

// "for 11 min", "for 3 s".
std::string for_how_long(std::chrono::system_clock::duration time);

// How full something is, as a condition: nothing below 80 %, `nearly` from there, `full` from 95 %.
// `what`: "the pool of disk /x", as the beginning of the sentence.
void add_fullness(std::vector<Condition>& found, ConditionKind nearly, ConditionKind full,
                  const std::string& subject, const std::string& what, uint64_t used_bytes,
                  uint64_t total_bytes);

}  // namespace cvol::volume
