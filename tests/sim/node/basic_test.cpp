// A cluster at work, and one fault at a time.
#include <array>

#include "tests/sim/node/scenario.h"

namespace cvol::sim {
namespace {

using Death = io::SimReactor::Death;

TEST_F(NodeScenario, a_write_goes_to_all) {
  begin();
  operate(400);
  EXPECT_GT(work().acknowledged(), 150u);
  EXPECT_GT(work().reads(), 80u);
  wait_in_sync();
  converge();
}

TEST_F(NodeScenario, one_replica_alone) {
  ClusterShape shape;
  shape.nodes = 2;
  shape.replicas = 1;
  shape.gateway_node = 2;
  begin(shape);
  operate(200);
  converge();
  crash_and_start(cluster().node(1));
  operate(200);
  converge();
}

TEST_F(NodeScenario, gateway_on_a_node_without_replica) {
  ClusterShape shape;
  shape.nodes = 4;
  shape.gateway_node = 4;
  begin(shape);
  operate(400);
  EXPECT_GT(work().reads(), 80u);
  wait_in_sync();
  converge();
}

TEST_F(NodeScenario, gateway_on_a_secondary) {
  ClusterShape shape;
  shape.gateway_node = 2;
  begin(shape);
  operate(400);
  wait_in_sync();
  converge();
}

TEST_F(NodeScenario, primary_crashes_and_the_gateway_goes_on) {
  ClusterShape shape;
  shape.gateway_node = 3;
  begin(shape);
  operate(100);
  work().start(cluster().gateway_node(), 4, 400);
  cluster().run_for(30 * io::kMillisecond);
  Node& old = cluster().primary();
  cluster().crash(old);
  wait([&] { return work().done(); }, 20 * io::kSecond, "another primary serves");
  EXPECT_NE(&cluster().primary(), &old);
  EXPECT_FALSE(cluster().in_sync(old));
  cluster().start(old);
  wait_in_sync();
  operate(100);
  converge();
}

TEST_F(NodeScenario, primary_loses_its_power_and_the_gateway_goes_on) {
  ClusterShape shape;
  shape.gateway_node = 3;
  begin(shape);
  work().start(cluster().gateway_node(), 4, 400);
  cluster().run_for(30 * io::kMillisecond);
  Node& old = cluster().primary();
  cluster().crash(old, Death::kMachine);
  wait([&] { return work().done(); }, 30 * io::kSecond, "another primary serves");
  cluster().start(old);
  wait_in_sync();
  converge();
}

TEST_F(NodeScenario, secondary_crashes_is_removed_returns_and_resyncs) {
  begin();
  operate(200);
  Node& gone = cluster().secondary();
  cluster().crash(gone);
  operate(200);
  wait([&] { return !cluster().in_sync(gone); }, 10 * io::kSecond, "it is removed");
  operate(100);
  cluster().start(gone);
  wait_in_sync();
  operate(100);
  converge();
}

TEST_F(NodeScenario, only_the_difference_is_sent) {
  ClusterShape shape;
  shape.work.blocks = 2048;
  shape.work.write = 100;
  shape.work.zero = shape.work.read = 0;
  begin(shape);
  work().shape().most_blocks = 64;
  operate(300);
  wait_in_sync();
  Node& gone = cluster().secondary();
  cluster().crash(gone);
  wait([&] { return !cluster().in_sync(gone); }, 10 * io::kSecond, "it is removed");
  work().shape().most_blocks = 1;
  operate(20);
  cluster().run_for(60 * io::kSecond);  // away for long
  cluster().start(gone);
  wait_in_sync();
  converge();
  const uint64_t sent = cluster().primary().host()->resync_sent_bytes();
  EXPECT_GT(sent, 0u);
  EXPECT_LE(sent, 60 * kBlockBytes);
}

Task<void> write_past_replication(Node* node, uint64_t block, Status* status) {
  alignas(kBlockBytes) static const std::array<std::byte, kBlockBytes> other = [] {
    std::array<std::byte, kBlockBytes> made{};
    made.fill(std::byte{0x33});
    return made;
  }();
  const replication::Replica& core = node->host()->core();
  *status =
      co_await node->engine().append_write(node->replica_number(), core.epoch().value,
                                           core.last_seq().value + 1, block * kBlockBytes, other);
}

// As if a resync had left a block out: it looks once more before it calls the copy a replica.
TEST_F(NodeScenario, a_resync_finds_what_it_has_missed) {
  ClusterShape shape;
  shape.work.blocks = 4096;
  shape.work.write = 100;
  shape.work.zero = shape.work.read = 0;
  begin(shape);
  work().shape().most_blocks = 64;
  Node& gone = cluster().secondary();
  cluster().crash(gone);
  wait([&] { return !cluster().in_sync(gone); }, 10 * io::kSecond, "it is removed");
  operate(600);
  cluster().start(gone);
  const auto resyncs = [&] { return cluster().primary().host()->resyncs(); };
  wait([&] { return !resyncs().empty() && resyncs().front().done_bytes > 0; }, 20 * io::kSecond,
       "a piece is copied");
  Status written(Code::kInternal, "not yet");
  ASSERT_TRUE(cluster().run_on(gone, write_past_replication(&gone, 0, &written)));
  ASSERT_TRUE(written) << written.message();
  ASSERT_FALSE(cluster().in_sync(gone));  // not too late
  wait_in_sync();
  converge();
}

TEST_F(NodeScenario, restart_all_at_once) {
  begin();
  work().start(cluster().gateway_node(), 4, 1000);
  cluster().run_for(100 * io::kMillisecond);
  for (uint32_t number = 1; number <= 3; ++number) cluster().crash(cluster().node(number));
  for (uint32_t number = 1; number <= 3; ++number) cluster().start(cluster().node(number));
  wait_in_sync();
  EXPECT_EQ(cluster().reg().record().in_sync.size(), 3u);
  work().go_on(cluster().gateway_node(), 4);
  wait([&] { return work().done(); }, 30 * io::kSecond, "the operations end");
  converge();
}

TEST_F(NodeScenario, resync_interrupted_many_times) {
  ClusterShape shape;
  shape.work.blocks = 512;
  begin(shape);
  operate(400);
  Node& gone = cluster().secondary();
  cluster().crash(gone);
  wait([&] { return !cluster().in_sync(gone); }, 10 * io::kSecond, "it is removed");
  operate(400);
  for (int round = 0; round < 6; ++round) {
    cluster().start(gone);
    wait([&] { return gone.up() && gone.host()->core().durable().rebuilding; }, 20 * io::kSecond,
         "the resync begins");
    cluster().run_for(round * 2 * io::kMillisecond);
    if (round % 2 == 0) {
      cluster().crash(gone);
    } else {
      cluster().world().reset_connections(gone.number(), cluster().primary().number());
      cluster().run_for(round * io::kMillisecond);
      cluster().crash(gone);
    }
  }
  cluster().start(gone);
  operate(200);
  wait_in_sync();
  converge();
}

TEST_F(NodeScenario, resync_source_crashes) {
  ClusterShape shape;
  shape.work.blocks = 512;
  shape.gateway_node = 3;
  begin(shape);
  operate(200);
  Node& gone = cluster().node(2);
  cluster().crash(gone);
  wait([&] { return !cluster().in_sync(gone); }, 10 * io::kSecond, "it is removed");
  operate(200);
  cluster().start(gone);
  wait([&] { return gone.up() && gone.host()->core().durable().rebuilding; }, 20 * io::kSecond,
       "the resync begins");
  Node& source = cluster().primary();
  cluster().crash(source);
  operate(200);
  cluster().start(source);
  wait_in_sync(60 * io::kSecond);
  converge();
}

TEST_F(NodeScenario, connections_are_reset_under_load) {
  ClusterShape shape;
  shape.gateway_node = 2;
  begin(shape);
  work().start(cluster().gateway_node(), 6, 800);
  for (int i = 0; i < 12; ++i) {
    cluster().run_for(20 * io::kMillisecond);
    cluster().world().reset_connections(1 + i % 2, 2 + i % 2);
  }
  wait([&] { return work().done(); }, 30 * io::kSecond, "the operations end");
  wait_in_sync();
  converge();
}

TEST_F(NodeScenario, primary_isolated) {
  ClusterShape shape;
  shape.gateway_node = 2;
  begin(shape);
  operate(100);
  Node& old = cluster().primary();
  cluster().isolate(old);
  old.register_client().set_cut(true);
  operate(200);
  EXPECT_NE(&cluster().primary(), &old);
  cluster().heal();
  wait_in_sync();
  converge();
}

TEST_F(NodeScenario, secondary_isolated_and_the_register_out_of_reach_of_nobody) {
  begin();
  operate(100);
  Node& lonely = cluster().secondary();
  cluster().isolate(lonely);
  operate(200);
  EXPECT_FALSE(cluster().in_sync(lonely));
  cluster().heal();
  wait_in_sync();
  converge();
}

TEST_F(NodeScenario, register_down_without_failure) {
  begin();
  operate(50);
  cluster().reg().set_available(false);
  operate(300);
  cluster().heal();
  converge();
}

TEST_F(NodeScenario, register_down_then_member_fails) {
  begin();
  operate(50);
  cluster().reg().set_available(false);
  Node& gone = cluster().secondary();
  cluster().crash(gone);
  work().start(cluster().gateway_node(), 4, 200);
  cluster().run_for(20 * io::kSecond);
  EXPECT_FALSE(work().done());  // it waits, and says no error
  cluster().heal();
  wait([&] { return work().done(); }, 20 * io::kSecond, "the operations end");
  cluster().start(gone);
  wait_in_sync();
  converge();
}

TEST_F(NodeScenario, a_paused_primary_is_replaced_and_follows) {
  ClusterShape shape;
  shape.gateway_node = 3;
  begin(shape);
  work().start(cluster().gateway_node(), 4, 400);
  cluster().run_for(50 * io::kMillisecond);
  Node& old = cluster().primary();
  old.pause();
  wait([&] { return work().done(); }, 30 * io::kSecond, "another primary serves");
  old.resume();
  wait_in_sync();
  converge();
}

}  // namespace
}  // namespace cvol::sim
