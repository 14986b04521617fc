// Disks that open, at start and later, and what waits for them: volumes that were damaged without
// their disk, and replicas whose volumes were removed while it did not work.
#include <algorithm>
#include <ctime>
#include <filesystem>
#include <set>
#include <utility>

#include "volumed/base/log.h"
#include "volumed/meta/store_copy.h"
#include "volumed/volume/disk_ground.h"
#include "volumed/volume/disk_paths.h"
#include "volumed/volume/hosted.h"
#include "volumed/volume/replica_index.h"

namespace cvol::volume {
namespace {

using Seconds = std::chrono::duration<double>;
constexpr Seconds kSoon{2};
constexpr Seconds kLater{60};
constexpr uint64_t kLooksForUnknown = 5;  // turns from one look for unknown replicas to the next
constexpr double kShareOfTime = 0.1;      // that tries of one disk take at most

// What others can heal without a word to us: a mount, room, descriptors, the metadata store.
bool heals_by_itself(Code code) {
  return code == Code::kNotFound || code == Code::kNoSpace || code == Code::kBusy ||
         code == Code::kUnavailable;
}

}  // namespace

// --- start ---

Status VolumeManager::open_disks() {
  std::map<std::string, std::string> unreadable;
  auto records = catalog_.load_disks(unreadable);
  if (!records) return records.status();
  for (const auto& [id, why] : unreadable)
    problems_.push_back(why +
                        "; if that disk is this node's it is missing, and kept as it is. Put "
                        "the record back from a copy of the store");
  auto failures = catalog_.load_disk_failures();
  if (!failures) return failures.status();
  std::map<std::string, std::string> reasons;
  for (const v1::DiskFailureRecord& failure : *failures)
    reasons[failure.id()] = failure.reason().empty() ? "its record says so" : failure.reason();
  std::vector<KnownDisk> known;
  std::vector<const v1::DiskRecord*> leaving;
  for (const v1::DiskRecord& record : *records) {
    if (record.node_id() != node_.id) continue;
    if (record.leaving()) leaving.push_back(&record);
    {
      std::lock_guard lock(keeper_mutex_);
      disk_since_[record.id()] = static_cast<uint64_t>(record.created().seconds());
    }
    known.push_back({record.id(), to_real_path(options_.data_dir, record.path(), record.id()),
                     reasons[record.id()], record.generation()});
  }
  if (!known.empty()) {
    disk_set_.open_known(std::move(known), options_.on_waiting);
    for (const v1::DiskRecord* record : leaving) {
      Disk* disk = disk_set_.find(record->id());
      CVOL_ASSERT(disk != nullptr);
      disk->leaving = true;
      disk->in_place = record->in_place();
    }
    return Status::ok();
  }
  // Perhaps it is this node that had the disk: nothing is made in its place.
  if (!unreadable.empty()) {
    problems_.push_back(
        "this node has no disk, as far as the records of disks can be read; if it never had one, "
        "add it with 'cvol disk add'");
    return Status::ok();
  }
  // The first start: one disk in the data directory, whatever that is on.
  const std::string path = options_.data_dir + "/disks/default";
  if (Status fit = check_ground(path, options_.first_disk, {}); !fit.is_ok())
    log::warning("volume", "the data directory is no good place for a disk; add others",
                 {{"why", fit.message()}});
  return add_disk(path, options_.first_disk, /*force=*/true).status();
}

// The disk's own count has been raised; nobody sees the disk before the record has it.
Status VolumeManager::note_opened(const std::string& id, uint64_t generation) {
  return catalog_.update_disk(id, [&](v1::DiskRecord& record) {
    record.set_generation(std::max<uint64_t>(record.generation(), generation));
    const std::string path = to_real_path(options_.data_dir, record.path(), id);
    record.set_path(to_stored_path(options_.data_dir, path));
  });
}

// --- commands ---

Result<DiskView> VolumeManager::add_disk(const std::string& path, store::FormatOptions format,
                                         bool force) {
  if (path.empty() || path[0] != '/' || path.size() > 4000)
    return Status(Code::kInvalidArgument, "'" + path + "' is no absolute path");
  std::error_code ignored;
  const std::string found = std::filesystem::weakly_canonical(path, ignored).string();
  const std::string clean = found.empty() ? path : found;
  std::vector<std::string> others;
  for (Disk* disk : disk_set_.all()) {
    if (disk->path() == clean) force = true;  // it is one of them, or refused by name
    others.push_back(disk->path());
  }
  if (!force) CVOL_TRY(check_ground(clean, format, others).with_context("add disk " + path));
  std::map<std::string, std::string> unreadable;
  auto records = catalog_.load_disks(unreadable);
  if (!records) return records.status();
  auto disk =
      disk_set_.add(clean, bound_capacity(clean, format), admit_by(*records, unreadable, clean));
  if (!disk) return disk.status().with_context("add disk " + path);
  v1::DiskRecord record;
  record.set_id((*disk)->id);
  record.set_node_id(node_.id);
  record.set_path(to_stored_path(options_.data_dir, (*disk)->path()));
  record.set_generation(
      (*disk)->invoke([](store::DiskEngine& engine) { return engine.info().generation; }));
  CVOL_TRY(catalog_.put_disk(record));
  (*disk)->leaving = (*disk)->in_place = false;
  {
    std::lock_guard lock(keeper_mutex_);
    disk_since_.emplace((*disk)->id, static_cast<uint64_t>(std::time(nullptr)));
    keeper_wake_.notify_all();
  }
  if (cluster_) cluster_->disk_added();
  events_.add("disk_added", (*disk)->path(),
              "a disk is in the pool: " + (*disk)->path() + " (" + (*disk)->id + ")");
  return look_at(**disk);
}

// A disk that has a record comes from another node, or comes back: not as an older copy.
DiskSet::Admit VolumeManager::admit_by(const std::vector<v1::DiskRecord>& records,
                                       const std::map<std::string, std::string>& unreadable,
                                       const std::string& path) {
  std::map<std::string, uint64_t> generations;
  for (const v1::DiskRecord& record : records) generations[record.id()] = record.generation();
  return [generations, unreadable, path](const Uuid& id,
                                         std::optional<uint64_t> generation) -> Status {
    if (const auto bad = unreadable.find(id.to_string()); bad != unreadable.end())
      return Status(Code::kDamaged, "the record of the disk at " + path + " cannot be read (" +
                                        bad->second +
                                        "); nothing was changed. Put the record back from a copy "
                                        "of the store, and add the disk then");
    const auto known = generations.find(id.to_string());
    if (!generation || known == generations.end() || *generation >= known->second)
      return Status::ok();
    return Status(Code::kFailedPrecondition,
                  path + " holds an older copy of disk " + known->first + ": it was opened " +
                      std::to_string(*generation) + " times, the disk itself " +
                      std::to_string(known->second) +
                      " times. Nothing was changed: add the disk itself, or an empty folder");
  };
}

Result<DiskView> VolumeManager::move_disk(const std::string& name, const std::string& path,
                                          bool accept_data_loss) {
  if (path.empty() || path[0] != '/' || path.size() > 4000)
    return Status(Code::kInvalidArgument, "'" + path + "' is no absolute path");
  auto disk = find_disk(name);
  if (!disk) return disk.status();
  const std::string doing = "move disk " + (*disk)->id + " to " + path;
  auto record = catalog_.load_disk((*disk)->id);
  if (!record) return record.status().with_context(doing);
  const uint64_t least = *record && !accept_data_loss ? (*record)->generation() : 0;
  std::error_code ignored;
  const std::string found = std::filesystem::weakly_canonical(path, ignored).string();
  CVOL_TRY(disk_set_.move(**disk, found.empty() ? path : found, least).with_context(doing));
  const uint64_t generation =
      (*disk)->invoke([](store::DiskEngine& engine) { return engine.info().generation; });
  CVOL_TRY(catalog_
               .update_disk((*disk)->id,
                            [&](v1::DiskRecord& next) {
                              next.set_path(to_stored_path(options_.data_dir, (*disk)->path()));
                              next.set_generation(generation);
                            })
               .with_context(doing));
  events_.add("disk_moved", (*disk)->path(), "the disk is here now (" + (*disk)->id + ")");
  disk_came(**disk);
  return look_at(**disk);
}

// --- later ---

// Until stop: tries disks that are not open, and finishes removals of the others.
void VolumeManager::keep_opening() {
  copy_records();
  for (Disk* disk : disk_set_.all()) finish_removed(*disk);
  if (Status forgotten = catalog_.forget_old_removals(); !forgotten.is_ok())
    log::warning("volume", "cannot erase the notes of old removals; the next start does",
                 {{"error", forgotten.message()}});
  uint64_t turn = 0;
  std::map<Disk*, std::chrono::steady_clock::time_point> due;
  while (true) {
    if (turn++ % kLooksForUnknown == 0) look_for_unknown_replicas();
    {
      std::unique_lock lock(keeper_mutex_);
      keeper_wake_.wait_for(lock, kSoon, [this] { return keeper_stops_ || close_gone_; });
      if (keeper_stops_) return;
      close_gone_ = false;
    }
    close_gone_disks();
    copy_records();
    for (Disk* disk : disk_set_.all()) {
      const auto began = std::chrono::steady_clock::now();
      if (disk->engine != nullptr || disk->gone || due[disk] > began) continue;
      const Status opened = disk_set_.try_again(*disk);
      const auto ended = std::chrono::steady_clock::now();
      if (opened) disk_came(*disk);
      const Seconds pause = std::max<Seconds>(heals_by_itself(opened.code()) ? kSoon : kLater,
                                              Seconds(ended - began) / kShareOfTime);
      due[disk] = ended + std::chrono::duration_cast<std::chrono::milliseconds>(pause);
    }
  }
}

// The embedded store is kept once: its records are copied soon after each change.
void VolumeManager::copy_records() {
  if (cluster_ || options_.records_copy.empty()) return;
  if (!copy_watch_) {
    auto watch =
        store_->watch(catalog_.keys().root(),
                      [this](const std::vector<meta::WatchEvent>&) { records_changed_ = true; });
    if (!watch) return;
    copy_watch_ = std::move(*watch);
  }
  if (!records_changed_.exchange(false)) return;
  if (Status copied = meta::write_store_copy(*store_, catalog_.keys(), options_.records_copy);
      !copied.is_ok()) {
    records_changed_ = true;
    if (!std::exchange(copy_fails_, true))
      log::warning("volume", "cannot copy the records; it is tried again",
                   {{"path", options_.records_copy}, {"error", copied.message()}});
    return;
  }
  copy_fails_ = false;
}

void VolumeManager::disk_came(Disk& disk) {
  events_.add("disk_opened", disk.path(), "the disk is open now");
  log::info("volume", "a disk is open now", {{"disk", disk.path()}});
  {
    std::lock_guard lock(keeper_mutex_);
    keeper_wake_.notify_all();
  }
  if (cluster_) {
    cluster_->disk_added();
  } else {
    settle_volumes_of(disk);
  }
  finish_removed(disk);
}

void VolumeManager::settle_volumes_of(Disk& disk) {
  const std::vector<Disk*> only = {&disk};
  const ReplicaIndex index(only);
  std::vector<HostedPtr> all;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [name, hosted] : volumes_) all.push_back(hosted);
  }
  for (const HostedPtr& hosted : all) {
    std::lock_guard operation(hosted->operation);
    if (find(hosted->name) != hosted || hosted->disk != &disk || hosted->replica != 0) continue;
    const std::string problem = find_replica(*hosted, index);
    VolumeEntry entry;
    {
      std::lock_guard lock(mutex_);
      hosted->problem = problem;
      entry = hosted->entry;
    }
    if (entry.record.state() != "ready" && drop_unfinished(entry, index)) forget(hosted->name);
  }
  look_for_unknown_replicas();
}

// --- replicas that outlive their volumes ---

// Where a disk does not work, its replicas of removed volumes are noted in the metadata store.
Status VolumeManager::note_removed(const v1::VolumeRecord& record, const std::string& disk_id) {
  for (const v1::MemberRecord& member : record.members()) {
    if (member.disk_id() != disk_id) continue;
    CVOL_TRY(catalog_.put_removed(member.replica_id(), record.id(), disk_id));
  }
  return Status::ok();
}

bool VolumeManager::works(Disk* disk) {
  return disk != nullptr && disk->engine != nullptr && failure_of(disk).empty();
}

void VolumeManager::finish_removed(Disk& disk) {
  if (!works(&disk)) return;
  auto removed = catalog_.load_removed();
  if (!removed) {
    log::warning("volume", "cannot read which replicas are to be removed; the next start does",
                 {{"disk", disk.path()}, {"error", removed.message()}});
    return;
  }
  std::erase_if(*removed,
                [&](const v1::RemovedRecord& record) { return record.disk_id() != disk.id; });
  if (removed->empty()) return;
  std::set<std::string> used;  // by a volume that is there: its record is right, and not the note
  {
    std::lock_guard lock(mutex_);
    for (const auto& [name, hosted] : volumes_) {
      if (hosted->entry.record.state() != "ready") continue;
      for (const auto& member : hosted->entry.record.members()) {
        if (member.wanted() != "removed") used.insert(member.replica_id());
      }
    }
  }
  const std::vector<Disk*> only = {&disk};
  const ReplicaIndex index(only);
  for (const v1::RemovedRecord& record : *removed) {
    if (used.contains(record.replica_id())) {
      log::warning("volume", "a replica that was noted as removed belongs to a volume; it is kept",
                   {{"disk", disk.path()}, {"volume_id", record.volume_id()}});
    } else if (Status gone = remove_noted(disk, index, record); !gone.is_ok()) {
      log::warning("volume",
                   "cannot remove the replica of a removed volume; the next start tries again",
                   {{"disk", disk.path()}, {"error", gone.message()}});
      continue;
    }
    if (Status erased = catalog_.erase_removed(record.replica_id()); !erased.is_ok())
      log::warning("volume", "cannot note that a replica is gone",
                   {{"disk", disk.path()}, {"error", erased.message()}});
  }
}

Status VolumeManager::remove_noted(Disk& disk, const ReplicaIndex& index,
                                   const v1::RemovedRecord& record) {
  const auto info = index.find(disk, record.replica_id());
  if (!info || info->volume.to_string() != record.volume_id()) return Status::ok();
  const Status gone = disk.run<Status>(
      [&](store::DiskEngine& engine) { return engine.remove_replica(info->number); });
  if (!gone.is_ok() && gone.code() != Code::kNotFound) return gone;
  events_.add("replica_removed", disk.path(),
              "removed what the disk had of volume " + record.volume_id() +
                  ", which was removed while the disk did not work");
  return Status::ok();
}

}  // namespace cvol::volume
