// Cluster: nodes, their network and their metadata store in one simulated world, and one replicated
// volume; everything from one seed.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "tests/sim/node/node.h"
#include "tests/sim/node/workload.h"

namespace cvol::sim {

struct ClusterShape {
  uint64_t seed = 1;
  uint32_t nodes = 3;
  uint32_t replicas = 3;      // on the first nodes
  uint32_t gateway_node = 1;  // from 1 on
  uint32_t min_in_sync = 1;
  VolumeWorkload::Shape work;
  store::FormatOptions format;
  std::function<void(uint32_t node, store::FormatOptions&)> format_of;  // where nodes differ
  store::EngineOptions engine;
  replication::Options options;
  io::SimFaults faults;
  // Single copies rot: what nobody read yet may be damaged at the end.
  bool damage = false;
};

class Cluster {
 public:
  explicit Cluster(ClusterShape shape);
  ~Cluster();

  // Disks are made, nodes come up, the gateway is there.
  void start();

  io::SimWorld& world() { return world_; }
  SimRegister& reg() { return *reg_; }
  VolumeWorkload& work() { return *work_; }
  const ClusterShape& shape() const { return shape_; }
  uint32_t size() const { return static_cast<uint32_t>(nodes_.size()); }
  Node& node(uint32_t number) { return *nodes_[number - 1]; }
  Node& gateway_node() { return node(shape_.gateway_node); }
  void set_gateway_node(uint32_t number) { shape_.gateway_node = number; }
  replication::Gateway& gateway() { return *gateway_node().gateway(); }
  // By the record; the node need not be up.
  Node& primary();
  Node& node_of(const replication::ReplicaId& replica);
  // Another one with a replica.
  Node& secondary(uint32_t which = 0);
  bool in_sync(const Node& node) const;
  bool all_in_sync() const;
  bool all_up() const;
  // The primary by the record serves, with all members of its set.
  bool serving() const;

  void run_for(io::Nanoseconds duration);
  bool run_until(const std::function<bool()>& done, io::Nanoseconds bound);
  // Runs `task` on a node to its end; false if the bound passes first (the task goes on).
  bool run_on(Node& node, Task<void> task, io::Nanoseconds bound = 60 * io::kSecond);

  void crash(Node& node, io::SimReactor::Death death = io::SimReactor::Death::kProcess,
             uint64_t kept_percent = 50);
  void start(Node& node);
  void isolate(const Node& node);
  void cut(const Node& a, const Node& b);
  void heal();  // all of the network, the pauses, the store
  void heal_quietly();
  // As watches that were made anew.
  void tell_records();
  // A session of the record's generation at that node; requests of older ones are over when the
  // primary runs the epoch.
  void attach(Node& node);
  // Everybody is told that this process is dead.
  void tell_death(const Node& node, const Uuid& process);

  // All in-sync replicas, byte for byte, and the history; a complaint or nothing. Nothing may be
  // under way.
  std::string converge();
  std::string status();
  void note(const std::string& text);

 private:
  void introduce(Node& node);
  struct Content {
    uint32_t node = 0;
    std::vector<std::byte> bytes;
    std::vector<bool> damaged;  // by block
  };
  Task<void> read_replica(Node* node, Content* into, std::string* complaint);
  std::string compare(const Content& one, const Content& other) const;

  ClusterShape shape_;
  io::SimWorld world_;
  Uuid volume_;
  std::unique_ptr<SimRegister> reg_;
  std::vector<std::unique_ptr<Node>> nodes_;
  std::unique_ptr<VolumeWorkload> work_;
  std::deque<std::string> trace_;
};

}  // namespace cvol::sim
