// What becomes of records: changed, removed, lost, not readable any more. A record that cannot be
// used takes nothing away from those who use its volume, node or disk: what was known last goes on,
// and the fault is told until the record is back.
#include "volumed/base/log.h"
#include "volumed/meta/record_rules.h"
#include "volumed/volume/cluster.h"

namespace cvol::volume {

// --- on the records' thread ---

void Cluster::on_watch(const std::vector<meta::WatchEvent>& events) {
  const meta::Keys& keys = catalog_.keys();
  std::set<std::string> removed;  // by what these events say: they are one commit's
  for (const meta::WatchEvent& event : events) {
    if (event.key.starts_with(keys.removed_volumes()) && event.value)
      removed.insert(event.key.substr(keys.removed_volumes().size()));
  }
  for (const meta::WatchEvent& event : events) {
    if (event.key.starts_with(keys.volumes())) {
      hear_of_volume(event, removed);
    } else if (event.key.starts_with(keys.nodes())) {
      hear_of_node(event);
    } else if (event.key.starts_with(keys.alive())) {
      hear_of_life(event);
    } else if (event.key.starts_with(keys.claims())) {
      hear_of_claim(event);
    }
  }
  for (const std::string& id : removed) {
    if (is_unusable(id)) apply_volume(id, std::nullopt);
  }
}

void Cluster::hear_of_volume(const meta::WatchEvent& event, const std::set<std::string>& removed) {
  const std::string id = event.key.substr(catalog_.keys().volumes().size());
  if (!event.value) {
    note_problem(event.key, "");
    const auto known = entry(id);
    if (!known) return;
    if (known->record.state() == "removing" || removed.contains(id))
      return apply_volume(id, std::nullopt);
    lose_record(id, "the record of volume '" + known->record.name() +
                        "' is gone from the metadata store, and nobody removed the volume; what is "
                        "open goes on. Put the store back, or write the record again with 'cvol "
                        "volume rebuild-record " +
                        known->record.name() + "'");
    // This node may have missed the events of a removal: its note tells.
    reconcilers_->post("lost " + id, [this, id] {
      auto noted = catalog_.was_removed(id);
      if (noted && *noted)
        records_->post([this, id] {
          if (is_unusable(id)) apply_volume(id, std::nullopt);
        });
    });
    return;
  }
  auto record = meta::read_volume(event.key, *event.value);
  if (record) {
    note_problem(event.key, "");
    return apply_volume(id, VolumeEntry{std::move(*record), event.revision},
                        /*stored=*/true);
  }
  const auto known = entry(id);
  if (!known)
    return note_problem(event.key, record.message() +
                                       "; its volume is not served, and its replicas are kept. Put "
                                       "the record back from a copy of the store");
  lose_record(id, "the record of volume '" + known->record.name() + "' cannot be read any more (" +
                      record.message() +
                      "); what is open goes on. Put the store back, or write the record again with "
                      "'cvol volume rebuild-record " +
                      known->record.name() + "'");
}

void Cluster::hear_of_node(const meta::WatchEvent& event) {
  const std::string id = event.key.substr(catalog_.keys().nodes().size());
  if (event.value) {
    auto record = meta::read_node(event.key, *event.value);
    note_problem(event.key, record ? "" : record.message() + "; its node goes on as it was known");
    if (!record) return;
    std::lock_guard lock(mutex_);
    node_records_[id] = std::move(*record);
    ++heard_;
    changed_.notify_all();
    return;
  }
  std::string name;
  {
    std::lock_guard lock(mutex_);
    const auto known = node_records_.find(id);
    // Only nodes that are not there are removed.
    if (known != node_records_.end() && (id == options_.node_id || alive_.contains(id))) {
      name = known->second.name();
    } else {
      node_records_.erase(id);
    }
    ++heard_;
    changed_.notify_all();
  }
  if (name.empty() && id != options_.node_id) on_exchanges(id, &replication::Exchange::forget_node);
  note_problem(event.key, name.empty() ? ""
                                       : "the record of node " + name +
                                             " is gone from the metadata store, though the node "
                                             "lives; put the store back, or restart volumed there");
}

void Cluster::hear_of_life(const meta::WatchEvent& event) {
  const std::string id = event.key.substr(catalog_.keys().alive().size());
  if (!event.value) {
    note_problem(event.key, "");
    return apply_alive(id, std::nullopt, event.revision);
  }
  auto record = meta::read_alive(event.key, *event.value);
  note_problem(event.key, record ? "" : record.message() + "; restart volumed on that node");
  if (record) apply_alive(id, std::move(*record), event.revision);
}

void Cluster::hear_of_claim(const meta::WatchEvent& event) {
  if (!event.value) return note_problem(event.key, "");
  auto heard = meta::read_claim(event.key, *event.value);
  note_problem(event.key,
               heard ? "" : heard.message() + "; remove that key, and the replica claims anew");
  if (heard) answer_claim(*heard);
}

// --- what is wrong ---

// `problem` empty: nothing any more.
void Cluster::note_problem(const std::string& key, const std::string& problem) {
  std::lock_guard lock(mutex_);
  if (problem.empty()) {
    record_problems_.erase(key);
    return;
  }
  if (record_problems_[key] == problem) return;
  record_problems_[key] = problem;
  log::error("volume", "a record cannot be used", {{"key", key}, {"problem", problem}});
}

std::vector<std::string> Cluster::record_problems() {
  std::lock_guard lock(mutex_);
  std::vector<std::string> all;
  for (const auto& [key, problem] : record_problems_) all.push_back(problem);
  return all;
}

// Of a volume that is known. Its entry stays: it is the newest there was.
void Cluster::lose_record(const std::string& id, const std::string& problem) {
  {
    std::lock_guard lock(mutex_);
    unusable_[id] = problem;
    ++heard_;
    changed_.notify_all();
  }
  log::error("volume", "the record of a volume cannot be used",
             {{"volume_id", id}, {"problem", problem}});
  if (options_.on_record_problem) options_.on_record_problem(id, problem);
}

bool Cluster::is_unusable(const std::string& volume_id) {
  std::lock_guard lock(mutex_);
  return unusable_.contains(volume_id);
}

std::string Cluster::problem_of_record(const std::string& volume_id) {
  std::lock_guard lock(mutex_);
  const auto at = unusable_.find(volume_id);
  return at == unusable_.end() ? "" : at->second;
}

std::set<std::string> Cluster::known_replicas() {
  std::lock_guard lock(mutex_);
  std::set<std::string> all;
  for (const auto& [id, entry] : entries_) {
    for (const v1::MemberRecord& member : entry.record.members()) all.insert(member.replica_id());
  }
  return all;
}

// Nobody can have changed it since it was lost, so what is known here is its last state: every
// change of a record is a compare-and-swap on the one before.
Status Cluster::put_back_record(const std::string& volume_id) {
  auto known = entry(volume_id);
  if (!known) return Status(Code::kNotFound, "there is no volume with id " + volume_id);
  VolumeEntry again = *known;
  CVOL_TRY(catalog_.put_back_volume(again));
  learned(again);
  return Status::ok();
}

}  // namespace cvol::volume
