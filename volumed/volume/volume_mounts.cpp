// Mounts: one file system per volume, used by a set of callers.
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>

#include "volumed/base/log.h"
#include "volumed/volume/hosted.h"

namespace cvol::volume {
namespace {

constexpr std::size_t kMostCallers = 4096;

Status validate_caller(const std::string& id) {
  const bool printable =
      std::all_of(id.begin(), id.end(), [](unsigned char c) { return c >= 0x20 && c != 0x7f; });
  if (id.empty() || id.size() > 256 || !printable)
    return Status(Code::kInvalidArgument, "a caller id has 1 to 256 printable characters");
  return Status::ok();
}

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

bool has_caller(const v1::MountRecord& mount, const std::string& id) {
  const auto& ids = mount.caller_ids();
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

void erase_caller(v1::MountRecord& mount, const std::string& id) {
  auto& ids = *mount.mutable_caller_ids();
  ids.erase(std::remove(ids.begin(), ids.end(), id), ids.end());
  mount.mutable_targets()->erase(id);
}

}  // namespace

std::string VolumeManager::mount_path(const std::string& name) const {
  return options_.data_dir + "/mounts/" + name;
}

Result<VolumeView> VolumeManager::mount(const std::string& name, const std::string& caller_id,
                                        const std::string& target) {
  CVOL_TRY(validate_caller(caller_id));
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
  const bool was_mounted = volume.mounted;
  Status mounted = mount_file_system(volume);
  if (mounted.is_ok()) mounted = add_caller(volume, caller_id, target);
  if (!mounted.is_ok()) {
    // Nobody uses it: do not leave a device behind.
    if (!was_mounted && record_of(volume).mount().caller_ids_size() == 0) {
      if (Status undone = unmount_file_system(volume); undone.is_ok())
        (void)detach_device(volume).is_ok();
    }
    return mounted.with_context("mount volume '" + name + "'");
  }
  return view_after(volume);
}

// The caller holds hosted.operation.
Status VolumeManager::mount_file_system(Hosted& hosted) {
  auto device = attach_device(hosted);
  if (!device) return device.status();
  const std::string path = mount_path(hosted.name);
  if (hosted.mounted && file_systems_->is_mounted(path)) return Status::ok();
  CVOL_TRY(prepare_file_system(hosted, device->path));
  CVOL_TRY(file_systems_->mount_device(hosted.name, device->path, path, record_of(hosted).fs()));
  Status made = file_systems_->make_data_folder(hosted.name, data_path(hosted.name));
  if (!made.is_ok()) {
    (void)file_systems_->unmount(hosted.name, path).is_ok();
    return made;
  }
  {
    std::lock_guard lock(mutex_);
    hosted.mounted = true;
  }
  // It holds what users put there from now on.
  if (record_of(hosted).format_state() != v1::FORMAT_STATE_DONE)
    CVOL_TRY(update(hosted,
                    [](v1::VolumeRecord& next) { next.set_format_state(v1::FORMAT_STATE_DONE); }));
  events_.add("volume_mounted", hosted.name, "mounted " + device->path + " at " + path);
  return Status::ok();
}

// Makes the file system if the device is empty. That mkfs may have begun is on stable storage
// before it does; an empty device is proven by make(), whatever the record says.
Status VolumeManager::prepare_file_system(Hosted& hosted, const std::string& device,
                                          const std::vector<std::string>& mkfs_options) {
  const v1::VolumeRecord record = record_of(hosted);
  if (record.format_state() == v1::FORMAT_STATE_DONE) return Status::ok();
  auto found = file_systems_->probe(hosted.name, device);
  if (!found) return found.status();
  if (*found == record.fs()) return Status::ok();  // made by somebody else, or by a mkfs of ours
  if (!found->empty())
    return Status(Code::kFailedPrecondition,
                  "the volume holds " + *found + ", and its file system should be " + record.fs() +
                      "; cvol never overwrites data: use it with 'cvol volume attach', or wipe "
                      "it there yourself");
  if (record.format_state() == v1::FORMAT_STATE_NONE)
    CVOL_TRY(update(
        hosted, [](v1::VolumeRecord& next) { next.set_format_state(v1::FORMAT_STATE_STARTED); }));
  Status made = file_systems_->make(hosted.name, device, record.fs(), mkfs_options);
  if (made.code() == Code::kFailedPrecondition && record.format_state() == v1::FORMAT_STATE_STARTED)
    return made.with_context(
        "an earlier making of the file system was interrupted; if nothing "
        "was ever stored on this volume, remove it and create it again");
  return made;
}

// The caller holds hosted.operation; the file system is mounted.
Status VolumeManager::add_caller(Hosted& hosted, const std::string& caller_id,
                                 const std::string& target) {
  const v1::VolumeRecord record = record_of(hosted);
  const bool known = has_caller(record.mount(), caller_id);
  const auto bound = record.mount().targets().find(caller_id);
  const std::string old = bound == record.mount().targets().end() ? "" : bound->second;
  if (known && old != target)
    return Status(Code::kAlreadyExists, "caller " + caller_id + " has it mounted " +
                                            (old.empty() ? "without a target" : "at " + old) +
                                            "; unmount that first");
  // Noted first: a bind that nobody knows of would stay behind after a crash.
  if (!known) CVOL_TRY(note_caller(hosted, caller_id, target));
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
                                  const std::string& target) {
  if (record_of(hosted).mount().caller_ids_size() >= static_cast<int>(kMostCallers))
    return Status(Code::kFailedPrecondition, "it has 4096 callers already");
  return update(hosted, [&](v1::VolumeRecord& next) {
    next.mutable_mount()->add_caller_ids(caller_id);
    next.mutable_mount()->set_boot_id(options_.boot_id);
    if (!target.empty()) (*next.mutable_mount()->mutable_targets())[caller_id] = target;
  });
}

Result<VolumeView> VolumeManager::unmount(const std::string& name, const std::string& caller_id) {
  CVOL_TRY(validate_caller(caller_id));
  auto hosted = require_ready(name);
  if (!hosted) return hosted.status();
  Hosted& volume = **hosted;
  std::lock_guard operation(volume.operation);
  if (find(name) != *hosted)
    return Status(Code::kNotFound, "volume '" + name + "' was removed meanwhile");
  CVOL_TRY(remove_caller(volume, caller_id));
  return view_after(volume);
}

// The caller holds hosted.operation. The record is the last to change: whatever interrupts this,
// the next process finds a mount that did not survive, and finishes.
Status VolumeManager::remove_caller(Hosted& hosted, const std::string& caller_id) {
  const v1::MountRecord record = record_of(hosted).mount();
  const bool known = has_caller(record, caller_id);
  const auto bound = record.targets().find(caller_id);
  if (bound != record.targets().end() && file_systems_->is_mounted(bound->second))
    CVOL_TRY(file_systems_->unmount(hosted.name, bound->second));
  if (record.caller_ids_size() == (known ? 1 : 0) &&
      (hosted.mounted || file_systems_->is_mounted(mount_path(hosted.name)))) {
    CVOL_TRY(unmount_file_system(hosted));
    CVOL_TRY(detach_device(hosted));
  }
  if (!known) return Status::ok();
  CVOL_TRY(update(hosted,
                  [&](v1::VolumeRecord& next) { erase_caller(*next.mutable_mount(), caller_id); }));
  drop_session_if_unused(hosted);
  return Status::ok();
}

// The caller holds hosted.operation. Idempotent.
Status VolumeManager::unmount_file_system(Hosted& hosted) {
  const std::string path = mount_path(hosted.name);
  if (!hosted.mounted && !file_systems_->is_mounted(path)) return Status::ok();
  CVOL_TRY(file_systems_->unmount(hosted.name, path)
               .with_context("unmount volume '" + hosted.name + "'"));
  {
    std::lock_guard lock(mutex_);
    hosted.mounted = false;
  }
  events_.add("volume_unmounted", hosted.name, "unmounted volume");
  return Status::ok();
}

}  // namespace cvol::volume
