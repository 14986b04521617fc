// Scenario: the words of the named scenarios. Each test begins a cluster, does things to it and
// says what it expects; at the end everything heals, and all invariants are checked.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>

#include "tests/sim/protocol/cluster.h"

namespace cvol::sim {

class Scenario : public ::testing::Test {
 protected:
  Cluster& begin(const Shape& shape);
  Cluster& cluster() { return *cluster_; }
  Node& node(int index) { return cluster_->node(index); }
  void run(Nanoseconds time);
  // Until it holds; a failure of the test if it does not within `limit`.
  void wait_until(const std::string& what, const std::function<bool()>& holds,
                  Nanoseconds limit = 30 * kSecond);
  void wait_until_set_is(const std::vector<int>& nodes);
  void wait_until_serves(int node);
  void wait_until_all_in_set();

  // The number of the request; the value that it writes follows from it.
  uint64_t write(uint64_t block, int gateway = 0);
  uint64_t read(uint64_t block, int gateway = 0);
  void expect_answered(uint64_t request, int gateway = 0);
  // Not within that time.
  void expect_unanswered(uint64_t request, Nanoseconds time, int gateway = 0);
  // Reads the block, and expects what that request of this gateway has written.
  void expect_reads(uint64_t block, uint64_t request, int gateway = 0);
  // Heals and restarts everything, waits until all are in the set, reads all blocks, compares.
  void finish();
  // The scenario ends with a volume that waits for a person.
  void leave_as_it_is() { finished_ = true; }
  // Reads at this node whenever it serves, for that time: they are checked.
  void probe(int node, Nanoseconds time);
  void load(uint64_t workers = 4, uint64_t hot_blocks = 0, uint64_t zeroes = 10);

  void TearDown() override;

 private:
  void check();
  std::unique_ptr<Cluster> cluster_;
  std::map<uint64_t, uint64_t> sessions_;  // of requests
  bool finished_ = false;
};

}  // namespace cvol::sim
