// What the named scenarios of the node simulation share.
#pragma once

#include <gtest/gtest.h>

#include "tests/sim/node/cluster.h"
#include "volumed/base/log.h"

namespace cvol::sim {

class NodeScenario : public ::testing::Test {
 protected:
  NodeScenario() { log::set_level(std::getenv("CVOL_SIM_LOG") != nullptr ? "debug" : "off"); }

  void begin(ClusterShape shape = {}) {
    cluster_ = std::make_unique<Cluster>(std::move(shape));
    cluster_->start();
  }
  Cluster& cluster() { return *cluster_; }
  VolumeWorkload& work() { return cluster_->work(); }
  // Operations by the gateway's clients, to their end.
  void operate(uint64_t operations, uint64_t clients = 4,
               io::Nanoseconds bound = 60 * io::kSecond) {
    work().start(cluster_->gateway_node(), clients, operations);
    wait([&] { return work().done(); }, bound, "the operations end");
  }
  void wait(const std::function<bool()>& done, io::Nanoseconds bound, const char* what) {
    ASSERT_TRUE(cluster_->run_until(done, bound)) << what << "\n" << cluster_->status();
    ASSERT_EQ(work().complaint(), "") << cluster_->status();
  }
  void wait_in_sync(io::Nanoseconds bound = 30 * io::kSecond) {
    wait([&] { return cluster_->all_in_sync() && cluster_->serving(); }, bound,
         "all replicas are in sync");
  }
  void crash_and_start(Node& node) {
    cluster_->crash(node);
    cluster_->start(node);
    wait([&] { return node.up(); }, 10 * io::kSecond, "it is up");
  }
  Task<void> move_to(Node& node) { return move(&cluster_->gateway(), node.parts().replica); }
  static Task<void> confirm(replication::Gateway* gateway, replication::Epoch epoch,
                            Status* status) {
    *status = co_await gateway->confirm(epoch, 20 * io::kSecond);
  }
  static Task<void> close(replication::Gateway* gateway) { co_await gateway->close(); }
  // One block of zeroes' opposite.
  static Task<void> write_at(replication::Gateway* gateway, uint64_t offset, Status* status) {
    const std::vector<std::byte> data(kBlockBytes, std::byte{0x5a});
    *status = co_await gateway->write(offset, data, false);
  }
  void converge() { ASSERT_EQ(cluster_->converge(), "") << cluster_->status(); }

  static Task<void> move(replication::Gateway* gateway, replication::ReplicaId replica) {
    const Status moved = co_await gateway->move_primary(replica);
    EXPECT_TRUE(moved) << moved.message();
  }

  std::unique_ptr<Cluster> cluster_;
};

}  // namespace cvol::sim
