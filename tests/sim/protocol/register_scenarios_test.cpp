// Scenarios: the register is away, slow or tells nothing.
#include "tests/sim/protocol/scenario.h"

namespace cvol::sim {
namespace {

TEST_F(Scenario, register_down_without_failure) {
  begin({});
  cluster().record().set_up(false);
  load();
  run(60 * kSecond);
  EXPECT_GT(cluster().gateway().answered(), 1000u);
  EXPECT_LT(cluster().gateway().longest_stall(), kSecond);
}

TEST_F(Scenario, register_down_then_member_fails) {
  begin({});
  cluster().record().set_up(false);
  cluster().kill(2);
  const uint64_t written = write(1);
  expect_unanswered(written, 10 * kSecond);
  cluster().restart(2);  // it comes back before the register does
  expect_answered(written);
}

TEST_F(Scenario, register_down_then_primary_fails) {
  begin({});
  cluster().record().set_up(false);
  cluster().kill(0);
  const uint64_t written = write(1);
  expect_unanswered(written, 10 * kSecond);
  cluster().record().set_up(true);
  expect_answered(written);
}

TEST_F(Scenario, register_cut_from_primary) {
  begin({});
  cluster().record().set_reachable(0, false);
  const uint64_t first = write(1);
  expect_answered(first);
  cluster().kill(2);
  const uint64_t second = write(2);
  expect_unanswered(second, 5 * kSecond);
  cluster().record().set_reachable(0, true);
  expect_answered(second);
  expect_reads(1, first);
}

TEST_F(Scenario, cas_times_out_then_lands) {
  begin({});
  cluster().record().delay_next_of(0, 5 * kSecond);
  cluster().kill(2);
  const uint64_t written = write(2);
  expect_answered(written);  // by the same one, sent again
  EXPECT_TRUE(cluster().set_is({0, 1}));
  run(10 * kSecond);
  EXPECT_TRUE(cluster().set_is({0, 1}));
}

TEST_F(Scenario, joiner_promotes_before_primary_learns) {
  Shape shape;
  shape.nodes = 2;
  begin(shape);
  load(2, 4);
  cluster().kill(1);
  wait_until_set_is({0});
  cluster().record().delay_next_of(0, 3 * kSecond);
  cluster().restart(1);
  wait_until("the joiner is proposed", [&] { return !cluster().record().delays_next_of(0); });
  cluster().record().set_reachable(0, false);
  cluster().cut_nodes(0, 1);
  wait_until_set_is({0, 1});
  probe(0, 10 * kSecond);
  wait_until_serves(1);
  probe(0, 5 * kSecond);
}

// The register is restored from a backup in which node 1 was in the set. Node 0, alone in the set
// since, runs and can be asked: node 1 does not take over beside it, and node 0 makes its claim.
class Restored : public Scenario {
 protected:
  void restore_a_backup_with_a_stale_copy() {
    Shape shape;
    shape.nodes = 2;
    begin(shape);
    expect_answered(write(3));
    run(3 * kSecond);
    const replication::Record backup = cluster().record().record();
    cluster().kill(1);
    wait_until_set_is({0});
    expect_answered(write(3));
    cluster().record().restore(backup);
  }
  void expect_only_node_0_to_serve() {
    bool other = false;
    cluster().run_until(30 * kSecond, [&] {
      other = other || cluster().serves(1);
      return other || cluster().world().failed();
    });
    EXPECT_FALSE(other) << cluster().status();
    EXPECT_EQ(cluster().world().failure(), "");
    EXPECT_TRUE(cluster().serves(0)) << cluster().status();
    EXPECT_GT(cluster().world().counts()["claims"], 0u);
    leave_as_it_is();  // a person has the record rebuilt
  }
};

TEST_F(Restored, a_stale_copy_asks_the_primary_that_runs) {
  restore_a_backup_with_a_stale_copy();
  cluster().restart(1);
  expect_only_node_0_to_serve();
}

// The primary has heard nothing of it: its watch is left out.
TEST_F(Restored, a_stale_copy_asks_a_primary_that_does_not_know_either) {
  restore_a_backup_with_a_stale_copy();
  cluster().record().set_reachable(0, false);
  cluster().restart(1);
  run(10 * kSecond);
  cluster().record().set_reachable(0, true);
  expect_only_node_0_to_serve();
}

}  // namespace
}  // namespace cvol::sim
