// Attachments that are kept for a node before there is a device (R12), and devices of attachments
// that are over.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <thread>

#include "volumed/base/crash_point.h"
#include "volumed/base/log.h"
#include "volumed/volume/hosted.h"

namespace cvol::volume {
namespace {

using namespace std::chrono_literals;
constexpr auto kFenceTime = 15s;   // until nothing of the attachment before can land
constexpr auto kReleaseTime = 5s;  // the same, when nobody waits for the volume yet
constexpr auto kArrivalTime = 3s;  // of a record that another node has just made

std::string new_session() {
  Random random = Random::from_system();
  return Uuid::make(random).to_string();
}

void begin_session(v1::VolumeRecord& record, const std::string& node) {
  v1::SessionRecord& session = *record.mutable_session();
  session.set_id(new_session());
  session.set_node_id(node);
  session.set_generation(session.generation() + 1);
  record.clear_stage();
  record.set_epoch(record.epoch() + 1);
}

}  // namespace

Status VolumeManager::busy(const std::string& name) {
  return Status(Code::kBusy, "another operation on volume '" + name +
                                 "' is under way; try again when it is over");
}

// As update() of hosted.h; `change` may refuse.
Status VolumeManager::change_record(Hosted& hosted,
                                    const std::function<Status(v1::VolumeRecord&)>& change) {
  std::lock_guard changing(hosted.record_lock);
  if (cluster_) {
    auto changed = cluster_->update(hosted.id, change);
    if (!changed) return changed.status();
    std::lock_guard lock(mutex_);
    if (changed->revision > hosted.entry.revision) hosted.entry = std::move(*changed);
    return Status::ok();
  }
  VolumeEntry entry;
  {
    std::lock_guard lock(mutex_);
    entry = hosted.entry;
  }
  v1::VolumeRecord next = entry.record;
  CVOL_TRY(change(next));
  CVOL_TRY(catalog_.update_volume(entry, std::move(next)));
  std::lock_guard lock(mutex_);
  hosted.entry = std::move(entry);
  return Status::ok();
}

std::string VolumeManager::resolve(const std::string& text) {
  auto id = Uuid::parse(text);
  if (!id) return text;
  const std::string wanted = id->to_string();
  const auto find_name = [&] {
    std::lock_guard lock(mutex_);
    for (const auto& [name, hosted] : volumes_) {
      if (hosted->id == wanted) return name;
    }
    return std::string();
  };
  std::string name = find_name();
  if (!name.empty() || !cluster_) return name.empty() ? text : name;
  // Another node may have made it a moment ago.
  auto entry = catalog_.load_volume(wanted);
  if (!entry || entry->record.state() == "removing") return text;
  cluster_->learned(*entry);
  for (auto waited = 0ms; name.empty() && waited < kArrivalTime; waited += 10ms) {
    std::this_thread::sleep_for(10ms);
    name = find_name();
  }
  return name.empty() ? text : name;
}

Result<std::string> VolumeManager::find_node_id(const std::string& node) {
  if (node == node_.name || node == node_.id) return node_.id;
  for (const ClusterNode& known : nodes()) {
    if (known.record.name() == node || known.record.id() == node) return known.record.id();
  }
  return Status(Code::kNotFound,
                "there is no node '" + node + "'; 'cvol node ls' shows those there are");
}

bool VolumeManager::is_node_alive(const std::string& id) {
  return id == node_.id || (cluster_ && cluster_->is_alive(id));
}

// The caller holds hosted.operation.
Status VolumeManager::reserve_for(Hosted& hosted, const std::string& node_id, bool read_only) {
  std::string from;
  if (const v1::VolumeRecord record = record_of(hosted); record.session().node_id() != node_id)
    settle_holder(record);
  CVOL_TRY(change_record(hosted, [&](v1::VolumeRecord& next) {
    from.clear();
    v1::SessionRecord& session = *next.mutable_session();
    const bool taken = !session.id().empty();
    if (taken && session.node_id() == node_id) {
      if (session.reserved() && session.read_only() != read_only)
        return Status(Code::kAlreadyExists, "volume '" + hosted.name +
                                                "' is reserved for this node already, " +
                                                (read_only ? "for writing" : "for reading only"));
    } else {
      if (taken && is_node_alive(session.node_id()))
        return Status(Code::kFailedPrecondition,
                      "volume '" + hosted.name + "' is attached on node " +
                          node_name(session.node_id()) +
                          ", which lives; it has to be given back there first");
      if (taken) {
        from = node_name(session.node_id());
        next.clear_mount();
      }
      begin_session(next, node_id);
    }
    session.set_reserved(true);
    session.set_read_only(read_only);
    return Status::ok();
  }));
  crash_point("reserve-noted");
  if (!from.empty())
    events_.add("volume_taken_over", hosted.name,
                "node " + node_name(node_id) + " took the volume over from node " + from);
  // Also when it was ours before: the call that made it so may not have come this far.
  return cluster_ ? confirm_epoch(hosted, kFenceTime) : Status::ok();
}

Result<VolumeView> VolumeManager::reserve(const std::string& name, const std::string& node,
                                          bool read_only) {
  auto hosted = require_ready(name);
  if (!hosted) return hosted.status();
  auto node_id = find_node_id(node);
  if (!node_id) return node_id.status();
  if (!is_node_alive(*node_id))
    return Status(Code::kUnavailable,
                  "node '" + node +
                      "' is not there: its volumed does not run, or cannot reach the "
                      "metadata store");
  std::unique_lock operation((*hosted)->operation, std::try_to_lock);
  if (!operation) return busy(name);
  CVOL_TRY(reserve_for(**hosted, *node_id, read_only));
  return view_after(**hosted);
}

Result<VolumeView> VolumeManager::release(const std::string& name, const std::string& node) {
  auto hosted = require_ready(name);
  if (!hosted) return hosted.status();
  Hosted& volume = **hosted;
  const std::string node_id = node.empty()                 ? ""
                              : find_node_id(node).is_ok() ? *find_node_id(node)
                                                           : "";
  std::unique_lock operation(volume.operation, std::try_to_lock);
  if (!operation) return busy(name);
  bool released = false;
  CVOL_TRY(change_record(volume, [&](v1::VolumeRecord& next) {
    released = false;
    v1::SessionRecord& session = *next.mutable_session();
    if (session.id().empty() || !session.reserved()) return Status::ok();
    // A node that is in no record any more may be called by a name that nobody knows.
    const bool known = find_node_id(session.node_id()).is_ok();
    if (!node.empty() && (known || !node_id.empty()) && session.node_id() != node_id)
      return Status::ok();
    if (next.has_stage() && is_node_alive(session.node_id()))
      return Status(Code::kFailedPrecondition, "volume '" + name + "' is still used on node " +
                                                   node_name(session.node_id()) + " (staged at " +
                                                   next.stage().path() + "), which lives");
    session.clear_id();
    session.clear_node_id();
    session.clear_reserved();
    session.clear_read_only();
    next.clear_stage();
    next.set_epoch(next.epoch() + 1);
    released = true;
    return Status::ok();
  }));
  crash_point("release-noted");
  if (released && cluster_) {
    if (Status done = confirm_epoch(volume, kReleaseTime); !done.is_ok())
      log::warning("volume", "a release is not confirmed by the volume's primary yet",
                   {{"volume", name}, {"error", done.message()}});
  }
  return view_after(volume);
}

// --- devices of attachments that are over ---

std::string VolumeManager::session_file(const std::string& name) const {
  return options_.data_dir + "/attach-sessions/" + name;
}

// Before the device is there: one that is found later belongs to this session.
Status VolumeManager::note_device_session(Hosted& hosted) {
  if (!cluster_) return Status::ok();
  const std::string folder = options_.data_dir + "/attach-sessions";
  if (::mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST)
    return status_from_errno(errno, "create " + folder);
  const std::string path = session_file(hosted.name);
  // No volume's name begins with a dot.
  const std::string fresh = folder + "/." + hosted.name + ".new";
  const std::string text = record_of(hosted).session().id() + "\n" + hosted.id + "\n";
  const int file = ::open(fresh.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (file < 0) return status_from_errno(errno, "create " + fresh);
  const bool written =
      ::write(file, text.data(), text.size()) == static_cast<ssize_t>(text.size()) &&
      ::fsync(file) == 0;
  const int error = errno;
  ::close(file);
  if (!written) return status_from_errno(error, "write " + fresh);
  if (::rename(fresh.c_str(), path.c_str()) != 0)
    return status_from_errno(errno, "rename " + fresh);
  return Status::ok();
}

void VolumeManager::forget_device_session(const std::string& name) {
  ::unlink(session_file(name).c_str());
}

// True if what is attached here was attached by a session that has ended since: another node may
// have written, so nothing that is still in this host's caches may come to the volume.
bool VolumeManager::is_device_over(Hosted& hosted) {
  if (!cluster_) return false;
  std::ifstream file(session_file(hosted.name));
  std::string session;
  if (!std::getline(file, session) || session.empty()) return false;
  return session != record_of(hosted).session().id();
}

// The caller holds hosted.operation. Takes away what an ended attachment left on this host.
Status VolumeManager::clear_away(Hosted& hosted) {
  const std::string& name = hosted.name;
  v1::StageRecord lost;
  {
    std::lock_guard lock(mutex_);
    lost = hosted.lost_stage;
    hosted.mounted = false;
  }
  // Before anything is unmounted: what the kernel still wants to write has nowhere to go.
  if (attacher_) CVOL_TRY(attacher_->discard(name).with_context("an earlier attachment"));
  std::vector<std::string> paths = {mount_path(name)};
  for (const auto& [target, how] : lost.targets()) paths.push_back(target);
  if (!lost.path().empty()) paths.push_back(lost.path());
  for (const std::string& path : paths) {
    auto seen = file_systems_->what_is_at(path, "");
    if (seen && *seen == mount::Seen::kOurs)
      (void)file_systems_->unmount_lazily(name, path).is_ok();
  }
  forget_device_session(name);
  std::lock_guard lock(mutex_);
  hosted.lost_stage.Clear();
  return Status::ok();
}

}  // namespace cvol::volume
