// File systems follow their volumes: the record says to which size one has grown, and whoever has
// it mounted grows it, at once or at the next mount.
#include <chrono>

#include "volumed/base/log.h"
#include "volumed/base/units.h"
#include "volumed/volume/hosted.h"
#include "volumed/volume/record_map.h"

namespace cvol::volume {

using namespace std::chrono_literals;

// The file system is mounted at `path`. The caller holds hosted.operation.
Status VolumeManager::grow_file_system(Hosted& hosted, const std::string& device,
                                       const std::string& path) {
  const v1::VolumeRecord record = record_of(hosted);
  if (record.fs_size_bytes() == record.size_bytes()) return Status::ok();
  const std::string fs = record.has_stage() ? record.stage().fs() : record.fs();
  CVOL_TRY(attacher_->resize(hosted.name, record.size_bytes()));
  CVOL_TRY(file_systems_->grow(hosted.name, device, path, fs));
  return update(hosted,
                [&](v1::VolumeRecord& next) { next.set_fs_size_bytes(record.size_bytes()); });
}

// After a mount: one that did not grow is no reason to keep users from their files.
void VolumeManager::grow_after_mount(Hosted& hosted, const std::string& device,
                                     const std::string& path) {
  const Status grown = grow_file_system(hosted, device, path);
  if (grown.is_ok()) return;
  events_.add("file_system_not_grown", hosted.name,
              "the file system is smaller than the volume: " + grown.message());
  log::warning("volume", "a file system was not grown to its volume's size",
               {{"volume", hosted.name}, {"error", grown.message()}});
}

// Where the file system is mounted here for writing; empty: nowhere.
std::string VolumeManager::writable_mount(Hosted& hosted) {
  const v1::StageRecord stage = record_of(hosted).stage();
  const std::string path = hosted.mounted                       ? mount_path(hosted.name)
                           : stage.block() || stage.read_only() ? ""
                                                                : stage.path();
  return path.empty() || !file_systems_->is_mounted(path) ? "" : path;
}

// The volume's device and file system here take its size. The caller holds hosted.operation.
Status VolumeManager::follow_size(Hosted& hosted) {
  for (const attach::Device& device : devices()) {
    if (device.volume != hosted.name) continue;
    CVOL_TRY(attacher_->resize(hosted.name, record_of(hosted).size_bytes()));
    if (const std::string path = writable_mount(hosted); !path.empty())
      CVOL_TRY(grow_file_system(hosted, device.path, path));
  }
  return Status::ok();
}

// Another node has grown the volume. On a worker's thread.
void VolumeManager::hear_of_growth(Hosted& hosted) {
  if (!attacher_is_there_ || stopped_) return;
  std::lock_guard operation(hosted.operation);
  if (find(hosted.name).get() != &hosted || attached_elsewhere(record_of(hosted))) return;
  if (view_of(hosted, devices()).device.empty() || is_device_over(hosted)) return;
  Status followed = grow_gateway(hosted);
  if (followed.is_ok()) followed = follow_size(hosted);
  if (followed.is_ok()) return;
  events_.add("file_system_not_grown", hosted.name,
              "the volume was grown elsewhere, and is not larger here yet: " + followed.message());
}

// The record is larger: all members have grown when the primary runs this epoch with them.
Status VolumeManager::grow_gateway(Hosted& hosted) {
  CVOL_TRY(confirm_epoch(hosted, 30s));
  auto gateway = gateway_of(hosted);
  if (!gateway) return gateway.status();
  auto record = to_replication(record_of(hosted), 0);
  if (!record) return record.status();
  gateway->shard->invoke([&] { gateway->gateway->set_record(*record); });
  return Status::ok();
}

}  // namespace cvol::volume
