// Swarm: one run per seed. The seed draws the cluster, the times, the workload and the rates of
// faults, many of which are zero; then three phases: safety (faults), liveness (a core of nodes is
// healed, what else is broken stays so; everything must be answered and the set refill in time),
// convergence (all heals and is quiet; replicas must be equal, the history linearizable).
#pragma once

#include <map>
#include <string>

#include "tests/sim/protocol/nemesis.h"

namespace cvol::sim {

using replication::Mutant;

struct Swarm {
  Shape shape;
  Gateway::Work work;
  Rates rates;
  Register::Faults register_faults;
  Nanoseconds probe_every = 0;  // mean; reads at whatever serves; 0: none
  Nanoseconds safety = 20 * kSecond;
  Nanoseconds liveness = 90 * kSecond;  // the bound of I14
};
Swarm draw_swarm(uint64_t seed, Mutant mutant = Mutant::kNone);

struct Result {
  std::string complaint;  // empty: all is well
  uint64_t hash = 0, events = 0;
  Nanoseconds virtual_time = 0;
  uint64_t writes = 0, reads = 0;  // acknowledged blocks
  std::map<std::string, uint64_t> counts;
  std::string story;  // of a failed run that was traced: last events, status, history
};
Result run_swarm(const Swarm& swarm);
std::string describe(const Swarm& swarm);

}  // namespace cvol::sim
