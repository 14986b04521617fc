// Taking disks out of the pool.
//
// A disk that is to go is marked in its record, and says so to the other nodes: nothing new is
// placed there, and repair (cluster_repair.cpp) makes its replicas anew elsewhere before it gives
// them up. When no record names a replica on it any more its own record goes, and then the disk is
// closed, so that its file system can be unmounted. Every step can be done again.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "volumed/base/log.h"
#include "volumed/volume/hosted.h"

namespace cvol::volume {
namespace {

bool is_in_sync(const v1::VolumeRecord& record, const std::string& replica) {
  for (const v1::InSyncRecord& entry : record.in_sync()) {
    if (entry.replica_id() == replica) return true;
  }
  return false;
}

const v1::MemberRecord* member_on(const v1::VolumeRecord& record, const std::string& disk_id) {
  for (const v1::MemberRecord& member : record.members()) {
    if (member.disk_id() == disk_id) return &member;
  }
  return nullptr;
}

constexpr std::chrono::seconds kPatience{3};  // for a disk that is closed

Status refused(const Disk& disk, const std::string& why) {
  return Status(Code::kFailedPrecondition, "disk " + disk.path() + " stays in the pool: " + why);
}

}  // namespace

Result<DiskView> VolumeManager::remove_disk(const std::string& name, const DiskRemoval& how) {
  auto found = find_disk(name);
  if (!found) return found.status();
  Disk& disk = **found;
  if (how.cancel) {
    CVOL_TRY(note_leaving(disk, false, false));
    events_.add("disk_stays", disk.path(), "the disk stays in the pool after all");
    return look_at(disk);
  }
  CVOL_TRY(check_disk_may_leave(disk, how));
  const bool again = disk.leaving;
  CVOL_TRY(note_leaving(disk, true, how.in_place));
  if (!again) events_.add("disk_leaves", disk.path(), "the disk is being taken out of the pool");
  if (!has_replicas(disk)) {
    finish_leaving(disk);
    wait_until_closed(disk);
  }
  return look_at(disk);
}

// Where its copies can go is asked before anything changes.
Status VolumeManager::check_disk_may_leave(Disk& disk, const DiskRemoval& how) {
  std::size_t others = 0;
  for (Disk* other : disk_set_.all()) {
    if (other != &disk && !other->gone && !other->leaving && works(other)) ++others;
  }
  if (others == 0)
    return refused(disk,
                   "it is the only disk of this node that works; add another one first "
                   "('cvol disk add PATH')");
  if (!cluster_) {
    if (!has_replicas(disk)) return Status::ok();
    return refused(disk,
                   "it holds volumes, and a node that is alone cannot move them; copy them to new "
                   "ones and remove these, or make this node part of a cluster");
  }
  for (const VolumeEntry& entry : cluster_->volumes_on(disk.id)) {
    const v1::VolumeRecord& record = entry.record;
    const v1::MemberRecord* member = member_on(record, disk.id);
    if (record.state() == "removing" || member == nullptr || member->wanted() == "removed")
      continue;
    const bool synced = is_in_sync(record, member->replica_id());
    if (synced && !works(&disk) && record.in_sync_size() == 1)
      return refused(disk,
                     fmt::format("it has failed, and holds the only copy in sync of volume "
                                 "'{}'; mend it ('cvol disk verify {}'), or remove the volume",
                                 record.name(), disk.path()));
    std::set<std::string> lost;
    if (!synced) lost.insert(member->replica_id());
    if (cluster_->choose(1, &record, record.zone_spread(), {}, lost)) continue;
    const uint32_t others_in_sync = static_cast<uint32_t>(record.in_sync_size()) - (synced ? 1 : 0);
    if (!how.in_place)
      return refused(
          disk, fmt::format("no other node can take its copy of volume '{}'. Add a node, or let it "
                            "be made anew on another disk of this node with --in-place: until it "
                            "is in sync again the volume has {} copies instead of {}",
                            record.name(), others_in_sync, record.in_sync_size()));
    if (others_in_sync < std::max(1u, record.min_in_sync()))
      return refused(
          disk, fmt::format("volume '{}' has {} other copies in sync and needs {}; wait "
                            "for its resync, or give it more copies",
                            record.name(), others_in_sync, std::max(1u, record.min_in_sync())));
  }
  return Status::ok();
}

Status VolumeManager::note_leaving(Disk& disk, bool leaving, bool in_place) {
  CVOL_TRY(catalog_.update_disk(disk.id, [&](v1::DiskRecord& record) {
    record.set_leaving(leaving);
    record.set_in_place(in_place);
  }));
  disk.leaving = leaving;
  disk.in_place = in_place;
  if (cluster_) cluster_->disk_leaves();
  return Status::ok();
}

bool VolumeManager::has_replicas(Disk& disk) {
  if (cluster_) return !cluster_->volumes_on(disk.id).empty();
  std::lock_guard lock(mutex_);
  for (const auto& [name, hosted] : volumes_) {
    if (member_on(hosted->entry.record, disk.id) != nullptr) return true;
  }
  return false;
}

// On the cluster's periodic thread.
void VolumeManager::finish_leaving_disks() {
  for (Disk* disk : disk_set_.all()) {
    if (disk->leaving && !disk->gone && !has_replicas(*disk)) finish_leaving(*disk);
  }
}

void VolumeManager::finish_leaving(Disk& disk) {
  if (Status erased = catalog_.erase_disk(disk.id); !erased.is_ok()) {
    log::warning("volume", "the record of an empty disk stays; it is tried again",
                 {{"disk", disk.path()}, {"error", erased.message()}});
    return;
  }
  if (disk.gone.exchange(true)) return;
  if (cluster_) cluster_->disk_leaves();
  std::lock_guard lock(keeper_mutex_);
  close_gone_ = true;
  keeper_wake_.notify_all();
}

// By the thread that opens disks: closing waits for the disk, which may hang.
void VolumeManager::close_gone_disks() {
  for (Disk* disk : disk_set_.all()) {
    if (!disk->gone || has_replicas(*disk)) continue;
    std::size_t left = 0;
    if (disk->engine != nullptr)
      left = disk->invoke([](auto& engine) { return engine.replicas().size(); });
    disk_set_.take_out(*disk);
    std::string text =
        "the disk is no part of the pool any more and is closed; it can be unmounted";
    if (left != 0)
      text += fmt::format(". It holds {} replicas that no record knows: keep it, or they are lost",
                          left);
    events_.add("disk_removed", disk->path(), text);
    std::lock_guard lock(keeper_mutex_);
    keeper_wake_.notify_all();
  }
}

bool VolumeManager::wait_until_closed(const Disk& disk) {
  std::unique_lock lock(keeper_mutex_);
  return keeper_wake_.wait_for(lock, kPatience, [&] {
    const std::vector<Disk*> all = disk_set_.all();
    return keeper_stops_ || std::find(all.begin(), all.end(), &disk) == all.end();
  });
}

}  // namespace cvol::volume
