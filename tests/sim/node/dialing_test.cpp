// Whom nodes dial: those that are there, those that are lost, those that were removed.
#include "tests/sim/node/scenario.h"

namespace cvol::sim {
namespace {

constexpr io::Nanoseconds kLong = 300 * io::kSecond;

TEST_F(NodeScenario, a_lost_node_is_dialed_seldom_and_a_removed_one_not_at_all) {
  begin();
  operate(100);
  wait_in_sync();
  Node& primary = cluster().primary();
  Node& lost = cluster().secondary();
  const replication::Member member = *cluster().reg().record().find_member(lost.parts().replica);
  cluster().crash(lost);
  cluster().run_for(10 * io::kSecond);
  const auto dials = [&] { return primary.exchange().mesh().dials(); };
  const uint64_t known = dials();
  cluster().run_for(30 * io::kSecond);
  EXPECT_GT(dials(), known + 20);
  // Its lease is over.
  primary.exchange().set_away(lost.parts().node);
  const uint64_t away = dials();
  cluster().run_for(kLong);
  EXPECT_GT(dials(), away + 5);
  EXPECT_LT(dials(), away + 20);
  // It is taken out of the cluster.
  primary.exchange().forget_node(lost.parts().node);
  EXPECT_FALSE(primary.exchange().endpoint_of(member).has_value());
  cluster().run_for(io::kSecond);
  const uint64_t removed = dials();
  cluster().run_for(kLong);
  EXPECT_EQ(dials(), removed);
  // It is known again: all are told of it as of any node.
  cluster().start(lost);
  wait_in_sync();
  converge();
}

// Nobody waits for the next attempt when a lost node is back.
TEST_F(NodeScenario, a_lost_node_that_is_back_is_dialed_at_once) {
  begin();
  operate(100);
  wait_in_sync();
  Node& primary = cluster().primary();
  Node& lost = cluster().secondary();
  cluster().crash(lost);
  cluster().run_for(10 * io::kSecond);
  primary.exchange().set_away(lost.parts().node);
  cluster().run_for(kLong);
  cluster().start(lost);
  wait([&] { return lost.up(); }, 10 * io::kSecond, "it is up");
  const replication::Endpoint endpoint{lost.parts().node, 0};
  wait([&] { return primary.exchange().is_up(endpoint); }, io::kSecond, "they are connected");
  wait_in_sync();
  converge();
}

}  // namespace
}  // namespace cvol::sim
