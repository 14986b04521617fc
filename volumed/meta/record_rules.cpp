#include "volumed/meta/record_rules.h"

#include <algorithm>
#include <array>
#include <initializer_list>
#include <set>

#include "volumed/base/uuid.h"

namespace cvol::meta {
namespace {

constexpr std::size_t kMostPathBytes = 4096;
constexpr std::size_t kMostKeyBytes = 512;     // that are shown
constexpr std::size_t kMostWordBytes = 256;    // boot ids, zones, versions, flags
constexpr std::size_t kMostTextBytes = 16384;  // what callers say of themselves
constexpr int kMostLabels = 64;
constexpr std::size_t kMostLabelBytes = 1024;
constexpr int kMostFlags = 64;
constexpr int kMostDisks = 4096;
constexpr int kMostAddresses = 1024;

Status broken(const std::string& why) {
  return Status(Code::kInvalidArgument, why);
}

// The beginning of it, without what a terminal would obey.
std::string quoted(const std::string& text) {
  return "'" + printable(text, 64) + "'";
}

bool has_control(const std::string& text) {
  return std::any_of(text.begin(), text.end(),
                     [](unsigned char c) { return c < 0x20 || c == 0x7f; });
}

Status check_id(const std::string& id, const char* what) {
  if (Uuid::parse(id).is_ok()) return Status::ok();
  return broken(std::string(what) + " " + quoted(id) + " is no UUID");
}

Status check_id_or_none(const std::string& id, const char* what) {
  return id.empty() ? Status::ok() : check_id(id, what);
}

Status check_word(const std::string& text, const char* what) {
  if (text.size() <= kMostWordBytes && !has_control(text)) return Status::ok();
  return broken(std::string(what) + " " + quoted(text) + " is too long, or no text");
}

Status check_name(const std::string& name) {
  if (validate_name(name, "volume").is_ok()) return Status::ok();
  return broken("the volume's name " + quoted(name) + " is no name");
}

Status check_one_of(const std::string& text, std::initializer_list<const char*> known,
                    const char* what) {
  if (std::any_of(known.begin(), known.end(), [&](const char* one) { return text == one; }))
    return Status::ok();
  return broken(std::string(what) + " " + quoted(text) + " is not known");
}

Status check_count(int count, int most, const char* what) {
  if (count <= most) return Status::ok();
  return broken("it has " + std::to_string(count) + " " + what + ", and " + std::to_string(most) +
                " are possible");
}

bool climbs(const std::string& path) {
  for (std::size_t at = 0; at <= path.size();) {
    const std::size_t end = std::min(path.find('/', at), path.size());
    if (path.compare(at, end - at, "..") == 0) return true;
    at = end + 1;
  }
  return false;
}

// Without empty parts and dots: "/a//./b/" -> "/a/b", "//" -> "/".
std::string plain(const std::string& path) {
  std::string result;
  for (std::size_t at = 0; at <= path.size();) {
    const std::size_t end = std::min(path.find('/', at), path.size());
    const std::string part = path.substr(at, end - at);
    if (!part.empty() && part != ".") result += "/" + part;
    at = end + 1;
  }
  return result.empty() ? "/" : result;
}

// Folders of the host that nothing is staged over, and that nothing is unmounted from.
Status check_stage_path(const std::string& path, const char* what) {
  static constexpr std::array kSystem = {"/bin", "/boot",  "/dev",   "/etc",  "/home",
                                         "/lib", "/lib32", "/lib64", "/proc", "/root",
                                         "/run", "/sbin",  "/sys",   "/usr",  "/var"};
  CVOL_TRY(check_path(path, what));
  const std::string clean = plain(path);
  const bool of_host =
      std::any_of(kSystem.begin(), kSystem.end(), [&](const char* one) { return clean == one; });
  if (!of_host && !clean.starts_with("/proc/") && !clean.starts_with("/sys/")) return Status::ok();
  return broken(std::string(what) + " " + quoted(path) + " is a folder of the system");
}

// (mount/mount_flags.cpp knows more of them; no other characters reach mount(2).)
Status check_flags(const google::protobuf::RepeatedPtrField<std::string>& flags) {
  CVOL_TRY(check_count(flags.size(), kMostFlags, "mount flags"));
  for (const std::string& flag : flags) {
    const bool fits =
        !flag.empty() && flag.size() <= kMostWordBytes &&
        std::all_of(flag.begin(), flag.end(), [](unsigned char c) {
          return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                 std::string_view("_-=.:/+@%").find(static_cast<char>(c)) != std::string_view::npos;
        });
    if (!fits) return broken("mount flag " + quoted(flag) + " is no flag");
  }
  return Status::ok();
}

Status check_members(const google::protobuf::RepeatedPtrField<v1::MemberRecord>& members,
                     const google::protobuf::RepeatedPtrField<v1::InSyncRecord>& in_sync) {
  CVOL_TRY(check_count(members.size(), kMostMembers, "members"));
  CVOL_TRY(check_count(in_sync.size(), kMostMembers, "members in sync"));
  std::set<std::string> replicas;
  for (const v1::MemberRecord& member : members) {
    CVOL_TRY(check_id(member.replica_id(), "its replica"));
    CVOL_TRY(check_id(member.node_id(), "the node of a replica"));
    CVOL_TRY(check_id(member.disk_id(), "the disk of a replica"));
    CVOL_TRY(check_one_of(member.wanted(), {"", "present", "removed"}, "what a member is to be,"));
    if (!replicas.insert(member.replica_id()).second)
      return broken("it lists replica " + member.replica_id() + " twice");
  }
  for (const v1::InSyncRecord& entry : in_sync)
    CVOL_TRY(check_id(entry.replica_id(), "a replica in sync"));
  return Status::ok();
}

Status check_file_system(const std::string& type) {
  return check_one_of(type, {"", "ext4", "xfs"}, "file system");
}

Status check_mount(const v1::MountRecord& mount) {
  CVOL_TRY(check_count(mount.caller_ids_size(), kMostCallers, "users of its mount"));
  CVOL_TRY(check_count(static_cast<int>(mount.targets().size()), kMostCallers, "mount targets"));
  for (const std::string& caller : mount.caller_ids()) {
    if (caller.size() > kMostTextBytes) return broken("a user of its mount has too long an id");
  }
  for (const auto& [caller, target] : mount.targets()) {
    if (caller.size() > kMostTextBytes) return broken("a user of its mount has too long an id");
    CVOL_TRY(check_path(target, "mount target"));
  }
  return check_word(mount.boot_id(), "boot id");
}

Status check_stage(const v1::StageRecord& stage) {
  CVOL_TRY(check_stage_path(stage.path(), "stage path"));
  CVOL_TRY(check_file_system(stage.fs()));
  CVOL_TRY(check_flags(stage.flags()));
  CVOL_TRY(check_word(stage.boot_id(), "boot id"));
  const std::string& group = stage.group();
  const bool number =
      std::all_of(group.begin(), group.end(), [](unsigned char c) { return c >= '0' && c <= '9'; });
  if (!number || group.size() > 10) return broken("group " + quoted(group) + " is no number");
  CVOL_TRY(check_count(static_cast<int>(stage.targets().size()), kMostStageTargets, "targets"));
  for (const auto& [target, how] : stage.targets()) {
    CVOL_TRY(check_stage_path(target, "target"));
    if (how.use().size() > kMostTextBytes) return broken("the use of a target is too long a text");
  }
  return Status::ok();
}

Status check_labels(const google::protobuf::Map<std::string, std::string>& labels) {
  CVOL_TRY(check_count(static_cast<int>(labels.size()), kMostLabels, "labels"));
  for (const auto& [key, value] : labels) {
    if (key.empty() || key.size() > kMostLabelBytes || value.size() > kMostLabelBytes)
      return broken("label " + quoted(key) + " is empty or too long");
  }
  return Status::ok();
}

// What others than cvol itself make it larger with.
std::size_t bytes_of_users(const v1::VolumeRecord& record) {
  std::size_t bytes = record.mount().ByteSizeLong() + record.stage().ByteSizeLong();
  for (const auto& [key, value] : record.labels()) bytes += key.size() + value.size();
  return bytes;
}

template <typename Record>
Result<Record> read(std::string_view key, std::string_view text) {
  auto record = parse_record<Record>(key, text);
  if (!record) return record.status();
  if (const Status kept = check_rules(*record); !kept.is_ok())
    return Status(Code::kDamaged,
                  "record " + printable(key, kMostKeyBytes) + ": " + kept.message());
  return record;
}

template <typename Record>
Result<Record> read_of(std::string_view key, std::string_view text,
                       const std::string& (Record::*id)() const) {
  auto record = read<Record>(key, text);
  if (!record) return record.status();
  if (const Status kept = check_key(key, ((*record).*id)()); !kept.is_ok()) return kept;
  return record;
}

}  // namespace

Status check_path(const std::string& path, const char* what) {
  if (path.size() <= kMostPathBytes && path.starts_with('/') && !has_control(path) &&
      !climbs(path) && plain(path) != "/")
    return Status::ok();
  return broken(std::string(what) + " " + quoted(path) + " is no absolute path without '..'");
}

Status check_key(std::string_view key, const std::string& id) {
  if (key.size() > id.size() && key.ends_with(id) && key[key.size() - id.size() - 1] == '/')
    return Status::ok();
  return Status(Code::kDamaged, "record " + printable(key, kMostKeyBytes) +
                                    ": it is the one of another id, " + quoted(id));
}

Status check_rules(const v1::ClusterRecord& record) {
  CVOL_TRY(check_id(record.id(), "the cluster's id"));
  return check_word(record.name(), "the cluster's name");
}

Status check_rules(const v1::NodeRecord& record) {
  CVOL_TRY(check_id(record.id(), "the node's id"));
  if (record.name().empty()) return broken("the node has no name");
  CVOL_TRY(check_word(record.name(), "the node's name"));
  CVOL_TRY(check_word(record.boot_id(), "boot id"));
  return check_word(record.zone(), "zone");
}

Status check_rules(const v1::AliveRecord& record) {
  CVOL_TRY(check_id(record.node_id(), "the node's id"));
  CVOL_TRY(check_id(record.process(), "the process"));
  CVOL_TRY(check_count(record.replication_addresses_size(), kMostAddresses, "addresses"));
  for (const std::string& address : record.replication_addresses())
    CVOL_TRY(check_word(address, "address"));
  CVOL_TRY(check_count(record.disks_size(), kMostDisks, "disks"));
  for (const v1::AliveDisk& disk : record.disks()) CVOL_TRY(check_id(disk.id(), "disk"));
  CVOL_TRY(check_count(static_cast<int>(record.settings().size()), kMostLabels, "settings"));
  for (const auto& [key, value] : record.settings()) {
    CVOL_TRY(check_word(key, "setting"));
    CVOL_TRY(check_word(value, "setting"));
  }
  return check_word(record.version(), "version");
}

Status check_rules(const v1::DiskRecord& record) {
  CVOL_TRY(check_id(record.id(), "the disk's id"));
  CVOL_TRY(check_id(record.node_id(), "the disk's node"));
  // Relative ones lie below the data directory, and stay there.
  const std::string& path = record.path();
  if (path.empty() || path.size() > kMostPathBytes || has_control(path) || climbs(path))
    return broken("the disk's path " + quoted(path) + " is no path without '..'");
  return Status::ok();
}

Status check_rules(const v1::VolumeRecord& record) {
  CVOL_TRY(check_id(record.id(), "the volume's id"));
  CVOL_TRY(check_name(record.name()));
  CVOL_TRY(validate_volume_size(record.size_bytes()));
  if (record.fs_size_bytes() > kMaxVolumeBytes) return broken("its file system is too large");
  if (record.replicas() < 1 || record.replicas() > kMostReplicas)
    return broken("it is to have " + std::to_string(record.replicas()) + " replicas, and 1 to " +
                  std::to_string(kMostReplicas) + " are possible");
  if (record.min_in_sync() > kMostReplicas)
    return broken("its min_in_sync is " + std::to_string(record.min_in_sync()));
  CVOL_TRY(check_one_of(record.durability(), {"", "durable"}, "durability"));
  CVOL_TRY(check_file_system(record.fs()));
  CVOL_TRY(check_labels(record.labels()));
  if (record.epoch() == 0) return broken("it has no epoch");
  CVOL_TRY(check_id_or_none(record.primary(), "its primary"));
  CVOL_TRY(check_members(record.members(), record.in_sync()));
  CVOL_TRY(check_id_or_none(record.session().id(), "its attachment"));
  CVOL_TRY(check_id_or_none(record.session().node_id(), "the node of its attachment"));
  CVOL_TRY(check_mount(record.mount()));
  if (record.has_stage()) CVOL_TRY(check_stage(record.stage()));
  if (!v1::FormatState_IsValid(record.format_state())) return broken("its format state is unknown");
  CVOL_TRY(check_one_of(record.on_full(), {"", "wait", "error", "default"}, "policy"));
  return check_one_of(record.state(), {"creating", "ready", "removing"}, "state");
}

Status check_rules(const v1::NameRecord& record) {
  return check_id(record.volume_id(), "the volume's id");
}

// A replica that is on its disk no more claims epoch 0 of nothing.
Status check_rules(const v1::ClaimRecord& record) {
  CVOL_TRY(check_id(record.volume_id(), "the volume's id"));
  CVOL_TRY(check_id(record.replica_id(), "the replica's id"));
  CVOL_TRY(check_id(record.node_id(), "the node's id"));
  CVOL_TRY(check_id_or_none(record.primary(), "its primary"));
  CVOL_TRY(check_members(record.members(), record.in_sync()));
  if (record.size_bytes() > kMaxVolumeBytes) return broken("its size is impossible");
  return Status::ok();
}

Status check_rules(const v1::RemovedRecord& record) {
  CVOL_TRY(check_id(record.replica_id(), "the replica's id"));
  CVOL_TRY(check_id(record.volume_id(), "the volume's id"));
  return check_id(record.disk_id(), "the disk's id");
}

Status check_rules(const v1::RemovedVolumeRecord& record) {
  CVOL_TRY(check_id(record.volume_id(), "the volume's id"));
  return check_name(record.name());
}

Result<v1::ClusterRecord> read_cluster(std::string_view key, std::string_view text) {
  return read<v1::ClusterRecord>(key, text);
}

Result<v1::NodeRecord> read_node(std::string_view key, std::string_view text) {
  return read_of<v1::NodeRecord>(key, text, &v1::NodeRecord::id);
}

Result<v1::AliveRecord> read_alive(std::string_view key, std::string_view text) {
  return read_of<v1::AliveRecord>(key, text, &v1::AliveRecord::node_id);
}

Result<v1::DiskRecord> read_disk(std::string_view key, std::string_view text) {
  return read_of<v1::DiskRecord>(key, text, &v1::DiskRecord::id);
}

Result<v1::VolumeRecord> read_volume(std::string_view key, std::string_view text) {
  return read_of<v1::VolumeRecord>(key, text, &v1::VolumeRecord::id);
}

Result<v1::ClaimRecord> read_claim(std::string_view key, std::string_view text) {
  return read_of<v1::ClaimRecord>(key, text, &v1::ClaimRecord::replica_id);
}

Result<std::string> write_volume(std::string_view key, const v1::VolumeRecord* before,
                                 v1::VolumeRecord& record) {
  auto text = write_record(key, record);
  if (!text || text->size() <= kMostWrittenBytes) return text;
  if (before != nullptr && bytes_of_users(record) <= bytes_of_users(*before)) return text;
  return Status(Code::kInvalidArgument,
                "the record of volume '" + record.name() + "' would have " +
                    format_size(text->size()) + ", more than " + format_size(kMostWrittenBytes) +
                    ": it has too many users, targets or labels, or their texts are too long. "
                    "Unmount it for those that do not use it any more");
}

}  // namespace cvol::meta
