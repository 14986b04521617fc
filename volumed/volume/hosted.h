// Hosted: one volume as the manager holds it in memory. Private to the manager's files.
#pragma once

#include "volumed/volume/volume_manager.h"

namespace cvol::volume {

struct VolumeManager::Hosted {
  // Order of locking: operation, opening, record_lock, the manager's mutex_.
  std::mutex operation;  // one create, resize, mount, ... at a time
  // Making and counting the export; guards open_export, removing, foreign_clients, formatting.
  std::mutex opening;
  std::mutex record_lock;  // one change of the record at a time

  std::string name;  // set once, as id
  std::string id;
  VolumeEntry entry;           // changed under record_lock and mutex_
  std::string problem;         // mutex_
  std::string record_problem;  // mutex_; why its record cannot be used; what is open goes on
  bool mounted = false;        // mutex_
  v1::StageRecord lost_stage;  // mutex_; of an attachment that another node ended
  Disk* disk = nullptr;        // of our replica; set once
  // 0: not found yet, its disk is not open. Set once, before `problem` ends.
  std::atomic<store::ReplicaNumber> replica{0};
  bool removing = false;
  std::weak_ptr<nbd::Export> open_export;
  std::weak_ptr<void> foreign_clients;  // alive while clients other than our devices may write
  bool formatting = false;              // they are not let in: a file system is being made
  // Of the open export, in a cluster; guarded by the manager's mutex_.
  std::weak_ptr<replication::Gateway> gateway;
  io::Shard* gateway_shard = nullptr;
  std::shared_ptr<VolumeMetrics> metrics;  // mutex_
  // As the record has it; the exports share it.
  const std::shared_ptr<std::atomic<nbd::OnFull>> on_full =
      std::make_shared<std::atomic<nbd::OnFull>>(nbd::OnFull::kDevicesWait);
  // Guarded by operation: unmounts that the store has not taken yet, and when the last mount came.
  std::vector<std::pair<std::string, Leave>> pending_leaves;
  std::chrono::steady_clock::time_point last_use = std::chrono::steady_clock::now();
  std::string waits;  // mutex_; for what an unmount waits
};

template <typename Change>
Status VolumeManager::update(Hosted& hosted, Change change) {
  std::lock_guard changing(hosted.record_lock);
  if (cluster_) {
    auto changed = cluster_->update(hosted.id, [&](v1::VolumeRecord& next) {
      change(next);
      return Status::ok();
    });
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
  change(next);
  CVOL_TRY(catalog_.update_volume(entry, std::move(next)));
  std::lock_guard lock(mutex_);
  hosted.entry = std::move(entry);
  return Status::ok();
}

}  // namespace cvol::volume
