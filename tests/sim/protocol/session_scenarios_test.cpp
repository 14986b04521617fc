// Scenarios: front ends, their connections and sessions (R12, I11).
#include "tests/sim/protocol/scenario.h"

namespace cvol::sim {
namespace {

TEST_F(Scenario, ghost_write_after_reconnect) {
  begin({});
  node(2).disk().stick_until(cluster().world().now() + 700 * kMillisecond);
  const uint64_t first = write(5);
  run(20 * kMillisecond);
  cluster().gateway().reconnect();  // sends it again, while the first copy is under way
  expect_answered(first);
  const uint64_t second = write(5);
  expect_answered(second);
  run(5 * kSecond);
  expect_reads(5, second);
}

TEST_F(Scenario, a_new_session_begins_its_connections_anew) {
  begin({});
  for (int i = 0; i < 5; ++i) {
    cluster().gateway().reconnect();
    run(50 * kMillisecond);
  }
  cluster().attach(1);
  wait_until("the other one is attached", [&] { return cluster().gateway(1).attached(); });
  const uint64_t written = write(5, 1);
  expect_answered(written, 1);
  expect_reads(5, written, 1);
}

TEST_F(Scenario, force_detach_fences_a_paused_client) {
  begin({});
  const int front = cluster().gateway().index();
  cluster().network().clog(front, 0, cluster().world().now() + 10 * kSecond);
  write(5);  // on its way for long
  cluster().gateway().stop();
  cluster().attach(1);
  wait_until("the other one is attached", [&] { return cluster().gateway(1).attached(); });
  const uint64_t written = write(5, 1);
  expect_answered(written, 1);
  run(15 * kSecond);
  cluster().gateway().go_on();
  run(5 * kSecond);
  EXPECT_FALSE(cluster().gateway().attached());
  expect_reads(5, written, 1);
}

TEST_F(Scenario, detach_ends_what_is_under_way) {
  begin({});
  load();
  run(2 * kSecond);
  cluster().detach();
  wait_until("the session is over", [&] { return !cluster().changing_session(); });
  run(2 * kSecond);
  EXPECT_FALSE(cluster().gateway().attached());
}

TEST_F(Scenario, two_attachers_race) {
  begin({});
  for (int i = 0; i < 20; ++i) {
    cluster().attach(0);
    cluster().attach(1);
    wait_until("they are done", [&] { return !cluster().changing_session(); });
    const uint64_t generation = cluster().record().record().session.generation;
    const bool first = cluster().gateway(0).session() == generation;
    const bool second = cluster().gateway(1).session() == generation;
    EXPECT_TRUE(first != second) << cluster().status();
    const int winner = first ? 0 : 1;
    const uint64_t written = write(2, winner);
    expect_answered(written, winner);
    expect_reads(2, written, winner);
  }
}

TEST_F(Scenario, a_full_disk_takes_a_write_back) {
  Shape shape;
  shape.nodes = 3;
  begin(shape);
  const uint64_t first = write(1);
  expect_answered(first);
  node(0).disk().set_capacity(1);
  const uint64_t refused = write(2);
  expect_answered(refused);
  EXPECT_EQ(cluster().gateway().last_outcome(), Outcome::kNoSpace);
  expect_answered(read(2));
  EXPECT_EQ(cluster().gateway().last_read().front().value, 0u);
  const uint64_t again = write(1);  // has its space
  expect_answered(again);
  EXPECT_EQ(cluster().gateway().last_outcome(), Outcome::kDone);
  expect_reads(1, again);
}

}  // namespace
}  // namespace cvol::sim
