// Volumes of a cluster: replicas on several nodes, attachments that fence each other (R12).
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <set>

#include "volumed/base/log.h"
#include "volumed/base/units.h"
#include "volumed/volume/hosted.h"
#include "volumed/volume/member_changes.h"
#include "volumed/volume/node_replacement.h"
#include "volumed/volume/pool_space.h"

namespace cvol::volume {
namespace {

using namespace std::chrono_literals;
constexpr auto kRemoveTime = 10s;  // for the nodes that are there to remove theirs

std::string new_id() {
  Random random = Random::from_system();
  return Uuid::make(random).to_string();
}

bool is_in_sync(const v1::VolumeRecord& record, const std::string& replica) {
  return std::any_of(record.in_sync().begin(), record.in_sync().end(),
                     [&](const v1::InSyncRecord& entry) { return entry.replica_id() == replica; });
}

}  // namespace

// --- start, and what the records say ---

Status VolumeManager::start_cluster() {
  const ManagerOptions::ClusterMode& mode = *options_.cluster_mode;
  ClusterOptions options;
  options.node_id = node_.id;
  options.node_name = node_.name;
  options.zone = mode.zone;
  options.listen = mode.listen;
  options.advertise = mode.advertise.empty() ? mode.listen : mode.advertise;
  options.replication = mode.replication;
  options.rebuild_after = mode.rebuild_after;
  options.events = &events_;
  options.boot_id = options_.boot_id;
  options.data_place = data_place(options_.data_dir);
  options.on_volume = [this](const std::string& id, std::optional<VolumeEntry> entry) {
    on_volume(id, std::move(entry));
  };
  options.on_record_problem = [this](const std::string& id, const std::string& problem) {
    on_record_problem(id, problem);
  };
  options.on_event = [this](const std::string& kind, const std::string& subject,
                            const std::string& text) { events_.add(kind, subject, text); };
  options.on_period = [this] { finish_leaving_disks(); };
  if (mode.on_peers) {
    auto self = Uuid::parse(node_.id);
    if (!self) return self.status();
    options.on_peers = [this, self = *self](const std::vector<std::string>& addresses) {
      options_.cluster_mode->on_peers(cluster_->cluster_id(), self, cluster_->process(), addresses);
    };
  }
  auto nodes = catalog_.load_nodes();
  if (!nodes) return nodes.status();
  for (v1::NodeRecord& node : *nodes) {
    if (node.id() != node_.id || node.zone() == mode.zone) continue;
    node.set_zone(mode.zone);
    CVOL_TRY(catalog_.put_node(node));
  }
  cluster_ = std::make_unique<Cluster>(std::move(options), catalog_, disk_set_);
  return cluster_->start();
}

// On the records' thread; it must not wait for an operation.
void VolumeManager::on_volume(const std::string& id, std::optional<VolumeEntry> entry) {
  bool taken = false;
  bool grown = false;
  HostedPtr hosted;
  {
    std::lock_guard lock(mutex_);
    auto at = std::find_if(volumes_.begin(), volumes_.end(),
                           [&](const auto& known) { return known.second->id == id; });
    if (at != volumes_.end()) hosted = at->second;
    if (!entry || entry->record.state() == "removing") {
      if (!hosted) return;
      volumes_.erase(at);
      hosted->lost_stage = hosted->entry.record.stage();
    } else if (!hosted) {
      // What is open of a volume whose record is lost goes on under its name.
      const auto same = volumes_.find(entry->record.name());
      if (same != volumes_.end() && !same->second->record_problem.empty()) {
        const std::string problem =
            "volume '" + entry->record.name() + "' with the id " + id +
            " has the name of one whose record is lost, and is not shown on this node; remove it "
            "on another node and put the lost record back, or end the use of the lost one and "
            "restart volumed";
        if (std::find(problems_.begin(), problems_.end(), problem) == problems_.end())
          problems_.push_back(problem);
        return;
      }
      hosted = std::make_shared<Hosted>();
      hosted->name = entry->record.name();
      hosted->id = id;
      hosted->entry = *entry;
      volumes_[hosted->name] = hosted;
      return;
    } else if (entry->revision > hosted->entry.revision) {
      const v1::VolumeRecord& before = hosted->entry.record;
      taken = before.session().node_id() == node_.id &&
              before.session().id() != entry->record.session().id();
      if (taken && before.has_stage()) hosted->lost_stage = before.stage();
      grown = entry->record.size_bytes() > before.size_bytes() &&
              entry->record.session().node_id() == node_.id;
      hosted->entry = std::move(*entry);
      hosted->on_full->store(on_full_of(hosted->entry.record));
    }
  }
  evictor_->post(id, [this, hosted, taken] { evict(*hosted, taken); });
  if (grown) settler_->post(id, [this, hosted] { hear_of_growth(*hosted); });
}

bool VolumeManager::attached_elsewhere(const v1::VolumeRecord& record) const {
  return !record.session().id().empty() && record.session().node_id() != node_.id;
}

// There is a device of the volume here, and no attachment that it belongs to any more: another node
// has the volume or had it, or there is no such volume.
bool VolumeManager::is_left_over(Hosted& hosted) {
  const std::vector<attach::Device> all = devices();
  const bool here = std::any_of(all.begin(), all.end(), [&](const attach::Device& device) {
    return device.volume == hosted.name;
  });
  if (!here) return false;
  HostedPtr now = find(hosted.name);
  return !now || attached_elsewhere(record_of(*now)) || is_device_over(*now);
}

// After each change of a record. What the attachment's I/O waits for may never come, so it is ended
// before anything is waited for here.
void VolumeManager::evict(Hosted& hosted, bool taken) {
  if (!attacher_is_there_) return;  // settle_attachments() looks at all
  bool left_over = is_left_over(hosted);
  if (!taken && !left_over) return;
  if (left_over && attacher_) attacher_->cut(hosted.name);
  std::lock_guard operation(hosted.operation);
  left_over = is_left_over(hosted);
  if (!left_over && !(taken && attached_elsewhere(record_of(hosted)))) return;
  events_.add("volume_taken", hosted.name,
              "the attachment was ended elsewhere; it is detached here");
  if (!attacher_) return;
  if (Status cleared = clear_away(hosted); !cleared.is_ok())
    log::warning("volume", "what is left of an ended attachment is still in use",
                 {{"volume", hosted.name}, {"error", cleared.message()}});
}

// --- making and removing ---

Status VolumeManager::create_clustered(Hosted& hosted, const CreateRequest& request) {
  std::vector<std::string> preferred;
  for (const std::string& node : request.preferred_nodes) {
    if (auto id = find_node_id(node)) preferred.push_back(*id);
  }
  if (request.preferred_nodes.empty()) preferred.push_back(node_.id);
  auto chosen = cluster_->choose(request.replicas, nullptr, request.zone_spread, preferred);
  if (!chosen) return chosen.status();
  v1::VolumeRecord record;
  record.set_id(request.id.empty() ? new_id() : request.id);
  record.set_name(request.name);
  record.mutable_created()->set_seconds(std::time(nullptr));
  record.set_size_bytes(request.size_bytes);
  record.set_replicas(request.replicas);
  record.set_durability("durable");
  record.set_min_in_sync(request.min_in_sync);
  record.set_zone_spread(request.zone_spread);
  record.set_fs(request.fs);
  record.set_on_full(request.on_full);
  for (const auto& [key, value] : request.labels) (*record.mutable_labels())[key] = value;
  // All are empty, and so all are in sync from the beginning.
  for (const DiskChoice& disk : *chosen) {
    v1::MemberRecord& member = *record.add_members();
    member.set_replica_id(new_id());
    member.set_node_id(disk.node_id);
    member.set_disk_id(disk.disk_id);
    member.set_wanted("present");
    record.add_in_sync()->set_replica_id(member.replica_id());
  }
  record.set_epoch(1);
  record.set_primary(record.members(0).replica_id());
  record.set_state("creating");
  VolumeEntry entry;
  entry.record = std::move(record);
  CVOL_TRY(catalog_.insert_volume(entry));
  const std::string id = entry.record.id();
  {
    std::lock_guard lock(mutex_);
    hosted.id = id;
    hosted.entry = entry;
  }
  cluster_->learned(entry);
  Status made = finish_creation(hosted);
  if (made.code() != Code::kUnavailable) return made;
  // Somebody who asked for it too may have finished it meanwhile: then it is there.
  CVOL_TRY(give_up_creation(hosted));
  auto last = catalog_.load_volume(id);
  if (!last || last->record.state() != "ready") return made;
  std::lock_guard lock(mutex_);
  if (last->revision > hosted.entry.revision) hosted.entry = *last;
  return Status::ok();
}

Status VolumeManager::remove_clustered(Hosted& hosted) {
  for (int attempt = 0;; ++attempt) {
    auto entry = catalog_.load_volume(hosted.id);
    if (entry.code() == Code::kNotFound) return Status::ok();
    if (!entry) return entry.status();
    if (entry->record.state() == "removing") break;
    const Status begun = catalog_.begin_removal(*entry);
    if (begun) {
      cluster_->learned(*entry);
      break;
    }
    if (begun.code() != Code::kBusy || attempt > 10) return begun;
  }
  // Nodes that are away finish when they are back: the record stays until then, the name is free.
  const bool gone =
      cluster_->wait_for(hosted.id, kRemoveTime, [&](const std::optional<VolumeEntry>& now) {
        if (!now) return true;
        return std::all_of(now->record.members().begin(), now->record.members().end(),
                           [&](const auto& m) { return !cluster_->is_alive(m.node_id()); });
      });
  if (!gone)
    log::warning("volume", "a removal goes on in the background", {{"volume", hosted.name}});
  return Status::ok();
}

Status VolumeManager::resize_clustered(Hosted& hosted, uint64_t size_bytes) {
  CVOL_TRY(update(hosted, [&](v1::VolumeRecord& next) {
    if (next.size_bytes() >= size_bytes) return;
    next.set_size_bytes(size_bytes);
    next.set_epoch(next.epoch() + 1);
  }));
  return grow_gateway(hosted);
}

Result<VolumeView> VolumeManager::modify(const std::string& name, const ModifyRequest& request) {
  if (!cluster_ && (request.replicas || request.min_in_sync))
    return Status(Code::kFailedPrecondition, "a node that is alone keeps one replica of a volume");
  if (request.on_full) CVOL_TRY(validate_on_full(*request.on_full));
  auto hosted = require_ready(name);
  if (!hosted) return hosted.status();
  std::lock_guard operation((*hosted)->operation);
  if (request.on_full) CVOL_TRY(change_on_full(**hosted, *request.on_full));
  if (!request.replicas && !request.min_in_sync) return view_after(**hosted);
  const v1::VolumeRecord before = record_of(**hosted);
  const uint32_t replicas = request.replicas.value_or(before.replicas());
  const uint32_t least = request.min_in_sync.value_or(before.min_in_sync());
  if (replicas < 1 || replicas > kMostReplicas)
    return Status(Code::kInvalidArgument,
                  "a volume has 1 to " + std::to_string(kMostReplicas) + " replicas");
  if (least < 1 || least > replicas)
    return Status(Code::kInvalidArgument, "min_in_sync is between 1 and the number of replicas");
  if (replicas > before.replicas()) {
    auto room = cluster_->choose(replicas - before.replicas(), &before, before.zone_spread());
    if (!room) return room.status();
  }
  CVOL_TRY(update(**hosted, [&](v1::VolumeRecord& next) {
    next.set_replicas(replicas);
    next.set_min_in_sync(least);
    next.set_epoch(next.epoch() + 1);
  }));
  return view_after(**hosted);
}

// --- attachments ---

// The caller holds hosted.opening.
Status VolumeManager::take_session(Hosted& hosted, bool force) {
  const v1::VolumeRecord record = record_of(hosted);
  if (record.session().node_id() == node_.id && !record.session().id().empty()) return Status::ok();
  if (!force) settle_holder(record);
  std::string from;
  auto changed = cluster_->update(hosted.id, [&](v1::VolumeRecord& next) {
    from.clear();
    v1::SessionRecord& session = *next.mutable_session();
    if (!session.id().empty() && session.node_id() == node_.id) return Status::ok();
    if (!session.id().empty()) {
      from = cluster_->node_name(session.node_id());
      // Nobody waits for the dead.
      if (!force && cluster_->is_alive(session.node_id()))
        return Status(Code::kFailedPrecondition,
                      "volume '" + hosted.name + "' is attached on node " + from +
                          "; detach it there, or take it away from that node with 'cvol volume "
                          "force-attach " +
                          hosted.name + "'");
      next.clear_mount();
      next.clear_stage();
      session.clear_reserved();
      session.clear_read_only();
    }
    session.set_id(new_id());
    session.set_node_id(node_.id);
    session.set_generation(session.generation() + 1);
    next.set_epoch(next.epoch() + 1);
    return Status::ok();
  });
  if (!changed) return changed.status();
  {
    std::lock_guard lock(mutex_);
    if (changed->revision > hosted.entry.revision) hosted.entry = *changed;
  }
  if (!from.empty())
    events_.add("volume_taken_over", hosted.name, "took the volume over from node " + from);
  return Status::ok();
}

// Whoever is about to take the volume from a node that is silent waits until it is clear whether
// that node is lost: an answer that refuses would be wrong a moment later.
void VolumeManager::settle_holder(const v1::VolumeRecord& record) {
  if (cluster_ && attached_elsewhere(record))
    (void)cluster_->is_surely_alive(record.session().node_id());
}

// The gateway of the open export, or one for a question only.
Result<Cluster::OpenGateway> VolumeManager::gateway_of(Hosted& hosted) {
  VolumeEntry entry;
  std::shared_ptr<VolumeMetrics> metrics;
  {
    std::lock_guard lock(mutex_);
    if (auto open = hosted.gateway.lock()) return Cluster::OpenGateway{open, hosted.gateway_shard};
    entry = hosted.entry;
    metrics = hosted.metrics ? hosted.metrics : std::make_shared<VolumeMetrics>();
  }
  return cluster_->open_gateway(entry, metrics);
}

Status VolumeManager::confirm_epoch(Hosted& hosted, std::chrono::milliseconds patience) {
  auto gateway = gateway_of(hosted);
  if (!gateway) return gateway.status();
  const Status confirmed = cluster_->confirm(*gateway, record_of(hosted).epoch(), patience);
  if (confirmed) return confirmed;
  return Status(Code::kUnavailable, "the primary of volume '" + hosted.name +
                                        "' does not answer; 'cvol volume explain " + hosted.name +
                                        "' says why");
}

// The caller holds hosted.opening.
Result<std::shared_ptr<nbd::Export>> VolumeManager::make_gateway_export(Hosted& hosted) {
  std::shared_ptr<VolumeMetrics> metrics;
  VolumeEntry entry;
  {
    std::lock_guard lock(mutex_);
    if (!hosted.metrics) hosted.metrics = std::make_shared<VolumeMetrics>();
    metrics = hosted.metrics;
    entry = hosted.entry;
  }
  auto open = cluster_->open_gateway(entry, std::move(metrics));
  if (!open) return open.status();
  {
    std::lock_guard lock(mutex_);
    hosted.gateway = open->gateway;
    hosted.gateway_shard = open->shard;
  }
  cluster_->draw_primary(*open, entry);
  auto made = std::make_unique<nbd::Export>();
  made->name = hosted.name;
  made->device = open->gateway;
  made->reactor = &open->shard->reactor();
  return show_export(hosted, std::move(made));
}

Result<VolumeView> VolumeManager::move_primary(const std::string& name, const std::string& node) {
  if (!cluster_) return Status(Code::kFailedPrecondition, "this node is alone");
  auto hosted = require_ready(name);
  if (!hosted) return hosted.status();
  const v1::VolumeRecord record = record_of(**hosted);
  for (const v1::MemberRecord& member : record.members()) {
    if (cluster_->node_name(member.node_id()) != node) continue;
    if (!is_in_sync(record, member.replica_id()))
      return Status(Code::kFailedPrecondition,
                    "the replica on node " + node + " is not in sync; wait until it is");
    auto replica = Uuid::parse(member.replica_id());
    if (!replica) return replica.status();
    auto gateway = gateway_of(**hosted);
    if (!gateway) return gateway.status();
    if (record.primary() != member.replica_id())
      CVOL_TRY(cluster_->move_primary(*gateway, record.id(), *replica, 5s));
    return view_after(**hosted);
  }
  return Status(Code::kNotFound, "volume '" + name + "' has no replica on node " + node);
}

Status VolumeManager::rebuild_record(const std::string& name, bool accept_data_loss) {
  if (!cluster_) return Status(Code::kFailedPrecondition, "this node is alone");
  // A volume that has no record is known by the id that its replicas have.
  if (const auto id = Uuid::parse(name); id && !find(name)) {
    CVOL_TRY(cluster_->rebuild_lost(id->to_string(), accept_data_loss));
    events_.add("record_rebuilt", id->to_string(),
                "the record was made anew from what the replicas know");
    return Status::ok();
  }
  auto hosted = require_ready(name);
  if (!hosted) return hosted.status();
  CVOL_TRY(cluster_->rebuild_record((*hosted)->id, accept_data_loss));
  events_.add("record_rebuilt", name, "the record was made anew from what the replicas know");
  return Status::ok();
}

Result<uint64_t> VolumeManager::verify(
    const std::string& name, const std::function<bool(uint64_t, const std::string&)>& progress) {
  if (!cluster_)
    return Status(
        Code::kFailedPrecondition,
        "a node that is alone has one replica of each volume; 'cvol disk scrub' reads and "
        "checks it");
  auto hosted = require_ready(name);
  if (!hosted) return hosted.status();
  auto gateway = gateway_of(**hosted);
  if (!gateway) return gateway.status();
  const uint64_t size = record_of(**hosted).size_bytes();
  uint64_t differing = 0;
  for (uint64_t offset = 0; offset != UINT64_MAX;) {
    const auto part = gateway->shard->run<replication::ClientResult>(
        [&] { return gateway->gateway->verify(offset); });
    if (part.outcome != replication::Outcome::kDone)
      return part.status.is_ok() ? Status(Code::kUnavailable, "the primary of volume '" + name +
                                                                  "' does not answer; try again")
                                 : part.status;
    const std::string& text = part.status.message();
    differing += static_cast<uint64_t>(std::count(text.begin(), text.end(), '\n'));
    offset = part.next;
    if (!progress(std::min(offset, size), text))
      return Status(Code::kCancelled, "the comparison was ended");
  }
  if (differing > 0)
    events_.add("volume_differs", name,
                std::to_string(differing) + " blocks differ between replicas");
  return differing;
}

// --- nodes ---

std::vector<ClusterNode> VolumeManager::nodes() {
  return cluster_ ? cluster_->nodes() : std::vector<ClusterNode>();
}

std::string VolumeManager::node_name(const std::string& id) {
  if (id == node_.id) return node_.name;
  return cluster_ ? cluster_->node_name(id) : id;
}

Status VolumeManager::change_node(const std::string& name, const std::string& change) {
  if (!cluster_) return Status(Code::kFailedPrecondition, "this node is alone");
  static const std::set<std::string> known = {"cordon", "uncordon", "drain", "rm", "replace"};
  if (!known.contains(change))
    return Status(Code::kInvalidArgument,
                  "'" + change + "' is no change of a node; is volumed as new as cvol?");
  for (const ClusterNode& node : cluster_->nodes()) {
    if (node.record.name() != name && node.record.id() != name) continue;
    v1::NodeRecord record = node.record;
    if (change == "cordon") record.set_cordoned(true);
    if (change == "uncordon") {
      record.set_cordoned(false);
      record.set_draining(false);
    }
    if (change == "drain") {
      record.set_cordoned(true);
      record.set_draining(true);
    }
    if (change != "rm" && change != "replace") return catalog_.put_node(record);
    if (node.alive)
      return Status(Code::kFailedPrecondition, "node " + name +
                                                   " lives; drain it ('cvol node drain " + name +
                                                   "') and stop its volumed first");
    // What it held leaves the records; a replica that is the last in-sync copy stays.
    std::vector<HostedPtr> all;
    std::vector<std::string> ids;
    {
      std::lock_guard lock(mutex_);
      for (const auto& [volume, hosted] : volumes_) all.push_back(hosted);
    }
    for (const HostedPtr& hosted : all) ids.push_back(hosted->id);
    if (change == "replace") {
      auto taken = replace_node(*cluster_, catalog_, record, ids);
      if (!taken) return taken.status();
      events_.add("node_replaced", record.name(),
                  fmt::format("{} took its place: {} copies are made here, {} on other nodes",
                              node_.name, taken->here, taken->elsewhere));
      return Status::ok();
    }
    for (const HostedPtr& hosted : all) {
      const v1::VolumeRecord held = record_of(*hosted);
      for (const v1::MemberRecord& member : held.members()) {
        if (member.node_id() != record.id()) continue;
        if (is_in_sync(held, member.replica_id()))
          return Status(Code::kFailedPrecondition,
                        "node " + name + " holds an in-sync replica of volume '" + hosted->name +
                            "', perhaps the last one; start it again, or remove the volume");
      }
    }
    for (const HostedPtr& hosted : all) {
      auto left = cluster_->update(hosted->id, [&](v1::VolumeRecord& next) {
        return leave_out_node(next, record.id(), record.name());
      });
      if (!left && left.code() != Code::kCancelled && left.code() != Code::kNotFound)
        return left.status();
    }
    return catalog_.erase_node(record);
  }
  return Status(Code::kNotFound, "there is no node '" + name + "'; 'cvol node ls' shows them");
}

Status VolumeManager::migrate(const std::string& uri) {
  if (cluster_)
    return Status(Code::kFailedPrecondition,
                  "this node's records are in " + options_.metadata + " already");
  if (!uri.starts_with("etcd:"))
    return Status(Code::kInvalidArgument,
                  "records move into etcd; write it like --to etcd:HOST:PORT,HOST:PORT,HOST:PORT");
  if (!options_.migrate) return Status(Code::kUnsupported, "this volumed cannot move its records");
  CVOL_TRY(options_.migrate(uri));
  events_.add("metadata_migrated", uri,
              "the records are in " + uri + " now; start volumed again with --metadata " + uri);
  return Status::ok();
}

// --- telling people ---

void VolumeManager::fill_cluster_view(VolumeView& view) {
  if (!view.record.session().id().empty())
    view.attached_node = node_name(view.record.session().node_id());
  view.local = cluster_->local_replica(view.record.id());
  if (view.local) view.allocated_bytes = view.local->allocated_bytes;
  if (view.state == VolumeState::kAvailable && !view.attached_node.empty())
    view.state = VolumeState::kAttached;
}

Result<std::vector<std::string>> VolumeManager::explain(const std::string& name) {
  auto hosted = require(name);
  if (!hosted) return hosted.status();
  const v1::VolumeRecord record = record_of(**hosted);
  std::vector<std::string> lines;
  lines.push_back(fmt::format("Volume '{}' of {} is to have {} replica{}; {} in sync.", name,
                              format_size(record.size_bytes()), record.replicas(),
                              record.replicas() == 1 ? "" : "s",
                              cluster_ ? record.in_sync_size() : 1));
  if (!cluster_) {
    lines.push_back("This node is alone: the volume lives as long as its disk does.");
    explain_conditions(name, lines);
    return lines;
  }
  std::string lost;
  int in_sync_there = 0;
  for (const v1::MemberRecord& member : record.members()) {
    const std::string node = node_name(member.node_id());
    const bool alive = cluster_->is_alive(member.node_id());
    const bool synced = is_in_sync(record, member.replica_id());
    std::string text = "The replica on node " + node;
    if (member.wanted() == "removed") {
      text += " is to be removed";
    } else if (member.replica_id() == record.primary()) {
      text += " is the primary: it orders the writes and holds all of them";
    } else if (synced) {
      text += " is in sync: it holds every acknowledged write";
    } else {
      text += " is not in sync: it lacks writes and is never promoted";
    }
    if (!alive) {
      text += "; its node is not there";
      if (synced) lost += (lost.empty() ? "" : " and ") + node;
    } else if (synced) {
      ++in_sync_there;
    }
    lines.push_back(text + ".");
  }
  const auto local = cluster_->local_replica(record.id());
  if (local) {
    for (const auto& resync : local->resyncs) {
      const uint64_t left = resync.total_bytes - std::min(resync.total_bytes, resync.done_bytes);
      lines.push_back(fmt::format(
          "A resync of replica {} {}: {} of {} looked at, {} sent, {} left.",
          resync.target.to_string().substr(0, 8), resync.verifying ? "is being verified" : "runs",
          format_size(resync.done_bytes), format_size(resync.total_bytes),
          format_size(resync.sent_bytes), format_size(left)));
    }
    if (!local->waits_for.empty() && local->role != "follower")
      lines.push_back("Requests wait: " + local->waits_for + ".");
  }
  if (!record.session().id().empty())
    lines.push_back("It is attached on node " + node_name(record.session().node_id()) + ".");
  if (!lost.empty() && in_sync_there == 0) {
    const bool only = record.in_sync_size() == 1;
    lines.push_back(fmt::format(
        "{} on node {}, which {} away. The others wait for {}, since they lack acknowledged "
        "writes. Bring {} back: nothing is lost. There is no other way that loses nothing.",
        only ? "The only in-sync replica is" : "All in-sync replicas are", lost,
        only ? "is" : "are", only ? "it" : "one of them",
        only ? "that node" : "one of these nodes"));
  } else if (!lost.empty()) {
    lines.push_back("Node " + lost +
                    " is away: the others go on without it, and it is brought up to date when it "
                    "is back.");
  }
  if (record.in_sync_size() < static_cast<int>(record.min_in_sync()))
    lines.push_back(fmt::format("Writes wait until {} replicas are in sync (min_in_sync).",
                                record.min_in_sync()));
  explain_conditions(name, lines);
  return lines;
}

std::vector<Event> VolumeManager::events_of_others(const EventFilter& filter,
                                                   std::map<std::string, uint64_t>& seen,
                                                   std::vector<std::string>& silent) {
  if (!cluster_) return {};
  return cluster_->events_of_others(filter, seen, silent);
}

}  // namespace cvol::volume
