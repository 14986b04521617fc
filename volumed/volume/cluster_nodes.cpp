// Nodes: who lives, and where replication reaches them.
#include <google/protobuf/util/time_util.h>

#include <algorithm>
#include <ctime>

#include "volumed/base/log.h"
#include "volumed/meta/records.h"
#include "volumed/volume/cluster.h"
#include "volumed/volume/cluster_register.h"
#include "volumed/volume/event_names.h"

namespace cvol::volume {

using google::protobuf::util::TimeUtil;
using namespace std::chrono_literals;

namespace {

constexpr io::Nanoseconds kPingPatience = io::kSecond;
constexpr io::Nanoseconds kWordPatience = 300 * io::kMillisecond;

// Every write of an alive record is a revision of etcd for all nodes: space that changes is told
// when it has changed by a hundredth of the disk, twice a minute at most; all of it now and then,
// so that clocks are compared.
constexpr auto kSpaceInterval = 30s;
constexpr auto kRefreshInterval = 600s;
constexpr uint64_t kSpaceParts = 100;

std::string in_ms(replication::Nanoseconds time) {
  return std::to_string(time / replication::kMillisecond) + " ms";
}

uint64_t difference(uint64_t a, uint64_t b) {
  return a > b ? a - b : b - a;
}

// Without what changes all the time, and without what never does (a map has no order of its own).
std::string essence(v1::AliveRecord record) {
  record.clear_now();
  record.clear_settings();
  for (v1::AliveDisk& disk : *record.mutable_disks()) disk.clear_allocated_bytes();
  return meta::encode_record(record);
}

}  // namespace

bool is_news(const v1::AliveRecord& last, const v1::AliveRecord& now,
             std::chrono::steady_clock::duration since_last) {
  if (since_last >= kRefreshInterval || essence(last) != essence(now)) return true;
  if (since_last < kSpaceInterval) return false;
  for (int i = 0; i < now.disks_size(); ++i) {  // the same disks: see above
    const uint64_t moved =
        difference(last.disks(i).allocated_bytes(), now.disks(i).allocated_bytes());
    if (moved > now.disks(i).capacity_bytes() / kSpaceParts) return true;
  }
  return false;
}

std::map<std::string, std::string> shared_settings(const replication::Options& times,
                                                   std::chrono::seconds rebuild_after) {
  return {{"beacon", in_ms(times.beacon)},
          {"lease", in_ms(times.lease)},
          {"grace", in_ms(times.grace)},
          {"replica-timeout", in_ms(times.replica_timeout)},
          {"rebuild-after", std::to_string(rebuild_after.count()) + " s"}};
}

v1::AliveRecord Cluster::describe_self() {
  v1::AliveRecord record;
  record.set_node_id(options_.node_id);
  record.set_process(process_.to_string());
  record.set_version(CVOL_VERSION);
  *record.mutable_started() =
      TimeUtil::TimeTToTimestamp(std::chrono::system_clock::to_time_t(started_));
  *record.mutable_now() = TimeUtil::GetCurrentTime();
  for (const auto& [name, value] : shared_settings(options_.replication, options_.rebuild_after))
    (*record.mutable_settings())[name] = value;
  record.set_boot_id(options_.boot_id);
  record.set_data_place(options_.data_place);
  const std::size_t shards = disks_.shards().size();
  for (std::size_t i = 0; i < shards; ++i)
    record.add_replication_addresses(with_port(options_.advertise, static_cast<uint16_t>(i)));
  for (Disk* disk : disks_.all()) {
    if (disk->gone || (disk->engine == nullptr && !disk->leaving)) continue;
    if (disk->engine == nullptr) {  // not there, and taken out of the pool: nobody waits for it
      v1::AliveDisk& lost = *record.add_disks();
      lost.set_id(disk->id);
      lost.set_failed(true);
      lost.set_leaving(true);
      lost.set_in_place(disk->in_place);
      continue;
    }
    const store::DiskInfo info = disk->invoke([](auto& engine) { return engine.info(); });
    v1::AliveDisk& entry = *record.add_disks();
    entry.set_id(disk->id);
    entry.set_shard(disk->shard_index);
    entry.set_capacity_bytes(info.capacity_bytes);
    entry.set_allocated_bytes(info.allocated_bytes);
    entry.set_failed(info.failed);
    entry.set_leaving(disk->leaving);
    entry.set_in_place(disk->in_place);
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
  v1::AliveRecord last;
  std::chrono::steady_clock::time_point told{};
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    changed_.wait_for(lock, options_.alive_time / 3, [this] { return stopping_; });
    if (stopping_) return;
    const meta::LeaseId lease = lease_;
    lock.unlock();
    const Status kept =
        lease == 0 ? Status(Code::kNotFound, "") : catalog_.store().keep_alive(lease);
    v1::AliveRecord now = describe_self();
    const auto time = std::chrono::steady_clock::now();
    bool tell = kept.is_ok() && is_news(last, now, time - told);
    if (kept.code() == Code::kNotFound) {
      std::lock_guard relock(mutex_);
      lease_ = 0;
      tell = true;
    } else if (kept.is_ok() && !tell) {
      tell = !is_announced();
    }
    if (tell && is_taken()) tell = false;
    if (tell && announce()) {
      last = std::move(now);
      told = time;
    }
    lock.lock();
  }
}

// Somebody else lives under this node's id: a copy of its data directory that was started while
// this one could not reach the store. Whoever came first must not take the key back.
bool Cluster::is_taken() {
  auto known = catalog_.store().get(catalog_.keys().alive(options_.node_id));
  if (!known || !known->has_value()) return false;
  auto record = meta::parse_record<v1::AliveRecord>((*known)->key, (*known)->value);
  const bool taken = record.is_ok() && record->process() != process_.to_string();
  if (taken && !taken_.exchange(true)) {
    const std::string text =
        "another volumed lives under this node's id (" + options_.node_id +
        "): one of the two data directories is a copy of the other; stop the copy";
    log::error("volume", text);
    if (options_.on_event) options_.on_event("node_twice", options_.node_name, text);
  }
  if (!taken) taken_ = false;
  return taken;
}

// The key may go though the lease stays: by a late word of this process's death, or by hand.
bool Cluster::is_announced() {
  auto known = catalog_.store().get(catalog_.keys().alive(options_.node_id));
  if (!known) return true;  // nobody can say
  if (!known->has_value()) return false;
  auto record = meta::parse_record<v1::AliveRecord>((*known)->key, (*known)->value);
  return record.is_ok() && record->process() == process_.to_string();
}

// Told by the watcher of the process: nobody has to wait for its lease to run out. All who hear it
// take the key away; the condition keeps that of a next process. The word came to one shard; a
// connection of another one that answers outweighs it too.
void Cluster::process_died(const std::string& node_id, const std::string& process) {
  meta::Revision revision = 0;
  {
    std::lock_guard lock(mutex_);
    const auto at = alive_.find(node_id);
    if (at == alive_.end() || at->second.process() != process) return;
    revision = alive_revisions_[node_id];
  }
  if (process_answers(node_id, process)) {
    log::warning("volume", "a process that answers was said to be dead; its key stays",
                 {{"node", node_id}, {"process", process}});
    return;
  }
  const std::string key = catalog_.keys().alive(node_id);
  auto done = catalog_.store().commit({{{key, revision}}, {{key, {}, 0}}});
  if (!done)
    log::warning("volume",
                 "cannot note that a node's process is dead; its lease runs out by itself",
                 {{"node", node_id}, {"error", done.message()}});
}

bool Cluster::process_answers(const std::string& node_id, const std::string& process) {
  auto node = Uuid::parse(node_id);
  auto id = Uuid::parse(process);
  if (!node || !id) return false;
  for (ShardPart* part : parts()) {
    const bool answers = part->shard->run<bool>(
        [&] { return part->exchange->link_answers(*node, *id, kWordPatience); });
    if (answers) return true;
  }
  return false;
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
      if (record->has_now()) {
        // Late news make a clock look slow, never fast: the other node finds that one.
        const auto there = std::chrono::seconds(record->now().seconds());
        const auto here = std::chrono::duration_cast<std::chrono::seconds>(
            std::chrono::system_clock::now().time_since_epoch());
        clocks_ahead_[node_id] = std::max(there - here, std::chrono::seconds(0));
      }
      alive_revisions_[node_id] = revision;
      missing_since_.erase(node_id);
    } else {
      alive_.erase(node_id);
      missing_since_.emplace(node_id, std::chrono::steady_clock::now());
    }
    ++heard_;
    changed_.notify_all();
  }
  if (record) {
    publish_node(*record);
  } else {
    on_exchanges(node_id, &replication::Exchange::set_away);
  }
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

// The same call of the exchanges of all shards, soon.
void Cluster::on_exchanges(const std::string& node_id,
                           void (replication::Exchange::*call)(const replication::NodeId&)) {
  auto node = Uuid::parse(node_id);
  if (!node) return;
  for (ShardPart* part : parts()) {
    part->shard->reactor().post(
        [exchange = part->exchange.get(), node = *node, call] { (exchange->*call)(node); });
  }
}

void Cluster::publish_nodes() {
  std::vector<v1::AliveRecord> all;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [id, record] : alive_) all.push_back(record);
  }
  for (const v1::AliveRecord& record : all) publish_node(record);
}

std::vector<ClusterNode> Cluster::nodes() {
  std::lock_guard lock(mutex_);
  std::vector<ClusterNode> all;
  for (const auto& [id, record] : node_records_) {
    ClusterNode node;
    node.record = record;
    const auto alive = alive_.find(id);
    if (alive != alive_.end()) node.alive = alive->second;
    const auto clock = clocks_ahead_.find(id);
    if (clock != clocks_ahead_.end()) node.clock_ahead = clock->second;
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

std::string Cluster::told_with_names(const std::string& volume_id, const std::string& text) {
  std::lock_guard lock(mutex_);
  const auto known = entries_.find(volume_id);
  if (known == entries_.end()) return text;
  std::map<std::string, std::string> names;
  for (const auto& [id, node] : node_records_) names[id] = node.name();
  return with_node_names(known->second.record, names, text);
}

std::string Cluster::node_name(const std::string& node_id) {
  std::lock_guard lock(mutex_);
  const auto at = node_records_.find(node_id);
  return at == node_records_.end() ? node_id : at->second.name();
}

}  // namespace cvol::volume
