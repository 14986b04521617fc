// Staging: a reserved volume as a device or file system of this node, at paths that an orchestrator
// names. The record says what is wanted before anything is done, and loses it when all is undone.
#include <algorithm>
#include <filesystem>

#include "volumed/base/crash_point.h"
#include "volumed/base/log.h"
#include "volumed/mount/mount.h"
#include "volumed/volume/hosted.h"

namespace cvol::volume {
namespace {

constexpr std::size_t kMostPathBytes = 4000;
constexpr int kMostTargets = 1024;

Status invalid(const std::string& text) {
  return Status(Code::kInvalidArgument, text);
}

Status validate_path(const std::string& path, const char* what) {
  const std::filesystem::path parts(path);
  const bool climbs =
      std::any_of(parts.begin(), parts.end(), [](const auto& part) { return part == ".."; });
  if (!parts.is_absolute() || climbs || path.size() > kMostPathBytes ||
      parts.lexically_normal() == std::filesystem::path("/") || path.find('\n') != path.npos)
    return invalid(std::string(what) + " '" + path + "' is no absolute path without '..'");
  return Status::ok();
}

Status validate(const StageRequest& request) {
  CVOL_TRY(validate_path(request.path, "path"));
  if (!request.fs.empty()) CVOL_TRY(mount::validate_file_system(request.fs));
  CVOL_TRY(mount::parse_mount_flags(request.mount_flags).status());
  const bool number = std::all_of(request.group.begin(), request.group.end(),
                                  [](char c) { return c >= '0' && c <= '9'; });
  if (!number || request.group.size() > 9) return invalid("a group is given by its number");
  return Status::ok();
}

v1::StageRecord record_of_request(const StageRequest& request, const std::string& fs,
                                  bool read_only, const std::string& boot_id) {
  v1::StageRecord stage;
  stage.set_path(request.path);
  stage.set_block(request.block);
  if (!request.block) stage.set_fs(fs);
  for (const std::string& flag : request.mount_flags) stage.add_flags(flag);
  stage.set_read_only(read_only);
  stage.set_boot_id(boot_id);
  stage.set_group(request.group);
  return stage;
}

bool is_same_stage(const v1::StageRecord& a, const v1::StageRecord& b) {
  return a.path() == b.path() && a.block() == b.block() && a.fs() == b.fs() &&
         a.read_only() == b.read_only() && a.group() == b.group() &&
         std::equal(a.flags().begin(), a.flags().end(), b.flags().begin(), b.flags().end());
}

// Of its own will: by its publishing, its access mode or a mount flag. The last word counts.
bool is_meant_read_only(const v1::StageRecord& stage) {
  bool read_only = false;
  for (const std::string& flag : stage.flags()) {
    if (flag == "ro" || flag == "rw") read_only = flag == "ro";
  }
  return stage.read_only() || read_only;
}

}  // namespace

// Checks that the volume is this node's, and notes what is wanted.
Status VolumeManager::note_stage(Hosted& hosted, const StageRequest& request) {
  return change_record(hosted, [&](v1::VolumeRecord& next) {
    const v1::SessionRecord& session = next.session();
    if (!session.reserved() || session.node_id() != node_.id)
      return Status(
          Code::kFailedPrecondition,
          "volume '" + hosted.name + "' is not reserved (published) for node " + node_.name);
    if (next.mount().caller_ids_size() > 0)
      return Status(Code::kFailedPrecondition,
                    "volume '" + hosted.name + "' is mounted for " + next.mount().caller_ids(0));
    const std::string fs = request.fs.empty() ? next.fs() : request.fs;
    v1::StageRecord wanted =
        record_of_request(request, fs, request.read_only || session.read_only(), options_.boot_id);
    if (!next.has_stage()) {
      if (!request.block && fs != next.fs()) {
        if (next.format_state() == v1::FORMAT_STATE_DONE)
          return Status(Code::kFailedPrecondition, "volume '" + hosted.name + "' has file system " +
                                                       next.fs() + ", not " + fs);
        next.set_fs(fs);
      }
      *next.mutable_stage() = std::move(wanted);
      return Status::ok();
    }
    if (next.stage().path() != request.path)
      return Status(Code::kFailedPrecondition, "volume '" + hosted.name + "' is staged at " +
                                                   next.stage().path() + " already");
    if (!is_same_stage(next.stage(), wanted))
      return Status(Code::kAlreadyExists, "volume '" + hosted.name + "' is staged at " +
                                              request.path + " in another way");
    return Status::ok();
  });
}

Result<VolumeView> VolumeManager::stage(const std::string& name, const StageRequest& request) {
  CVOL_TRY(validate(request));
  auto hosted = require_ready(name);
  if (!hosted) return hosted.status();
  Hosted& volume = **hosted;
  std::unique_lock operation(volume.operation, std::try_to_lock);
  if (!operation) return busy(name);
  if (!request.mkfs_options.empty())
    CVOL_TRY(mount::validate_mkfs_options(request.fs.empty() ? record_of(volume).fs() : request.fs,
                                          request.mkfs_options));
  const bool was_staged = record_of(volume).has_stage();
  CVOL_TRY(note_stage(volume, request));
  crash_point("stage-noted");
  Status staged = make_stage(volume, request);
  if (!staged.is_ok() && !was_staged) {
    // Nothing was promised: nothing stays.
    if (Status undone = undo_stage(volume); !undone.is_ok())
      log::warning("volume", "what is left of a staging stays until it is unstaged",
                   {{"volume", name}, {"error", undone.message()}});
  }
  if (!staged.is_ok()) return staged.with_context("stage volume '" + name + "'");
  return view_after(volume);
}

// The caller holds hosted.operation. Idempotent: does what is still missing.
Status VolumeManager::make_stage(Hosted& hosted, const StageRequest& request) {
  const v1::StageRecord stage = record_of(hosted).stage();
  // Before there is a device: it holds what users put there.
  if (stage.block() && !stage.read_only() &&
      record_of(hosted).format_state() != v1::FORMAT_STATE_DONE)
    CVOL_TRY(update(hosted,
                    [](v1::VolumeRecord& next) { next.set_format_state(v1::FORMAT_STATE_DONE); }));
  auto device = attach_device(hosted);
  if (!device) return device.status();
  crash_point("stage-attached");
  // Of the staging alone: those who share the device share what it is.
  if (stage.block())
    return file_systems_->set_read_only(hosted.name, device->path, stage.read_only());
  auto seen = file_systems_->what_is_at(stage.path(), device->path);
  if (!seen) return seen.status();
  if (*seen == mount::Seen::kForeign)
    return Status(Code::kFailedPrecondition,
                  "what is mounted at " + stage.path() +
                      " is not this volume; it stays: unmount it, then stage again");
  if (*seen == mount::Seen::kOurs) return check_sound(stage);
  CVOL_TRY(prepare_file_system(hosted, device->path, request.mkfs_options));
  crash_point("stage-formatted");
  auto found = file_systems_->probe(hosted.name, device->path);
  if (!found) return found.status();
  if (*found != stage.fs())
    return Status(Code::kFailedPrecondition,
                  "the volume was used before and holds " + (found->empty() ? "data" : *found) +
                      ", no file system " + stage.fs() + "; cvol never overwrites data");
  CVOL_TRY(file_systems_->check(hosted.name, device->path, stage.fs(), stage.read_only()));
  std::vector<std::string> flags(stage.flags().begin(), stage.flags().end());
  if (stage.read_only()) flags.emplace_back("ro");
  CVOL_TRY(file_systems_->mount_with(hosted.name, device->path, stage.path(), stage.fs(), flags));
  crash_point("stage-mounted");
  if (!stage.group().empty() && !stage.read_only())
    CVOL_TRY(file_systems_->give_to_group(hosted.name, stage.path(), stage.group()));
  if (!stage.read_only()) grow_after_mount(hosted, device->path, stage.path());
  events_.add("volume_staged", hosted.name, "mounted " + device->path + " at " + stage.path());
  return Status::ok();
}

// The caller holds hosted.operation. Idempotent.
Status VolumeManager::undo_stage(Hosted& hosted) {
  const v1::StageRecord stage = record_of(hosted).stage();
  if (!stage.block()) {
    auto seen = file_systems_->what_is_at(stage.path(), view_of(hosted, devices()).device);
    if (!seen) return seen.status();
    // What others mounted there is theirs; the record and the device of the volume go.
    if (*seen == mount::Seen::kOurs) CVOL_TRY(file_systems_->unmount(hosted.name, stage.path()));
  }
  crash_point("unstage-unmounted");
  CVOL_TRY(detach_device(hosted));
  crash_point("unstage-detached");
  return update(hosted, [](v1::VolumeRecord& next) { next.clear_stage(); });
}

// The caller holds hosted.operation. What a crash left of a staging that was never whole: its
// device is there and nothing of it is mounted. A staging that is in use is its orchestrator's to
// end.
Status VolumeManager::end_cut_stage(Hosted& hosted) {
  const v1::VolumeRecord record = record_of(hosted);
  const Status used(Code::kFailedPrecondition,
                    "volume '" + hosted.name + "' is used by an orchestrator (staged at " +
                        record.stage().path() + "), which has to unpublish and unstage it");
  if (record.session().node_id() != node_.id || record.stage().block()) return used;
  const std::string device = view_of(hosted, devices()).device;
  std::vector<std::string> paths = {record.stage().path()};
  for (const auto& [target, how] : record.stage().targets()) paths.push_back(target);
  for (const std::string& path : paths) {
    auto seen = file_systems_->what_is_at(path, device);
    if (!seen) return seen.status();
    if (*seen == mount::Seen::kOurs) return used;
  }
  CVOL_TRY(undo_stage(hosted).with_context("end a staging that was cut off"));
  events_.add("volume_unstaged", hosted.name, "ended a staging that was cut off");
  return Status::ok();
}

Result<VolumeView> VolumeManager::unstage(const std::string& name, const std::string& path) {
  CVOL_TRY(validate_path(path, "path"));
  auto hosted = require_ready(name);
  if (!hosted) return hosted.status();
  Hosted& volume = **hosted;
  std::unique_lock operation(volume.operation, std::try_to_lock);
  if (!operation) return busy(name);
  CVOL_TRY(refresh(volume));
  if (is_device_over(volume)) CVOL_TRY(clear_away(volume));
  const v1::VolumeRecord record = record_of(volume);
  if (!record.has_stage() || record.stage().path() != path ||
      record.session().node_id() != node_.id)
    return view_after(volume);
  const std::string device = view_of(volume, devices()).device;
  for (const auto& [target, how] : record.stage().targets()) {
    auto seen = file_systems_->what_is_at(target, device);
    if (!seen) return seen.status();
    if (*seen == mount::Seen::kOurs)
      return Status(Code::kFailedPrecondition,
                    "volume '" + name + "' is still shown at " + target + "; hide it there first");
  }
  CVOL_TRY(undo_stage(volume).with_context("unstage volume '" + name + "'"));
  events_.add("volume_unstaged", name, "unmounted and detached volume");
  return view_after(volume);
}

Status VolumeManager::note_target(Hosted& hosted, const ShowRequest& request) {
  return change_record(hosted, [&](v1::VolumeRecord& next) {
    if (!next.has_stage() || next.session().node_id() != node_.id)
      return Status(Code::kFailedPrecondition,
                    "volume '" + hosted.name + "' is not staged on node " + node_.name);
    if (next.stage().path() != request.path)
      return Status(Code::kFailedPrecondition, "volume '" + hosted.name + "' is staged at " +
                                                   next.stage().path() + ", not at " +
                                                   request.path);
    auto& targets = *next.mutable_stage()->mutable_targets();
    const auto known = targets.find(request.target);
    const bool is_known = known != targets.end();
    if (is_known &&
        (known->second.read_only() != request.read_only || known->second.use() != request.use))
      return Status(Code::kAlreadyExists, "volume '" + hosted.name + "' is shown at " +
                                              request.target + " in another way");
    if (next.stage().block() && request.read_only && !next.stage().read_only())
      return Status(Code::kFailedPrecondition,
                    "block volume '" + hosted.name +
                        "' is staged for writing, and a device that is shared cannot be "
                        "read-only for one alone: publish it to the node read-only");
    if (is_known) return Status::ok();
    if (request.alone && !targets.empty())
      return Status(Code::kFailedPrecondition, "volume '" + hosted.name + "' is shown at " +
                                                   targets.begin()->first +
                                                   " already, and is to be used once");
    if (static_cast<int>(targets.size()) >= kMostTargets)
      return Status(Code::kFailedPrecondition, "it is shown at 1024 places already");
    targets[request.target].set_read_only(request.read_only);
    targets[request.target].set_use(request.use);
    return Status::ok();
  });
}

Result<VolumeView> VolumeManager::show(const std::string& name, const ShowRequest& request) {
  CVOL_TRY(validate_path(request.path, "path"));
  CVOL_TRY(validate_path(request.target, "target"));
  if (request.use.size() > kMostPathBytes) return invalid("the use is longer than 4000 bytes");
  auto hosted = require_ready(name);
  if (!hosted) return hosted.status();
  Hosted& volume = **hosted;
  std::unique_lock operation(volume.operation, std::try_to_lock);
  if (!operation) return busy(name);
  CVOL_TRY(refresh(volume));
  const bool was_shown = record_of(volume).stage().targets().contains(request.target);
  if (!was_shown) {
    auto seen = file_systems_->what_is_at(request.target, view_of(volume, devices()).device);
    if (!seen) return seen.status();
    if (*seen == mount::Seen::kForeign)
      return Status(Code::kFailedPrecondition,
                    "what is mounted at " + request.target + " is not volume '" + name +
                        "'; it stays: unmount it, or choose another target");
  }
  CVOL_TRY(note_shown(volume, request.target));
  CVOL_TRY(note_target(volume, request));
  crash_point("show-noted");
  Status shown = make_target(volume, request);
  if (!shown.is_ok() && !was_shown) (void)undo_target(volume, request.target).is_ok();
  if (!shown.is_ok()) return shown.with_context("show volume '" + name + "'");
  crash_point("show-done");
  return view_after(volume);
}

Status VolumeManager::make_target(Hosted& hosted, const ShowRequest& request) {
  const v1::StageRecord stage = record_of(hosted).stage();
  const bool read_only = request.read_only || stage.read_only();
  const std::string device = view_of(hosted, devices()).device;
  const Status interrupted(Code::kFailedPrecondition,
                           "its staging was interrupted; stage it again before it is shown");
  if (device.empty()) return interrupted;
  if (stage.block()) return file_systems_->show_device(hosted.name, device, request.target);
  auto seen = file_systems_->what_is_at(stage.path(), device);
  if (!seen) return seen.status();
  if (*seen != mount::Seen::kOurs) return interrupted;
  CVOL_TRY(check_sound(stage));
  return file_systems_->show_files(hosted.name, stage.path(), request.target, read_only);
}

// Nothing new is begun on a file system that broke.
Status VolumeManager::check_sound(const v1::StageRecord& stage) {
  auto usage = file_systems_->usage(stage.path());
  if (!usage) return usage.status();
  const std::string trouble = mount::trouble_of(*usage, is_meant_read_only(stage));
  if (trouble.empty()) return Status::ok();
  return Status(Code::kFailedPrecondition, "the file system at " + stage.path() + " " + trouble);
}

Status VolumeManager::undo_target(Hosted& hosted, const std::string& target) {
  const std::string device = view_of(hosted, devices()).device;
  if (!record_of(hosted).stage().targets().contains(target)) {
    if (was_shown(hosted, target)) {  // by an attachment that has ended since
      CVOL_TRY(file_systems_->hide(hosted.name, target, device));
      forget_shown(hosted, target);
      return Status::ok();
    }
    // Never shown there, so nothing there is the volume's, unless its device says so.
    if (device.empty()) return Status::ok();
    auto seen = file_systems_->what_is_at(target, device);
    if (!seen) return seen.status();
    return *seen == mount::Seen::kOurs ? file_systems_->hide(hosted.name, target, device)
                                       : Status::ok();
  }
  CVOL_TRY(file_systems_->hide(hosted.name, target, device));
  forget_shown(hosted, target);
  crash_point("hide-done");
  return update(hosted, [&](v1::VolumeRecord& next) {
    if (next.has_stage()) next.mutable_stage()->mutable_targets()->erase(target);
  });
}

Result<VolumeView> VolumeManager::hide(const std::string& name, const std::string& target) {
  CVOL_TRY(validate_path(target, "target"));
  auto hosted = require_ready(name);
  if (!hosted) return hosted.status();
  Hosted& volume = **hosted;
  std::unique_lock operation(volume.operation, std::try_to_lock);
  if (!operation) return busy(name);
  CVOL_TRY(refresh(volume));
  if (is_device_over(volume)) CVOL_TRY(clear_away(volume));
  CVOL_TRY(undo_target(volume, target).with_context("hide volume '" + name + "'"));
  return view_after(volume);
}

Result<UsageView> VolumeManager::usage(const std::string& name, const std::string& path) {
  CVOL_TRY(validate_path(path, "path"));
  auto hosted = require_ready(name);
  if (!hosted) return hosted.status();
  auto view = view_after(**hosted);
  if (!view) return view.status();
  const v1::StageRecord& stage = view->record.stage();
  const bool here = view->record.session().node_id() == node_.id && view->record.has_stage();
  if (!here || (path != stage.path() && !stage.targets().contains(path)))
    return Status(Code::kNotFound, "volume '" + name + "' is not at " + path);
  UsageView answer;
  answer.usage.total_bytes = view->record.size_bytes();
  if (!stage.block()) {
    auto seen = file_systems_->what_is_at(path, view->device);
    if (!seen) return seen.status();
    if (*seen != mount::Seen::kOurs)
      return Status(Code::kNotFound, "volume '" + name + "' is not mounted at " + path);
    auto usage = file_systems_->usage(path);
    if (!usage) return usage.status();
    answer.usage = *usage;
    const auto target = stage.targets().find(path);
    const bool reader = target != stage.targets().end() && target->second.read_only();
    answer.trouble = mount::trouble_of(*usage, is_meant_read_only(stage) || reader);
  }
  answer.volume = std::move(*view);
  return answer;
}

// The record as it is now, not as the watch told last.
Status VolumeManager::refresh(Hosted& hosted) {
  if (!cluster_) return Status::ok();
  auto entry = catalog_.load_volume(hosted.id);
  if (!entry) return entry.status();
  cluster_->learned(*entry);
  std::lock_guard lock(mutex_);
  if (entry->revision > hosted.entry.revision) hosted.entry = std::move(*entry);
  return Status::ok();
}

// What is left of a staging whose device has gone, of a device of a volume's kind only.
void VolumeManager::unmount_lost_stage(const std::string& name, const v1::StageRecord& stage) {
  std::vector<std::string> paths;
  for (const auto& [target, how] : stage.targets()) paths.push_back(target);
  if (!stage.block()) paths.push_back(stage.path());
  for (const std::string& path : paths) {
    auto seen = file_systems_->what_is_at(path, "");
    if (seen && *seen == mount::Seen::kOurs)
      (void)file_systems_->unmount_lazily(name, path).is_ok();
  }
}

// At start. True if the volume is staged here, rightly, and the rest of the settling is over.
bool VolumeManager::settle_stage(Hosted& hosted, bool device_lives) {
  const v1::VolumeRecord record = record_of(hosted);
  if (!record.has_stage() || record.session().node_id() != node_.id) return false;
  const bool same_boot = record.stage().boot_id() == options_.boot_id;
  // What is missing of it is made when it is staged again, and undone when it is unstaged.
  if (same_boot && device_lives) return true;
  // After a boot nothing that is mounted there can be of this staging.
  if (same_boot) unmount_lost_stage(hosted.name, record.stage());
  if (!record.stage().targets().empty())
    log::warning("volume", "a staged volume did not survive; it has to be staged again",
                 {{"volume", hosted.name}, {"reboot", !same_boot}});
  if (Status gone = update(hosted, [](v1::VolumeRecord& next) { next.clear_stage(); }); !gone)
    log::error("volume", "cannot forget a lost staging", {{"error", gone.message()}});
  return false;
}

}  // namespace cvol::volume
