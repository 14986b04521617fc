// One random run of a cluster: what it is like, what goes wrong, and whether all ends well.
#pragma once

#include <map>
#include <string>

#include "tests/sim/node/cluster.h"

namespace cvol::sim {

// Faults per virtual second, in thousandths; many are zero.
struct FaultRates {
  uint32_t crash = 0, power = 0, pause = 0, reset = 0, cut = 0, one_way = 0, slow_disk = 0;
  uint32_t register_down = 0, register_cut = 0, hand_over = 0, long_away = 0;
  uint32_t damage = 0, damage_anywhere = 0;  // the latter: on the only copy
  uint32_t delay = 0, attach = 0;
  bool tell_deaths = false;
};

struct NodeSwarm {
  ClusterShape shape;
  SimRegister::Faults reg;
  FaultRates rates;
  io::Nanoseconds safety = 10 * io::kSecond;
  uint32_t clients = 4;
  uint64_t operations = 400;
};
NodeSwarm draw_node_swarm(uint64_t seed);
std::string describe(const NodeSwarm& swarm);

struct NodeResult {
  std::string complaint;  // empty: all is well
  std::string story;      // status, last events
  uint64_t hash = 0;      // the same for the same seed
  uint64_t events = 0, acknowledged = 0, reads = 0, no_space = 0, damaged = 0;
  io::Nanoseconds virtual_time = 0;
  std::map<std::string, uint64_t> counts;
};
NodeResult run_node_swarm(const NodeSwarm& swarm);

}  // namespace cvol::sim
