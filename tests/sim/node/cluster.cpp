#include "tests/sim/node/cluster.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>

#include "volumed/base/assert.h"

namespace cvol::sim {

using replication::Record;
using replication::ReplicaId;

Cluster::Cluster(ClusterShape shape) : shape_(std::move(shape)), world_(shape_.seed) {
  world_.faults = shape_.faults;
  if (shape_.format.journal_bytes == 0) shape_.format.journal_bytes = kMiB;
  if (shape_.format.capacity_bytes == 0) shape_.format.capacity_bytes = 32 * kMiB;
  Random& random = world_.random();
  volume_ = Uuid::make(random);
  const Uuid cluster = Uuid::make(random);
  Record record;
  record.epoch = {1};
  record.size_bytes = std::max(kMiB, shape_.work.blocks * kBlockBytes);  // the smallest volume
  record.min_in_sync = shape_.min_in_sync;
  record.session = {Uuid::make(random), {}, 1};
  for (uint32_t number = 1; number <= shape_.nodes; ++number) {
    Node::Parts parts;
    parts.world = &world_;
    parts.number = number;
    parts.cluster = cluster;
    parts.node = Uuid::make(random);
    parts.disk = Uuid::make(random);
    parts.size_bytes = record.size_bytes;
    parts.format = shape_.format;
    if (shape_.format_of) shape_.format_of(number, parts.format);
    parts.engine = shape_.engine;
    parts.options = shape_.options;
    parts.event = [this](const std::string& text) { note(text); };
    parts.ready = [this](Node& node) { introduce(node); };
    if (number <= shape_.replicas) {
      parts.replica = Uuid::make(random);
      record.members.push_back({parts.replica, parts.node, parts.disk});
      record.in_sync.push_back({parts.replica, 1});
    }
    if (number == shape_.gateway_node) record.session.node = parts.node;
    nodes_.push_back(std::make_unique<Node>(std::move(parts)));
  }
  record.primary = record.members.front().replica;
  reg_ = std::make_unique<SimRegister>(world_, volume_, record);
  reg_->on_change = [this](const Record&, const Record& after) {
    note("the record is now " + describe(after));
  };
  for (auto& node : nodes_) node->set_register(*reg_);
  work_ = std::make_unique<VolumeWorkload>(world_, shape_.work);
}

Cluster::~Cluster() {
  work_->stop();
  for (auto& node : nodes_) {
    if (node->down()) continue;
    if (node->reactor().paused()) node->resume();
    crash(*node);
  }
}

void Cluster::start() {
  for (auto& node : nodes_) node->format();
  for (auto& node : nodes_) start(*node);
  const bool up = run_until([&] { return all_up(); }, 10 * io::kSecond);
  CVOL_ASSERT(up);
  gateway_node().open_gateway(reg_->record().session.generation);
}

void Cluster::note(const std::string& text) {
  static const bool loud = std::getenv("CVOL_SIM_SEED") != nullptr;
  const double seconds = static_cast<double>(world_.now()) / 1e9;
  trace_.push_back(fmt::format("{:10.4f} {}", seconds, text));
  if (loud) fmt::print(stderr, "{}\n", trace_.back());
  if (trace_.size() > 60) trace_.pop_front();
}

// --- who is who ---

void Cluster::introduce(Node& node) {
  for (auto& other : nodes_) {
    if (other->down() || other->process().is_nil()) continue;
    node.exchange().set_node(other->parts().node, other->entry());
    if (other.get() != &node && other->up())
      other->exchange().set_node(node.parts().node, node.entry());
  }
}

Node& Cluster::node_of(const ReplicaId& replica) {
  const auto at = std::find_if(nodes_.begin(), nodes_.end(),
                               [&](const auto& node) { return node->parts().replica == replica; });
  CVOL_ASSERT(at != nodes_.end());
  return **at;
}

Node& Cluster::primary() {
  return node_of(reg_->record().primary);
}

Node& Cluster::secondary(uint32_t which) {
  const auto at = std::find_if(nodes_.begin(), nodes_.end(), [&](const auto& node) {
    return node->has_replica() && node.get() != &primary() && which-- == 0;
  });
  CVOL_ASSERT(at != nodes_.end());
  return **at;
}

bool Cluster::in_sync(const Node& node) const {
  return reg_->record().find_in_sync(node.parts().replica) != nullptr;
}

bool Cluster::all_in_sync() const {
  return reg_->record().in_sync.size() == reg_->record().members.size();
}

bool Cluster::all_up() const {
  return std::all_of(nodes_.begin(), nodes_.end(), [](const auto& node) { return node->up(); });
}

bool Cluster::serving() const {
  for (const auto& node : nodes_) {
    if (!node->up() || node->host() == nullptr) continue;
    const replication::Replica& core = node->host()->core();
    if (core.self() == reg_->record().primary && core.epoch() == reg_->record().epoch &&
        core.confirmed())
      return true;
  }
  return false;
}

// --- time ---

void Cluster::run_for(io::Nanoseconds duration) {
  const io::Nanoseconds until = world_.now() + duration;
  world_.at(until, [] {});
  while (world_.now() < until && world_.step()) {
  }
}

bool Cluster::run_until(const std::function<bool()>& done, io::Nanoseconds bound) {
  const io::Nanoseconds until = world_.now() + bound;
  world_.at(until, [] {});
  while (!done()) {
    if (world_.now() >= until || !world_.step()) return done();
  }
  return true;
}

namespace {

Task<void> run_and_tell(Task<void> task, std::shared_ptr<bool> ended) {
  co_await std::move(task);
  *ended = true;
}

}  // namespace

bool Cluster::run_on(Node& node, Task<void> task, io::Nanoseconds bound) {
  auto ended = std::make_shared<bool>(false);
  node.reactor().start(run_and_tell(std::move(task), ended));
  return run_until([&] { return *ended; }, bound);
}

// --- faults ---

void Cluster::crash(Node& node, io::SimReactor::Death death, uint64_t kept_percent) {
  note(fmt::format("node {} {}", node.number(),
                   death == io::SimReactor::Death::kProcess ? "crashes" : "loses its power"));
  Random& random = world_.random();
  node.crash([&](const io::SimWrite&, uint64_t) { return random.below(100) < kept_percent; },
             death);
}

void Cluster::start(Node& node) {
  note(fmt::format("node {} starts", node.number()));
  node.start();
}

void Cluster::cut(const Node& a, const Node& b) {
  note(fmt::format("nodes {} and {} are cut from each other", a.number(), b.number()));
  world_.cut(a.number(), b.number());
  world_.cut(b.number(), a.number());
}

void Cluster::isolate(const Node& node) {
  for (auto& other : nodes_) {
    if (other.get() != &node) cut(node, *other);
  }
}

void Cluster::heal() {
  note("everything is healed");
  heal_quietly();
  tell_records();
}

void Cluster::attach(Node& node) {
  shape_.gateway_node = node.number();
  const uint64_t generation = reg_->record().session.generation;
  for (auto& other : nodes_) {
    if (other.get() != &node) other->forget_gateway();
  }
  node.open_gateway(generation);
  work_->set_session(generation);
}

void Cluster::heal_quietly() {
  world_.heal_all();
  for (auto& node : nodes_) {
    if (node->down()) continue;
    if (node->reactor().paused()) node->resume();
    node->register_client().set_cut(false);
  }
  reg_->set_available(true);
}

void Cluster::tell_records() {
  for (auto& node : nodes_) {
    if (!node->down()) node->register_client().tell();
  }
}

void Cluster::tell_death(const Node& dead, const Uuid& process) {
  for (auto& node : nodes_) {
    if (node->up() && node.get() != &dead && !node->reactor().paused())
      node->exchange().hear_of_death(dead.parts().node, process);
  }
}

// --- the end ---

Task<void> Cluster::read_replica(Node* node, Content* into, std::string* complaint) {
  auto* memory = static_cast<std::byte*>(std::aligned_alloc(kBlockBytes, kBlockBytes));
  const uint64_t blocks = reg_->record().size_bytes / kBlockBytes;
  into->node = node->number();
  into->bytes.resize(blocks * kBlockBytes);
  into->damaged.resize(blocks);
  for (uint64_t block = 0; block < blocks; ++block) {
    const Status status = co_await node->engine().read(node->replica_number(), block * kBlockBytes,
                                                       std::span(memory, kBlockBytes));
    into->damaged[block] = status.code() == Code::kDamaged && shape_.damage;
    if (!status && !into->damaged[block])
      *complaint = fmt::format("node {}: block {}: {}", node->number(), block, status.message());
    std::memcpy(into->bytes.data() + block * kBlockBytes, memory, kBlockBytes);
  }
  std::free(memory);
}

std::string Cluster::compare(const Content& one, const Content& other) const {
  for (uint64_t at = 0; at < one.bytes.size(); at += kLaneBytes) {
    const std::byte* a = one.bytes.data() + at;
    const std::byte* b = other.bytes.data() + at;
    const uint64_t block = at / kBlockBytes;
    if (one.damaged[block] || other.damaged[block] || std::memcmp(a, b, kLaneBytes) == 0) continue;
    uint64_t words[2][3];
    std::memcpy(words[0], a, sizeof words[0]);
    std::memcpy(words[1], b, sizeof words[1]);
    return fmt::format("nodes {} and {} differ in block {} lane {}: value {:x} and {:x}\n{}",
                       one.node, other.node, block, at / kLaneBytes, words[0][2], words[1][2],
                       work_->lanes().history().describe(at / kLaneBytes));
  }
  return "";
}

std::string Cluster::converge() {
  if (!reg_->complaint().empty()) return reg_->complaint();
  // First, so that what rots at the primary is repaired.
  if (gateway_node().gateway() != nullptr &&
      !run_on(gateway_node(), work_->read_all(gateway_node().gateway())))
    return "the last read hangs";
  if (!work_->complaint().empty()) return work_->complaint();
  std::vector<Content> contents;
  for (auto& node : nodes_) {
    if (!node->has_replica() || !in_sync(*node)) continue;
    if (!node->up()) return fmt::format("node {} is in sync and not up", node->number());
    std::string complaint;
    contents.emplace_back();
    if (!run_on(*node, read_replica(node.get(), &contents.back(), &complaint)))
      return "reading hangs";
    if (!complaint.empty()) return complaint;
  }
  for (std::size_t i = 1; i < contents.size(); ++i) {
    const std::string complaint = compare(contents[0], contents[i]);
    if (!complaint.empty()) return complaint;
  }
  return work_->lanes().history().check();
}

std::string Cluster::status() {
  std::string text = fmt::format("at {:.4f} s, seed {}\nthe record: {} revision {}\n",
                                 static_cast<double>(world_.now()) / 1e9, shape_.seed,
                                 describe(reg_->record()), reg_->record().revision);
  for (auto& node : nodes_) text += node->status() + "\n";
  text += fmt::format("{} operations left, {} clients\n", work_->left(), work_->running());
  for (const std::string& line : trace_) text += line + "\n";
  return text;
}

}  // namespace cvol::sim
