#include "tests/sim/protocol/cluster.h"

#include <fmt/format.h>

#include <algorithm>

#include "volumed/base/assert.h"

namespace cvol::sim {

using replication::NodeId;

namespace {

// Names that say what they are in a dump: kind, number.
Uuid make_id(uint8_t kind, uint64_t number) {
  Uuid id;
  id.bytes[0] = kind;
  for (int i = 0; i < 3; ++i) id.bytes[static_cast<std::size_t>(3 - i)] = (number >> 8 * i) & 0xff;
  return id;
}
constexpr uint8_t kReplica = 0xaa, kNodeId = 0xbb, kSession = 0xcc;

}  // namespace

Cluster::Cluster(const Shape& shape)
    : shape_(shape),
      world_(shape.seed, shape.tracing, shape.loud),
      network_(world_, shape.network),
      register_(world_, shape.register_times),
      history_(shape.blocks),
      invariants_(world_, shape.blocks) {
  CVOL_ASSERT(shape.nodes >= 1);
  Record record;
  record.epoch = {1};
  record.size_bytes = shape.blocks * 4096;
  record.min_in_sync = shape.min_in_sync;
  record.session = {make_id(kSession, 0), make_id(kNodeId, 100), 1};
  for (int i = 0; i < shape.nodes; ++i) {
    replica_ids_.push_back(make_id(kReplica, next_id_++));
    record.in_sync.push_back({replica_ids_.back(), 1});
    replication::Member member;
    member.replica = replica_ids_.back();
    member.node = make_id(kNodeId, static_cast<uint64_t>(i));
    record.members.push_back(member);
  }
  record.primary = replica_ids_.front();
  register_.create(record);
  record.revision = 1;
  invariants_.set_record(record);
  register_.set_applied(
      [this](const Record& before, const Record& after) { invariants_.on_record(before, after); });
  const Node::Ground ground{world_, network_, register_, invariants_, *this};
  Node::Settings settings;
  settings.options = shape.options;
  settings.tick = shape.tick;
  settings.blocks = shape.blocks;
  settings.disk = shape.disk;
  settings.compare_copies =
      shape.compare_copies && shape.options.mutant == replication::Mutant::kNone;
  for (int i = 0; i < shape.nodes; ++i) {
    settings.clock_error = world_.between(-shape.clock_error, shape.clock_error);
    nodes_.push_back(std::make_unique<Node>(ground, i, settings));
    Node& added = *nodes_.back();
    added.replace_disk(replica_ids_[static_cast<std::size_t>(i)], 1, record);
    network_.add(added);
    register_.add_watcher([&added](const Record& now) { added.on_record(now); });
    invariants_.watch(added);
  }
  Gateway::Settings front = shape.gateway;
  front.blocks = shape.blocks;
  for (int i = 0; i < shape.gateways; ++i) {
    const Gateway::Ground on{world_, network_, register_, history_, *this};
    const int index = shape.nodes + i;
    gateways_.push_back(std::make_unique<Gateway>(on, index, front));
    Gateway& added = *gateways_.back();
    network_.add(added);
    register_.add_watcher([&added](const Record& now) { added.on_record(now); });
  }
  network_.start();
  for (const auto& each : nodes_) each->start();
  for (const auto& each : gateways_) each->on_record(register_.record());
  gateways_.front()->open_session(1);
}

// --- the state of things ---

int Cluster::node_of(const ReplicaId& replica) const {
  for (std::size_t i = 0; i < replica_ids_.size(); ++i) {
    if (replica_ids_[i] == replica) return static_cast<int>(i);
  }
  return -1;
}

ReplicaId Cluster::replica_at(int node) const {
  const auto index = static_cast<std::size_t>(node);
  return index < replica_ids_.size() ? replica_ids_[index] : ReplicaId{};
}

bool Cluster::serves(int node) const {
  const Replica* replica = nodes_[static_cast<std::size_t>(node)]->replica();
  return replica != nullptr && replica->role() == replication::Role::kActive;
}

bool Cluster::in_set(int node) const {
  const replication::InSync* entry = register_.record().find_in_sync(replica_at(node));
  const Durable& durable = nodes_[static_cast<std::size_t>(node)]->disk().durable();
  return entry != nullptr && entry->incarnation == durable.incarnation;
}

bool Cluster::usable(int index) const {
  const Disk& disk = nodes_[static_cast<std::size_t>(index)]->disk();
  return in_set(index) && !disk.failed() && !disk.durable().rebuilding;
}

bool Cluster::set_is(const std::vector<int>& wanted) const {
  if (register_.record().in_sync.size() != wanted.size()) return false;
  return std::all_of(wanted.begin(), wanted.end(), [&](int each) { return in_set(each); });
}

bool Cluster::all_in_set() const {
  for (int i = 0; i < static_cast<int>(nodes_.size()); ++i) {
    if (!in_set(i)) return false;
  }
  return register_.record().in_sync.size() == nodes_.size();
}

std::string Cluster::status() const {
  std::string text = fmt::format("register: {}\n", replication::describe(register_.record()));
  for (const auto& each : nodes_) text += each->describe() + "\n";
  for (const auto& each : gateways_) text += each->describe() + "\n";
  return text;
}

// --- faults ---

void Cluster::kill(int index, bool told) {
  Node& dead = node(index);
  if (!dead.alive()) return;
  const uint64_t process = dead.process();
  dead.crash(/*kernel_lives=*/true);
  if (!told) return;
  for (const auto& peer : nodes_) {
    if (peer->index() == index) continue;
    world_.after(world_.around(20 * kMillisecond), [&peer = *peer, index, id = dead.id(), process] {
      peer.on_death_notice(index, id, process);
    });
  }
}

void Cluster::lose_power(int index) {
  node(index).crash(/*kernel_lives=*/false);
}

void Cluster::restart(int index) {
  if (!node(index).alive()) node(index).start();
}

void Cluster::isolate(int index) {
  for (int other = 0; other < network_.ends(); ++other) {
    if (other != index) network_.cut_both(index, other, true);
  }
  register_.set_reachable(index, false);
}

void Cluster::heal() {
  network_.heal();
  register_.set_up(true);
  for (int end = 0; end < network_.ends(); ++end) register_.set_reachable(end, true);
}

void Cluster::roll_back(int index) {
  CVOL_ASSERT(!node(index).alive());
  node(index).disk().roll_back();
  lose_trust(index);
}

void Cluster::take_back(int index) {
  CVOL_ASSERT(!node(index).alive());
  node(index).disk().roll_back();
  node(index).disk().set_behind();
}

void Cluster::lose_trust(int index) {
  CVOL_ASSERT(!node(index).alive());
  node(index).disk().set_incarnation(next_incarnation_++);
}

void Cluster::replace_disk(int index) {
  CVOL_ASSERT(!node(index).alive());
  const ReplicaId after = make_id(kReplica, next_id_++);
  replica_ids_[static_cast<std::size_t>(index)] = after;
  node(index).replace_disk(after, next_incarnation_++, Record{});
  change_member(index);
}

// --- operators ---

// Until the record has the replica that the node has now.
void Cluster::change_member(int index) {
  const int who = gateway().index();
  const NodeId at = make_id(kNodeId, static_cast<uint64_t>(index));
  const auto differs = [this, at, index](const Record& record) {
    return std::any_of(record.members.begin(), record.members.end(), [&](const auto& member) {
      return member.node == at && member.replica != replica_at(index);
    });
  };
  register_.fetch(who, [=, this](const Record& record) {
    if (!differs(record)) return;
    Record next = record;
    next.epoch = next.epoch.next();
    for (replication::Member& member : next.members) {
      if (member.node == at) member.replica = replica_at(index);
    }
    register_.compare_and_swap(who, next, [](CasResult, uint64_t) {});
  });
  world_.after(kSecond, [=, this] {
    if (differs(register_.record())) change_member(index);
  });
}

void Cluster::change_session(int to) {
  const auto change = std::make_shared<Change>();
  change->gateway = to;
  change->generation = register_.record().session.generation + 1;
  if (to >= 0) change->id = make_id(kSession, ++next_session_);
  ++changes_;
  try_change(change);
}

void Cluster::try_change(const std::shared_ptr<Change>& change) {
  const int who = gateway(std::max(change->gateway, 0)).index();
  const auto again = std::make_shared<bool>(true);
  const auto retry = [this, change, again](Nanoseconds delay) {
    world_.after(delay, [this, change, again] {
      if (!*again) return;
      *again = false;
      try_change(change);
    });
  };
  register_.fetch(who, [=, this](const Record& record) {
    if (!*again) return;
    if (record.session.generation >= change->generation) {
      *again = false;
      const bool ours =
          record.session.generation == change->generation && record.session.id == change->id;
      if (!ours) {
        --changes_;  // somebody else was first
        world_.count("sessions_lost_the_race");
        return;
      }
      change->epoch = record.epoch;
      return confirm(change);
    }
    Record next = record;
    next.epoch = next.epoch.next();
    next.session = {change->id, make_id(kNodeId, 100 + static_cast<uint64_t>(who)),
                    change->generation};
    register_.compare_and_swap(who, next, [retry](CasResult, uint64_t) { retry(kMillisecond); });
  });
  retry(3 * kSecond);
}

// R12: complete when the primary, or its successor, runs that epoch with all members.
void Cluster::confirm(const std::shared_ptr<Change>& change) {
  for (const auto& each : nodes_) {
    if (each->replica() == nullptr || each->stopped()) continue;
    if (each->replica()->epoch() < change->epoch || !each->replica()->confirmed()) continue;
    --changes_;
    world_.count("sessions_changed");
    if (world_.tracing()) world_.trace(fmt::format("session {} is complete", change->generation));
    history_.end_sessions(change->generation - 1);
    if (change->gateway >= 0 && register_.record().session.generation == change->generation)
      gateway(change->gateway).open_session(change->generation);
    return;
  }
  if (register_.record().session.generation > change->generation) {
    --changes_;
    return;
  }
  world_.after(20 * kMillisecond, [this, change] { confirm(change); });
}

void Cluster::hand_over(int to) {
  for (const auto& each : nodes_) {
    each->run([this, to](Replica& replica, Nanoseconds now) {
      if (replica.is_primary() && replica.hand_over(now, replica_at(to)))
        world_.count("hand_overs");
    });
  }
}

void Cluster::accept_data_loss(int index) {
  Record next = register_.record();
  next.epoch = next.epoch.next();
  ++next.lineage;
  next.primary = replica_at(index);
  next.in_sync = {{next.primary, node(index).disk().durable().incarnation}};
  register_.compare_and_swap(gateway().index(), next, [](CasResult, uint64_t) {});
}

void Cluster::put_out(int index) {
  for (const auto& each : nodes_) {
    if (each->index() == index) continue;
    each->run([this, index](Replica& replica, Nanoseconds now) {
      if (replica.put_out(now, replica_at(index), "an operator said so")) world_.count("put_out");
    });
  }
}

}  // namespace cvol::sim
