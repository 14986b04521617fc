// Scenarios of plain operation: the simulated cluster works when nothing fails.
#include "tests/sim/protocol/scenario.h"

namespace cvol::sim {
namespace {

TEST_F(Scenario, writes_are_answered_and_read_back) {
  begin({});
  const uint64_t written = write(7);
  expect_answered(written);
  expect_reads(7, written);
}

TEST_F(Scenario, workers_keep_a_linearizable_history) {
  begin({});
  cluster().gateway().work({.workers = 4});
  run(10 * kSecond);
  EXPECT_GT(cluster().gateway().answered(), 1000u);
}

}  // namespace
}  // namespace cvol::sim
