#include "volumed/cli/commands.h"

#include <google/protobuf/util/time_util.h>

#include <algorithm>
#include <ctime>
#include <filesystem>
#include <iostream>

#include "volumed/base/units.h"
#include "volumed/cli/output.h"

namespace cvol::cli {
namespace {

using google::protobuf::util::TimeUtil;

std::string or_dash(const std::string& text) {
  return text.empty() ? "-" : text;
}

std::string usage(uint64_t used, uint64_t all) {
  if (all == 0) return "-";
  return format_size(used) + " of " + format_size(all) + " (" +
         std::to_string(
             static_cast<int>(static_cast<double>(used) * 100 / static_cast<double>(all))) +
         "%)";
}

// Time to the second, as people read it.
std::string format_time(const google::protobuf::Timestamp& time) {
  google::protobuf::Timestamp seconds = time;
  seconds.set_nanos(0);
  return TimeUtil::ToString(seconds);
}

std::string absolute(const std::string& path) {
  return path.empty() ? path : std::filesystem::absolute(path).lexically_normal().string();
}

Result<uint64_t> optional_size(const std::string& text) {
  return text.empty() ? Result<uint64_t>(uint64_t{0}) : parse_size(text);
}

void print_json(std::ostream& out, const nlohmann::ordered_json& json) {
  out << json.dump(2) << "\n";
}

// "2 of 3".
std::string in_sync(const v1::Volume& volume) {
  const auto copies = std::count_if(volume.copies().begin(), volume.copies().end(),
                                    [](const v1::Replica& copy) { return copy.in_sync(); });
  return std::to_string(copies) + " of " + std::to_string(volume.replicas());
}

std::vector<std::string> volume_heading() {
  return {"NAME", "SIZE", "USED", "STATE", "IN SYNC", "NODE", "FS", "DEVICE", "MOUNTPOINT"};
}

std::vector<std::string> volume_row(const v1::Volume& volume) {
  return {volume.name(),
          format_size(volume.size_bytes()),
          format_size(volume.allocated_bytes()),
          volume.state(),
          in_sync(volume),
          or_dash(volume.node()),
          volume.fs(),
          or_dash(volume.device()),
          or_dash(volume.mountpoint())};
}

std::vector<std::string> disk_row(const v1::Disk& disk) {
  return {disk.path(),
          disk.node(),
          disk.state(),
          usage(disk.allocated_bytes(), disk.capacity_bytes()),
          usage(disk.journal_used_bytes(), disk.journal_bytes()),
          std::to_string(disk.replicas()),
          describe_scrub(disk.scrub(), TimeUtil::GetCurrentTime().seconds()),
          disk.id()};
}

std::string disk_table(const google::protobuf::RepeatedPtrField<v1::Disk>& disks) {
  std::vector<std::vector<std::string>> rows = {
      {"PATH", "NODE", "STATE", "USED", "JOURNAL", "REPLICAS", "SCRUB", "ID"}};
  for (const v1::Disk& disk : disks) rows.push_back(disk_row(disk));
  return format_table(rows);
}

std::string describe_on_full(const std::string& on_full) {
  if (on_full == "wait") return "writes wait for space";
  if (on_full == "error") return "writes get an error";
  return "writes of devices wait for space, NBD clients get an error";
}

// One volume, as answer to a command that changed it.
Status show_change(const Settings& settings, std::ostream& out, const v1::Volume& volume,
                   const std::string& sentence) {
  if (settings.json) {
    print_json(out, to_json(volume));
  } else {
    out << sentence << "\n";
    for (const std::string& warning : volume.warnings()) out << "Warning: " << warning << ".\n";
  }
  return Status::ok();
}

}  // namespace

Exit exit_of(Code code) {
  switch (code) {
    case Code::kOk:
      return kExitOk;
    case Code::kInvalidArgument:
      return kExitUsage;
    case Code::kNotFound:
      return kExitNotFound;
    case Code::kUnavailable:
      return kExitUnreachable;
    case Code::kFailedPrecondition:
    case Code::kAlreadyExists:
    case Code::kBusy:
      return kExitWrongState;
    default:
      return kExitFailed;
  }
}

// The most severe first, as they come. (An older volumed has sentences only.)
static void show_problems(const v1::GetStatusResponse& status, std::ostream& out) {
  if (status.conditions_size() == 0) {
    for (const std::string& problem : status.problems()) out << "  * " << problem << "\n";
  }
  for (const v1::Condition& condition : status.conditions()) {
    out << "  * " << condition.severity() << ": " << condition.text();
    if (!condition.advice().empty()) out << "; " << condition.advice();
    out << " (since " << format_time(condition.since()) << ")\n";
  }
}

Status show_status(api::ApiClient& api, const Settings& settings, std::ostream& out) {
  auto status = api.get_status();
  if (!status) return status.status();
  if (settings.json) {
    print_json(out, to_json(*status));
    return Status::ok();
  }
  const v1::Node& node = status->node();
  out << format_table(
      {{"Node:", node.name() + " (" + node.id() + ")"},
       {"Version:", status->version()},
       {"Up since:", format_time(node.started())},
       {"Cluster:", status->cluster()},
       {"Metadata:", status->metadata()},
       {"Attach method:", status->attach_method()},
       {"Volumes:", std::to_string(status->volumes()) + ", " + std::to_string(status->attached()) +
                        " attached, " + std::to_string(status->mounted()) + " mounted"},
       {"Space:", usage(node.allocated_bytes(), node.capacity_bytes())}});
  out << "\n" << disk_table(status->disks());
  if (status->problems_size() == 0) {
    out << "\nNo problems.\n";
    return Status::ok();
  }
  out << "\nProblems:\n";
  show_problems(*status, out);
  return Status::ok();
}

Status list_nodes(api::ApiClient& api, const Settings& settings, std::ostream& out) {
  auto nodes = api.list_nodes();
  if (!nodes) return nodes.status();
  if (settings.json) {
    print_json(out, to_json_array(nodes->nodes()));
    return Status::ok();
  }
  std::vector<std::vector<std::string>> rows = {{"NAME", "STATE", "ZONE", "VERSION", "DISKS",
                                                 "REPLICAS", "PRIMARIES", "ATTACHED", "USED",
                                                 "ID"}};
  for (const v1::Node& node : nodes->nodes()) {
    std::string state = node.alive() ? "alive" : "away";
    if (node.draining()) {
      state += node.replicas() == 0 ? ", drained" : ", draining";
    } else if (node.cordoned()) {
      state += ", cordoned";
    }
    rows.push_back({node.name(), state, or_dash(node.zone()), or_dash(node.version()),
                    std::to_string(node.disks()), std::to_string(node.replicas()),
                    std::to_string(node.primaries()), std::to_string(node.volumes()),
                    usage(node.allocated_bytes(), node.capacity_bytes()), node.id()});
  }
  out << format_table(rows);
  return Status::ok();
}

Status list_disks(api::ApiClient& api, const Settings& settings, std::ostream& out) {
  auto disks = api.list_disks();
  if (!disks) return disks.status();
  if (settings.json) {
    print_json(out, to_json_array(disks->disks()));
    return Status::ok();
  }
  out << disk_table(disks->disks());
  for (const v1::Disk& disk : disks->disks()) {
    if (!disk.problem().empty()) out << "\n" << disk.path() << ": " << disk.problem() << "\n";
  }
  return Status::ok();
}

Status add_disk(api::ApiClient& api, const Settings& settings, std::ostream& out) {
  v1::AddDiskRequest request;
  request.set_path(absolute(settings.path));
  auto capacity = optional_size(settings.capacity);
  if (!capacity) return capacity.status();
  auto journal = optional_size(settings.journal_size);
  if (!journal) return journal.status();
  request.set_capacity_bytes(*capacity);
  request.set_journal_bytes(*journal);
  request.set_force(settings.force);
  auto added = api.add_disk(request);
  if (!added) return added.status();
  if (settings.json) {
    print_json(out, to_json(added->disk()));
  } else {
    out << "Disk " << added->disk().path() << " is in the pool, with "
        << format_size(added->disk().capacity_bytes()) << ".\n";
  }
  return Status::ok();
}

Status create_volume(api::ApiClient& api, const Settings& settings, std::ostream& out) {
  v1::CreateVolumeRequest request;
  request.set_name(settings.name);
  auto size = parse_volume_size(settings.size);
  if (!size) return size.status();
  if (*size == 0) return Status(Code::kInvalidArgument, "a volume cannot have size 0");
  request.set_size_bytes(*size);
  request.set_replicas(settings.replicas == 0 ? 1 : settings.replicas);
  request.set_min_in_sync(settings.min_in_sync);
  request.set_zone_spread(settings.zone_spread);
  request.set_fs(settings.fs);
  request.set_on_full(settings.on_full);
  for (const std::string& label : settings.labels) {
    const auto equals = label.find('=');
    if (equals == std::string::npos || equals == 0)
      return Status(Code::kInvalidArgument, "label '" + label + "' is not of the form KEY=VALUE");
    (*request.mutable_labels())[label.substr(0, equals)] = label.substr(equals + 1);
  }
  auto created = api.create_volume(request);
  if (!created) return created.status();
  const v1::Volume& volume = created->volume();
  return show_change(settings, out, volume,
                     "Volume " + volume.name() + " of " + format_exact_size(volume.size_bytes()) +
                         " is ready. Use it with 'cvol volume mount " + volume.name() +
                         "' or 'docker run -v " + volume.name() + ":/data --volume-driver cvol'.");
}

Status list_volumes(api::ApiClient& api, const Settings& settings, std::ostream& out) {
  auto volumes = api.list_volumes();
  if (!volumes) return volumes.status();
  if (settings.json) {
    print_json(out, to_json_array(volumes->volumes()));
    return Status::ok();
  }
  std::vector<std::vector<std::string>> rows = {volume_heading()};
  for (const v1::Volume& volume : volumes->volumes()) rows.push_back(volume_row(volume));
  out << format_table(rows);
  return Status::ok();
}

Status inspect_volume(api::ApiClient& api, const Settings& settings, std::ostream& out) {
  v1::GetVolumeRequest request;
  request.set_name(settings.name);
  auto found = api.get_volume(request);
  if (!found) return found.status();
  const v1::Volume& volume = found->volume();
  if (settings.json) {
    print_json(out, to_json(volume));
    return Status::ok();
  }
  std::vector<std::vector<std::string>> rows = {
      {"Name:", volume.name()},
      {"Id:", volume.id()},
      {"State:", volume.state()},
      {"Size:", format_size(volume.size_bytes())},
      {"Used:", format_size(volume.allocated_bytes())},
      {"File system:", volume.fs() + (volume.formatted() ? "" : " (made at the first mount)")},
      {"When full:", describe_on_full(volume.on_full())},
      {"Created:", format_time(volume.created())},
      {"Attached on:", or_dash(volume.node())},
      {"Device:",
       volume.device().empty() ? "-" : volume.device() + " (" + volume.attach_method() + ")"},
      {"Mounted at:", or_dash(volume.mountpoint())},
      {"NBD connections:", std::to_string(volume.connections())}};
  for (const std::string& id : volume.mount_ids()) rows.push_back({"Mounted for:", id});
  for (const auto& [key, value] : volume.labels()) rows.push_back({"Label:", key + "=" + value});
  for (const v1::Replica& copy : volume.copies())
    rows.push_back({"Copy:", copy.id() + " on node " + copy.node() + ", disk " + copy.disk() +
                                 (copy.primary() ? ", primary" : "") +
                                 (copy.in_sync() ? ", in sync" : ", not in sync") +
                                 (copy.state() == "away" ? ", node away" : "")});
  for (const v1::Resync& resync : volume.resyncs())
    rows.push_back({"Resync:", describe_resync(resync)});
  if (!volume.waits().empty()) rows.push_back({"Waits:", volume.waits()});
  if (!volume.problem().empty()) rows.push_back({"Problem:", volume.problem()});
  if (!volume.unmount_waits().empty()) rows.push_back({"Unmount:", volume.unmount_waits()});
  out << format_table(rows);
  return Status::ok();
}

Status resize_volume(api::ApiClient& api, const Settings& settings, std::ostream& out) {
  v1::ResizeVolumeRequest request;
  request.set_name(settings.name);
  auto size = parse_volume_size(settings.size);
  if (!size) return size.status();
  // In the API 0 stands for "as it is": not what somebody means who writes it here.
  if (*size == 0)
    return Status(Code::kInvalidArgument,
                  "a volume cannot have size 0; give the new size, like 20GiB");
  request.set_size_bytes(*size);
  auto done = api.resize_volume(request);
  if (!done) return done.status();
  return show_change(settings, out, done->volume(),
                     "Volume " + done->volume().name() + " has " +
                         format_exact_size(done->volume().size_bytes()) + " now.");
}

Status trim_volume(api::ApiClient& api, const Settings& settings, std::ostream& out) {
  v1::TrimVolumeRequest request;
  request.set_name(settings.name);
  auto done = api.trim_volume(request);
  if (!done) return done.status();
  return show_change(settings, out, done->volume(),
                     "The file system of volume " + settings.name + " gave back " +
                         format_size(done->trimmed_bytes()) + "; " +
                         format_size(done->volume().allocated_bytes()) + " are used now.");
}

Status remove_volumes(api::ApiClient& api, const Settings& settings, std::ostream& out) {
  for (const std::string& name : settings.names) {
    v1::RemoveVolumeRequest request;
    request.set_name(name);
    request.set_force(settings.force);
    auto done = api.remove_volume(request);
    if (!done) return done.status();
    if (!settings.json) out << "Volume " << name << " is removed.\n";
  }
  if (settings.json) print_json(out, settings.names);
  return Status::ok();
}

Status attach_volume(api::ApiClient& api, const Settings& settings, std::ostream& out) {
  v1::AttachVolumeRequest request;
  request.set_name(settings.name);
  auto done = api.attach_volume(request);
  if (!done) return done.status();
  return show_change(settings, out, done->volume(), done->volume().device());
}

Status detach_volume(api::ApiClient& api, const Settings& settings, std::ostream& out) {
  v1::DetachVolumeRequest request;
  request.set_name(settings.name);
  auto done = api.detach_volume(request);
  if (!done) return done.status();
  return show_change(settings, out, done->volume(), "Volume " + settings.name + " is detached.");
}

Status mount_volume(api::ApiClient& api, const Settings& settings, std::ostream& out) {
  v1::MountVolumeRequest request;
  request.set_name(settings.name);
  request.set_caller_id(settings.caller);
  request.set_target(absolute(settings.target));
  auto done = api.mount_volume(request);
  if (!done) return done.status();
  if (settings.json) {
    print_json(out, to_json(*done));
  } else {
    out << done->mountpoint() << "\n";
  }
  return Status::ok();
}

Status unmount_volume(api::ApiClient& api, const Settings& settings, std::ostream& out) {
  v1::UnmountVolumeRequest request;
  request.set_name(settings.name);
  request.set_caller_id(settings.caller);
  request.set_target(absolute(settings.target));
  auto done = api.unmount_volume(request);
  if (!done) return done.status();
  const v1::Volume& volume = done->volume();
  std::string sentence = "Volume " + settings.name + " is unmounted.";
  if (volume.mount_ids_size() > 0)
    sentence = "Volume " + settings.name + " stays mounted for " + volume.mount_ids(0) +
               (volume.mount_ids_size() > 1 ? " and others" : "") + ".";
  if (!volume.unmount_waits().empty())
    sentence = "Volume " + settings.name + ": " + volume.unmount_waits() + ".";
  return show_change(settings, out, volume, sentence);
}

Status show_events(api::ApiClient& api, const Settings& settings, std::ostream& out) {
  v1::WatchEventsRequest request;
  request.set_follow(settings.follow);
  request.set_all_nodes(!settings.event_here);
  request.set_kind(settings.event_kind);
  request.set_subject(settings.event_subject);
  if (!settings.event_since.empty()) {
    auto seconds = parse_duration(settings.event_since);
    if (!seconds) return seconds.status().with_context("--since");
    const int64_t now = std::time(nullptr);
    request.mutable_since()->set_seconds(now - static_cast<int64_t>(*seconds));
  }
  return api.watch_events(request, [&](const v1::Event& event) {
    if (settings.json) {
      out << to_json(event).dump() << std::endl;
    } else {
      out << TimeUtil::ToString(event.time()) << "  " << event.kind() << "  " << event.subject()
          << "  " << event.message() << (event.node().empty() ? "" : "  (node ") << event.node()
          << (event.node().empty() ? "" : ")") << std::endl;
    }
  });
}

}  // namespace cvol::cli
