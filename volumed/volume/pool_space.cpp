#include "volumed/volume/pool_space.h"

#include <fmt/format.h>

#include "volumed/base/units.h"
#include "volumed/volume/volume_manager.h"

namespace cvol::volume {
namespace {

constexpr uint32_t kSteps[] = {95, 90, 80};

std::string figures(const DiskView& disk) {
  return fmt::format("{} of {}", format_size(disk.info.allocated_bytes),
                     format_size(disk.info.capacity_bytes));
}

}  // namespace

uint32_t fullness_step(uint64_t capacity_bytes, uint64_t allocated_bytes) {
  if (capacity_bytes == 0) return 0;
  if (allocated_bytes > capacity_bytes || capacity_bytes - allocated_bytes < kChunkBytes)
    return 100;
  const double percent =
      static_cast<double>(allocated_bytes) * 100 / static_cast<double>(capacity_bytes);
  for (const uint32_t step : kSteps) {
    if (percent >= step) return step;
  }
  return 0;
}

std::string describe_fullness(const DiskView& disk) {
  if (!disk.problem.empty()) return "";
  const uint32_t step = fullness_step(disk.info.capacity_bytes, disk.info.allocated_bytes);
  if (step == 0) return "";
  constexpr const char* kAdvice =
      "add a disk ('cvol disk add'), remove volumes, or delete files and trim ('cvol volume trim')";
  if (step == 100)
    return fmt::format("disk {} is full: writes that need space on it wait or fail; {}", disk.path,
                       kAdvice);
  return fmt::format("disk {} is more than {} % full ({}); {}", disk.path, step, figures(disk),
                     kAdvice);
}

std::optional<std::string> FullnessWatch::look(const DiskView& disk) {
  if (!disk.problem.empty()) return std::nullopt;
  const uint32_t step = fullness_step(disk.info.capacity_bytes, disk.info.allocated_bytes);
  uint32_t& known = steps_[disk.id];
  if (step == known) return std::nullopt;
  const bool fuller = step > known;
  known = step;
  if (step == 100) return "the disk is full (" + figures(disk) + ")";
  if (fuller) return fmt::format("the disk is more than {} % full ({})", step, figures(disk));
  if (step == 0) return "the disk has room again (" + figures(disk) + ")";
  return fmt::format("the disk is less full, still more than {} % ({})", step, figures(disk));
}

Status validate_on_full(const std::string& on_full) {
  if (on_full.empty() || on_full == "default" || on_full == "wait" || on_full == "error")
    return Status::ok();
  return Status(Code::kInvalidArgument,
                "'" + on_full + "' is no policy for a full pool; it is wait, error or default");
}

nbd::OnFull on_full_of(const v1::VolumeRecord& record) {
  if (record.on_full() == "wait") return nbd::OnFull::kWait;
  if (record.on_full() == "error") return nbd::OnFull::kError;
  return nbd::OnFull::kDevicesWait;
}

}  // namespace cvol::volume
