// Gateways: what they ask always ends, and so do they.
#include "tests/sim/node/scenario.h"

namespace cvol::sim {
namespace {

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

// Nothing that this node's replica holds keeps a gateway from ending: neither writes that wait for
// members, nor reads that wait for leases, nor what waits for those.
TEST_F(NodeScenario, a_gateway_closes_while_its_requests_wait) {
  ClusterShape shape;
  shape.gateway_node = 1;
  shape.work.unaligned = 50;
  begin(shape);
  operate(200);
  wait_in_sync();
  Node& node = cluster().node(1);
  for (int round = 0; round < 3; ++round) {
    wait([&] { return node.host()->core().is_primary(); }, 60 * io::kSecond, "it is the primary");
    operate(20);  // the gateway has heard of it
    cluster().reg().set_available(false);
    cluster().isolate(node);
    work().start(node, 12, 400);
    cluster().run_for(5 * io::kSecond);
    EXPECT_EQ(work().running(), 12u);
    EXPECT_GT(node.host()->core().in_flight(), 0u);
    const io::Nanoseconds began = cluster().world().now();
    ASSERT_TRUE(cluster().run_on(node, close(node.gateway()), 60 * io::kSecond));
    EXPECT_LT(cluster().world().now() - began, 100 * io::kMillisecond);
    wait([&] { return work().running() == 0; }, io::kSecond, "its requests have ended");
    EXPECT_GT(node.host()->core().in_flight(), 0u);  // their outcome is open
    if (round % 2 == 0) node.reopen_gateway();
    cluster().run_for(io::kSecond);
    cluster().heal();
    if (round % 2 != 0) node.reopen_gateway();
    work().go_on(node, 4);
    wait([&] { return work().done(); }, 60 * io::kSecond, "the operations end");
    wait_in_sync();
    ASSERT_TRUE(cluster().run_on(node, move_to(node)));
    wait_in_sync();
  }
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

Task<void> ask_to_move(replication::Gateway* gateway, replication::ReplicaId replica, int* ended) {
  const Status moved = co_await gateway->move_primary(replica);
  *ended = moved.is_ok() ? 1 : 2;
}

Task<void> compare(replication::Gateway* gateway, uint64_t offset,
                   replication::ClientResult* result) {
  *result = co_await gateway->verify(offset);
}

// The one that is asked is paused, or cut off in a way that this end is never told: an attach that
// wants the volume's primary on its own node goes on without an answer.
TEST_F(NodeScenario, a_move_of_a_silent_primary_is_given_up) {
  for (const bool paused : {true, false}) {
    ClusterShape shape;
    shape.gateway_node = 2;
    begin(shape);
    operate(50);
    wait_in_sync();
    Node& old = cluster().primary();
    Node& node = cluster().gateway_node();
    ASSERT_NE(&old, &node);
    auto asking = node.make_gateway(1);
    if (paused) {
      old.pause();
    } else {
      cluster().isolate(old);
    }
    int ended = 0;
    node.reactor().start(ask_to_move(asking.get(), node.parts().replica, &ended));
    wait([&] { return ended != 0; }, 2 * io::kSecond, "the question ends");
    if (paused) old.resume();
    cluster().heal();
    ASSERT_TRUE(cluster().run_on(node, asking->close()));
    operate(50);
    wait_in_sync();
    converge();
  }
}

// An attachment begins an epoch, in which the primary forgets what it was asked for before.
TEST_F(NodeScenario, an_attachment_draws_the_primary_through_its_epoch) {
  begin();
  operate(50);
  wait_in_sync();
  for (uint32_t turn = 1; turn <= 6; ++turn) {
    Node& next = cluster().node(turn % 3 + 1);
    work().start(cluster().gateway_node(), 4, 100);
    cluster().run_for(5 * io::kMillisecond);
    cluster().reg().change([&](replication::Record& record) {
      record.epoch = record.epoch.next();
      record.session.node = next.parts().node;
      ++record.session.generation;
    });
    cluster().attach(next);
    next.gateway()->draw_primary(next.parts().replica, 3 * io::kSecond);
    wait([&] { return &cluster().primary() == &next && cluster().serving(); }, 2 * io::kSecond,
         "the primary has come");
    work().lanes().history().end_sessions(turn);
    wait([&] { return work().running() == 0; }, 10 * io::kSecond, "the old session has ended");
    operate(50);
  }
  converge();
}

// No record comes to a node that is cut off from the store, and the connection to a paused process
// stays: the next primary is found all the same.
TEST_F(NodeScenario, a_gateway_that_hears_of_no_record_finds_the_next_primary) {
  for (const bool used : {false, true}) {
    ClusterShape shape;
    shape.nodes = 4;
    shape.gateway_node = 4;
    begin(shape);
    operate(50);
    wait_in_sync();
    Node& node = cluster().gateway_node();
    Node& old = cluster().primary();
    node.register_client().set_cut(true);
    if (used) work().start(node, 4, 200);  // and waits for answers
    if (used) cluster().run_for(10 * io::kMillisecond);
    old.pause();
    wait([&] { return &cluster().primary() != &old && cluster().serving(); }, 20 * io::kSecond,
         "another one serves");
    if (!used) work().start(node, 4, 200);
    wait([&] { return work().done(); }, 20 * io::kSecond, "requests go there");
    old.resume();
    cluster().heal();
    operate(50);
    wait_in_sync();
    converge();
  }
}

// A comparison that goes on at another primary is one of what that one knows.
TEST_F(NodeScenario, a_comparison_goes_on_at_another_primary) {
  begin();
  work().shape().damage_allowed = true;
  operate(200);
  wait_in_sync();
  Node& node = cluster().gateway_node();
  auto asking = node.make_gateway(1);
  replication::ClientResult compared;
  ASSERT_TRUE(cluster().run_on(node, compare(asking.get(), 0, &compared)));
  ASSERT_EQ(compared.outcome, replication::Outcome::kDone);
  EXPECT_TRUE(compared.status) << compared.status.message();
  Node& next = cluster().secondary();
  ASSERT_TRUE(cluster().run_on(node, move_to(next)));
  wait([&] { return &cluster().primary() == &next; }, 10 * io::kSecond, "it has moved");
  wait_in_sync();
  ASSERT_TRUE(
      cluster().run_on(node, work().write_lanes(&cluster().gateway(), 16 * kLanes, kLanes)));
  EXPECT_GT(cluster().secondary().damage_block(16), 0u);
  ASSERT_TRUE(
      cluster().run_on(node, compare(asking.get(), kBlocksPerChunk * kBlockBytes, &compared)));
  ASSERT_EQ(compared.outcome, replication::Outcome::kDone);
  EXPECT_EQ(compared.status.code(), Code::kDamaged) << "nothing was compared";
  ASSERT_TRUE(cluster().run_on(node, asking->close()));
}

// Of a volume whose writes wait for the store: the range is not to be had.
TEST_F(NodeScenario, a_comparison_on_the_primarys_own_node_ends) {
  for (const bool closed : {true, false}) {
    begin();
    operate(200);
    wait_in_sync();
    Node& node = cluster().gateway_node();
    ASSERT_TRUE(cluster().run_on(node, move_to(node)));
    wait_in_sync();
    auto asking = node.make_gateway(1);
    replication::ClientResult compared;
    ASSERT_TRUE(cluster().run_on(node, compare(asking.get(), 0, &compared)));
    cluster().reg().set_available(false);
    Node& silent = cluster().secondary();
    silent.pause();
    work().start(node, 12, 400);
    cluster().run_for(3 * io::kSecond);
    compared.outcome = replication::Outcome::kFailed;
    node.reactor().start(compare(asking.get(), 1, &compared));
    if (!closed)
      wait([&] { return compared.outcome != replication::Outcome::kFailed; }, 75 * io::kSecond,
           "it ends");
    cluster().run_for(100 * io::kMillisecond);
    ASSERT_TRUE(cluster().run_on(node, asking->close(), io::kSecond));
    silent.resume();
    cluster().heal();
    wait([&] { return work().done(); }, 30 * io::kSecond, "the writes end");
    wait_in_sync();
    converge();
  }
}

Task<void> compare_here(replication::ReplicaHost* host, bool* ended) {
  const replication::ClientResult result = co_await host->verify(0);
  static_cast<void>(result);
  *ended = true;
}

Task<void> close_replica(replication::ReplicaHost* host, const bool* ended, bool* in_time) {
  co_await host->close();
  *in_time = *ended;
}

// As when the volume is removed meanwhile: nothing touches the replica when it has closed.
TEST_F(NodeScenario, a_replica_that_compares_closes_when_that_has_ended) {
  for (int at = 0; at < 12; ++at) {
    begin();
    operate(100);
    wait_in_sync();
    Node& node = cluster().primary();
    bool ended = false;
    bool in_time = false;
    node.reactor().start(compare_here(node.host(), &ended));
    cluster().run_for(at * 40 * io::kMicrosecond);
    node.reactor().start(close_replica(node.host(), &ended, &in_time));
    cluster().run_for(100 * io::kMillisecond);
    EXPECT_TRUE(ended);
    EXPECT_TRUE(in_time) << at;
    node.stop();
  }
}

// Whoever is asked for a part of a comparison leaves the set when it is silent; what is written to
// that part meanwhile waits no longer than for that.
TEST_F(NodeScenario, a_comparison_with_a_silent_member_keeps_no_write_waiting) {
  begin();
  operate(200);
  wait_in_sync();
  Node& node = cluster().gateway_node();
  auto asking = node.make_gateway(1);
  replication::ClientResult compared;
  ASSERT_TRUE(cluster().run_on(node, compare(asking.get(), 0, &compared)));
  ASSERT_EQ(compared.outcome, replication::Outcome::kDone);
  Node& silent = cluster().secondary();
  silent.pause();
  node.reactor().start(compare(asking.get(), 1, &compared));
  cluster().run_for(10 * io::kMillisecond);
  operate(50, 4, 10 * io::kSecond);  // the volume is one piece of the comparison
  EXPECT_FALSE(cluster().in_sync(silent));
  silent.resume();
  wait_in_sync();
  ASSERT_TRUE(cluster().run_on(node, asking->close()));
  converge();
}

}  // namespace
}  // namespace cvol::sim
