// A metadata store that was restored from an old backup: replicas know later epochs than it does.
// Nothing is served by guess: replicas say what they know, and an operator has the record rebuilt.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <ctime>
#include <map>
#include <thread>

#include "replication/node/state.h"
#include "volumed/base/log.h"
#include "volumed/base/units.h"
#include "volumed/volume/cluster.h"

namespace cvol::volume {
namespace {

using namespace std::chrono_literals;

// How long a rebuild waits for the claims of nodes that live.
constexpr int kClaimTurns = 30;
constexpr auto kClaimTurn = 100ms;

v1::ClaimRecord claim_of(const replication::Record& known, const std::string& volume,
                         const std::string& replica, const std::string& node) {
  v1::ClaimRecord claim;
  claim.set_volume_id(volume);
  claim.set_replica_id(replica);
  claim.set_node_id(node);
  claim.set_epoch(known.epoch.value);
  claim.set_primary(known.primary.to_string());
  for (const replication::InSync& entry : known.in_sync) {
    v1::InSyncRecord& in_sync = *claim.add_in_sync();
    in_sync.set_replica_id(entry.replica.to_string());
    in_sync.set_incarnation(entry.incarnation);
  }
  for (const replication::Member& entry : known.members) {
    v1::MemberRecord& member = *claim.add_members();
    member.set_replica_id(entry.replica.to_string());
    member.set_node_id(entry.node.to_string());
    member.set_disk_id(entry.disk.to_string());
    member.set_wanted("present");
    member.set_made(true);
  }
  claim.set_session_generation(known.session.generation);
  claim.set_lineage(known.lineage);
  claim.set_size_bytes(known.size_bytes);
  return claim;
}

const v1::ClaimRecord* newest_of(const std::vector<v1::ClaimRecord>& claims) {
  const auto newest = std::max_element(
      claims.begin(), claims.end(),
      [](const v1::ClaimRecord& a, const v1::ClaimRecord& b) { return a.epoch() < b.epoch(); });
  return newest == claims.end() ? nullptr : &*newest;
}

// The node of a replica, listed by the record or by the newest claim, that has made no claim;
// empty: there is none.
std::string node_without_claim(const v1::VolumeRecord& record,
                               const std::vector<v1::ClaimRecord>& claims) {
  const auto claimed = [&](const std::string& replica) {
    return std::any_of(claims.begin(), claims.end(),
                       [&](const v1::ClaimRecord& claim) { return claim.replica_id() == replica; });
  };
  for (const v1::MemberRecord& member : record.members()) {
    if (member.made() && !claimed(member.replica_id())) return member.node_id();
  }
  const v1::ClaimRecord* newest = newest_of(claims);
  if (newest == nullptr) return "";
  for (const v1::MemberRecord& member : newest->members()) {
    if (!claimed(member.replica_id())) return member.node_id();
  }
  return "";
}

}  // namespace

// Whoever sees a claim adds what the replicas of this node know: the record is rebuilt from the
// claims of all. On the records' thread.
void Cluster::answer_claim(const v1::ClaimRecord& heard) {
  std::map<std::string, std::string> ours;  // replica -> disk
  const auto look_at = [&](const auto& members) {
    for (const v1::MemberRecord& member : members) {
      if (member.node_id() == options_.node_id && member.replica_id() != heard.replica_id())
        ours[member.replica_id()] = member.disk_id();
    }
  };
  if (const auto known = entry(heard.volume_id())) look_at(known->record.members());
  look_at(heard.members());
  for (const auto& [replica, disk] : ours) claim_soon(heard.volume_id(), disk, replica, {});
}

// Any thread; waits for nothing.
void Cluster::claim_soon(const std::string& volume_id, const std::string& disk_id,
                         const std::string& replica_id, replication::Record known) {
  const bool taken =
      reconcilers_->post(disk_id, [this, volume_id, disk_id, replica_id, known = std::move(known)] {
        const Status claimed = claim(volume_id, disk_id, replica_id, known);
        if (!claimed)
          log::warning("volume", "cannot tell the metadata store what a replica knows",
                       {{"volume", volume_id}, {"error", claimed.message()}});
      });
  (void)taken;  // stopping: the next start says it
}

// `known`: what it knows at least. A replica that is not on its disk any more knows nothing.
Status Cluster::claim(const std::string& volume_id, const std::string& disk_id,
                      const std::string& replica_id, replication::Record known) {
  Disk* disk = disks_.find(disk_id);
  if (disk == nullptr || disk->engine == nullptr)
    return Status(Code::kUnavailable, "disk " + disk_id + " is not there");
  if (const auto info = find_on_disk(*disk, replica_id)) {
    const auto bytes =
        disk->invoke([&](store::DiskEngine& engine) { return engine.replica_state(info->number); });
    if (!bytes) return bytes.status();
    if (!bytes->empty()) {
      auto state = replication::decode_state(*bytes);
      if (!state) return state.status();
      if (state->record.epoch > known.epoch) known = std::move(state->record);
    }
  }
  auto claims = catalog_.load_claims(volume_id);
  if (!claims) return claims.status();
  for (const v1::ClaimRecord& made : *claims) {
    if (made.replica_id() == replica_id && made.epoch() == known.epoch.value) return Status::ok();
  }
  return catalog_.put_claim(claim_of(known, volume_id, replica_id, options_.node_id));
}

// `silent`: the node of a replica that has made none within a few seconds.
Result<std::vector<v1::ClaimRecord>> Cluster::claims_of_all(const VolumeEntry& entry,
                                                            std::string& silent) {
  for (int turn = 0;; ++turn) {
    auto claims = catalog_.load_claims(entry.record.id());
    if (!claims) return claims.status();
    silent = node_without_claim(entry.record, *claims);
    if (claims->empty() || silent.empty() || turn == kClaimTurns) return claims;
    if (!is_alive(silent)) return claims;
    // Again, for those who have not heard of it.
    if (turn == 0) CVOL_TRY(catalog_.put_claim(claims->front()));
    std::this_thread::sleep_for(kClaimTurn);
  }
}

Status Cluster::check_not_behind(const VolumeEntry& entry, Disk& disk,
                                 const store::ReplicaInfo& info) {
  const auto bytes =
      disk.invoke([&](store::DiskEngine& engine) { return engine.replica_state(info.number); });
  if (!bytes || bytes->empty()) return Status::ok();
  auto state = replication::decode_state(*bytes);
  if (!state) return state.status();
  if (state->record.epoch.value <= entry.record.epoch()) return Status::ok();
  // What came by a watch may be late; this is as it is now.
  auto now = catalog_.load_volume(entry.record.id());
  if (!now) return now.status();
  if (state->record.epoch.value <= now->record.epoch()) return Status::ok();
  (void)catalog_
      .put_claim(
          claim_of(state->record, entry.record.id(), info.replica.to_string(), options_.node_id))
      .is_ok();
  return Status(
      Code::kFailedPrecondition,
      fmt::format("the metadata store knows epoch {} of the volume, its replica here epoch "
                  "{}: the store was restored from an old backup. Nothing is lost yet. "
                  "Start volumed on all nodes of the volume, then run 'cvol volume "
                  "rebuild-record {}'",
                  now->record.epoch(), state->record.epoch.value, entry.record.name()));
}

// What the replicas know of a volume that has no record. They do not know all of it: its file
// system is whatever is found in it, and nothing is ever made over it.
v1::VolumeRecord Cluster::record_of_claims(const v1::ClaimRecord& newest, const std::string& name,
                                           bool all_told) {
  v1::VolumeRecord record;
  record.set_id(newest.volume_id());
  record.set_name(name);
  record.mutable_created()->set_seconds(std::time(nullptr));
  record.set_size_bytes(newest.size_bytes());
  record.set_replicas(
      static_cast<uint32_t>(std::clamp(newest.members_size(), 1, static_cast<int>(kMostReplicas))));
  record.set_durability("durable");
  record.set_min_in_sync(1);
  record.set_fs("ext4");
  record.set_format_state(v1::FORMAT_STATE_BLOCK_DEVICE);
  record.set_epoch(newest.epoch() + 1);
  record.set_primary(newest.primary());
  *record.mutable_in_sync() = newest.in_sync();
  *record.mutable_members() = newest.members();
  record.mutable_session()->set_generation(newest.session_generation() + 1);
  record.set_lineage(newest.lineage() + (all_told ? 0 : 1));
  record.set_state("ready");
  return record;
}

Status Cluster::claim_own(const std::string& volume_id) {
  bool found = false;
  for (Disk* disk : disks_.all()) {
    if (disk->engine == nullptr || disk->gone) continue;
    for (const auto& info : disk->invoke([](auto& engine) { return engine.replicas(); })) {
      if (info.volume.to_string() != volume_id) continue;
      CVOL_TRY(claim(volume_id, disk->id, info.replica.to_string(), {}));
      found = true;
    }
  }
  if (found) return Status::ok();
  return Status(Code::kNotFound, "no disk of this node has a replica of volume " + volume_id +
                                     "; ask a node that has one ('cvol status' there tells of it)");
}

Status Cluster::rebuild_lost(const std::string& volume_id, bool accept_data_loss) {
  if (catalog_.load_volume(volume_id))
    return Status(Code::kFailedPrecondition,
                  "volume " + volume_id + " has a record; nothing is to be rebuilt");
  auto removed = catalog_.was_removed(volume_id);
  if (!removed) return removed.status();
  if (*removed)
    return Status(Code::kFailedPrecondition,
                  "volume " + volume_id + " was removed; its record is not made anew");
  CVOL_TRY(claim_own(volume_id));
  VolumeEntry entry;
  entry.record.set_id(volume_id);
  std::string silent;
  auto claims = claims_of_all(entry, silent);
  if (!claims) return claims.status();
  const v1::ClaimRecord* newest = newest_of(*claims);
  if (newest == nullptr || newest->epoch() == 0)
    return Status(Code::kFailedPrecondition,
                  "no replica of volume " + volume_id + " has ever been served; nothing is known");
  // It may know a later state, and hold writes that nobody else has.
  if (!silent.empty() && !accept_data_loss)
    return Status(Code::kFailedPrecondition,
                  "node " + node_name(silent) +
                      " has not told what its replica of the volume knows; start it, or see to its "
                      "disk, or go without it with --accept-data-loss");
  auto name = catalog_.name_of(volume_id);
  if (!name) return name.status();
  entry.record = record_of_claims(
      *newest, name->empty() ? "recovered-" + volume_id.substr(0, 8) : *name, silent.empty());
  CVOL_TRY(catalog_.put_back_volume(entry));
  learned(entry);
  return catalog_.erase_claims(*claims);
}

Status Cluster::rebuild_record(const std::string& volume_id, bool accept_data_loss) {
  if (!problem_of_record(volume_id).empty()) return put_back_record(volume_id);
  auto entry = catalog_.load_volume(volume_id);
  if (!entry) return entry.status();
  std::string silent;
  auto claims = claims_of_all(*entry, silent);
  if (!claims) return claims.status();
  const v1::ClaimRecord* newest = newest_of(*claims);
  if (newest == nullptr || newest->epoch() <= entry->record.epoch())
    return Status(Code::kFailedPrecondition,
                  "no replica knows more of the volume than its record does; nothing is to be "
                  "rebuilt");
  // A node that is away may know a still later epoch, and hold writes that nobody else has.
  std::string away;
  for (const auto* members : {&entry->record.members(), &newest->members()}) {
    for (const v1::MemberRecord& member : *members) {
      if (!is_alive(member.node_id())) away = node_name(member.node_id());
    }
  }
  if (!away.empty() && !accept_data_loss)
    return Status(
        Code::kFailedPrecondition,
        "node " + away +
            " is away, and its replica may know a later state of the volume; start it, or "
            "go without it with --accept-data-loss");
  if (!silent.empty() && !accept_data_loss)
    return Status(
        Code::kFailedPrecondition,
        "node " + node_name(silent) +
            " has not told what its replica knows, which may be a later state of the volume; see "
            "to its disk ('cvol disk ls') and try again, or go without it with --accept-data-loss");
  const bool all_told = away.empty() && silent.empty();
  auto changed = update(volume_id, [&](v1::VolumeRecord& next) {
    next.set_epoch(newest->epoch() + 1);
    next.set_primary(newest->primary());
    *next.mutable_in_sync() = newest->in_sync();
    next.set_size_bytes(std::max(next.size_bytes(), newest->size_bytes()));
    next.set_lineage(std::max(next.lineage(), newest->lineage()) + (all_told ? 0 : 1));
    // Attachments of before are over: whoever has one attaches anew.
    next.mutable_session()->clear_id();
    next.mutable_session()->clear_node_id();
    next.mutable_session()->set_generation(
        std::max(next.session().generation(), newest->session_generation()) + 1);
    for (const v1::MemberRecord& member : newest->members()) {
      const bool known = std::any_of(
          next.members().begin(), next.members().end(),
          [&](const v1::MemberRecord& other) { return other.replica_id() == member.replica_id(); });
      if (!known) *next.add_members() = member;
    }
    return Status::ok();
  });
  if (!changed) return changed.status();
  return catalog_.erase_claims(*claims);
}

}  // namespace cvol::volume
