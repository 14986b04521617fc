// What there is room for: promises beyond the pool, disks that fill, and what writes do then.
#include <fmt/format.h>

#include "volumed/base/units.h"
#include "volumed/volume/hosted.h"
#include "volumed/volume/pool_space.h"

namespace cvol::volume {

// Of all disks that are known to be there, on all nodes.
uint64_t VolumeManager::pool_capacity() {
  uint64_t bytes = 0;
  if (!cluster_) {
    for (const DiskView& disk : disks()) bytes += disk.info.capacity_bytes;
    return bytes;
  }
  for (const ClusterNode& node : nodes()) {
    if (!node.alive) continue;
    for (const v1::AliveDisk& disk : node.alive->disks()) bytes += disk.capacity_bytes();
  }
  return bytes;
}

// Volumes are thin: a size beyond the pool is a promise. It is told, and refused beyond the limit.
Status VolumeManager::check_promise(uint64_t size_bytes, uint32_t replicas,
                                    std::vector<std::string>& warnings) {
  const uint64_t capacity = pool_capacity();
  if (capacity == 0) return Status::ok();
  const uint64_t wanted = size_bytes * replicas;  // below 2^56
  if (wanted <= capacity) return Status::ok();
  const std::string copies = replicas == 1 ? "" : fmt::format(" in {} copies", replicas);
  const std::string text = fmt::format("{}{} is more than all disks can hold ({})",
                                       format_size(size_bytes), copies, format_size(capacity));
  const uint32_t limit = options_.overcommit_limit;
  if (limit != 0 && wanted / limit > capacity)
    return Status(
        Code::kInvalidArgument,
        fmt::format("{}, and beyond {} times that, which --overcommit-limit allows", text, limit));
  warnings.push_back(text + ": it cannot be filled until disks are added");
  return Status::ok();
}

Result<VolumeView> VolumeManager::with_warnings(Result<VolumeView> view,
                                                std::vector<std::string> warnings) {
  if (view) view->warnings = std::move(warnings);
  return view;
}

// The caller holds hosted.operation. Writes that wait now follow it too.
Status VolumeManager::change_on_full(Hosted& hosted, const std::string& on_full) {
  CVOL_TRY(update(hosted, [&](v1::VolumeRecord& next) {
    next.set_on_full(on_full == "default" ? "" : on_full);
  }));
  hosted.on_full->store(on_full_of(record_of(hosted)));
  return Status::ok();
}

// Now and then, by one thread.
void VolumeManager::watch_space() {
  for (const DiskView& disk : disks()) {
    if (const auto changed = fullness_.look(disk))
      events_.add("disk_fullness", disk.path, *changed);
  }
}

}  // namespace cvol::volume
