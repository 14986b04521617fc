// Scenarios: the network is cut, in one direction or both, between some or all.
#include "tests/sim/protocol/scenario.h"

namespace cvol::sim {
namespace {

enum class Cut { kBoth, kSendOnly, kReceiveOnly };

// From the other nodes and the front ends; from the register if it can neither send nor hear.
void isolate(Cluster& cluster, int node, Cut cut) {
  if (cut == Cut::kBoth) return cluster.isolate(node);
  for (int other = 0; other < cluster.network().ends(); ++other) {
    if (other == node) continue;
    if (cut == Cut::kSendOnly) cluster.network().cut(other, node, true);
    if (cut == Cut::kReceiveOnly) cluster.network().cut(node, other, true);
  }
}

class Isolated : public Scenario, public ::testing::WithParamInterface<Cut> {};

TEST_P(Isolated, primary) {
  begin({});
  const uint64_t before = write(1);
  expect_answered(before);
  isolate(cluster(), 0, GetParam());
  probe(0, 5 * kSecond);
  // If the primary still reaches the register, it may take the others out; it serves them nothing.
  if (GetParam() == Cut::kBoth) {
    const uint64_t during = write(2);
    expect_answered(during);
    expect_reads(1, before);
  }
  cluster().heal();
  wait_until_all_in_set();
  expect_reads(1, before);
}

TEST_P(Isolated, secondary) {
  begin({});
  isolate(cluster(), 2, GetParam());
  const uint64_t during = write(2);
  expect_answered(during);
  EXPECT_FALSE(cluster().in_set(2) && cluster().primary() != 2) << cluster().status();
  cluster().heal();
  wait_until_all_in_set();
  expect_reads(2, during);
}

std::string name_of_cut(const ::testing::TestParamInfo<Cut>& each) {
  switch (each.param) {
    case Cut::kBoth:
      return "symmetric";
    case Cut::kSendOnly:
      return "send_only";
    case Cut::kReceiveOnly:
      return "receive_only";
  }
  return "";
}
INSTANTIATE_TEST_SUITE_P(Scenario, Isolated,
                         ::testing::Values(Cut::kBoth, Cut::kSendOnly, Cut::kReceiveOnly),
                         name_of_cut);

TEST_F(Scenario, client_cut_from_primary) {
  begin({});
  cluster().network().cut_both(0, cluster().gateway().index(), true);
  const uint64_t written = write(3);
  expect_unanswered(written, 5 * kSecond);
  EXPECT_EQ(cluster().primary(), 0);
  cluster().hand_over(1);
  expect_answered(written);
}

TEST_F(Scenario, cut_from_each_other_register_visible_to_both) {
  Shape shape;
  shape.nodes = 2;
  begin(shape);
  const uint64_t before = write(3);
  expect_answered(before);
  cluster().cut_nodes(0, 1);
  const uint64_t during = write(4);
  probe(0, 5 * kSecond);
  expect_answered(during);
  EXPECT_EQ(cluster().record().record().in_sync.size(), 1u);
  expect_reads(3, before);
  cluster().heal();
  wait_until_all_in_set();
}

TEST_F(Scenario, flapping_link) {
  begin({});
  load();
  for (int i = 0; i < 300; ++i) {
    cluster().network().reset(0, 1, kMillisecond);
    run(70 * kMillisecond);
  }
  EXPECT_GT(cluster().gateway().answered(), 100u);
}

TEST_F(Scenario, slow_member_leaves_and_returns) {
  begin({});
  load();
  node(2).disk().set_slowness(50);
  run(2 * kSecond);
  cluster().put_out(2);
  wait_until_set_is({0, 1});
  run(5 * kSecond);
  node(2).disk().set_slowness(1);
  wait_until_all_in_set();
}

// Reads are confirmed by the others, whatever the clocks say; they go on beside writes, and a
// primary that was cut off answers none.
TEST_F(Scenario, strict_reads_are_confirmed_each) {
  Shape shape;
  shape.options.strict_reads = true;
  begin(shape);
  load();
  run(5 * kSecond);
  EXPECT_GT(cluster().gateway().answered(), 500u);
  cluster().record().set_reachable(0, false);
  cluster().cut_nodes(0, 1);
  cluster().cut_nodes(0, 2);
  probe(0, 10 * kSecond);
  EXPECT_TRUE(cluster().serves(1) || cluster().serves(2)) << cluster().status();
}

}  // namespace
}  // namespace cvol::sim
