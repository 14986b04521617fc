// The replicas on this node's disks: made, opened, closed and removed as the records say.
#include <algorithm>

#include "volumed/base/assert.h"
#include "volumed/base/log.h"
#include "volumed/volume/cluster.h"
#include "volumed/volume/cluster_register.h"

namespace cvol::volume {
namespace {

Task<Status> create_on(store::DiskEngine& engine, Uuid volume, Uuid replica, uint64_t size) {
  auto made = co_await engine.create_replica(volume, replica, size);
  co_return made.status();
}

Task<bool> close_host(replication::ReplicaHost* host) {
  co_await host->close();
  co_return true;
}

bool works(Disk* disk) {
  return disk != nullptr && disk->engine != nullptr &&
         !disk->invoke([](auto& engine) { return engine.info(); }).failed;
}

bool is_in_sync(const v1::VolumeRecord& record, const std::string& replica) {
  return std::any_of(record.in_sync().begin(), record.in_sync().end(),
                     [&](const v1::InSyncRecord& entry) { return entry.replica_id() == replica; });
}

}  // namespace

std::optional<store::ReplicaInfo> Cluster::find_on_disk(Disk& disk, const std::string& replica_id) {
  const auto wanted = Uuid::parse(replica_id);
  if (!wanted) return std::nullopt;
  for (const auto& info : disk.invoke([](auto& engine) { return engine.replicas(); })) {
    if (info.replica == *wanted) return info;
  }
  return std::nullopt;
}

// --- turns ---

// Where the volume's replica is or was; empty: nowhere here.
std::string Cluster::disk_of(const std::string& volume_id) {
  if (const auto known = entry(volume_id)) {
    std::string found;
    for (const v1::MemberRecord& member : known->record.members()) {
      if (member.node_id() != options_.node_id) continue;
      if (found.empty() || member.wanted() != "removed") found = member.disk_id();
    }
    if (!found.empty()) return found;
  }
  const auto local = local_of(volume_id);
  return local && local->disk != nullptr ? local->disk->id : "";
}

// Any thread; waits for nothing.
void Cluster::reconcile_soon(const std::string& volume_id) {
  const std::string disk = disk_of(volume_id);
  std::lock_guard lock(locals_mutex_);
  const auto [turn, fresh] = turns_.try_emplace(volume_id, Turn::kQueued);
  if (!fresh) {
    if (turn->second == Turn::kRuns) turn->second = Turn::kRunsAndAgain;
    return;
  }
  if (!reconcilers_->post(disk, [this, volume_id] { take_turn(volume_id); })) turns_.erase(turn);
}

// The volume's turns are one after the other whatever worker they are on: a replica that changes
// disks changes workers.
void Cluster::take_turn(const std::string& volume_id) {
  {
    std::lock_guard lock(locals_mutex_);
    CVOL_ASSERT(turns_.at(volume_id) == Turn::kQueued);
    turns_[volume_id] = Turn::kRuns;
  }
  reconcile(volume_id);
  bool again = false;
  {
    std::lock_guard lock(locals_mutex_);
    again = turns_.at(volume_id) == Turn::kRunsAndAgain;
    turns_.erase(volume_id);
    turned_.notify_all();
  }
  if (again) reconcile_soon(volume_id);
}

// Until nothing is to be done, or the time is over: a disk may hang.
void Cluster::wait_for_turns(std::chrono::milliseconds time) {
  std::unique_lock lock(locals_mutex_);
  turned_.wait_for(lock, time, [this] { return turns_.empty(); });
}

std::optional<Cluster::Local> Cluster::local_of(const std::string& volume_id) {
  std::lock_guard lock(locals_mutex_);
  const auto at = locals_.find(volume_id);
  return at == locals_.end() ? std::nullopt : std::optional<Local>(at->second);
}

void Cluster::set_local(const std::string& volume_id, Local local) {
  std::lock_guard lock(locals_mutex_);
  locals_[volume_id] = std::move(local);
}

void Cluster::reconcile_all() {
  std::vector<std::string> all;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [id, entry] : entries_) {
      const auto settled = settled_.find(id);
      if (settled == settled_.end() || settled->second != entry.revision) all.push_back(id);
    }
  }
  for (const std::string& id : all) reconcile_soon(id);
}

// --- in the volume's turn ---

void Cluster::reconcile(const std::string& volume_id) {
  {
    std::lock_guard lock(mutex_);
    if (stopping_) return;
  }
  const auto known = entry(volume_id);
  if (!known) return close_local(volume_id);
  if (is_unusable(volume_id)) return;  // nothing is made or removed for a record that is lost
  if (!bring_about(*known)) return;
  std::lock_guard lock(mutex_);
  if (entries_.contains(volume_id)) settled_[volume_id] = known->revision;
}

// True: what the record wants of this node is there, and stays without being looked at again.
bool Cluster::bring_about(const VolumeEntry& entry) {
  const std::string& volume_id = entry.record.id();
  const v1::MemberRecord* ours = nullptr;
  const v1::MemberRecord* leaving = nullptr;
  for (const v1::MemberRecord& member : entry.record.members()) {
    if (member.node_id() != options_.node_id) continue;
    const bool goes = entry.record.state() == "removing" || member.wanted() == "removed";
    (goes ? leaving : ours) = &member;
  }
  if (leaving != nullptr) {
    const bool may_go =
        entry.record.state() == "removing" || !is_in_sync(entry.record, leaving->replica_id());
    if (may_go) {
      Status gone = remove_local(entry, *leaving);
      // Not news: what was done in the turn before may not have come back to this node yet.
      const bool known = gone.code() == Code::kCancelled || gone.code() == Code::kNotFound ||
                         (ours != nullptr && gone.code() == Code::kUnavailable);
      if (!gone.is_ok() && !known)
        log::warning("volume", "cannot remove a replica; it is tried again",
                     {{"volume", entry.record.name()}, {"error", gone.message()}});
      // What stays on a disk that does not work keeps its successor from nothing.
      if (gone.is_ok() || ours == nullptr) return false;
    } else if (ours == nullptr) {
      ours = leaving;  // until it has left the set
    }
  }
  if (ours == nullptr) {
    close_local(volume_id);
    return true;
  }
  if (!ours->made()) {
    if (Status made = make_local(entry, *ours); !made.is_ok()) {
      Local local = local_of(volume_id).value_or(Local());
      local.problem = made.message();
      set_local(volume_id, std::move(local));
      log::warning("volume", "cannot make a replica; it is tried again",
                   {{"volume", entry.record.name()}, {"error", made.message()}});
    }
    return false;  // the changed record comes back
  }
  if (entry.record.state() != "ready") return false;
  return open_local(entry, *ours) && leaving == nullptr;
}

Status Cluster::make_local(const VolumeEntry& entry, const v1::MemberRecord& member) {
  Disk* disk = disks_.find(member.disk_id());
  if (disk == nullptr || disk->engine == nullptr)
    return Status(Code::kUnavailable, "disk " + member.disk_id() + " is not there");
  auto volume = Uuid::parse(entry.record.id());
  auto replica = Uuid::parse(member.replica_id());
  if (!volume || !replica) return Status(Code::kDamaged, "the record holds a bad id");
  if (!find_on_disk(*disk, member.replica_id())) {
    CVOL_TRY(disk->run<Status>([&](store::DiskEngine& engine) {
      return create_on(engine, *volume, *replica, entry.record.size_bytes());
    }));
  }
  const auto info = find_on_disk(*disk, member.replica_id());
  if (!info) return Status(Code::kInternal, "the replica is not there after it was made");
  return update(entry.record.id(),
                [&](v1::VolumeRecord& next) {
                  for (v1::MemberRecord& other : *next.mutable_members()) {
                    if (other.replica_id() != member.replica_id()) continue;
                    other.set_made(true);
                    other.set_replica_number(info->number);
                    return Status::ok();
                  }
                  return Status(Code::kCancelled, "the record has no such member any more");
                })
      .status();
}

// True: it is open.
bool Cluster::open_local(const VolumeEntry& entry, const v1::MemberRecord& member) {
  const std::string& volume_id = entry.record.id();
  const auto known = local_of(volume_id);
  if (known && known->host) {
    if (known->replica_id == member.replica_id()) return true;
    close_local(volume_id);
  }
  Local local;
  local.replica_id = member.replica_id();
  if (known) local.problem = known->problem;
  const Status opened = open_host(entry, member, local);
  if (!opened.is_ok()) {
    if (local.problem != opened.message())
      log::error("volume", "a replica is not served",
                 {{"volume", entry.record.name()}, {"why", opened.message()}});
    local.disk = nullptr;
    local.host = nullptr;
  }
  local.problem = opened.message();
  set_local(volume_id, std::move(local));
  if (!opened.is_ok()) return false;
  // What was told before there was anybody to hear it.
  if (const auto latest = this->entry(volume_id); latest && latest->revision > entry.revision)
    publish(volume_id, *latest);
  return true;
}

Status Cluster::open_host(const VolumeEntry& entry, const v1::MemberRecord& member, Local& local) {
  local.disk = disks_.find(member.disk_id());
  if (local.disk == nullptr || local.disk->engine == nullptr)
    return Status(Code::kUnavailable,
                  "its replica's disk " + member.disk_id() + " does not work here" +
                      (local.disk != nullptr ? ": " + local.disk->problem() : ""));
  const auto info = find_on_disk(*local.disk, member.replica_id());
  if (!info)
    return Status(Code::kNotFound,
                  "its replica is not on disk " + local.disk->path() +
                      " any more; it is replaced from the other replicas after a while");
  local.number = info->number;
  CVOL_TRY(check_not_behind(entry, *local.disk, *info));
  auto record = to_replication(entry.record, entry.revision);
  if (!record) return record.status();
  auto part = part_of(local.disk->shard, local.disk->shard_index);
  if (!part) return part.status();
  replication::ReplicaHost::Parts parts;
  parts.exchange = (*part)->exchange.get();
  parts.engine = local.disk->engine.get();
  parts.number = info->number;
  parts.volume = info->volume;
  parts.self = info->replica;
  if (options_.on_event) {
    parts.event = [this, id = entry.record.id(),
                   name = entry.record.name()](const std::string& text) {
      options_.on_event("replication", name, told_with_names(id, text));
    };
  }
  parts.claim = [this, volume = entry.record.id(), disk = member.disk_id(),
                 replica = member.replica_id()](const replication::Record& known) {
    claim_soon(volume, disk, replica, known);
  };
  // Shown before it is open, so that it is told of a disk that fails meanwhile.
  local.host = std::make_shared<HostSlot>();
  set_local(entry.record.id(), local);
  return local.disk->shard->invoke([&] {
    auto host = replication::ReplicaHost::open(std::move(parts), &*record);
    if (host) *local.host = std::move(*host);
    return host.status();
  });
}

// In the volume's turn, or when there are no turns any more.
void Cluster::close_local(const std::string& volume_id) {
  Local local;
  {
    std::lock_guard lock(locals_mutex_);
    const auto at = locals_.find(volume_id);
    if (at == locals_.end()) return;
    local = std::move(at->second);
    locals_.erase(at);
  }
  if (!local.host) return;
  io::Shard* shard = local.disk->shard;
  HostSlot host;  // whoever still has the slot finds nothing in it
  shard->invoke([&] { host = std::move(*local.host); });
  shard->run<bool>([&] { return close_host(host.get()); });
  shard->invoke([&] { host.reset(); });
}

// The replica first, then its entry in the record: a crash in between repeats it. The last one to
// go takes the record along.
Status Cluster::remove_local(const VolumeEntry& entry, const v1::MemberRecord& member) {
  if (const auto open = local_of(entry.record.id());
      open && (open->replica_id == member.replica_id() || open->replica_id.empty()))
    close_local(entry.record.id());
  Disk* disk = disks_.find(member.disk_id());
  if (works(disk)) {
    if (const auto info = find_on_disk(*disk, member.replica_id())) {
      CVOL_TRY(disk->run<Status>(
          [&](store::DiskEngine& engine) { return engine.remove_replica(info->number); }));
    }
  } else if (entry.record.state() != "removing" &&
             static_cast<uint32_t>(entry.record.in_sync_size()) < entry.record.replicas()) {
    return Status(Code::kUnavailable,
                  "its disk does not work; it is forgotten when the volume is whole without it");
  } else {  // the disk learns of it when it works again
    CVOL_TRY(catalog_.put_removed(member.replica_id(), entry.record.id(), member.disk_id()));
  }
  return update(entry.record.id(),
                [&](v1::VolumeRecord& next) {
                  auto& members = *next.mutable_members();
                  const int before = members.size();
                  members.erase(std::remove_if(members.begin(), members.end(),
                                               [&](const v1::MemberRecord& other) {
                                                 return other.replica_id() == member.replica_id();
                                               }),
                                members.end());
                  if (members.size() == before)
                    return Status(Code::kCancelled, "the record has no such member any more");
                  if (next.state() != "removing") next.set_epoch(next.epoch() + 1);
                  return Status::ok();
                })
      .status();
}

std::optional<LocalReplica> Cluster::local_replica(const std::string& volume_id) {
  const auto known = local_of(volume_id);
  if (!known) return std::nullopt;
  const Local& local = *known;
  LocalReplica view;
  view.replica_id = local.replica_id;
  view.problem = local.problem;
  if (local.disk == nullptr || !local.host) return view;
  view.disk_id = local.disk->id;
  local.disk->shard->invoke([&] {
    const replication::ReplicaHost* host = local.host->get();
    if (host == nullptr) return;
    const replication::Replica& core = host->core();
    view.role = replication::name_of(core.role());
    view.joining = core.joining();
    view.trusted = core.trusts_itself();
    view.epoch = core.epoch().value;
    view.commit_point = core.commit_point().value;
    view.last_seq = core.last_seq().value;
    view.resyncs = host->resyncs();
    view.resync_sent_bytes = host->resync_sent_bytes();
    view.waits_for = core.waits_for(local.disk->shard->reactor().now());
    auto info = local.disk->engine->replica(local.number);
    if (info) view.allocated_bytes = info->allocated_bytes;
  });
  return view;
}

void Cluster::mend(const std::string& volume_id, uint64_t block) {
  const auto local = local_of(volume_id);
  if (!local || !local->host) return;
  local->disk->shard->invoke([&] {
    if (*local->host) (*local->host)->mend(block);
  });
}

void Cluster::disk_added() {
  (void)open_parts().is_ok();
  publish_nodes();  // a shard that came with the disk has heard of none
  (void)announce().is_ok();
  reconcile_all();
}

void Cluster::disk_leaves() {
  (void)announce().is_ok();
  std::lock_guard lock(mutex_);
  ++heard_;
  repair_soon_ = true;
  changed_.notify_all();
}

std::vector<VolumeEntry> Cluster::volumes_on(const std::string& disk_id) {
  std::vector<VolumeEntry> found;
  std::lock_guard lock(mutex_);
  for (const auto& [id, entry] : entries_) {
    for (const v1::MemberRecord& member : entry.record.members()) {
      if (member.disk_id() != disk_id || member.node_id() != options_.node_id) continue;
      found.push_back(entry);
      break;
    }
  }
  return found;
}

void Cluster::disk_failed(const std::string& disk_id) {
  std::lock_guard lock(locals_mutex_);
  for (auto& [id, local] : locals_) {
    if (local.disk == nullptr || local.disk->id != disk_id || !local.host) continue;
    local.disk->shard->reactor().post([slot = local.host, shard = local.disk->shard] {
      if (*slot) (*slot)->core().on_disk_failed(shard->reactor().now());
    });
  }
}

}  // namespace cvol::volume
