// The end of a run: everything heals and becomes quiet, and what is left must be right.
#pragma once

#include <string>

#include "tests/sim/protocol/cluster.h"

namespace cvol::sim {

// The node runs, on a disk without faults.
void repair(Cluster& cluster, int node);

// Heals, restarts, waits until all replicas are in the set and all requests are answered, reads all
// blocks, compares replicas (I8) and checks the history. A complaint, or nothing.
std::string converge(Cluster& cluster, Nanoseconds limit);

}  // namespace cvol::sim
