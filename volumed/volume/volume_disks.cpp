// Disks: scrub, verify, and what their engines report of damage and failure.
//
// Scrubs of different disks run side by side, each at its own pace: one after the other, a node
// with many large disks would not be through in the interval.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "volumed/base/log.h"
#include "volumed/base/units.h"
#include "volumed/volume/hosted.h"

namespace cvol::volume {
namespace {

constexpr std::chrono::seconds kLongestWait = std::chrono::hours(1);  // clocks can be set
constexpr std::size_t kLeastIdDigits = 4;

uint64_t now_seconds() {
  return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::seconds>(
                                   std::chrono::system_clock::now().time_since_epoch())
                                   .count());
}

std::string describe(const std::string& path, const store::Damage& damage) {
  if (damage.file == store::DamagedFile::kTable)
    return "the chunk table of disk " + path + " is damaged: " + damage.why;
  return fmt::format(
      "offset {} (block {}): {} in file '{}' of disk {} at block {}, found by {}. Reads of it "
      "fail; "
      "writing it mends it",
      damage.block * kBlockBytes, damage.block,
      damage.unreadable ? "the disk cannot read it" : "its checksum does not hold",
      store::file_name(damage.file), path, damage.file_block, damage.found_by);
}

}  // namespace

// --- reports of the engines ---

// Shards must not wait: all is done by the worker.
void VolumeManager::report(std::function<void()> job) {
  std::lock_guard lock(reports_mutex_);
  if (!reports_open_) {
    early_reports_.push_back(std::move(job));
  } else {
    (void)reporter_->post(std::move(job));
  }
}

void VolumeManager::open_reports() {
  std::lock_guard lock(reports_mutex_);
  reports_open_ = true;
  for (auto& job : early_reports_) (void)reporter_->post(std::move(job));
  early_reports_.clear();
}

store::EngineHooks VolumeManager::hooks_for(const std::string& path) {
  store::EngineHooks hooks;
  hooks.damaged = [this, path](const store::Damage& damage) {
    report([this, path, damage] { tell_damage(path, damage); });
  };
  hooks.failed = [this, path](Uuid disk, const std::string& why) {
    report([this, path, id = disk.to_string(), why] {
      events_.add("disk_failed", path,
                  "the disk has failed: " + why + ". Nothing is served from it until 'cvol disk " +
                      "verify " + path + "' has found it sound");
      if (cluster_) cluster_->disk_failed(id);
      if (Status noted = catalog_.put_disk_failure(id, why); !noted.is_ok())
        log::error("volume", "cannot note that a disk has failed",
                   {{"disk", path}, {"error", noted.message()}});
    });
  };
  hooks.mended = [this, path](Uuid disk) {
    report([this, path, id = disk.to_string()] {
      if (Status erased = catalog_.erase_disk_failure(id); !erased.is_ok())
        log::error("volume", "cannot note that a disk is sound",
                   {{"disk", path}, {"error", erased.message()}});
      Disk* sound = disk_set_.find(id);
      if (sound != nullptr && sound->engine != nullptr) {
        const uint64_t generation =
            sound->invoke([](auto& engine) { return engine.info().generation; });
        if (Status noted = note_opened(id, generation); !noted.is_ok())
          log::warning("volume", "cannot note that a disk is written again",
                       {{"disk", path}, {"error", noted.message()}});
        finish_removed(*sound);
      }
      events_.add("disk_mended", path, "the disk was found sound and is in service again");
    });
  };
  hooks.scrubbed = [this, path](const store::ScrubRecord& record) {
    report([this, path, record] {
      events_.add("disk_scrubbed", path,
                  fmt::format("read {} in {} s, {}", format_size(record.completed_bytes),
                              record.completed - record.completed_started,
                              record.completed_damaged == 0
                                  ? "all of it sound"
                                  : fmt::format("{} damaged", record.completed_damaged)));
    });
  };
  hooks.notice = [this, path](const std::string& what) {
    report([this, path, what] { events_.add("disk_notice", path, what); });
  };
  return hooks;
}

void VolumeManager::tell_damage(const std::string& path, const store::Damage& damage) {
  if (damage.more != 0) {
    events_.add("blocks_damaged", path,
                fmt::format("{} damaged blocks of this disk were told; further ones are counted, "
                            "and not told until it is opened again",
                            damage.more));
    return;
  }
  const bool table = damage.file == store::DamagedFile::kTable;
  if (!table && cluster_) cluster_->mend(damage.volume.to_string(), damage.block);
  events_.add(table ? "table_damaged" : "block_damaged", table ? path : volume_name(damage.volume),
              describe(path, damage));
}

std::string VolumeManager::volume_name(const Uuid& volume) {
  const std::string id = volume.to_string();
  std::lock_guard lock(mutex_);
  for (const auto& [name, hosted] : volumes_) {
    if (hosted->entry.record.id() == id) return name;
  }
  return id;
}

// --- views ---

std::string VolumeManager::failure_of(Disk* disk) {
  if (disk == nullptr || disk->engine == nullptr) return "";
  const store::DiskInfo info = disk->invoke([](auto& engine) { return engine.info(); });
  return info.failed ? info.failure : "";
}

void VolumeManager::apply_failure(VolumeView& view, const std::string& failure) {
  if (failure.empty() || !view.problem.empty()) return;
  view.problem = failure;
  view.state = VolumeState::kDamaged;
}

DiskView VolumeManager::look_at(Disk& disk) {
  DiskView view;
  view.id = disk.id;
  view.path = disk.path();
  view.problem = disk.problem();
  view.leaving = disk.leaving;
  if (disk.engine == nullptr) return view;
  disk.invoke([&view](auto& engine) {
    view.info = engine.info();
    view.scrub = engine.scrub();
    return true;
  });
  view.metrics = &disk.engine->metrics();
  if (view.info.failed) view.problem = view.info.failure;
  for (const store::Damage& damage : view.scrub.damage) {
    const bool table = damage.file == store::DamagedFile::kTable;
    view.damage.push_back({table ? "" : volume_name(damage.volume), damage});
  }
  if (!view.info.failed) view.next_scrub = next_scrub(disk, view.scrub);
  return view;
}

Result<Disk*> VolumeManager::find_disk(const std::string& name) {
  std::error_code ignored;
  const std::string clean = std::filesystem::weakly_canonical(name, ignored).string();
  std::vector<Disk*> found;
  for (Disk* disk : disk_set_.all()) {
    if (disk->gone) continue;
    if (disk->path() == name || disk->path() == clean) return disk;
    if (name.size() >= kLeastIdDigits && disk->id.starts_with(name)) found.push_back(disk);
  }
  if (found.size() == 1) return found.front();
  if (found.size() > 1)
    return Status(Code::kInvalidArgument,
                  "several disks have ids that begin with '" + name + "'; give more of it");
  return Status(Code::kNotFound, "there is no disk '" + name +
                                     "'; name it by its path, or by four or more digits of its "
                                     "id: 'cvol disk ls' shows both");
}

// --- scrub and verify ---

namespace {

Status closed(const Disk& disk) {
  return Status(Code::kFailedPrecondition, "disk " + disk.path() +
                                               " is not open: " + disk.problem() +
                                               ". Mend that: opening it is tried again");
}

}  // namespace

Result<DiskView> VolumeManager::scrub_disk(const std::string& name, uint64_t rate) {
  if (rate != 0) CVOL_TRY(validate_rate(rate));
  auto disk = find_disk(name);
  if (!disk) return disk.status();
  if ((*disk)->engine == nullptr) return closed(**disk);
  CVOL_TRY((*disk)->invoke([rate](auto& engine) { return engine.start_scrub(rate); }));
  return look_at(**disk);
}

Result<DiskView> VolumeManager::stop_scrub(const std::string& name) {
  auto disk = find_disk(name);
  if (!disk) return disk.status();
  if ((*disk)->engine == nullptr) return closed(**disk);
  CVOL_TRY((*disk)->run<Status>([](store::DiskEngine& engine) { return engine.stop_scrub(); }));
  return look_at(**disk);
}

Result<DiskView> VolumeManager::verify_disk(const std::string& name, bool accept_damage) {
  auto disk = find_disk(name);
  if (!disk) return disk.status();
  if ((*disk)->engine == nullptr) return closed(**disk);
  CVOL_TRY((*disk)->invoke(
      [accept_damage](auto& engine) { return engine.start_verify(accept_damage); }));
  return look_at(**disk);
}

// --- the schedule ---

// 0 if none is planned.
uint64_t VolumeManager::next_scrub(const Disk& disk, const store::ScrubInfo& scrub) {
  const auto interval = static_cast<uint64_t>(options_.scrub_interval.count());
  if (interval == 0 || scrub.record.state == store::ScrubState::kRunning) return 0;
  std::lock_guard lock(keeper_mutex_);
  const auto since = disk_since_.find(disk.id);
  const uint64_t last = std::max({scrub.record.completed, scrub.record.stopped,
                                  since == disk_since_.end() ? 0 : since->second});
  return last + interval;
}

void VolumeManager::keep_scrubbing() {
  if (options_.scrub_interval.count() == 0) return;
  while (true) {
    uint64_t next = now_seconds() + static_cast<uint64_t>(kLongestWait.count());
    for (Disk* disk : disk_set_.all()) {
      const DiskView view = look_at(*disk);
      if (view.next_scrub == 0) continue;
      if (view.next_scrub > now_seconds()) {
        next = std::min(next, view.next_scrub);
        continue;
      }
      const Status begun = disk->invoke([](auto& engine) { return engine.start_scrub(0); });
      if (!begun.is_ok())
        log::warning("volume", "cannot begin the scrub of a disk that is due",
                     {{"disk", disk->path()}, {"error", begun.message()}});
    }
    const uint64_t now = now_seconds();
    std::unique_lock lock(keeper_mutex_);
    if (keeper_stops_) return;
    keeper_wake_.wait_for(lock, std::chrono::seconds(next > now ? next - now : 1));
    if (keeper_stops_) return;
  }
}

void VolumeManager::stop_keeper() {
  {
    std::lock_guard lock(keeper_mutex_);
    keeper_stops_ = true;
    keeper_wake_.notify_all();
  }
  if (keeper_.joinable()) keeper_.join();
  if (disk_opener_.joinable()) disk_opener_.join();
  if (copy_watch_) copy_records();
  copy_watch_.reset();
  if (upkeeper_.joinable()) upkeeper_.join();
}

}  // namespace cvol::volume
