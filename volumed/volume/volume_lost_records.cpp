// Volumes whose records are lost, and replicas and devices that no record speaks of: told, and
// kept.
#include <fstream>
#include <set>
#include <utility>

#include "volumed/base/log.h"
#include "volumed/volume/hosted.h"

namespace cvol::volume {

// On the records' thread. `problem` empty: the record is there again, and on_volume() follows.
void VolumeManager::on_record_problem(const std::string& id, const std::string& problem) {
  std::string name;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [known, hosted] : volumes_) {
      if (hosted->id != id) continue;
      name = known;
      hosted->record_problem = problem;
      if (problem.empty()) hosted->entry.revision = 0;  // a store that was put back counts anew
    }
  }
  if (name.empty()) return;
  events_.add(problem.empty() ? "record_back" : "record_lost", name,
              problem.empty() ? "the record of the volume is there again" : problem);
}

// Nothing can be noted of the volume; "removed" would not be true.
Status VolumeManager::refuse_without_record(Hosted& hosted) {
  std::lock_guard lock(mutex_);
  if (hosted.record_problem.empty()) return Status::ok();
  return Status(Code::kFailedPrecondition, hosted.record_problem + ". Nothing was removed");
}

// --- devices ---

// The id that was noted when the device of this name was made; empty: none was.
std::string VolumeManager::volume_of_device(const std::string& name) const {
  std::ifstream file(session_file(name));
  std::string session, id;
  if (!std::getline(file, session) || !std::getline(file, id)) return "";
  return Uuid::parse(id).is_ok() ? id : "";
}

// At start, of a device whose volume is in no record that could be read. It goes if the volume was
// removed while this node was away; if the record is lost, it waits for it.
void VolumeManager::discard_of_removed(const std::string& name) {
  const std::string id = volume_of_device(name);
  auto named = store_->get(catalog_.keys().name(name));
  Result<bool> recorded = id.empty() ? Result<bool>(false) : catalog_.has_record(id);
  Result<bool> removed = id.empty() ? catalog_.was_name_removed(name) : catalog_.was_removed(id);
  const bool sure = named && recorded && removed;
  if (!sure || *recorded || !*removed || (id.empty() && *named)) {
    log::error("volume", "a device of a volume without a record is kept", {{"volume", name}});
    std::lock_guard lock(mutex_);
    problems_.push_back("the device of volume '" + name +
                        "' is attached here, the metadata store has no record of the volume that "
                        "can be read, and nobody removed it: its I/O waits. Put the store back and "
                        "restart volumed");
    return;
  }
  log::warning("volume", "a device of a volume that was removed meanwhile is discarded",
               {{"volume", name}});
  if (Status gone = attacher_->discard(name); !gone.is_ok())
    log::warning("volume", "what is left of a removed volume stays",
                 {{"volume", name}, {"error", gone.message()}});
  forget_device_session(name);
}

// --- replicas ---

// Replicas that no record speaks of hold somebody's data (metadata from a copy, a disk from
// elsewhere, a record that is lost): they are told, and never removed here.
void VolumeManager::look_for_unknown_replicas() {
  std::vector<UnknownReplica> found;
  std::vector<std::pair<Disk*, store::ReplicaInfo>> all;
  for (Disk* disk : disk_set_.all()) {
    if (disk->engine == nullptr || disk->gone) continue;
    for (const auto& info : disk->invoke([](auto& engine) { return engine.replicas(); }))
      all.emplace_back(disk, info);
  }
  // After the replicas: a record is there before its replicas are.
  std::set<std::string> known = cluster_ ? cluster_->known_replicas() : std::set<std::string>();
  {
    std::lock_guard lock(mutex_);
    for (const auto& [name, hosted] : volumes_) {
      for (const auto& member : hosted->entry.record.members()) known.insert(member.replica_id());
    }
  }
  std::erase_if(all,
                [&](const auto& one) { return known.contains(one.second.replica.to_string()); });
  if (!all.empty()) {
    auto noted = catalog_.load_removed();
    if (!noted) return;  // the store is away: what was found before stays
    for (const v1::RemovedRecord& record : *noted) known.insert(record.replica_id());
  }
  for (const auto& [disk, info] : all) {
    const std::string replica = info.replica.to_string();
    if (known.contains(replica)) continue;
    const std::string id = info.volume.to_string();
    auto recorded = catalog_.has_record(id);
    auto removed = catalog_.was_removed(id);
    if (!recorded || !removed) return;
    std::string why = " that no record knows; it is kept. Restore the metadata that knows it";
    if (*recorded) why = ", whose record cannot be read or knows other replicas; it is kept";
    if (cluster_ && !*removed)
      why +=
          ", or make the record anew from what all its replicas know with 'cvol volume "
          "rebuild-record " +
          id + "'";
    if (*removed) why = ", which was removed; it is kept, and takes space";
    found.push_back({disk->path(), id, replica, why});
  }
  if (!found.empty()) {  // without those that were removed while this looked
    std::set<std::string> there;
    for (Disk* disk : disk_set_.all()) {
      if (disk->engine == nullptr) continue;
      for (const auto& info : disk->invoke([](auto& engine) { return engine.replicas(); }))
        there.insert(info.replica.to_string());
    }
    std::erase_if(found,
                  [&](const UnknownReplica& one) { return !there.contains(one.replica_id); });
  }
  std::lock_guard lock(mutex_);
  unknown_replicas_ = std::move(found);
}

void VolumeManager::add_lost_records(std::vector<Condition>& found) {
  if (cluster_) {
    for (const std::string& problem : cluster_->record_problems())
      found.push_back({ConditionKind::kRecordProblem, problem, problem, {}});
  }
  std::lock_guard lock(mutex_);
  for (const auto& [name, hosted] : volumes_) {
    if (!hosted->record_problem.empty())
      found.push_back({ConditionKind::kRecordLost, name, hosted->record_problem, {}});
  }
  for (const UnknownReplica& replica : unknown_replicas_)
    found.push_back({ConditionKind::kReplicaUnknown,
                     replica.volume_id,
                     "disk " + replica.disk + " holds replica " + replica.replica_id +
                         " of volume " + replica.volume_id + replica.why,
                     {}});
}

}  // namespace cvol::volume
