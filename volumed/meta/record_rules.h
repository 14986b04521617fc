// What records of the metadata store have to hold to be acted on: ids, names, states, counts, sizes
// and paths within bounds. One set of rules for what is read and for what is written; records.h has
// the syntax.
//
// A store is shared and lasts long: what lies there may be of another version, edited by hand, or
// somebody's attack. Nothing is opened, mounted or removed because of a record that breaks a rule.
//
// Pure functions; any thread.
#pragma once

#include <cvol/v1/records.pb.h>

#include <string>
#include <string_view>

#include "volumed/base/units.h"
#include "volumed/meta/records.h"

namespace cvol::meta {

// A record that users make larger is refused from here on; room up to the 1 MiB that is read is
// left for what cvol itself has to note.
constexpr std::size_t kMostWrittenBytes = 512 * kKiB;
constexpr int kMostMembers = 64;
constexpr int kMostCallers = 4096;  // of a mount, and targets
constexpr int kMostStageTargets = 1024;

// kInvalidArgument says which rule is broken, and by what.
Status check_rules(const v1::ClusterRecord& record);
Status check_rules(const v1::NodeRecord& record);
Status check_rules(const v1::AliveRecord& record);
Status check_rules(const v1::DiskRecord& record);
Status check_rules(const v1::VolumeRecord& record);
Status check_rules(const v1::NameRecord& record);
Status check_rules(const v1::ClaimRecord& record);
Status check_rules(const v1::RemovedRecord& record);
Status check_rules(const v1::RemovedVolumeRecord& record);

// A path in a record: absolute, without '..' and control characters, at most 4,096 bytes, not "/".
Status check_path(const std::string& path, const char* what);

// Is `key` the key of a record with this `id`? Keys end in their ids.
Status check_key(std::string_view key, const std::string& id);

// parse_record() and the rules; kDamaged names the key and the rule.
Result<v1::ClusterRecord> read_cluster(std::string_view key, std::string_view text);
Result<v1::NodeRecord> read_node(std::string_view key, std::string_view text);
Result<v1::AliveRecord> read_alive(std::string_view key, std::string_view text);
Result<v1::DiskRecord> read_disk(std::string_view key, std::string_view text);
Result<v1::VolumeRecord> read_volume(std::string_view key, std::string_view text);
Result<v1::ClaimRecord> read_claim(std::string_view key, std::string_view text);

// The text to be written at `key`, or why there must be none: a rule, or more than 1 MiB.
template <typename Record>
Result<std::string> write_record(std::string_view key, Record& record) {
  if (const Status kept = check_rules(record); !kept.is_ok())
    return kept.with_context("the record " + std::string(key) + " is not written");
  return try_encode_record(key, record);
}

// The same in place of `before`: what its users add (mounts, stages, labels) may not make it larger
// than kMostWrittenBytes.
Result<std::string> write_volume(std::string_view key, const v1::VolumeRecord* before,
                                 v1::VolumeRecord& record);

}  // namespace cvol::meta
