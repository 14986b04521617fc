// Cluster: nodes, front ends, network and register of one simulated run, with one volume.
//
// Also what operators do: attach, detach, move, replace a disk; and the vocabulary of scenarios.
// Nodes are numbered from 0; the replica of node 0 is the first primary.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "tests/sim/protocol/gateway.h"

namespace cvol::sim {

struct Shape {
  uint64_t seed = 1;
  bool tracing = true, loud = false;
  int nodes = 3;     // each with a replica
  int gateways = 2;  // the first one is attached at the start
  uint64_t blocks = 16;
  uint32_t min_in_sync = 1;
  replication::Options options;
  Nanoseconds tick = 50 * kMillisecond;
  int64_t clock_error = 10000;  // of rates: each drawn within +- this many parts per million
  Disk::Times disk;
  Network::Times network;
  Register::Times register_times;
  Gateway::Settings gateway;
  bool compare_copies = true;
};

class Cluster : public Directory {
 public:
  explicit Cluster(const Shape& shape);

  World& world() { return world_; }
  Network& network() { return network_; }
  Register& record() { return register_; }
  History& history() { return history_; }
  Invariants& invariants() { return invariants_; }
  Node& node(int index) { return *nodes_[static_cast<std::size_t>(index)]; }
  int nodes() const { return static_cast<int>(nodes_.size()); }
  Gateway& gateway(int number = 0) { return *gateways_[static_cast<std::size_t>(number)]; }
  int gateways() const { return static_cast<int>(gateways_.size()); }
  const Shape& shape() const { return shape_; }

  // --- time ---
  bool run(Nanoseconds time) { return world_.run_until(world_.now() + time); }
  bool run_until(Nanoseconds limit, const std::function<bool()>& done) {
    return world_.run_until(world_.now() + limit, 5 * kMillisecond, done);
  }

  // --- the state of things ---
  int primary() const { return node_of(register_.record().primary); }
  bool serves(int node) const;  // as an active primary
  bool in_set(int node) const;  // of the register, as it is
  bool set_is(const std::vector<int>& nodes) const;
  // In the set, and its disk may be promoted from.
  bool usable(int node) const;
  bool all_in_set() const;  // every member of the record
  int node_of(const ReplicaId& replica) const override;
  ReplicaId replica_at(int node) const override;
  std::string status() const;

  // --- faults ---
  // `told`: by its watcher, the peers hear that the process is dead.
  void kill(int node, bool told = false);
  void lose_power(int node);
  void restart(int node);
  void isolate(int node);  // from nodes, front ends and the register
  void cut_nodes(int a, int b) { network_.cut_both(a, b, true); }
  void heal();
  // An older image of the disk; the process must not run. Its incarnation is a new one.
  void roll_back(int node);
  // The data is as it was, but nobody can vouch for it.
  void lose_trust(int node);
  // Its disk holds its older image, and nobody is told.
  void take_back(int node);
  // Another disk in the same node: a new replica takes the place of the old in the record.
  void replace_disk(int node);

  // --- operators ---
  // By compare-and-swap until it is done or somebody else was first; then, when the primary runs
  // that epoch with all members, sessions before it have ended and the front end begins.
  void attach(int gateway) { change_session(gateway); }
  void detach() { change_session(-1); }
  bool changing_session() const { return changes_ > 0; }
  void hand_over(int to);
  // Somebody decides that this copy counts, whatever is missing from it.
  void accept_data_loss(int node);
  void put_out(int node);

 private:
  struct Change {
    int gateway;
    uint64_t generation;  // 0: not known to be ours yet
    Epoch epoch;
    Uuid id;
  };
  void change_session(int gateway);
  void try_change(const std::shared_ptr<Change>& change);
  void confirm(const std::shared_ptr<Change>& change);
  void change_member(int node);

  const Shape shape_;
  World world_;
  Network network_;
  Register register_;
  History history_;
  Invariants invariants_;
  std::vector<std::unique_ptr<Node>> nodes_;
  std::vector<std::unique_ptr<Gateway>> gateways_;
  std::vector<ReplicaId> replica_ids_;
  uint64_t next_id_ = 1;
  uint64_t next_incarnation_ = 2;
  uint64_t next_session_ = 0;
  int changes_ = 0;
};

}  // namespace cvol::sim
