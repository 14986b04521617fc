// Tails (R9) that take their time.
#include "tests/sim/node/blocks.h"

namespace cvol::sim {
namespace {

class SlowTail : public BlockScenario, public ::testing::WithParamInterface<int> {};

// Its helper threads need so many milliseconds for each job: a large chunk map, many volumes at
// once.
TEST_P(SlowTail, a_member_that_needs_a_while_for_its_tail_stays) {
  ClusterShape shape;
  shape.nodes = 4;
  shape.gateway_node = 4;
  begin(shape);
  operate(100);
  wait_in_sync();
  cluster().run_for(2 * io::kSecond);
  Node& primary = cluster().primary();
  Node& slow = cluster().secondary(1);
  const auto faults = usual_faults();
  faults->helper_low = faults->helper_high = GetParam() * io::kMillisecond;
  slow.set_faults(faults);
  const io::Nanoseconds began = cluster().world().now();
  const Uuid process = primary.process();
  cluster().crash(primary);
  cluster().tell_death(primary, process);
  wait([&] { return &cluster().primary() != &primary && cluster().serving(); }, 60 * io::kSecond,
       "another one serves");
  EXPECT_TRUE(cluster().in_sync(slow)) << cluster().status();
  EXPECT_LT(cluster().world().now() - began, 5 * io::kSecond);
  usual_disk(slow);
}

INSTANTIATE_TEST_SUITE_P(Tails, SlowTail, ::testing::Values(100, 300, 450, 550, 700));

}  // namespace
}  // namespace cvol::sim
