#include "volumed/volume/cluster.h"

#include <algorithm>

#include "volumed/base/descriptors.h"
#include "volumed/base/log.h"
#include "volumed/volume/cluster_register.h"

namespace cvol::volume {
namespace {

using namespace std::chrono_literals;
constexpr std::size_t kProposers = 8;
constexpr std::size_t kMostReconcilers = 64;
constexpr auto kFirstTurns = 10s;  // for replicas to be opened, before the node serves
constexpr auto kPeriod = 1s;
constexpr int kMostAttempts = 20;
constexpr io::Nanoseconds kDrawFor = 3 * io::kSecond;

Task<bool> close_exchange(replication::Exchange* exchange) {
  co_await exchange->close();
  co_return true;
}

Task<void> close_gateway(replication::Gateway* gateway, std::shared_ptr<std::atomic<int>> count) {
  co_await gateway->close();
  delete gateway;
  --*count;
}

}  // namespace

Cluster::Cluster(ClusterOptions options, Catalog& catalog, DiskSet& disks)
    : options_(std::move(options)),
      catalog_(catalog),
      disks_(disks),
      started_(std::chrono::system_clock::now()) {
  Random random = Random::from_system();
  process_ = Uuid::make(random);
  for (std::size_t i = 0; i < kProposers; ++i) proposers_.push_back(std::make_unique<Worker>());
  reconcilers_ = std::make_unique<KeyedWorkers>(kMostReconcilers);
  records_ = std::make_unique<Worker>();
}

Cluster::~Cluster() {
  stop();
}

// "tcp:HOST:9482", 2 -> "tcp:HOST:9484".
std::string Cluster::with_port(const std::string& address, uint16_t index) {
  const auto colon = address.rfind(':');
  return address.substr(0, colon + 1) +
         std::to_string(std::stoi(address.substr(colon + 1)) + index);
}

Status Cluster::start() {
  if (const std::string wrong = replication::check(options_.replication); !wrong.empty())
    return Status(Code::kInvalidArgument, wrong);
  auto cluster = catalog_.load_cluster();
  if (!cluster) return cluster.status();
  auto id = Uuid::parse(cluster->id());
  if (!id) return id.status().with_context("the record of the cluster");
  cluster_id_ = *id;
  CVOL_TRY(open_parts());
  // Watch first, then list: what happens in between comes twice, and nothing is missed.
  const auto follow = [this](const std::vector<meta::WatchEvent>& events) {
    records_->post([this, events] { on_watch(events); });
  };
  auto& store = catalog_.store();
  // One for all: a watch costs a sign of life a second.
  auto watch = store.watch(catalog_.keys().root(), follow);
  if (!watch) return watch.status();
  watch_ = std::move(*watch);
  // A store that refuses changes for want of space: what needs none is served, and the lease is
  // asked for again and again.
  if (Status told = announce(); !told && told.code() != Code::kNoSpace) return told;
  for (const std::string& prefix : {catalog_.keys().nodes(), catalog_.keys().alive(),
                                    catalog_.keys().volumes(), catalog_.keys().claims()}) {
    auto listed = store.list(prefix);
    if (!listed) return listed.status();
    std::vector<meta::WatchEvent> events;
    for (const meta::Entry& entry : *listed)
      events.push_back({entry.key, entry.value, entry.revision});
    std::promise<void> done;
    records_->post([&] {
      on_watch(events);
      done.set_value();
    });
    done.get_future().wait();
  }
  keeper_ = std::thread([this] { keep_alive_loop(); });
  periodic_ = std::thread([this] { run_periodically(); });
  wait_for_turns(kFirstTurns);
  return Status::ok();
}

void Cluster::stop() {
  {
    std::lock_guard lock(mutex_);
    if (stopping_) return;
    stopping_ = true;
    changed_.notify_all();
  }
  if (keeper_.joinable()) keeper_.join();
  if (periodic_.joinable()) periodic_.join();
  watch_.reset();
  records_->stop();
  // An orderly stop says so: nobody waits for leases to run out.
  if (lease_ != 0) (void)catalog_.store().revoke_lease(lease_).is_ok();
  reconcilers_->stop();
  std::vector<std::string> open;
  {
    std::lock_guard lock(locals_mutex_);
    for (const auto& [id, local] : locals_) open.push_back(id);
  }
  for (const std::string& id : open) close_local(id);
  for (int i = 0; *gateways_ > 0 && i < 1000; ++i) std::this_thread::sleep_for(5ms);
  for (auto& worker : proposers_) worker->stop();
  for (ShardPart* part : parts()) {
    if (!part->exchange) continue;
    part->shard->run<bool>([&] { return close_exchange(part->exchange.get()); });
    part->shard->invoke([&] { part->exchange.reset(); });
  }
}

// --- exchanges ---

Result<Cluster::ShardPart*> Cluster::part_of(io::Shard* shard, uint16_t index) {
  std::lock_guard lock(parts_mutex_);
  auto& slot = parts_[shard];
  if (slot) return slot.get();
  auto part = std::make_unique<ShardPart>();
  part->shard = shard;
  part->index = index;
  part->reg = std::make_unique<StoreRegister>(*this, shard->reactor());
  replication::Mesh::Options mesh;
  auto node = Uuid::parse(options_.node_id);
  if (!node) return node.status();
  mesh.self = {*node, index};
  mesh.cluster = cluster_id_;
  mesh.process = process_;
  mesh.most_connections =
      connection_budgets(descriptor_limit(), disks_.shards().size()).replication;
  const std::string address = with_port(options_.listen, index);
  const Status opened = shard->invoke([&] {
    part->exchange = std::make_unique<replication::Exchange>(shard->reactor(), *part->reg, mesh,
                                                             options_.replication);
    part->exchange->on_death = [this](const Uuid& gone, const Uuid& process) {
      reconcilers_->post("node " + gone.to_string(), [this, gone, process] {
        process_died(gone.to_string(), process.to_string());
      });
    };
    part->exchange->on_question = [this](std::string_view question) {
      return answer_question(question);
    };
    return part->exchange->mesh().listen(address);
  });
  if (!opened) {
    shard->run<bool>([&] { return close_exchange(part->exchange.get()); });
    shard->invoke([&] { part->exchange.reset(); });
    return opened.with_context("serve replication on " + address +
                               " (choose another with --replication-listen)");
  }
  slot = std::move(part);
  return slot.get();
}

Status Cluster::open_parts() {
  uint16_t index = 0;
  for (io::Shard* shard : disks_.shards()) CVOL_TRY(part_of(shard, index++).status());
  return Status::ok();
}

std::vector<Cluster::ShardPart*> Cluster::parts() {
  std::lock_guard lock(parts_mutex_);
  std::vector<ShardPart*> all;
  for (const auto& [shard, part] : parts_) {
    if (part) all.push_back(part.get());
  }
  return all;
}

// --- records ---

std::optional<VolumeEntry> Cluster::entry(const std::string& volume_id) {
  std::lock_guard lock(mutex_);
  const auto at = entries_.find(volume_id);
  if (at == entries_.end()) return std::nullopt;
  return at->second;
}

Result<VolumeEntry> Cluster::update(const std::string& volume_id,
                                    const std::function<Status(v1::VolumeRecord&)>& change) {
  Status last(Code::kBusy, "");
  for (int attempt = 0; attempt < kMostAttempts; ++attempt) {
    auto known = entry(volume_id);
    const bool cached = known && attempt == 0;
    Result<VolumeEntry> current =
        cached ? Result<VolumeEntry>(*known) : catalog_.load_volume(volume_id);
    if (!current) {
      const std::string lost = problem_of_record(volume_id);
      return lost.empty() ? current.status() : Status(current.code(), lost);
    }
    v1::VolumeRecord next = current->record;
    if (Status allowed = change(next); !allowed) {
      // What is known here may be old: only the store's word refuses.
      if (!cached) return allowed;
      last = Status(Code::kBusy, "");
      continue;
    }
    VolumeEntry changed = *current;
    last = catalog_.write_or_erase(changed, std::move(next));
    if (last) {
      if (changed.record.members_size() == 0) {
        learned_gone(volume_id);
      } else {
        learned(changed);
      }
      return changed;
    }
    if (last.code() != Code::kBusy) return last;
    std::this_thread::sleep_for(std::chrono::milliseconds(5 * attempt));
  }
  return last;
}

void Cluster::learned(const VolumeEntry& entry) {
  records_->post([this, entry] { apply_volume(entry.record.id(), entry); });
}

void Cluster::learned_gone(const std::string& volume_id) {
  records_->post([this, volume_id] { apply_volume(volume_id, std::nullopt); });
}

bool Cluster::wait_for(const std::string& volume_id, std::chrono::milliseconds time,
                       const std::function<bool(const std::optional<VolumeEntry>&)>& holds) {
  const auto until = std::chrono::steady_clock::now() + time;
  std::unique_lock lock(mutex_);
  while (true) {
    const auto at = entries_.find(volume_id);
    std::optional<VolumeEntry> now;
    if (at != entries_.end()) now = at->second;
    lock.unlock();
    const bool held = holds(now);
    lock.lock();
    if (held) return true;
    if (stopping_ || changed_.wait_until(lock, until) == std::cv_status::timeout) {
      const auto last = entries_.find(volume_id);
      now = last == entries_.end() ? std::nullopt : std::optional<VolumeEntry>(last->second);
      lock.unlock();
      const bool late = holds(now);
      lock.lock();
      return late;
    }
  }
}

// On the records' thread. `stored`: the store has just said so; else it may have said otherwise
// since.
void Cluster::apply_volume(const std::string& id, std::optional<VolumeEntry> entry, bool stored) {
  bool fell = false;
  bool back = false;  // its record could not be used for a while
  {
    std::lock_guard lock(mutex_);
    const auto at = entries_.find(id);
    const bool news =
        !entry || stored || at == entries_.end() || entry->revision > at->second.revision;
    back = news && unusable_.erase(id) > 0;
    if (entry) {
      // Epochs rise with revisions, but for a store that was restored from a backup.
      const bool old = at != entries_.end() && at->second.revision >= entry->revision &&
                       at->second.record.epoch() >= entry->record.epoch();
      const bool same = old && at->second.record.epoch() == entry->record.epoch();
      // A store that was put back counts revisions anew: the epoch tells.
      if (same && !back) return;
      fell = old && !same;
      if (!fell) entries_[id] = *entry;
      // A replica more or less is wanted: not only when the next turn comes.
      repair_soon_ = repair_soon_ ||
                     entry->record.members_size() != static_cast<int>(entry->record.replicas());
    } else {
      if (at == entries_.end()) return;
      entries_.erase(at);
      settled_.erase(id);
    }
    ++heard_;
    changed_.notify_all();
  }
  if (back && entry && options_.on_record_problem) options_.on_record_problem(id, "");
  if (entry) publish(id, *entry);  // of an old one, replication finds out whether it is just late
  if (fell) return;
  reconcile_soon(id);
  if (options_.on_volume) options_.on_volume(id, entry);
}

// To whoever works with the volume on a shard.
void Cluster::publish(const std::string& id, const VolumeEntry& entry) {
  auto record = to_replication(entry.record, entry.revision);
  auto volume = Uuid::parse(id);
  if (!record || !volume) {
    log::error("volume", "a volume's record does not hold together", {{"volume", id}});
    return;
  }
  for (ShardPart* part : parts()) {
    part->shard->reactor().post([exchange = part->exchange.get(), volume = *volume,
                                 record = *record] { exchange->set_record(volume, record); });
  }
}

void Cluster::run_periodically() {
  std::unique_lock lock(mutex_);
  int turn = 0;
  bool all_whole = false;
  uint64_t looked_at = 0;
  auto next = std::chrono::steady_clock::now() + kPeriod;
  while (!stopping_) {
    changed_.wait_until(lock, next, [this] { return stopping_ || repair_soon_; });
    if (stopping_) return;
    repair_soon_ = false;
    const auto now = std::chrono::steady_clock::now();
    const bool due = now >= next;
    if (due) next = now + kPeriod;
    const bool anything = !all_whole || heard_ != looked_at;
    looked_at = heard_;
    lock.unlock();
    if (due && ++turn % 5 == 0) reconcile_all();
    if (due && options_.on_period) options_.on_period();
    if (anything) all_whole = repair_all();
    lock.lock();
  }
}

// --- gateways ---

Result<Cluster::OpenGateway> Cluster::open_gateway(const VolumeEntry& entry,
                                                   std::shared_ptr<VolumeMetrics> metrics) {
  auto record = to_replication(entry.record, entry.revision);
  if (!record) return record.status();
  auto volume = Uuid::parse(entry.record.id());
  if (!volume) return volume.status();
  io::Shard* shard = &disks_.first_shard();
  uint16_t index = 0;
  // Where the replica of this node is, or will be; else where one is that is to go, but serves yet.
  for (const bool leaving : {true, false}) {
    for (const v1::MemberRecord& member : entry.record.members()) {
      if (member.node_id() != options_.node_id || (member.wanted() == "removed") != leaving)
        continue;
      Disk* disk = disks_.find(member.disk_id());
      if (disk == nullptr || disk->engine == nullptr) continue;
      shard = disk->shard;
      index = disk->shard_index;
    }
  }
  auto part = part_of(shard, index);
  if (!part) return part.status();
  replication::Gateway::Parts parts;
  parts.exchange = (*part)->exchange.get();
  parts.volume = *volume;
  parts.record = *record;
  parts.session_generation = entry.record.session().generation();
  parts.metrics = std::move(metrics);
  auto* made = shard->invoke([&] { return new replication::Gateway(std::move(parts)); });
  OpenGateway open;
  open.shard = shard;
  // The last one to let go may be on any thread; it ends on its shard.
  ++*gateways_;
  open.gateway = std::shared_ptr<replication::Gateway>(
      made, [shard, count = gateways_](replication::Gateway* gone) {
        shard->spawn([gone, count] { return close_gateway(gone, count); });
      });
  return open;
}

Status Cluster::confirm(const OpenGateway& gateway, uint64_t epoch,
                        std::chrono::milliseconds patience) {
  return gateway.shard->run<Status>([&] {
    return gateway.gateway->confirm(replication::Epoch{epoch}, patience.count() * io::kMillisecond);
  });
}

void Cluster::draw_primary(const OpenGateway& gateway, const VolumeEntry& entry) {
  for (const v1::MemberRecord& member : entry.record.members()) {
    auto replica = Uuid::parse(member.replica_id());
    if (member.node_id() != options_.node_id || !replica) continue;
    gateway.shard->invoke([&] { gateway.gateway->draw_primary(*replica, kDrawFor); });
  }
}

Status Cluster::move_primary(const OpenGateway& gateway, const std::string& volume_id,
                             const replication::ReplicaId& to, std::chrono::milliseconds patience) {
  const std::string replica = to.to_string();
  gateway.shard->invoke(
      [&] { gateway.gateway->draw_primary(to, patience.count() * io::kMillisecond); });
  const bool moved = wait_for(volume_id, patience, [&](const std::optional<VolumeEntry>& entry) {
    return !entry || entry->record.primary() == replica;
  });
  if (moved) return Status::ok();
  return Status(Code::kUnavailable, "the primary has not moved; try again");
}

std::vector<std::pair<std::string, std::string>> Cluster::stopped_copies() {
  std::map<std::string, std::string> found;
  {
    std::lock_guard lock(locals_mutex_);
    for (const auto& [id, local] : locals_) {
      if (!local.problem.empty()) found[id] = local.problem;
    }
  }
  std::vector<std::pair<std::string, std::string>> all;
  for (const auto& [id, problem] : found) {
    auto known = entry(id);
    all.emplace_back(known ? known->record.name() : id, problem);
  }
  return all;
}

}  // namespace cvol::volume
