#include "tests/sim/protocol/converge.h"

#include <fmt/format.h>

#include <algorithm>

namespace cvol::sim {
namespace {

int attached(Cluster& cluster) {
  for (int i = 0; i < cluster.gateways(); ++i) {
    if (cluster.gateway(i).attached() &&
        cluster.gateway(i).session() == cluster.record().record().session.generation)
      return i;
  }
  return -1;
}

bool all_answered(Cluster& cluster) {
  for (int i = 0; i < cluster.gateways(); ++i) {
    if (cluster.gateway(i).unanswered() > 0) return false;
  }
  return true;
}

void heal_all(Cluster& cluster) {
  cluster.heal();
  cluster.record().set_faults({});
  for (int i = 0; i < cluster.gateways(); ++i) cluster.gateway(i).rest();
  for (int i = 0; i < cluster.gateways(); ++i) cluster.gateway(i).go_on();
  for (int i = 0; i < cluster.nodes(); ++i) repair(cluster, i);
}

std::string because(Cluster& cluster, const std::string& what) {
  return cluster.world().failed() ? cluster.world().failure() : "I14: in vain: " + what;
}

}  // namespace

void repair(Cluster& cluster, int index) {
  Node& node = cluster.node(index);
  node.go_on();
  node.disk().set_slowness(1);
  node.disk().stick_until(0);
  node.disk().set_capacity(cluster.shape().blocks);
  if (node.disk().failed()) {
    cluster.kill(index);
    cluster.replace_disk(index);
  }
  cluster.restart(index);
}

std::string converge(Cluster& cluster, Nanoseconds limit) {
  if (cluster.world().failed()) return cluster.world().failure();
  heal_all(cluster);
  if (!cluster.run_until(limit, [&] { return !cluster.changing_session(); }))
    return because(cluster, "a session changes");
  if (attached(cluster) < 0) {
    cluster.attach(0);
    if (!cluster.run_until(limit, [&] { return attached(cluster) >= 0; }))
      return because(cluster, "attach");
  }
  if (!cluster.run_until(limit, [&] { return cluster.all_in_set() && all_answered(cluster); }))
    return because(cluster, "all in sync and answered");
  Gateway& gateway = cluster.gateway(attached(cluster));
  for (uint64_t block = 0; block < cluster.shape().blocks; block += 16) {
    const uint64_t end = std::min(cluster.shape().blocks, block + 16);
    gateway.submit(Gateway::Operation::kRead, {block, end});
  }
  const auto quiet = [&] {
    if (!all_answered(cluster) || !cluster.all_in_set()) return false;
    for (int i = 0; i < cluster.nodes(); ++i) {
      const Node& node = cluster.node(i);
      if (node.disk().under_way() > 0 || node.replica()->operations() > 0) return false;
    }
    return true;
  };
  if (!cluster.run_until(limit, quiet)) return because(cluster, "quiet");
  cluster.run(kSecond);
  if (cluster.world().failed()) return cluster.world().failure();
  const std::string differs = cluster.invariants().compare_members();
  if (!differs.empty()) return differs;
  return cluster.history().check();
}

}  // namespace cvol::sim
