// Nodes: who lives, and where replication reaches them.
#include <google/protobuf/util/time_util.h>

#include <ctime>

#include "volumed/base/log.h"
#include "volumed/meta/records.h"
#include "volumed/volume/cluster.h"
#include "volumed/volume/cluster_register.h"

namespace cvol::volume {

using google::protobuf::util::TimeUtil;
using namespace std::chrono_literals;

namespace {

constexpr io::Nanoseconds kPingPatience = io::kSecond;
constexpr auto kLeaseSlack = 5s;  // until etcd has ended a lease, and its watch has told

}  // namespace

v1::AliveRecord Cluster::describe_self() {
  v1::AliveRecord record;
  record.set_node_id(options_.node_id);
  record.set_process(process_.to_string());
  record.set_version(CVOL_VERSION);
  *record.mutable_started() =
      TimeUtil::TimeTToTimestamp(std::chrono::system_clock::to_time_t(started_));
  const std::size_t shards = disks_.shards().size();
  for (std::size_t i = 0; i < shards; ++i)
    record.add_replication_addresses(with_port(options_.advertise, static_cast<uint16_t>(i)));
  for (Disk* disk : disks_.all()) {
    if (disk->engine == nullptr) continue;
    const store::DiskInfo info = disk->invoke([](auto& engine) { return engine.info(); });
    v1::AliveDisk& entry = *record.add_disks();
    entry.set_id(disk->id);
    entry.set_shard(disk->shard_index);
    entry.set_capacity_bytes(info.capacity_bytes);
    entry.set_allocated_bytes(info.allocated_bytes);
    entry.set_failed(info.failed);
  }
  return record;
}

Status Cluster::announce() {
  meta::MetadataStore& store = catalog_.store();
  meta::LeaseId lease = 0;
  {
    std::lock_guard lock(mutex_);
    lease = lease_;
  }
  if (lease == 0) {
    auto granted = store.grant_lease(options_.alive_time);
    if (!granted) return granted.status();
    lease = *granted;
  }
  v1::AliveRecord record = describe_self();
  auto done = store.commit(
      {{}, {{catalog_.keys().alive(options_.node_id), meta::encode_record(record), lease}}});
  if (!done) return done.status();
  std::lock_guard lock(mutex_);
  lease_ = lease;
  return Status::ok();
}

// Keeps the lease; a lease that ended while the store was away is granted anew.
void Cluster::keep_alive_loop() {
  std::string last;
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    changed_.wait_for(lock, options_.alive_time / 3, [this] { return stopping_; });
    if (stopping_) return;
    const meta::LeaseId lease = lease_;
    lock.unlock();
    const Status kept =
        lease == 0 ? Status(Code::kNotFound, "") : catalog_.store().keep_alive(lease);
    v1::AliveRecord now = describe_self();
    const std::string text = meta::encode_record(now);
    if (kept.code() == Code::kNotFound) {
      {
        std::lock_guard relock(mutex_);
        lease_ = 0;
      }
      if (announce()) last = text;
    } else if (kept && (text != last || !is_announced())) {
      if (announce()) last = text;
    }
    lock.lock();
  }
}

// The key may go though the lease stays: by a late word of this process's death, or by hand.
bool Cluster::is_announced() {
  auto known = catalog_.store().get(catalog_.keys().alive(options_.node_id));
  return !known || known->has_value();
}

// Told by the watcher of the process: nobody has to wait for its lease to run out. All who hear it
// take the key away; the condition keeps that of a next process.
void Cluster::process_died(const std::string& node_id, const std::string& process) {
  meta::Revision revision = 0;
  {
    std::lock_guard lock(mutex_);
    const auto at = alive_.find(node_id);
    if (at == alive_.end() || at->second.process() != process) return;
    revision = alive_revisions_[node_id];
  }
  const std::string key = catalog_.keys().alive(node_id);
  auto done = catalog_.store().commit({{{key, revision}}, {{key, {}, 0}}});
  if (!done)
    log::warning("volume",
                 "cannot note that a node's process is dead; its lease runs out by itself",
                 {{"node", node_id}, {"error", done.message()}});
}

void Cluster::tell_peers() {
  if (!options_.on_peers) return;
  std::vector<std::string> addresses;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [id, alive] : alive_) {
      if (id == options_.node_id) continue;
      for (const std::string& address : alive.replication_addresses()) addresses.push_back(address);
    }
  }
  options_.on_peers(addresses);
}

void Cluster::apply_alive(const std::string& node_id, std::optional<v1::AliveRecord> record,
                          meta::Revision revision) {
  {
    std::lock_guard lock(mutex_);
    if (record) {
      alive_[node_id] = *record;
      alive_revisions_[node_id] = revision;
      missing_since_.erase(node_id);
    } else {
      alive_.erase(node_id);
      missing_since_.emplace(node_id, std::chrono::steady_clock::now());
    }
    ++heard_;
    changed_.notify_all();
  }
  if (record) publish_node(*record);
  tell_peers();
  if (options_.on_event && node_id != options_.node_id && !record)
    options_.on_event("node_lost", node_name(node_id),
                      "the node is gone, or cannot reach the "
                      "metadata store");
}

void Cluster::publish_node(const v1::AliveRecord& record) {
  auto node = Uuid::parse(record.node_id());
  auto process = Uuid::parse(record.process());
  if (!node || !process) return;
  replication::NodeEntry entry;
  entry.process = *process;
  for (const std::string& address : record.replication_addresses())
    entry.addresses.push_back(address);
  for (const v1::AliveDisk& disk : record.disks()) {
    if (auto id = Uuid::parse(disk.id())) entry.disks[*id] = static_cast<uint16_t>(disk.shard());
  }
  for (ShardPart* part : parts()) {
    part->shard->reactor().post([exchange = part->exchange.get(), node = *node, entry] {
      exchange->set_node(node, entry);
    });
  }
}

std::vector<ClusterNode> Cluster::nodes() {
  std::lock_guard lock(mutex_);
  std::vector<ClusterNode> all;
  for (const auto& [id, record] : node_records_) {
    ClusterNode node;
    node.record = record;
    const auto alive = alive_.find(id);
    if (alive != alive_.end()) node.alive = alive->second;
    all.push_back(std::move(node));
  }
  return all;
}

bool Cluster::is_alive(const std::string& node_id) {
  std::lock_guard lock(mutex_);
  return alive_.contains(node_id);
}

bool Cluster::is_surely_alive(const std::string& node_id) {
  if (node_id == options_.node_id) return true;
  auto node = Uuid::parse(node_id);
  const std::vector<ShardPart*> all = parts();
  if (!node || all.empty()) return is_alive(node_id);
  ShardPart* part = all.front();
  const auto until = std::chrono::steady_clock::now() + options_.alive_time + kLeaseSlack;
  while (is_alive(node_id)) {
    const bool answers = part->shard->run<bool>([&] {
      return part->exchange->ping({*node, 0}, kPingPatience);
    });
    if (answers || std::chrono::steady_clock::now() > until) return true;
  }
  return false;
}

std::string Cluster::node_name(const std::string& node_id) {
  std::lock_guard lock(mutex_);
  const auto at = node_records_.find(node_id);
  return at == node_records_.end() ? node_id : at->second.name();
}

}  // namespace cvol::volume
