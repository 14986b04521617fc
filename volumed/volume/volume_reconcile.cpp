// Start and stop: what a process before this one left is finished, taken up again, or reported.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <set>

#include "nbd/attach/holders.h"
#include "volumed/base/log.h"
#include "volumed/volume/hosted.h"
#include "volumed/volume/replica_index.h"

namespace cvol::volume {
namespace {

Task<bool> stop_server(nbd::Server* server) {
  co_await server->stop();
  co_return true;
}

}  // namespace

Status VolumeManager::load_volumes() {
  auto entries = catalog_.load_volumes(problems_);
  if (!entries) return entries.status();
  for (const std::string& problem : problems_)
    log::error("volume", "a volume's record is damaged", {{"problem", problem}});
  const ReplicaIndex index(disk_set_.all());
  for (VolumeEntry& entry : *entries) settle_volume(std::move(entry), index);
  look_for_unknown_replicas();
  return Status::ok();
}

void VolumeManager::settle_volume(VolumeEntry entry, const ReplicaIndex& index) {
  auto hosted = std::make_shared<Hosted>();
  hosted->name = entry.record.name();
  hosted->id = entry.record.id();
  hosted->entry = std::move(entry);
  hosted->problem = find_replica(*hosted, index);
  if (hosted->entry.record.state() != "ready" && drop_unfinished(hosted->entry, index)) return;
  if (!hosted->problem.empty())
    log::error("volume", "a volume is damaged",
               {{"volume", hosted->name}, {"problem", hosted->problem}});
  volumes_[hosted->name] = std::move(hosted);
}

// Finds our replica by its id; returns what is wrong, or nothing. Its disk is known from the start,
// its number when the disk is open.
std::string VolumeManager::find_replica(Hosted& hosted, const ReplicaIndex& index) {
  const v1::VolumeRecord record = record_of(hosted);
  for (const v1::MemberRecord& member : record.members()) {
    if (member.node_id() != node_.id) continue;
    Disk* disk = disk_set_.find(member.disk_id());
    if (disk == nullptr)
      return "its disk " + member.disk_id() + " is not known here; add it with 'cvol disk add'";
    if (hosted.disk == nullptr) hosted.disk = disk;
    if (disk->engine == nullptr)
      return "its disk " + disk->path() + " does not work: " + disk->problem();
    const auto info = index.find(*disk, member.replica_id());
    if (!info)
      return "its replica is not on disk " + disk->path() +
             "; put the right disk back, or remove the volume with --force";
    hosted.replica = info->number;
    if (info->size_bytes < record.size_bytes())
      return "its replica on disk " + disk->path() + " is smaller than the volume";
    return "";
  }
  return "it has no replica on this node";
}

// A creation or a removal that a crash cut in two. Neither holds data that anybody was promised.
bool VolumeManager::drop_unfinished(const VolumeEntry& entry, const ReplicaIndex& index) {
  const v1::VolumeRecord& record = entry.record;
  for (const v1::MemberRecord& member : record.members()) {
    Disk* disk = disk_set_.find(member.disk_id());
    if (disk == nullptr) return false;
    Status removed = Status::ok();
    if (!works(disk)) {
      removed = note_removed(record, disk->id);
    } else if (const auto info = index.find(*disk, member.replica_id())) {
      removed = disk->run<Status>(
          [&](store::DiskEngine& engine) { return engine.remove_replica(info->number); });
    }
    if (!removed.is_ok() && removed.code() != Code::kNotFound) {
      log::error("volume", "cannot remove the replica of an unfinished volume",
                 {{"volume", record.name()}, {"error", removed.message()}});
      return false;
    }
  }
  if (Status erased = catalog_.erase_volume(entry); !erased.is_ok()) {
    log::error("volume", "cannot remove the record of an unfinished volume",
               {{"volume", record.name()}, {"error", erased.message()}});
    return false;
  }
  const char* done = record.state() == "creating" ? "undid a creation that a crash had cut short"
                                                  : "finished a removal that a crash had cut short";
  log::info("volume", done, {{"volume", record.name()}});
  return true;
}

Status VolumeManager::serve_nbd() {
  io::Shard& shard = disk_set_.first_shard();
  const std::string path = options_.run_dir + "/nbd.sock";
  ::unlink(path.c_str());  // the run directory is locked: nobody listens there
  std::vector<std::string> addresses = {"unix:" + path};
  addresses.insert(addresses.end(), options_.nbd_addresses.begin(), options_.nbd_addresses.end());
  return shard.invoke([&] {
    server_ = nbd::Server::make(shard.reactor(), *this, options_.nbd);
    for (const std::string& address : addresses)
      CVOL_TRY(server_->listen(address).with_context("serve NBD on " + address));
    ::chmod(path.c_str(), 0600);
    return Status::ok();
  });
}

Status VolumeManager::open_attacher() {
  if (!options_.no_attach_because.empty()) return Status::ok();
  attach::AttachOptions options;
  if (options_.attach_method == "kernel") options.method = attach::Method::kKernel;
  if (options_.attach_method == "fuse") options.method = attach::Method::kFuse;
  options.run_dir = options_.run_dir + "/attach";
  options.state_dir = options_.data_dir + "/attach";
  options.nbd_socket = options_.run_dir + "/nbd.sock";
  options.holder_binary = options_.holder_binary;
  options.instance = node_.id;
  options.on_lost = [this](const std::string& volume, const std::string& device) {
    tell_lost_device(volume, device);
  };
  options.serve = [this](const std::string& volume, int descriptor) {
    auto shown = open_now(volume);
    if (!shown) {
      ::close(descriptor);
      return shown.status();
    }
    server_->serve_connected(descriptor, std::move(*shown));
    return Status::ok();
  };
  for (const std::string& folder :
       {options.run_dir, options.state_dir, options_.data_dir + "/mounts"}) {
    std::error_code error;
    std::filesystem::create_directories(folder, error);
    if (error) return status_from_errno(error.value(), "create " + folder);
  }
  auto made = options_.make_attacher ? options_.make_attacher(std::move(options))
                                     : attach::Attacher::open(std::move(options));
  if (!made) {
    options_.no_attach_because = made.message();
    problems_.push_back("volumes cannot be attached: " + made.message());
    log::error("volume", "volumes cannot be attached", {{"error", made.message()}});
    return Status::ok();
  }
  attacher_ = std::move(*made);
  return Status::ok();
}

// Devices that live are served again; records follow what is really there.
void VolumeManager::settle_attachments() {
  std::set<std::string> living;
  if (attacher_) {
    auto found = attacher_->reconcile();
    if (!found) {
      problems_.push_back("attached devices could not be taken up again: " + found.message());
      log::error("volume", "attached devices could not be taken up again",
                 {{"error", found.message()}});
    } else {
      for (const attach::Device& device : *found) living.insert(device.volume);
    }
  }
  for (const std::string& name : living) {
    if (cluster_ && !find(name)) discard_of_removed(name);
  }
  std::vector<HostedPtr> all;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [name, hosted] : volumes_) all.push_back(hosted);
  }
  for (const HostedPtr& hosted : all) {
    std::lock_guard operation(hosted->operation);
    settle_mounts(*hosted, living.contains(hosted->name));
    if (!cluster_) drop_session_if_unused(*hosted);
  }
  if (!cluster_) return;
  for (const HostedPtr& hosted : all) settle_session(hosted);
}

// In the background: the primaries that have to confirm it may be as far from answering as this
// node just was, seconds for each volume.
void VolumeManager::settle_session(const HostedPtr& hosted) {
  const v1::VolumeRecord record = record_of(*hosted);
  if (record.session().id().empty() || attached_elsewhere(record)) return;
  settler_->post(hosted->id, [this, hosted] {
    std::lock_guard operation(hosted->operation);
    if (find(hosted->name) == hosted) drop_session_if_unused(*hosted);
  });
}

void VolumeManager::settle_mounts(Hosted& hosted, bool device_lives) {
  const v1::VolumeRecord record = record_of(hosted);
  const bool expected = record.mount().caller_ids_size() > 0;
  if (!attacher_) return;
  if (cluster_ && (attached_elsewhere(record) || is_device_over(hosted))) {
    // Its attachment has ended meanwhile: what is left here can write nothing any more.
    if (Status cleared = clear_away(hosted); !cleared.is_ok())
      log::warning("volume", "what is left of an ended attachment is still in use",
                   {{"volume", hosted.name}, {"error", cleared.message()}});
    return;
  }
  if (settle_stage(hosted, device_lives)) return;
  if (is_unfinished(record.mount())) keeper_of_mounts_->look(hosted.name);
  if (expected) keeper_of_mounts_->watch();
  if (!expected && !device_lives && record.session().id().empty()) return;
  const std::string path = mount_path(hosted.name);
  const bool mounted = file_systems_->is_mounted(path);
  const bool same_boot = record.mount().boot_id() == options_.boot_id;
  if (mounted && device_lives && expected && same_boot) {
    std::lock_guard lock(mutex_);
    hosted.mounted = true;
    return;
  }
  if (device_lives) {  // served again; it must not stay without its attachment
    std::lock_guard opening(hosted.opening);
    if (Status kept = ensure_session(hosted); !kept.is_ok())
      log::error("volume", "cannot note an attachment", {{"error", kept.message()}});
  }
  // The mount is gone (reboot), its device is dead, or nobody was told of it.
  for (const auto& [caller, target] : record.mount().targets())
    (void)file_systems_->unmount_lazily(hosted.name, target).is_ok();
  if (mounted) {
    Status gone = device_lives ? file_systems_->unmount(hosted.name, path)
                               : file_systems_->unmount_lazily(hosted.name, path);
    if (!gone.is_ok()) (void)file_systems_->unmount_lazily(hosted.name, path).is_ok();
  }
  if (!expected) {
    if (mounted) (void)detach_device(hosted).is_ok();
    return;
  }
  log::warning("volume", "the mount of a volume did not survive; its users are forgotten",
               {{"volume", hosted.name},
                {"users", record.mount().caller_ids_size()},
                {"reboot", !same_boot}});
  const Status forgotten = update(hosted, [](v1::VolumeRecord& next) { next.clear_mount(); });
  if (!forgotten.is_ok())
    log::error("volume", "cannot forget a lost mount", {{"error", forgotten.message()}});
  if (device_lives) (void)detach_device(hosted).is_ok();
}

void VolumeManager::stop() {
  if (stopped_.exchange(true)) return;
  events_.close();
  stop_keeper();
  evictor_->stop();
  settler_->stop();
  keeper_of_mounts_->stop();
  if (server_) {
    io::Shard& shard = disk_set_.first_shard();
    shard.run<bool>([&] { return stop_server(server_.get()); });
    opener_->stop();
    shard.invoke([&] { server_.reset(); });
  }
  opener_->stop();
  attacher_.reset();
  if (cluster_) cluster_->stop();
  {
    std::lock_guard lock(mutex_);
    volumes_.clear();
  }
  disk_set_.close_all();
  reporter_->stop();
}

}  // namespace cvol::volume
