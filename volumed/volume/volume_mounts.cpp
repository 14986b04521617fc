// Mounts: one file system per volume, used by a set of callers.
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>

#include "volumed/base/log.h"
#include "volumed/volume/hosted.h"
#include "volumed/volume/mount_users.h"

namespace cvol::volume {
namespace {

constexpr std::size_t kMostCallers = 4096;

Status validate_target(const std::string& target) {
  if (target.empty()) return Status::ok();
  const std::filesystem::path path(target);
  const bool climbs =
      std::any_of(path.begin(), path.end(), [](const auto& part) { return part == ".."; });
  if (!path.is_absolute() || climbs || target.size() > 4000 ||
      path.lexically_normal() == std::filesystem::path("/"))
    return Status(Code::kInvalidArgument,
                  "mount target '" + target + "' is no absolute path without '..'");
  return Status::ok();
}

}  // namespace

Status VolumeManager::validate_caller(const std::string& id) {
  const bool printable =
      std::all_of(id.begin(), id.end(), [](unsigned char c) { return c >= 0x20 && c != 0x7f; });
  if (id.empty() || id.size() > 256 || !printable)
    return Status(Code::kInvalidArgument, "a caller id has 1 to 256 printable characters");
  return Status::ok();
}

std::string VolumeManager::mount_path(const std::string& name) const {
  return options_.data_dir + "/mounts/" + name;
}

Result<VolumeView> VolumeManager::mount(const std::string& name, const std::string& caller_id,
                                        const std::string& target, const std::string& use) {
  CVOL_TRY(validate_caller(caller_id));
  if (!use.empty()) CVOL_TRY(validate_caller(use));
  CVOL_TRY(validate_target(target));
  auto hosted = require_ready(name);
  if (!hosted) return hosted.status();
  Hosted& volume = **hosted;
  std::lock_guard operation(volume.operation);
  if (find(name) != *hosted)
    return Status(Code::kNotFound, "volume '" + name + "' was removed meanwhile");
  if (record_of(volume).has_stage())
    return Status(Code::kFailedPrecondition, "volume '" + name +
                                                 "' is used by an orchestrator (staged at " +
                                                 record_of(volume).stage().path() + ")");
  if (!apply_pending(volume))
    return Status(Code::kUnavailable,
                  "an earlier unmount of volume '" + name + "' is not noted yet; try again");
  const bool was_mounted = volume.mounted;
  Status mounted = mount_file_system(volume);
  if (mounted.is_ok()) mounted = add_caller(volume, caller_id, target, use);
  if (!mounted.is_ok()) {
    // Nobody uses it: do not leave a device behind.
    if (!was_mounted && record_of(volume).mount().caller_ids_size() == 0) {
      if (Status undone = unmount_file_system(volume); undone.is_ok())
        (void)give_device_back(volume).is_ok();
    }
    return mounted.with_context("mount volume '" + name + "'");
  }
  volume.last_use = std::chrono::steady_clock::now();
  set_waits(volume, "");
  if (caller_id.starts_with(kDockerCaller)) keeper_of_mounts_->watch();
  return view_after(volume);
}

// The caller holds hosted.operation.
Status VolumeManager::mount_file_system(Hosted& hosted) {
  auto device = attach_device(hosted);
  if (!device) return device.status();
  const std::string path = mount_path(hosted.name);
  if (hosted.mounted && file_systems_->is_mounted(path))
    return file_systems_->make_data_folder(hosted.name, data_path(hosted.name));
  CVOL_TRY(prepare_file_system(hosted, device->path));
  const std::string type = record_of(hosted).fs();
  CVOL_TRY(file_systems_->check(hosted.name, device->path, type, /*read_only=*/false));
  CVOL_TRY(file_systems_->mount_device(hosted.name, device->path, path, type,
                                       options_.privileged_mounts));
  Status made = file_systems_->make_data_folder(hosted.name, data_path(hosted.name));
  if (!made.is_ok()) {
    (void)file_systems_->unmount(hosted.name, path).is_ok();
    return made;
  }
  {
    std::lock_guard lock(mutex_);
    hosted.mounted = true;
  }
  grow_after_mount(hosted, device->path, path);
  events_.add("volume_mounted", hosted.name, "mounted " + device->path + " at " + path);
  return Status::ok();
}

// The caller holds hosted.operation; the file system is mounted.
Status VolumeManager::add_caller(Hosted& hosted, const std::string& caller_id,
                                 const std::string& target, const std::string& use) {
  const v1::VolumeRecord record = record_of(hosted);
  const bool known = has_caller(record.mount(), caller_id);
  const auto bound = record.mount().targets().find(caller_id);
  const std::string old = bound == record.mount().targets().end() ? "" : bound->second;
  if (known && old != target)
    return Status(Code::kAlreadyExists, "caller " + caller_id + " has it mounted " +
                                            (old.empty() ? "without a target" : "at " + old) +
                                            "; unmount that first");
  // Noted first: a bind that nobody knows of would stay behind after a crash.
  if (!known || !use.empty() || is_unfinished(record.mount()))
    CVOL_TRY(note_caller(hosted, caller_id, target, use));
  if (target.empty() || (known && file_systems_->is_mounted(target))) return Status::ok();
  Status shown = file_systems_->bind(hosted.name, data_path(hosted.name), target);
  if (!shown.is_ok() && !known) {
    (void)update(hosted, [&](v1::VolumeRecord& next) {
      erase_caller(*next.mutable_mount(), caller_id);
    }).is_ok();
  }
  return shown;
}

Status VolumeManager::note_caller(Hosted& hosted, const std::string& caller_id,
                                  const std::string& target, const std::string& use) {
  const v1::MountRecord mount = record_of(hosted).mount();
  const bool known = has_caller(mount, caller_id);
  if (!known && mount.caller_ids_size() >= static_cast<int>(kMostCallers))
    return Status(Code::kFailedPrecondition, "it has 4096 callers already");
  // A container that runs has the device in its own namespace. If nothing has it, dockerd has lost
  // the unmount before (it was killed, or volumed was away): the same id comes again, once.
  bool earlier_lives = false;
  if (!use.empty() && known) {
    auto users = other_users(hosted);
    earlier_lives = !users || !users->empty();
  }
  return update(hosted, [&](v1::VolumeRecord& next) {
    add_use(*next.mutable_mount(), caller_id, use, earlier_lives);
    next.mutable_mount()->set_node_id(node_.id);
    next.mutable_mount()->set_boot_id(options_.boot_id);
    if (!target.empty()) (*next.mutable_mount()->mutable_targets())[caller_id] = target;
  });
}

}  // namespace cvol::volume
