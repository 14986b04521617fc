#include "tests/sim/node/node.h"

#include <fmt/format.h>

#include "tests/sim/node/lanes.h"
#include "volumed/base/assert.h"

namespace cvol::sim {

using replication::Exchange;
using replication::Gateway;
using replication::Mesh;
using replication::Record;
using replication::ReplicaHost;

Node::Node(Parts parts) : parts_(std::move(parts)) {}

Node::~Node() {
  if (reactor_ == nullptr) return;
  if (!reactor_->dead()) stop();
}

replication::NodeEntry Node::entry() const {
  replication::NodeEntry entry;
  entry.process = process_;
  entry.addresses = {address()};
  entry.disks[parts_.disk] = 0;
  return entry;
}

void Node::set_faults(std::shared_ptr<const io::SimFaults> faults) {
  faults_ = std::move(faults);
  if (reactor_) reactor_->set_faults(faults_);
}

// --- life ---

Task<void> Node::make_disk() {
  const store::TableOpener opener = store::memory_table_opener(tables_[0], tables_[1]);
  auto made = co_await store::format_disk_with(*reactor_, path(), parts_.format, opener);
  CVOL_ASSERT(made);
  if (!has_replica()) co_return;
  auto engine = co_await store::open_disk_with(*reactor_, path(), parts_.engine, opener);
  CVOL_ASSERT(engine);
  auto created =
      co_await (*engine)->create_replica(reg_->volume(), parts_.replica, parts_.size_bytes);
  CVOL_ASSERT(created);
  number_ = created->number;
  co_await (*engine)->close();
}

void Node::format() {
  reactor_ = std::make_unique<io::SimReactor>(*parts_.world, parts_.number, path());
  const bool done = reactor_->run(make_disk());
  CVOL_ASSERT(done);
  reactor_.reset();
}

void Node::start() {
  CVOL_ASSERT(down());
  problem_.clear();
  process_ = Uuid::make(parts_.world->random());
  parts_.world->forget_connections(parts_.number);
  reactor_ = std::make_unique<io::SimReactor>(*parts_.world, parts_.number, path());
  reactor_->set_faults(faults_);
  register_ = std::make_unique<RegisterClient>(*reg_, *reactor_, [this](const Record& r) {
    if (exchange_ != nullptr) exchange_->set_record(reg_->volume(), r);
  });
  reactor_->start(boot());
}

Task<void> Node::boot() {
  auto engine = co_await store::open_disk_with(*reactor_, path(), parts_.engine,
                                               store::memory_table_opener(tables_[0], tables_[1]));
  if (!engine) {
    problem_ = engine.message();
    co_return;
  }
  engine_ = std::move(*engine);
  if (reactor_->dead()) co_return;
  Mesh::Options mesh;
  mesh.self = {parts_.node, 0};
  mesh.cluster = parts_.cluster;
  mesh.process = process_;
  exchange_ = std::make_unique<Exchange>(*reactor_, *register_, mesh, parts_.options);
  const Status listening = exchange_->mesh().listen(address());
  CVOL_ASSERT(listening);
  parts_.ready(*this);
  if (has_replica()) {
    ReplicaHost::Parts parts;
    parts.exchange = exchange_.get();
    parts.engine = engine_.get();
    parts.number = number_;
    parts.volume = reg_->volume();
    parts.self = parts_.replica;
    parts.incarnation = 1;
    parts.event = [this](const std::string& text) {
      parts_.event(fmt::format("node {}: {}", parts_.number, text));
    };
    // What the store says may be out of reach; then what is on the disk has to do.
    const Record record = reg_->record();
    const bool known = reg_->available();
    auto host = ReplicaHost::open(std::move(parts), known ? &record : nullptr);
    if (host) {
      host_ = std::move(*host);
    } else {
      problem_ = host.message();
    }
  }
  up_ = true;
  if (gateway_session_ != 0) open_gateway(gateway_session_);
  register_->tell();
}

void Node::open_gateway(uint64_t session_generation) {
  CVOL_ASSERT(up_);
  const bool is_open = gateway_ != nullptr && gateway_session_ == session_generation;
  gateway_session_ = session_generation;
  if (is_open) return;
  if (gateway_ != nullptr) {  // of an older session: it ends by itself
    Gateway* old = gateway_.get();
    old->fence();
    old_gateways_.push_back(std::move(gateway_));
    reactor_->start(close_gateway(old));
  }
  gateway_ = make_gateway(session_generation);
}

std::unique_ptr<Gateway> Node::make_gateway(uint64_t session_generation) {
  Gateway::Parts parts;
  parts.exchange = exchange_.get();
  parts.volume = reg_->volume();
  parts.record = reg_->record();
  parts.session_generation = session_generation;
  parts.metrics = std::make_shared<VolumeMetrics>();
  return std::make_unique<Gateway>(std::move(parts));
}

void Node::reopen_gateway() {
  CVOL_ASSERT(up_ && gateway_ != nullptr);
  old_gateways_.push_back(std::move(gateway_));
  open_gateway(gateway_session_);
}

Task<void> Node::close_gateway(Gateway* gateway) {
  co_await gateway->close();
}

Task<void> Node::shut_down() {
  // The replica first: requests of the gateway may wait in it for what never comes.
  if (host_ != nullptr) co_await host_->close();
  if (gateway_ != nullptr) co_await gateway_->close();
  if (exchange_ != nullptr) co_await exchange_->close();
  if (engine_ != nullptr) co_await engine_->close();
}

// Everything of this life has unwound.
void Node::bury() {
  gateway_.reset();
  old_gateways_.clear();
  host_.reset();
  exchange_.reset();
  engine_.reset();
  register_.reset();
  graveyard_.push_back(std::move(reactor_));
}

void Node::crash(const KeepSectors& keep, io::SimReactor::Death death) {
  CVOL_ASSERT(!down());
  DiskRemains remains = lose_power(*parts_.world, path(), tables_, keep);
  up_ = false;
  reactor_->die(death);
  io::SimReactor* dead = reactor_.get();
  const bool unwound = parts_.world->run_until([&] {
    return exchange_ != nullptr || dead->done();  // it may have been starting
  });
  CVOL_ASSERT(unwound);
  const bool ended = dead->run(shut_down());
  CVOL_ASSERT(ended);
  bury();
  put_back(*parts_.world, std::move(remains), tables_);
}

void Node::stop() {
  up_ = false;
  const bool ended = reactor_->run(shut_down());
  CVOL_ASSERT(ended);
  bury();
}

// --- for tests ---

DiskRemains Node::image() const {
  CVOL_ASSERT(reactor_ == nullptr);
  DiskRemains image;
  for (const auto& [name, file] : parts_.world->files) {
    if (name.starts_with(path() + "/")) image.files[name] = file->durable();
  }
  image.tables = new_tables();
  for (std::size_t i = 0; i < tables_.size(); ++i) {
    image.tables[i]->content = tables_[i]->content;
    image.tables[i]->exists = tables_[i]->exists;
  }
  return image;
}

void Node::restore(const DiskRemains& image) {
  CVOL_ASSERT(down());
  put_back(*parts_.world, image, tables_);
}

uint64_t Node::damage_block(uint64_t block, uint64_t bytes, uint64_t journal_bytes) {
  uint64_t found = 0;
  for (const std::string name : {"/chunks", "/journal"}) {
    const uint64_t here = name == "/journal" ? std::min(bytes, journal_bytes) : bytes;
    const auto file = parts_.world->files.find(path() + name);
    if (file == parts_.world->files.end()) continue;
    std::byte content[kBlockBytes];
    for (uint64_t at = 0; at + kBlockBytes <= file->second->size(); at += kBlockBytes) {
      file->second->read(at, content);
      uint64_t words[3];
      std::memcpy(words, content, sizeof words);
      if (words[0] != kLaneMagic || words[1] != block * kLanes) continue;
      for (uint64_t i = 0; i < here; ++i) file->second->damage(at + 100 + i);
      ++found;
    }
  }
  return found;
}

std::string Node::status() const {
  std::string text = fmt::format("node {}: {}", parts_.number, down() ? "down" : "up");
  if (!problem_.empty()) text += ", " + problem_;
  if (reactor_ && reactor_->paused()) text += ", paused";
  if (gateway_) text += fmt::format(", gateway [{}]", gateway_->waits_for());
  if (host_) {
    const replication::Replica& core = host_->core();
    text += fmt::format(
        ", {}, {} promised {} last {} commit {} in flight {} operations {}{}{} [{}]",
        describe(core.record()), name_of(core.role()), core.durable().promised.value,
        core.last_seq().value, core.commit_point().value, core.in_flight(), core.operations(),
        core.joining() ? " joining" : "", core.durable().rebuilding ? " rebuilding" : "",
        core.waits_for(parts_.world->now()));
  }
  return text;
}

}  // namespace cvol::sim
