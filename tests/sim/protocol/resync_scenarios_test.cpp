// Scenarios: a replica that is out of sync comes back (R10), and what can go wrong then.
#include "tests/sim/protocol/scenario.h"

namespace cvol::sim {
namespace {

class Resync : public Scenario {
 protected:
  // Node 1 is away for a while, under load, and begins to come back.
  void begin_resync(int nodes, uint64_t hot_blocks = 0, uint64_t zeroes = 10) {
    Shape shape;
    shape.nodes = nodes;
    shape.blocks = 256;
    begin(shape);
    load(4, hot_blocks, zeroes);
    run(2 * kSecond);
    cluster().kill(1);
    wait_until("node 1 is out", [&] { return !cluster().in_set(1); });
    run(5 * kSecond);
    node(1).disk().set_slowness(20);
    cluster().restart(1);
    wait_until("node 1 is joining", [&] { return node(1).replica()->joining(); });
  }
};

TEST_F(Resync, resync_source_crashes) {
  begin_resync(3);
  cluster().kill(0);
  wait_until_serves(2);
  cluster().restart(0);
  wait_until_all_in_set();
}

TEST_F(Resync, resync_target_is_the_only_survivor) {
  begin_resync(2);
  cluster().kill(0);
  const uint64_t before = cluster().gateway().answered();
  run(30 * kSecond);
  EXPECT_EQ(cluster().gateway().answered(), before);
  EXPECT_FALSE(cluster().serves(1));
  EXPECT_TRUE(cluster().set_is({0}));
  cluster().restart(0);
  wait_until_all_in_set();
  EXPECT_GT(cluster().gateway().answered(), before);
}

TEST_F(Resync, resync_interrupted_many_times) {
  begin_resync(2);
  for (int i = 0; i < 30; ++i) {
    run(cluster().world().between(0, 400 * kMillisecond));
    cluster().network().reset(0, 1, 10 * kMillisecond);
  }
  wait_until_all_in_set();
}

TEST_F(Resync, resync_target_crashes_many_times) {
  begin_resync(2);
  for (int i = 0; i < 30; ++i) {
    run(cluster().world().between(0, 400 * kMillisecond));
    cluster().lose_power(1);
    cluster().restart(1);
  }
  wait_until_all_in_set();
}

TEST_F(Resync, write_during_resync_same_chunk) {
  begin_resync(2, /*hot_blocks=*/4);
  wait_until_all_in_set();
}

TEST_F(Resync, trim_during_resync) {
  begin_resync(2, /*hot_blocks=*/16, /*zeroes=*/40);
  wait_until_all_in_set();
}

TEST_F(Resync, epochs_change_during_resync) {
  begin_resync(3);
  for (int i = 0; i < 20 && !cluster().in_set(1); ++i) {
    cluster().put_out(2);
    run(300 * kMillisecond);
  }
  wait_until_all_in_set();
}

TEST_F(Resync, joiner_with_a_stuck_disk_holds_nobody_up) {
  begin_resync(2);
  run(100 * kMillisecond);
  ASSERT_FALSE(cluster().in_set(1));
  node(1).disk().stick_until(cluster().world().now() + 1000 * kSecond);
  run(60 * kSecond);
  EXPECT_LT(cluster().gateway().longest_stall(), 6 * kSecond);
  node(1).disk().stick_until(0);
  node(1).disk().set_slowness(1);
  wait_until_all_in_set();
}

TEST_F(Scenario, resync_refills_a_set_below_min_in_sync) {
  Shape shape;
  shape.nodes = 2;
  shape.min_in_sync = 2;
  begin(shape);
  load(4, 4);
  run(kSecond);
  cluster().kill(1);
  wait_until_set_is({0});
  const uint64_t before = cluster().gateway().answered();
  cluster().restart(1);
  wait_until_all_in_set();
  wait_until("requests go on", [&] { return cluster().gateway().answered() > before + 100; });
}

// A sole member starts again and again: what it wrote without a trace of its own may not be taken
// for what a joiner has seen before.
TEST_F(Scenario, seqs_are_used_again_without_harm) {
  Shape shape;
  shape.nodes = 2;
  begin(shape);
  load(4, 8, 0);
  run(kSecond);
  cluster().kill(1);
  wait_until_set_is({0});
  for (int i = 0; i < 5; ++i) {
    cluster().restart(1);
    node(0).disk().set_capacity(node(0).disk().allocated() - 2);
    run(cluster().world().between(0, 2 * kSecond));
    cluster().lose_power(0);
    cluster().restart(0);
    run(cluster().world().between(0, kSecond));
  }
}

}  // namespace
}  // namespace cvol::sim
