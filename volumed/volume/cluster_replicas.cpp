// The replicas on this node's disks: made, opened, closed and removed as the records say.
#include <algorithm>

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

bool is_in_sync(const v1::VolumeRecord& record, const std::string& replica) {
  return std::any_of(record.in_sync().begin(), record.in_sync().end(),
                     [&](const v1::InSyncRecord& entry) { return entry.replica_id() == replica; });
}

}  // namespace

std::optional<store::ReplicaInfo> Cluster::find_on_disk(Disk& disk, const std::string& replica_id) {
  for (const auto& info : disk.invoke([](auto& engine) { return engine.replicas(); })) {
    if (info.replica.to_string() == replica_id) return info;
  }
  return std::nullopt;
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
  for (const std::string& id : all) reconcile(id);
}

void Cluster::reconcile(const std::string& volume_id) {
  std::lock_guard lock(locals_mutex_);
  const auto known = entry(volume_id);
  if (!known) return close_local(volume_id);
  if (!bring_about(*known)) return;
  std::lock_guard entries_lock(mutex_);
  if (entries_.contains(volume_id)) settled_[volume_id] = known->revision;
}

// With locals_mutex_. True: what the record wants of this node is there, and stays without being
// looked at again.
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
      if (Status gone = remove_local(entry, *leaving); !gone.is_ok())
        log::warning("volume", "cannot remove a replica; it is tried again",
                     {{"volume", entry.record.name()}, {"error", gone.message()}});
      return false;
    }
    ours = leaving;  // until it has left the set
  }
  if (ours == nullptr) {
    close_local(volume_id);
    return true;
  }
  if (!ours->made()) {
    if (Status made = make_local(entry, *ours); !made.is_ok()) {
      locals_[volume_id].problem = made.message();
      log::warning("volume", "cannot make a replica; it is tried again",
                   {{"volume", entry.record.name()}, {"error", made.message()}});
    }
    return false;  // the changed record comes back
  }
  if (entry.record.state() != "ready") return false;
  open_local(entry, *ours);
  const auto local = locals_.find(volume_id);
  return local != locals_.end() && local->second.host && leaving == nullptr;
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

void Cluster::open_local(const VolumeEntry& entry, const v1::MemberRecord& member) {
  Local& local = locals_[entry.record.id()];
  if (local.host && local.replica_id == member.replica_id()) return;
  if (local.host) close_local(entry.record.id());
  Local& fresh = locals_[entry.record.id()];
  fresh.replica_id = member.replica_id();
  fresh.disk = disks_.find(member.disk_id());
  if (fresh.disk == nullptr || fresh.disk->engine == nullptr) {
    fresh.problem = "its replica's disk " + member.disk_id() + " does not work here" +
                    (fresh.disk != nullptr ? ": " + fresh.disk->problem : "");
    fresh.disk = nullptr;
    return;
  }
  const auto info = find_on_disk(*fresh.disk, member.replica_id());
  if (!info) {
    fresh.problem = "its replica is not on disk " + fresh.disk->path +
                    " any more; it is replaced from the other replicas after a while";
    return;
  }
  fresh.number = info->number;
  if (Status behind = check_not_behind(entry, *fresh.disk, *info); !behind.is_ok()) {
    if (fresh.problem != behind.message())
      log::error("volume", "a replica is not served",
                 {{"volume", entry.record.name()}, {"why", behind.message()}});
    fresh.problem = behind.message();
    fresh.disk = nullptr;
    return;
  }
  auto record = to_replication(entry.record, entry.revision);
  auto part = part_of(fresh.disk->shard, fresh.disk->shard_index);
  if (!record || !part) {
    fresh.problem = record ? part.message() : record.message();
    return;
  }
  replication::ReplicaHost::Parts parts;
  parts.exchange = (*part)->exchange.get();
  parts.engine = fresh.disk->engine.get();
  parts.number = info->number;
  parts.volume = info->volume;
  parts.self = info->replica;
  if (options_.on_event) {
    parts.event = [on_event = options_.on_event, name = entry.record.name()](
                      const std::string& text) { on_event("replication", name, text); };
  }
  auto host = fresh.disk->shard->invoke(
      [&] { return replication::ReplicaHost::open(std::move(parts), &*record); });
  if (!host) {
    fresh.problem = host.message();
    log::error("volume", "a replica cannot be opened",
               {{"volume", entry.record.name()}, {"error", host.message()}});
    return;
  }
  fresh.host = std::move(*host);
  fresh.problem.clear();
  // What was told before there was anybody to hear it.
  if (const auto latest = this->entry(entry.record.id());
      latest && latest->revision > entry.revision)
    publish(entry.record.id(), *latest);
}

// With locals_mutex_.
void Cluster::close_local(const std::string& volume_id) {
  const auto at = locals_.find(volume_id);
  if (at == locals_.end()) return;
  if (at->second.host) {
    io::Shard* shard = at->second.disk->shard;
    shard->run<bool>([&] { return close_host(at->second.host.get()); });
    shard->invoke([&] { at->second.host.reset(); });
  }
  locals_.erase(at);
}

// The replica first, then its entry in the record: a crash in between repeats it. The last one to
// go takes the record along.
Status Cluster::remove_local(const VolumeEntry& entry, const v1::MemberRecord& member) {
  close_local(entry.record.id());
  Disk* disk = disks_.find(member.disk_id());
  if (disk != nullptr && disk->engine != nullptr) {
    if (const auto info = find_on_disk(*disk, member.replica_id())) {
      CVOL_TRY(disk->run<Status>(
          [&](store::DiskEngine& engine) { return engine.remove_replica(info->number); }));
    }
  } else if (entry.record.state() != "removing") {
    return Status(Code::kUnavailable, "its disk is not there");
  }
  return update(entry.record.id(),
                [&](v1::VolumeRecord& next) {
                  auto& members = *next.mutable_members();
                  members.erase(std::remove_if(members.begin(), members.end(),
                                               [&](const v1::MemberRecord& other) {
                                                 return other.replica_id() == member.replica_id();
                                               }),
                                members.end());
                  if (next.state() != "removing") next.set_epoch(next.epoch() + 1);
                  return Status::ok();
                })
      .status();
}

std::optional<LocalReplica> Cluster::local_replica(const std::string& volume_id) {
  std::lock_guard lock(locals_mutex_);
  const auto at = locals_.find(volume_id);
  if (at == locals_.end()) return std::nullopt;
  const Local& local = at->second;
  LocalReplica view;
  view.replica_id = local.replica_id;
  view.problem = local.problem;
  if (local.disk == nullptr || !local.host) return view;
  view.disk_id = local.disk->id;
  local.disk->shard->invoke([&] {
    const replication::Replica& core = local.host->core();
    view.role = replication::name_of(core.role());
    view.joining = core.joining();
    view.trusted = core.trusts_itself();
    view.epoch = core.epoch().value;
    view.commit_point = core.commit_point().value;
    view.last_seq = core.last_seq().value;
    view.resyncs = local.host->resyncs();
    view.resync_sent_bytes = local.host->resync_sent_bytes();
    view.waits_for = core.waits_for(local.disk->shard->reactor().now());
    auto info = local.disk->engine->replica(local.number);
    if (info) view.allocated_bytes = info->allocated_bytes;
  });
  return view;
}

void Cluster::mend(const std::string& volume_id, uint64_t block) {
  std::lock_guard lock(locals_mutex_);
  const auto at = locals_.find(volume_id);
  if (at == locals_.end() || !at->second.host) return;
  at->second.disk->shard->invoke([&] { at->second.host->mend(block); });
}

void Cluster::disk_added() {
  (void)open_parts().is_ok();
  (void)announce().is_ok();
  reconcile_all();
}

void Cluster::disk_failed(const std::string& disk_id) {
  std::lock_guard lock(locals_mutex_);
  for (auto& [id, local] : locals_) {
    if (local.disk == nullptr || local.disk->id != disk_id || !local.host) continue;
    local.disk->shard->reactor().post([host = local.host.get(), shard = local.disk->shard] {
      host->core().on_disk_failed(shard->reactor().now());
    });
  }
}

}  // namespace cvol::volume
