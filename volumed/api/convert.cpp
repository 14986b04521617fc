#include "volumed/api/convert.h"

#include <google/protobuf/util/time_util.h>

#include <algorithm>
#include <set>

namespace cvol::api {
namespace {

using google::protobuf::util::TimeUtil;

google::protobuf::Timestamp to_timestamp(std::chrono::system_clock::time_point time) {
  return TimeUtil::NanosecondsToTimestamp(
      std::chrono::duration_cast<std::chrono::nanoseconds>(time.time_since_epoch()).count());
}

const char* state_name(volume::VolumeState state) {
  switch (state) {
    case volume::VolumeState::kAvailable:
      return "available";
    case volume::VolumeState::kAttached:
      return "attached";
    case volume::VolumeState::kMounted:
      return "mounted";
    case volume::VolumeState::kDamaged:
      return "damaged";
  }
  return "damaged";
}

// What people call the state of a copy.
const char* copy_state(const v1::VolumeRecord& record, const v1::MemberRecord& member,
                       const v1::Replica& copy, bool alive, bool syncing) {
  if (!alive) return "away";
  if (member.wanted() == "removed") return "leaving";
  if (copy.primary()) return "primary";
  if (copy.in_sync()) return "in sync";
  if (record.state() == "creating" || !member.made()) return "new";
  return syncing ? "syncing" : "stale";
}

void add_copies(const volume::VolumeView& view, volume::VolumeManager& manager,
                v1::Volume& volume) {
  const v1::VolumeRecord& record = view.record;
  const volume::NodeView node = manager.node();
  std::set<std::string> living;
  for (const volume::ClusterNode& other : manager.nodes()) {
    if (other.alive) living.insert(other.record.id());
  }
  for (const v1::MemberRecord& member : record.members()) {
    v1::Replica& copy = *volume.add_copies();
    copy.set_id(member.replica_id());
    copy.set_node(manager.node_name(member.node_id()));
    copy.set_disk(member.disk_id());
    copy.set_primary(member.replica_id() == record.primary());
    for (const v1::InSyncRecord& in_sync : record.in_sync()) {
      if (in_sync.replica_id() == member.replica_id()) copy.set_in_sync(true);
    }
    if (member.node_id() == node.id) copy.set_allocated_bytes(view.allocated_bytes);
    bool syncing = member.node_id() == node.id && view.local && view.local->joining;
    if (view.local) {
      for (const auto& resync : view.local->resyncs)
        syncing = syncing || resync.target.to_string() == member.replica_id();
    }
    const bool alive = !manager.clustered() || living.contains(member.node_id());
    copy.set_state(copy_state(record, member, copy, alive, syncing));
  }
}

void add_stage(const v1::StageRecord& record, v1::Volume& volume) {
  v1::Stage& stage = *volume.mutable_stage();
  stage.set_path(record.path());
  stage.set_block(record.block());
  stage.set_fs(record.fs());
  stage.set_read_only(record.read_only());
  for (const auto& [target, how] : record.targets()) stage.add_targets(target);
}

void add_resyncs(const volume::VolumeView& view, v1::Volume& volume) {
  if (!view.local) return;
  volume.set_resync_sent_bytes(view.local->resync_sent_bytes);
  for (const auto& resync : view.local->resyncs) {
    v1::Resync& entry = *volume.add_resyncs();
    entry.set_replica(resync.target.to_string());
    entry.set_total_bytes(resync.total_bytes);
    entry.set_done_bytes(resync.done_bytes);
    entry.set_sent_bytes(resync.sent_bytes);
    entry.set_verifying(resync.verifying);
    entry.set_seconds_left(resync.seconds_left);
  }
}

}  // namespace

const char* version() {
  return CVOL_VERSION;
}

v1::Volume to_proto(const volume::VolumeView& view, volume::VolumeManager& manager) {
  const v1::VolumeRecord& record = view.record;
  v1::Volume volume;
  volume.set_name(record.name());
  volume.set_id(record.id());
  volume.set_size_bytes(record.size_bytes());
  volume.set_allocated_bytes(view.allocated_bytes);
  volume.set_replicas(record.replicas());
  volume.set_fs(record.fs());
  volume.set_state(state_name(view.state));
  volume.set_problem(view.problem);
  if (const auto waiting = manager.waiting_requests(record.name())) volume.set_waits(waiting->text);
  *volume.mutable_created() = record.created();
  *volume.mutable_labels() = record.labels();
  if (!record.session().id().empty())
    volume.set_node(manager.node_name(record.session().node_id()));
  volume.set_device(view.device);
  volume.set_attach_method(view.attach_method);
  volume.set_mountpoint(view.mountpoint);
  for (const std::string& id : record.mount().caller_ids()) volume.add_mount_ids(id);
  volume.set_mounted_here(view.mounted_here);
  volume.set_unmount_waits(view.waits);
  volume.set_connections(view.connections);
  volume.set_epoch(record.epoch());
  volume.set_generation(record.session().generation());
  volume.set_formatted(record.format_state() == v1::FORMAT_STATE_DONE);
  volume.set_min_in_sync(record.min_in_sync());
  volume.set_zone_spread(record.zone_spread());
  volume.set_on_full(record.on_full());
  volume.set_fs_size_bytes(record.fs_size_bytes());
  for (const std::string& warning : view.warnings) volume.add_warnings(warning);
  volume.set_reserved(record.session().reserved());
  volume.set_reserved_read_only(record.session().read_only());
  if (record.has_stage()) add_stage(record.stage(), volume);
  add_copies(view, manager, volume);
  add_resyncs(view, volume);
  return volume;
}

namespace {

void set_time(google::protobuf::Timestamp* (v1::Scrub::*field)(), uint64_t seconds,
              v1::Scrub& scrub) {
  if (seconds != 0) (scrub.*field)()->set_seconds(static_cast<int64_t>(seconds));
}

const char* scrub_state(const store::ScrubRecord& record) {
  if (record.state == store::ScrubState::kRunning) return "running";
  if (record.state == store::ScrubState::kStopped) return "stopped";
  return record.completed == 0 ? "never" : "done";
}

void fill_scrub(const volume::DiskView& view, v1::Scrub& scrub) {
  const store::ScrubInfo& info = view.scrub;
  const store::ScrubRecord& record = info.record;
  scrub.set_state(scrub_state(record));
  scrub.set_verify(info.verify);
  scrub.set_progress_percent(static_cast<uint32_t>(info.progress * 100));
  scrub.set_rate(record.rate);
  set_time(&v1::Scrub::mutable_started, record.started, scrub);
  set_time(&v1::Scrub::mutable_stopped, record.stopped, scrub);
  scrub.set_bytes(record.bytes);
  scrub.set_damaged_blocks(record.damaged);
  set_time(&v1::Scrub::mutable_completed, record.completed, scrub);
  set_time(&v1::Scrub::mutable_completed_started, record.completed_started, scrub);
  scrub.set_completed_bytes(record.completed_bytes);
  scrub.set_completed_damaged_blocks(record.completed_damaged);
  scrub.set_outcome(info.outcome);
  set_time(&v1::Scrub::mutable_next, view.next_scrub, scrub);
  scrub.set_bytes_total(info.bytes_total);
  scrub.set_damaged_blocks_total(info.damaged_total);
  for (const volume::DamageView& found : view.damage) {
    v1::Damage& damage = *scrub.add_damage();
    damage.set_volume(found.volume);
    damage.set_offset(found.damage.block * kBlockBytes);
    damage.set_file(store::file_name(found.damage.file));
    damage.set_file_block(found.damage.file_block);
    damage.set_unreadable(found.damage.unreadable);
  }
}

}  // namespace

v1::Disk to_proto(const volume::DiskView& view, const std::string& node) {
  v1::Disk disk;
  disk.set_id(view.id);
  disk.set_node(node);
  disk.set_path(view.path);
  disk.set_state(view.leaving              ? "leaving"
                 : view.problem.empty()    ? "ok"
                 : view.metrics != nullptr ? "failed"
                                           : "missing");
  disk.set_problem(view.problem);
  disk.set_capacity_bytes(view.info.capacity_bytes);
  disk.set_allocated_bytes(view.info.allocated_bytes);
  disk.set_journal_bytes(view.info.journal_bytes);
  disk.set_journal_used_bytes(view.info.journal_used_bytes);
  disk.set_replicas(view.info.replicas);
  fill_scrub(view, *disk.mutable_scrub());
  return disk;
}

volume::StageRequest to_request(const v1::StageVolumeRequest& message) {
  volume::StageRequest request;
  request.path = message.path();
  request.block = message.block();
  request.fs = message.fs();
  request.mkfs_options.assign(message.mkfs_options().begin(), message.mkfs_options().end());
  request.mount_flags.assign(message.mount_flags().begin(), message.mount_flags().end());
  request.read_only = message.read_only();
  request.group = message.group();
  return request;
}

volume::ShowRequest to_request(const v1::ShowVolumeRequest& message) {
  return {message.path(), message.target(), message.read_only(), message.alone(), message.use()};
}

void fill_usage(const mount::Usage& usage, v1::GetVolumeUsageResponse& response) {
  response.set_total_bytes(usage.total_bytes);
  response.set_available_bytes(usage.available_bytes);
  response.set_used_bytes(usage.used_bytes);
  response.set_total_inodes(usage.total_inodes);
  response.set_free_inodes(usage.free_inodes);
  response.set_used_inodes(usage.used_inodes);
}

volume::EventFilter to_filter(const v1::WatchEventsRequest& request) {
  volume::EventFilter filter;
  filter.kind = request.kind();
  filter.subject = request.subject();
  if (request.has_since())
    filter.since = std::chrono::system_clock::time_point(
        std::chrono::seconds(std::clamp<int64_t>(request.since().seconds(), 0, int64_t{1} << 33)));
  return filter;
}

v1::Event to_proto(const volume::Event& event) {
  v1::Event message;
  message.set_sequence(event.sequence);
  *message.mutable_time() = to_timestamp(event.time);
  message.set_kind(event.kind);
  message.set_subject(event.subject);
  message.set_message(event.message);
  message.set_node(event.node);
  return message;
}

void fill_nodes(volume::VolumeManager& manager, v1::ListNodesResponse& response) {
  if (!manager.clustered()) {
    v1::GetStatusResponse status;
    fill_status(manager, status);
    *response.add_nodes() = status.node();
    return;
  }
  const std::vector<volume::VolumeView> volumes = manager.volumes();
  for (const volume::ClusterNode& known : manager.nodes()) {
    v1::Node& node = *response.add_nodes();
    node.set_id(known.record.id());
    node.set_name(known.record.name());
    node.set_self(known.record.id() == manager.node().id);
    node.set_alive(known.alive.has_value());
    node.set_zone(known.record.zone());
    node.set_cordoned(known.record.cordoned());
    node.set_draining(known.record.draining());
    if (known.alive) {
      node.set_version(known.alive->version());
      *node.mutable_started() = known.alive->started();
      node.set_disks(static_cast<uint64_t>(known.alive->disks_size()));
      for (const v1::AliveDisk& disk : known.alive->disks()) {
        node.set_capacity_bytes(node.capacity_bytes() + disk.capacity_bytes());
        node.set_allocated_bytes(node.allocated_bytes() + disk.allocated_bytes());
      }
    }
    for (const volume::VolumeView& view : volumes) {
      if (view.record.session().node_id() == known.record.id() &&
          !view.record.session().id().empty())
        node.set_volumes(node.volumes() + 1);
      for (const v1::MemberRecord& member : view.record.members()) {
        if (member.node_id() != known.record.id()) continue;
        node.set_replicas(node.replicas() + 1);
        if (member.replica_id() == view.record.primary()) node.set_primaries(node.primaries() + 1);
      }
    }
  }
}

void fill_status(volume::VolumeManager& manager, v1::GetStatusResponse& status) {
  const volume::NodeView node = manager.node();
  status.set_version(version());
  status.set_cluster(manager.options().cluster);
  v1::Node& self = *status.mutable_node();
  self.set_id(node.id);
  self.set_name(node.name);
  self.set_self(true);
  self.set_alive(true);
  self.set_version(version());
  *self.mutable_started() = to_timestamp(node.started);
  for (const volume::DiskView& disk : manager.disks()) {
    *status.add_disks() = to_proto(disk, node.name);
    self.set_capacity_bytes(self.capacity_bytes() + disk.info.capacity_bytes);
    self.set_allocated_bytes(self.allocated_bytes() + disk.info.allocated_bytes);
  }
  self.set_disks(static_cast<uint64_t>(status.disks_size()));
  for (const volume::VolumeView& view : manager.volumes()) {
    status.set_volumes(status.volumes() + 1);
    if (view.state == volume::VolumeState::kMounted) status.set_mounted(status.mounted() + 1);
    if (!view.device.empty() || view.connections > 0) status.set_attached(status.attached() + 1);
  }
  self.set_volumes(status.volumes());
  status.set_attach_method(
      manager.options().no_attach_because.empty() ? manager.options().attach_method : "none");
  status.set_metadata(manager.options().metadata);
  for (const volume::Condition& condition : manager.conditions()) {
    status.add_problems(condition.sentence());
    v1::Condition& entry = *status.add_conditions();
    const volume::ConditionRow& row = volume::row_of(condition.kind);
    entry.set_kind(row.name);
    entry.set_severity(volume::severity_name(row.severity));
    entry.set_subject(condition.subject);
    entry.set_text(condition.text);
    entry.set_advice(condition.advice());
    *entry.mutable_since() = to_timestamp(condition.since);
  }
}

}  // namespace cvol::api
