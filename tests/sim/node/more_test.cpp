// Disks, damage, planned moves, size, sessions.
#include "tests/sim/node/scenario.h"

namespace cvol::sim {
namespace {

using Death = io::SimReactor::Death;

uint64_t counted(const Cluster& cluster, const Node& node) {
  return cluster.in_sync(node) ? 1 : 0;
}

TEST_F(NodeScenario, damage_on_the_primary_is_repaired_from_another_replica) {
  begin();
  operate(300);
  wait_in_sync();
  uint64_t damaged = 0;
  for (uint64_t block = 0; block < 64; block += 3)
    damaged += cluster().primary().damage_block(block);
  EXPECT_GT(damaged, 5u);
  operate(300);
  converge();
}

TEST_F(NodeScenario, damage_on_a_secondary_is_repaired_when_it_takes_over) {
  ClusterShape shape;
  shape.gateway_node = 3;
  shape.nodes = 4;
  shape.gateway_node = 4;
  begin(shape);
  operate(300);
  wait_in_sync();
  Node& next = cluster().secondary();
  uint64_t damaged = 0;
  for (uint64_t block = 0; block < 64; block += 3) damaged += next.damage_block(block);
  EXPECT_GT(damaged, 5u);
  ASSERT_TRUE(cluster().run_on(cluster().gateway_node(), move_to(next)));
  wait([&] { return &cluster().primary() == &next && cluster().serving(); }, 10 * io::kSecond,
       "it is the primary");
  operate(300);
  converge();
}

// One is the attached device's; the other one only asks, as a resize or an attach does.
TEST_F(NodeScenario, two_gateways_of_a_volume_both_hear_their_answers) {
  ClusterShape shape;
  shape.nodes = 4;
  shape.gateway_node = 4;  // the primary is on another node
  begin(shape);
  operate(50);
  Node& node = cluster().gateway_node();
  auto asking = node.make_gateway(1);
  ASSERT_TRUE(cluster().run_on(node, work().write_lanes(&cluster().gateway(), 8, 8)));
  EXPECT_TRUE(work().last());
  Status confirmed(Code::kInternal, "not answered");
  ASSERT_TRUE(cluster().run_on(node, confirm(asking.get(), replication::Epoch{1}, &confirmed)));
  EXPECT_TRUE(confirmed) << confirmed.message();
  ASSERT_TRUE(cluster().run_on(node, asking->close()));
  ASSERT_TRUE(cluster().run_on(node, work().write_lanes(&cluster().gateway(), 8, 8)));
  EXPECT_TRUE(work().last());
  operate(200);
  converge();
}

TEST_F(NodeScenario, damage_on_all_gives_an_error) {
  begin();
  work().shape().damage_allowed = true;
  ASSERT_TRUE(
      cluster().run_on(cluster().gateway_node(), work().write_lanes(&cluster().gateway(), 8, 8)));
  wait_in_sync();
  for (uint32_t number = 1; number <= 3; ++number)
    EXPECT_GT(cluster().node(number).damage_block(1), 0u);
  ASSERT_TRUE(
      cluster().run_on(cluster().gateway_node(), work().read_lanes(&cluster().gateway(), 8, 8)));
  EXPECT_EQ(work().last().code(), Code::kDamaged);
  // Written again, it is whole.
  ASSERT_TRUE(
      cluster().run_on(cluster().gateway_node(), work().write_lanes(&cluster().gateway(), 8, 8)));
  EXPECT_TRUE(work().last());
  work().shape().damage_allowed = false;
  operate(100);
  converge();
}

TEST_F(NodeScenario, a_sync_error_fails_the_disk_of_the_primary) {
  ClusterShape shape;
  shape.nodes = 4;
  shape.gateway_node = 4;
  begin(shape);
  operate(100);
  Node& failing = cluster().primary();
  auto faults = std::make_shared<io::SimFaults>();
  faults->sync_error = faults->write_error = 1000000;
  failing.set_faults(faults);
  operate(300);
  EXPECT_NE(&cluster().primary(), &failing);
  wait([&] { return counted(cluster(), failing) == 0; }, 20 * io::kSecond, "it leaves the set");
  converge();
}

TEST_F(NodeScenario, a_sync_error_fails_the_disk_of_a_secondary) {
  begin();
  operate(100);
  Node& failing = cluster().secondary();
  auto faults = std::make_shared<io::SimFaults>();
  faults->sync_error = faults->write_error = 1000000;
  failing.set_faults(faults);
  operate(300);
  wait([&] { return counted(cluster(), failing) == 0; }, 20 * io::kSecond, "it leaves the set");
  converge();
}

TEST_F(NodeScenario, handover_under_load) {
  ClusterShape shape;
  shape.nodes = 4;
  shape.gateway_node = 4;
  begin(shape);
  work().start(cluster().gateway_node(), 6, 2000);
  for (int round = 0; round < 4; ++round) {
    cluster().run_for(100 * io::kMillisecond);
    Node& next = cluster().secondary(round % 2);
    const io::Nanoseconds began = cluster().world().now();
    ASSERT_TRUE(cluster().run_on(cluster().gateway_node(), move_to(next)));
    wait([&] { return &cluster().primary() == &next && cluster().serving(); }, 10 * io::kSecond,
         "it is the primary");
    EXPECT_LT(cluster().world().now() - began, 500 * io::kMillisecond);
    EXPECT_TRUE(cluster().all_in_sync());
  }
  wait([&] { return work().done(); }, 30 * io::kSecond, "the operations end");
  converge();
}

TEST_F(NodeScenario, a_known_death_needs_no_grace) {
  ClusterShape shape;
  shape.nodes = 4;
  shape.gateway_node = 4;
  begin(shape);
  operate(100);
  Node& dead = cluster().primary();
  const Uuid process = dead.process();
  work().start(cluster().gateway_node(), 4, 100);
  cluster().run_for(10 * io::kMillisecond);
  const io::Nanoseconds began = cluster().world().now();
  cluster().crash(dead);
  cluster().tell_death(dead, process);
  wait([&] { return work().done(); }, 20 * io::kSecond, "another primary serves");
  EXPECT_LT(cluster().world().now() - began, 1500 * io::kMillisecond);
  cluster().start(dead);
  wait_in_sync();
  converge();
}

TEST_F(NodeScenario, full_disks_leave_all_replicas_equal) {
  ClusterShape shape;
  shape.work.blocks = 512;
  shape.work.zero = 3;
  shape.work.no_space_allowed = true;
  shape.format.capacity_bytes = kMiB;
  begin(shape);
  operate(800);
  EXPECT_GT(work().no_space(), 20u);
  EXPECT_GT(work().acknowledged(), 50u);
  wait_in_sync();
  converge();
}

TEST_F(NodeScenario, a_full_secondary_leaves_the_set) {
  ClusterShape shape;
  shape.work.blocks = 512;
  shape.work.zero = 3;
  shape.work.no_space_allowed = true;
  shape.format_of = [](uint32_t number, store::FormatOptions& format) {
    if (number == 2) format.capacity_bytes = kMiB;
  };
  begin(shape);
  operate(800);
  EXPECT_EQ(work().no_space(), 0u);
  EXPECT_FALSE(cluster().in_sync(cluster().node(2)));
  converge();
}

TEST_F(NodeScenario, a_full_primary_takes_writes_back) {
  ClusterShape shape;
  shape.work.blocks = 512;
  shape.work.zero = 3;
  shape.work.no_space_allowed = true;
  shape.format_of = [](uint32_t number, store::FormatOptions& format) {
    if (number == 1) format.capacity_bytes = kMiB;
  };
  begin(shape);
  operate(800);
  EXPECT_GT(work().no_space(), 20u);
  EXPECT_TRUE(cluster().all_in_sync());
  EXPECT_EQ(cluster().reg().record().epoch.value, 2u);
  EXPECT_EQ(cluster().node(1).exchange().mesh().connections(), 2u);  // none was made anew
  converge();
}

TEST_F(NodeScenario, resize_grows_all_replicas_before_the_record_is_confirmed) {
  begin();
  operate(100);
  wait_in_sync();
  const uint64_t larger = 4 * kMiB;
  cluster().reg().change([&](replication::Record& record) {
    record.epoch = record.epoch.next();
    record.size_bytes = larger;
  });
  const replication::Epoch epoch = cluster().reg().record().epoch;
  Status confirmed;
  ASSERT_TRUE(
      cluster().run_on(cluster().gateway_node(), confirm(&cluster().gateway(), epoch, &confirmed)));
  ASSERT_TRUE(confirmed) << confirmed.message() << cluster().status();
  for (uint32_t number = 1; number <= 3; ++number) {
    Node& node = cluster().node(number);
    EXPECT_EQ(node.engine().replica(node.replica_number())->size_bytes, larger);
  }
  EXPECT_EQ(cluster().gateway().size(), larger);
  Status written;
  ASSERT_TRUE(cluster().run_on(cluster().gateway_node(),
                               write_at(&cluster().gateway(), larger - kBlockBytes, &written)));
  EXPECT_TRUE(written) << written.message();
  operate(100);
  converge();
}

TEST_F(NodeScenario, writes_to_the_new_space_wait_until_all_have_it) {
  begin();
  operate(100);
  wait_in_sync();
  // One member learns of it late, and its disk is slow.
  auto slow = std::make_shared<io::SimFaults>();
  slow->disk_low = 20 * io::kMillisecond;
  slow->disk_high = 40 * io::kMillisecond;
  cluster().secondary().set_faults(slow);
  cluster().reg().change([&](replication::Record& record) {
    record.epoch = record.epoch.next();
    record.size_bytes = 4 * kMiB;
  });
  wait([&] { return cluster().gateway().size() == 4 * kMiB; }, io::kSecond, "it grows");
  for (uint64_t at = kMiB; at < 4 * kMiB; at += kMiB / 4) {
    Status written;
    ASSERT_TRUE(
        cluster().run_on(cluster().gateway_node(), write_at(&cluster().gateway(), at, &written)));
    EXPECT_TRUE(written) << written.message();
  }
  EXPECT_TRUE(cluster().all_in_sync()) << cluster().status();
  converge();
}

TEST_F(NodeScenario, another_session_fences_the_one_before) {
  ClusterShape shape;
  shape.nodes = 4;
  shape.gateway_node = 4;
  begin(shape);
  operate(100);
  work().start(cluster().gateway_node(), 4, 400);
  cluster().run_for(20 * io::kMillisecond);
  Node& old = cluster().gateway_node();
  old.pause();
  cluster().reg().change([&](replication::Record& record) {
    record.epoch = record.epoch.next();
    record.session.node = cluster().node(2).parts().node;
    ++record.session.generation;
  });
  const replication::Epoch epoch = cluster().reg().record().epoch;
  Node& next = cluster().node(2);
  next.open_gateway(2);
  Status confirmed;
  ASSERT_TRUE(cluster().run_on(next, confirm(next.gateway(), epoch, &confirmed)));
  ASSERT_TRUE(confirmed) << confirmed.message();
  work().lanes().history().end_sessions(1);
  work().set_session(2);
  old.resume();
  cluster().set_gateway_node(2);
  cluster().run_for(io::kSecond);
  EXPECT_EQ(work().running(), 0u);
  operate(200);
  converge();
}

TEST_F(NodeScenario, a_front_end_that_starts_again_gets_no_answers_of_its_life_before) {
  ClusterShape shape;
  shape.nodes = 4;
  shape.gateway_node = 4;
  shape.options.stuck_write = 8 * io::kSecond;
  begin(shape);
  for (int round = 0; round < 10; ++round) {
    work().start(cluster().gateway_node(), 8, 400);
    cluster().run_for((1 + round) * 3 * io::kMillisecond);
    cluster().crash(cluster().gateway_node());
    cluster().start(cluster().gateway_node());
    wait([&] { return cluster().gateway_node().up(); }, 10 * io::kSecond, "it is up");
    work().go_on(cluster().gateway_node(), 8);
    wait([&] { return work().done(); }, 60 * io::kSecond, "the operations end");
  }
  converge();
}

}  // namespace
}  // namespace cvol::sim
