// Disks, damage, planned moves, size, sessions.
#include "tests/sim/node/scenario.h"

namespace cvol::sim {
namespace {

using Death = io::SimReactor::Death;

uint64_t counted(const Cluster& cluster, const Node& node) {
  return cluster.in_sync(node) ? 1 : 0;
}

TEST_F(NodeScenario, a_quiet_volume_sends_half_as_many_beacons) {
  begin();
  operate(100);
  wait_in_sync();
  replication::Exchange& exchange = cluster().primary().exchange();
  const auto sent = [&] {
    const uint64_t before = exchange.mesh().sent_frames();
    cluster().run_for(4 * io::kSecond);
    return exchange.mesh().sent_frames() - before;
  };
  const uint64_t busy = sent();
  cluster().run_for(4 * io::kSecond);
  const uint64_t quiet = sent();
  EXPECT_GE(busy, 2 * 14u);
  EXPECT_LE(quiet, busy * 6 / 10);
  EXPECT_GE(quiet, 2 * 7u);
  operate(100);
  converge();
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

// A copy that cannot be asked now is no damaged one: that is a pause, and no error (I13).
TEST_F(NodeScenario, a_damaged_block_waits_for_a_copy_that_does_not_answer) {
  ClusterShape shape;
  shape.gateway_node = 1;
  begin(shape);
  Node& node = cluster().node(1);
  ASSERT_TRUE(cluster().run_on(node, work().write_lanes(&cluster().gateway(), 8, 16)));
  wait_in_sync();
  const auto damage_and_ask = [&] {
    EXPECT_GT(node.damage_block(1), 0u);
    EXPECT_GT(node.damage_block(2), 0u);
    node.reactor().start(work().read_lanes(&cluster().gateway(), 8, 8));
    // Part of a block: the rest of it is needed.
    node.reactor().start(work().write_lanes(&cluster().gateway(), 17, 3));
  };
  for (int round = 0; round < 5; ++round) {
    const uint64_t reads = work().reads(), acknowledged = work().acknowledged();
    cluster().world().reset_connections(1, 2);
    cluster().world().reset_connections(1, 3);
    cluster().run_for(round * io::kMillisecond);
    damage_and_ask();
    wait([&] { return work().reads() > reads && work().acknowledged() > acknowledged; },
         io::kSecond, "both are answered");
  }
  // Nor does it keep a gateway that closes.
  cluster().isolate(node);
  damage_and_ask();
  cluster().run_for(300 * io::kMillisecond);
  const io::Nanoseconds began = cluster().world().now();
  node.reactor().start(close(node.gateway()));
  wait([&] { return node.reactor().done(); }, 100 * io::kMillisecond, "all has ended");
  EXPECT_LT(cluster().world().now() - began, 100 * io::kMillisecond);
  cluster().heal();
  node.reopen_gateway();
  wait_in_sync();
  EXPECT_EQ(cluster().reg().record().epoch.value, 2u);  // it was too short to put anybody out
  converge();
}

// The only copy in the set has a damaged block that nobody has read; those that come back have it
// whole. They are taken in again, and mend it.
TEST_F(NodeScenario, copies_that_return_mend_what_the_only_one_has_damaged) {
  ClusterShape shape;
  shape.nodes = 4;
  shape.gateway_node = 4;
  begin(shape);
  ASSERT_TRUE(
      cluster().run_on(cluster().gateway_node(), work().write_lanes(&cluster().gateway(), 8, 8)));
  wait_in_sync();
  Node& primary = cluster().primary();
  std::vector<Node*> others;
  for (uint32_t number = 1; number <= 3; ++number) {
    if (&cluster().node(number) != &primary) others.push_back(&cluster().node(number));
  }
  for (Node* other : others) cluster().crash(*other);
  wait([&] { return cluster().reg().record().in_sync.size() == 1 && cluster().serving(); },
       20 * io::kSecond, "the primary is alone");
  // In the same chunk, so that the resync looks at it.
  ASSERT_TRUE(
      cluster().run_on(cluster().gateway_node(), work().write_lanes(&cluster().gateway(), 24, 8)));
  EXPECT_GT(primary.damage_block(1), 0u);
  for (Node* other : others) cluster().start(*other);
  wait_in_sync();
  ASSERT_TRUE(
      cluster().run_on(cluster().gateway_node(), work().read_lanes(&cluster().gateway(), 8, 8)));
  EXPECT_TRUE(work().last()) << work().last().message();
  converge();
}

// Seed 700805: those that have left are behind, but not in this block.
TEST_F(NodeScenario, a_copy_that_has_left_mends_what_the_last_one_has_damaged) {
  ClusterShape shape;
  shape.nodes = 4;
  shape.gateway_node = 4;
  shape.work.blocks = 512;
  shape.work.no_space_allowed = true;
  shape.format_of = [](uint32_t number, store::FormatOptions& format) {
    if (number == 2 || number == 3) format.capacity_bytes = kMiB;
  };
  begin(shape);
  const auto write_block = [&](uint64_t block) {
    ASSERT_TRUE(cluster().run_on(cluster().gateway_node(),
                                 work().write_lanes(&cluster().gateway(), block * kLanes, kLanes)));
  };
  write_block(1);
  wait_in_sync();
  Node& primary = cluster().node(1);
  ASSERT_EQ(&cluster().primary(), &primary);
  for (uint64_t block = 16; block < 512; block += 16) write_block(block);
  wait([&] { return cluster().reg().record().in_sync.size() == 1 && cluster().serving(); },
       20 * io::kSecond, "the others have left, their disks are full");
  EXPECT_GT(primary.damage_block(1), 0u);
  ASSERT_TRUE(cluster().run_on(cluster().gateway_node(),
                               work().read_lanes(&cluster().gateway(), kLanes, kLanes)));
  EXPECT_TRUE(work().last()) << work().last().message();
  // What was written since then is nowhere else, and stays damaged when it is.
  EXPECT_GT(primary.damage_block(496), 0u);
  ASSERT_TRUE(cluster().run_on(cluster().gateway_node(),
                               work().read_lanes(&cluster().gateway(), 496 * kLanes, kLanes)));
  EXPECT_EQ(work().last().code(), Code::kDamaged);
  // Nor is one waited for whose disk finishes nothing.
  auto stuck = std::make_shared<io::SimFaults>(cluster().world().faults);
  stuck->disk_low = stuck->disk_high = 100 * io::kSecond;
  cluster().node(2).set_faults(stuck);
  cluster().node(3).set_faults(stuck);
  EXPECT_GT(primary.damage_block(480), 0u);
  const io::Nanoseconds began = cluster().world().now();
  ASSERT_TRUE(cluster().run_on(cluster().gateway_node(),
                               work().read_lanes(&cluster().gateway(), 480 * kLanes, kLanes)));
  EXPECT_EQ(work().last().code(), Code::kDamaged);
  EXPECT_LT(cluster().world().now() - began, 8 * io::kSecond);
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

// A disk that a read waits for is not this replica's own: it excuses nobody.
TEST_F(NodeScenario, a_member_is_put_out_though_a_read_waits_for_its_disk) {
  ClusterShape shape;
  shape.replicas = 2;
  shape.gateway_node = 3;
  begin(shape);
  ASSERT_TRUE(
      cluster().run_on(cluster().gateway_node(), work().write_lanes(&cluster().gateway(), 8, 8)));
  wait_in_sync();
  Node& primary = cluster().primary();
  Node& stuck = cluster().secondary();
  ASSERT_GT(primary.damage_block(1), 0u);
  auto faults = std::make_shared<io::SimFaults>(cluster().world().faults);
  faults->disk_low = faults->disk_high = 1000 * io::kSecond;
  stuck.set_faults(faults);
  const io::Nanoseconds began = cluster().world().now();
  work().shape().damage_allowed = true;  // the block is nowhere else when the other one has left
  io::SimReactor& front = cluster().gateway_node().reactor();
  front.start(work().write_lanes(&cluster().gateway(), 24, 8));
  cluster().run_for(2 * io::kSecond);
  front.start(work().read_lanes(&cluster().gateway(), 8, 8));
  wait([&] { return !cluster().in_sync(stuck); }, 20 * io::kSecond, "it is put out");
  EXPECT_LT(cluster().world().now() - began, 10 * io::kSecond);
  ASSERT_TRUE(
      cluster().run_on(cluster().gateway_node(), work().write_lanes(&cluster().gateway(), 8, 8)));
  EXPECT_TRUE(work().last());
}

// Seed 1000398: what it has to write again when it takes over cannot be read anywhere.
TEST_F(NodeScenario, damage_in_what_was_written_last_does_not_end_a_volume) {
  for (const uint32_t replicas : {1u, 2u}) {
    ClusterShape shape;
    shape.replicas = replicas;
    shape.gateway_node = 3;
    shape.work.damage_allowed = true;
    begin(shape);
    const auto read_block = [&](uint64_t block) {
      EXPECT_TRUE(
          cluster().run_on(cluster().gateway_node(),
                           work().read_lanes(&cluster().gateway(), block * kLanes, kLanes)));
      return work().last().code();
    };
    ASSERT_TRUE(cluster().run_on(cluster().gateway_node(),
                                 work().write_lanes(&cluster().gateway(), 0, 8 * kLanes)));
    // The end of a journal might be a write that was never finished.
    for (const uint64_t block : {20, 21}) {
      ASSERT_TRUE(
          cluster().run_on(cluster().gateway_node(),
                           work().write_lanes(&cluster().gateway(), block * kLanes, kLanes)));
    }
    for (uint32_t number = 1; number <= replicas; ++number) {
      cluster().crash(cluster().node(number));
      ASSERT_GT(cluster().node(number).damage_block(3, 3), 0u);
    }
    for (uint32_t number = 1; number <= replicas; ++number) cluster().start(cluster().node(number));
    wait_in_sync();
    EXPECT_EQ(read_block(2), Code::kOk);
    EXPECT_EQ(read_block(3), Code::kDamaged);
    EXPECT_EQ(read_block(4), Code::kOk);
    ASSERT_TRUE(cluster().run_on(cluster().gateway_node(),
                                 work().write_lanes(&cluster().gateway(), 3 * kLanes, kLanes)));
    EXPECT_EQ(read_block(3), Code::kOk);
    converge();
  }
}

// An error that passes is no damage: what differs there may be read again later, so that it cannot
// be left as it is.
TEST_F(NodeScenario, reads_that_fail_for_a_while_leave_no_difference_behind) {
  ClusterShape shape;
  shape.replicas = 2;
  shape.gateway_node = 3;
  shape.work.damage_allowed = true;
  begin(shape);
  const auto write_block = [&](uint64_t block) {
    EXPECT_TRUE(cluster().run_on(cluster().gateway_node(),
                                 work().write_lanes(&cluster().gateway(), block * kLanes, kLanes)));
  };
  for (uint64_t block = 0; block < 20; ++block) write_block(block);
  wait_in_sync();
  Node& a = cluster().primary();
  Node& b = cluster().secondary();
  cluster().cut(a, b);  // one more write of block 3 stays on the primary
  cluster().gateway_node().reactor().start(
      work().write_lanes(&cluster().gateway(), 3 * kLanes, kLanes));
  cluster().run_for(300 * io::kMillisecond);
  for (Node* node : {&cluster().gateway_node(), &a, &b}) cluster().crash(*node);
  cluster().heal();
  for (Node* node : {&a, &b, &cluster().gateway_node()}) cluster().start(*node);
  wait([&] { return a.up() && b.up() && cluster().gateway_node().up(); }, 10 * io::kSecond, "up");
  auto faults = std::make_shared<io::SimFaults>(cluster().world().faults);
  faults->read_error = 1000000;
  faults->cached_read = 0;
  a.set_faults(faults);
  b.set_faults(faults);
  cluster().run_for(5 * io::kSecond);
  const bool served = cluster().serving();
  for (Node* node : {&a, &b}) {
    // A disk that is given up is looked at again with the next start.
    if (!served) cluster().crash(*node);
    node->set_faults(std::make_shared<io::SimFaults>(cluster().world().faults));
    if (!served) cluster().start(*node);
  }
  cluster().attach(cluster().gateway_node());
  wait_in_sync();
  ASSERT_TRUE(cluster().run_on(cluster().gateway_node(),
                               work().read_lanes(&cluster().gateway(), 3 * kLanes, kLanes)));
  Node& now = cluster().primary();
  cluster().crash(now);
  wait([&] { return &cluster().primary() != &now && cluster().serving(); }, 30 * io::kSecond,
       "the other one takes over");
  ASSERT_TRUE(cluster().run_on(cluster().gateway_node(),
                               work().read_lanes(&cluster().gateway(), 3 * kLanes, kLanes)));
  cluster().start(now);
  wait_in_sync();
  converge();
}

// Nobody tells that a disk was replaced by an older copy of itself: what the others know does.
TEST_F(NodeScenario, a_secondary_whose_disk_is_an_older_copy_is_resynced) {
  begin();
  operate(200);
  wait_in_sync();
  Node& old = cluster().secondary();
  cluster().crash(old);
  const DiskRemains image = old.image();
  cluster().start(old);
  wait_in_sync();
  operate(200);
  cluster().crash(old);
  old.restore(image);
  cluster().start(old);
  const auto known_anew = [&] {
    const auto* entry = cluster().reg().record().find_in_sync(old.parts().replica);
    return entry != nullptr && entry->incarnation == 2;
  };
  wait(known_anew, 30 * io::kSecond, "it is taken in again, as another one");
  wait_in_sync();
  operate(100);
  converge();
}

TEST_F(NodeScenario, a_primary_whose_disk_is_an_older_copy_does_not_serve) {
  ClusterShape shape;
  shape.nodes = 4;
  shape.gateway_node = 4;
  begin(shape);
  operate(200);
  wait_in_sync();
  Node& old = cluster().primary();
  cluster().crash(old);
  const DiskRemains image = old.image();
  cluster().start(old);
  wait([&] { return old.up() && cluster().serving() && cluster().all_in_sync(); }, 30 * io::kSecond,
       "all are in sync");
  ASSERT_TRUE(cluster().run_on(cluster().gateway_node(), move_to(old)));
  wait([&] { return &cluster().primary() == &old && cluster().serving(); }, 10 * io::kSecond,
       "it is the primary");
  operate(300);
  for (uint32_t number = 1; number <= 3; ++number) cluster().crash(cluster().node(number));
  old.restore(image);
  for (uint32_t number = 1; number <= 3; ++number) cluster().start(cluster().node(number));
  wait([&] { return &cluster().primary() != &old && cluster().serving(); }, 30 * io::kSecond,
       "another one serves");
  operate(100);
  wait_in_sync();
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

// Forged, or of another life: the connection to the process stands, and it answers.
TEST_F(NodeScenario, a_word_of_death_does_not_outweigh_a_connection_that_answers) {
  begin();
  operate(100);
  wait_in_sync();
  Node& primary = cluster().primary();
  const replication::Record before = cluster().reg().record();
  work().start(cluster().gateway_node(), 4, 400);
  for (int i = 0; i < 5; ++i) {
    for (uint32_t at = 1; at <= cluster().size(); ++at) {
      Node& node = cluster().node(at);
      cluster().tell_death(node, node.process());
    }
    cluster().run_for(200 * io::kMillisecond);
  }
  wait([&] { return work().done(); }, 20 * io::kSecond, "all is answered");
  EXPECT_EQ(&cluster().primary(), &primary);
  EXPECT_EQ(cluster().reg().record().epoch, before.epoch);
  EXPECT_EQ(cluster().reg().record().in_sync.size(), before.in_sync.size());
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

}  // namespace
}  // namespace cvol::sim
