// Unmounts: callers leave, and with the last of them the mount and its device. Whether anything
// else on the host still has the device is asked before the host's own mount goes. What cannot be
// finished at once is noted, and finished later by the mount keeper or by the next call.
#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include "volumed/base/log.h"
#include "volumed/volume/hosted.h"
#include "volumed/volume/mount_users.h"

namespace cvol::volume {
namespace {

constexpr std::chrono::milliseconds kDetachTurn{50};
constexpr int kDetachTurns = 10;

bool may_wait(const Leave& how) {
  return !how.use.empty() || !how.undo.empty();
}

// A stale caller is not asked for again: what keeps it may last.
Status still_used(const std::string& name, const std::string& users, bool lasting = false) {
  return Status(
      lasting ? Code::kFailedPrecondition : Code::kBusy,
      "volume '" + name + "' is still used by " + users + "; nothing was changed. End that first");
}

void clear_if_unused(v1::VolumeRecord& record) {
  if (record.mount().caller_ids_size() == 0 && !record.mount().detaching()) record.clear_mount();
}

bool all_leave(const v1::MountRecord& mount) {
  return std::all_of(mount.caller_ids().begin(), mount.caller_ids().end(),
                     [&](const std::string& id) { return is_leaving(mount, id); });
}

}  // namespace

// Who has the volume's device on this host, beyond what cvol mounted; "" if nobody.
Result<std::string> VolumeManager::other_users(Hosted& hosted) {
  const std::string device = view_of(hosted, devices()).device;
  if (device.empty()) return std::string();
  const v1::VolumeRecord record = record_of(hosted);
  std::vector<std::string> ours = {mount_path(hosted.name)};
  for (const auto& [caller, target] : record.mount().targets()) ours.push_back(target);
  if (!record.stage().path().empty()) ours.push_back(record.stage().path());
  for (const auto& [target, how] : record.stage().targets()) ours.push_back(target);
  return file_systems_->users(device, ours);
}

Result<VolumeView> VolumeManager::unmount(const std::string& name, const std::string& caller_id,
                                          const Leave& how) {
  CVOL_TRY(validate_caller(caller_id));
  for (const std::string& word : {how.use, how.undo}) {
    if (!word.empty()) CVOL_TRY(validate_caller(word));
  }
  auto hosted = require(name);
  if (!hosted) return hosted.status();
  Hosted& volume = **hosted;
  std::lock_guard operation(volume.operation);
  if (find(name) != *hosted)
    return Status(Code::kNotFound, "volume '" + name + "' was removed meanwhile");
  if (!apply_pending(volume) && !may_wait(how))
    return Status(Code::kUnavailable,
                  "an earlier unmount of volume '" + name + "' is not noted yet; try again");
  CVOL_TRY(remove_caller(volume, caller_id, how));
  return view_after(volume);
}

// The caller holds hosted.operation. The record is the last to change: whatever interrupts this,
// the next process finds a mount that did not survive, and finishes.
Status VolumeManager::remove_caller(Hosted& hosted, const std::string& caller_id,
                                    const Leave& how) {
  const v1::VolumeRecord whole = record_of(hosted);
  const v1::MountRecord& record = whole.mount();
  const bool known = has_caller(record, caller_id);
  if (known && !is_mount_of(whole, node_.id))
    return Status(
        Code::kFailedPrecondition,
        "volume '" + hosted.name + "' is mounted for " + caller_id + " on node " +
            node_name(record.node_id().empty() ? whole.session().node_id() : record.node_id()) +
            "; unmount it there");
  if (is_done(record, caller_id, how)) return Status::ok();
  if (v1::MountRecord left = record; take_one(left, caller_id, how)) {
    return note_leave(hosted, caller_id, how, [&](v1::MountRecord& mount) {
      if (!is_done(mount, caller_id, how)) take_one(mount, caller_id, how);
    });
  }
  const bool last = record.caller_ids_size() == (known ? 1 : 0) &&
                    (hosted.mounted || file_systems_->is_mounted(mount_path(hosted.name)));
  if (how.stale) CVOL_TRY(check_is_lost(hosted.name, caller_id));
  if (last || (known && how.stale)) {
    auto users = other_users(hosted);
    if (!users) return users.status();
    if (!users->empty() && known && may_wait(how))
      return leave_later(hosted, caller_id, how, *users);
    if (!users->empty()) return still_used(hosted.name, *users, how.stale);
  }
  const auto bound = record.targets().find(caller_id);
  if (bound != record.targets().end() && file_systems_->is_mounted(bound->second))
    CVOL_TRY(file_systems_->unmount(hosted.name, bound->second));
  if (last) {
    const Status gone = unmount_file_system(hosted);
    if (gone.code() == Code::kBusy && known && may_wait(how))
      return leave_later(hosted, caller_id, how, gone.message());
    CVOL_TRY(gone);
    CVOL_TRY(give_device_back(hosted));
  }
  if (!known) return Status::ok();
  CVOL_TRY(note_leave(hosted, caller_id, how,
                      [&](v1::MountRecord& mount) { erase_caller(mount, caller_id); }));
  drop_session_if_unused(hosted);
  return Status::ok();
}

// Changes the record; if the store is away, a caller who does not come again need not wait for it.
Status VolumeManager::note_leave(Hosted& hosted, const std::string& caller_id, const Leave& how,
                                 const std::function<void(v1::MountRecord&)>& change) {
  const Status noted = update(hosted, [&](v1::VolumeRecord& next) {
    change(*next.mutable_mount());
    clear_if_unused(next);
  });
  if (noted.is_ok() || !may_wait(how)) return noted;
  log::warning("volume", "an unmount is noted when the metadata store answers again",
               {{"volume", hosted.name}, {"caller", caller_id}, {"error", noted.message()}});
  hosted.pending_leaves.emplace_back(caller_id, how);
  keeper_of_mounts_->look(hosted.name);
  return Status::ok();
}

// nbd::ExportDirectory.
bool VolumeManager::is_in_use(const std::string& name) {
  std::lock_guard lock(mutex_);
  const auto found = volumes_.find(name);
  if (found == volumes_.end()) return false;
  const Hosted& hosted = *found->second;
  const v1::VolumeRecord& record = hosted.entry.record;
  const bool staged =
      record.has_stage() && !record.stage().block() && record.session().node_id() == node_.id;
  return hosted.mounted || staged;
}

// The caller has left, and something else has the device: the mount stays until that has gone.
Status VolumeManager::leave_later(Hosted& hosted, const std::string& caller_id, const Leave& how,
                                  const std::string& users) {
  log::warning("volume", "a volume is unmounted as soon as nothing uses it any more",
               {{"volume", hosted.name}, {"caller", caller_id}, {"users", users}});
  events_.add("volume_unmount_waits", hosted.name,
              "its user has left, but " + users + " still has it; it is unmounted after that");
  set_waits(hosted, "it is unmounted as soon as " + users + " has let it go");
  keeper_of_mounts_->look(hosted.name);
  return note_leave(hosted, caller_id, how, [&](v1::MountRecord& mount) {
    if (has_caller(mount, caller_id) && !is_leaving(mount, caller_id)) mount.add_leaving(caller_id);
  });
}

void VolumeManager::set_waits(Hosted& hosted, const std::string& text) {
  std::lock_guard lock(mutex_);
  hosted.waits = text;
}

// On a thread of the attacher's. The next mount makes a new device by itself.
void VolumeManager::tell_lost_device(const std::string& name, const std::string& device) {
  const std::string text = "the process that serves its device " + device +
                           " has ended (cvol-holder), so all its I/O fails; stop what uses it, and "
                           "mount or attach it again";
  events_.add("device_lost", name, text);
  if (HostedPtr hosted = find(name)) set_waits(*hosted, text);
}

// The caller holds hosted.operation. Nobody uses the mount any more. A device that a user attached
// himself stays his; one that the host still holds goes later.
Status VolumeManager::give_device_back(Hosted& hosted) {
  const v1::SessionRecord session = record_of(hosted).session();
  if (!session.id().empty() && session.attached_by_user() == session.id()) return Status::ok();
  Status gone = detach_device(hosted);
  // The namespace of a container that has just ended holds the device for a moment.
  for (int turn = 0; gone.code() == Code::kBusy && turn < kDetachTurns; ++turn) {
    std::this_thread::sleep_for(kDetachTurn);
    gone = detach_device(hosted);
  }
  if (gone.is_ok()) set_waits(hosted, "");
  if (gone.code() != Code::kBusy) return gone;
  log::warning("volume", "an unmounted volume is detached as soon as the host lets its device go",
               {{"volume", hosted.name}, {"reason", gone.message()}});
  set_waits(hosted, "it is unmounted, and detached as soon as the host lets its device go: " +
                        gone.message());
  keeper_of_mounts_->look(hosted.name);
  return update(hosted, [&](v1::VolumeRecord& next) {
    next.mutable_mount()->set_detaching(true);
    next.mutable_mount()->set_node_id(node_.id);
  });
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

// The caller holds hosted.operation. What would refuse a removal half-way refuses it before
// anything is changed; what an earlier unmount left is finished.
Status VolumeManager::check_removable(Hosted& hosted, bool force) {
  const v1::VolumeRecord record = record_of(hosted);
  if (!is_mount_of(record, node_.id) || attached_elsewhere(record)) return Status::ok();
  const bool unfinished = is_unfinished(record.mount()) || !hosted.pending_leaves.empty();
  if (!unfinished && !force) return Status::ok();
  auto users = other_users(hosted);
  if (!users) return users.status();
  if (!users->empty()) return still_used(hosted.name, *users, !force);
  if (!unfinished || finish(hosted)) return Status::ok();
  return Status(Code::kFailedPrecondition, "volume '" + hosted.name +
                                               "' has no user any more, but its device is still "
                                               "in use; remove it when it is detached");
}

// --- what is finished later ---

// The caller holds hosted.operation. Unmounts that the store did not take, in their order. False if
// one is left.
bool VolumeManager::apply_pending(Hosted& hosted) {
  std::vector<std::pair<std::string, Leave>> pending = std::move(hosted.pending_leaves);
  hosted.pending_leaves.clear();
  for (std::size_t i = 0; i < pending.size(); ++i) {
    const Status done = remove_caller(hosted, pending[i].first, pending[i].second);
    if (!done.is_ok())
      log::warning("volume", "a late unmount is refused",
                   {{"volume", hosted.name}, {"error", done.message()}});
    if (hosted.pending_leaves.empty()) continue;
    // It came back: what follows keeps its place behind it.
    hosted.pending_leaves.insert(hosted.pending_leaves.end(),
                                 pending.begin() + static_cast<std::ptrdiff_t>(i) + 1,
                                 pending.end());
    return false;
  }
  return true;
}

// The keeper's. True if nothing is left to do.
bool VolumeManager::finish_mount(const std::string& name) {
  HostedPtr hosted = find(name);
  if (!hosted || stopped_) return true;
  std::unique_lock operation(hosted->operation, std::try_to_lock);
  if (!operation) return false;
  if (find(name) != hosted) return true;
  const bool done = finish(*hosted);
  if (done) set_waits(*hosted, "");
  return done;
}

// The caller holds hosted.operation.
bool VolumeManager::finish(Hosted& hosted) {
  if (!is_mount_of(record_of(hosted), node_.id)) {
    hosted.pending_leaves.clear();
    return true;
  }
  if (!apply_pending(hosted)) return false;
  const v1::MountRecord mount = record_of(hosted).mount();
  if (mount.leaving_size() > 0) {
    if (all_leave(mount)) {
      auto users = other_users(hosted);
      if (!users || !users->empty() || !unmount_file_system(hosted) || !give_device_back(hosted))
        return false;
    }
    const Status noted = update(hosted, [&](v1::VolumeRecord& next) {
      for (const std::string& id : mount.leaving()) erase_caller(*next.mutable_mount(), id);
      clear_if_unused(next);
    });
    if (!noted.is_ok()) return false;
    events_.add("volume_unmount_finished", hosted.name, "what had kept its unmount has gone");
  }
  const v1::MountRecord left = record_of(hosted).mount();
  if (left.detaching()) {
    if (left.caller_ids_size() == 0 && !detach_device(hosted)) return false;
    const Status noted = update(hosted, [](v1::VolumeRecord& next) {
      next.mutable_mount()->set_detaching(false);
      clear_if_unused(next);
    });
    if (!noted.is_ok()) return false;
  }
  drop_session_if_unused(hosted);
  return true;
}

// Only dockerd knows whether a container of its own will use the volume again.
Status VolumeManager::check_is_lost(const std::string& name, const std::string& caller_id) {
  std::optional<bool> knows;
  if (options_.docker_knows) knows = options_.docker_knows(name);
  if (!knows)
    return Status(Code::kFailedPrecondition,
                  "volume '" + name + "' is mounted for " + caller_id +
                      ", and dockerd cannot be asked whether it still has a container with it "
                      "(volumed finds its socket by DOCKER_HOST). Start dockerd, or remove the "
                      "volume with 'cvol volume rm --force " +
                      name + "'");
  if (*knows)
    return Status(Code::kFailedPrecondition,
                  "dockerd still has a container with volume '" + name + "'");
  return Status::ok();
}

// The keeper's, now and then: users of dockerd's that it has lost (it was killed, or volumed was
// away when it unmounted) would keep the volume on this node for ever.
void VolumeManager::doubt_users() {
  if (!options_.docker_knows) return;
  std::vector<HostedPtr> all;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [name, hosted] : volumes_) all.push_back(hosted);
  }
  for (const HostedPtr& hosted : all) {
    if (stopped_) return;
    std::unique_lock operation(hosted->operation, std::try_to_lock);
    if (operation && find(hosted->name) == hosted) doubt_users_of(*hosted);
  }
}

// The caller holds hosted.operation. Nobody is dropped who may live: dockerd has to know of no
// container with the volume, nothing else may have the device, and the newest mount has to be old.
void VolumeManager::doubt_users_of(Hosted& hosted) {
  const v1::VolumeRecord record = record_of(hosted);
  if (!is_mount_of(record, node_.id) || attached_elsewhere(record)) return;
  if (std::chrono::steady_clock::now() - hosted.last_use < options_.mount_times.doubt) return;
  std::vector<std::string> doubted;
  for (const std::string& id : record.mount().caller_ids()) {
    if (id.starts_with(kDockerCaller)) doubted.push_back(id);
  }
  if (doubted.empty()) return;
  auto users = other_users(hosted);
  if (!users || !users->empty()) return;
  if (options_.docker_knows(hosted.name).value_or(true)) return;
  for (const std::string& id : doubted) {
    Leave stale;
    stale.stale = true;
    const Status gone = remove_caller(hosted, id, stale);
    if (!gone.is_ok()) {
      log::warning("volume", "a lost user stays",
                   {{"volume", hosted.name}, {"caller", id}, {"error", gone.message()}});
      return;
    }
    events_.add("volume_user_lost", hosted.name,
                id + " is forgotten: dockerd has no container with the volume, and nothing on "
                     "this host uses it");
  }
}

}  // namespace cvol::volume
