// A disk fails, is found sound and goes into service again; so does the replica on it.
#include "tests/sim/node/blocks.h"

namespace cvol::sim {
namespace {

TEST_F(BlockScenario, a_mended_disk_gets_its_replica_back) {
  begin();
  operate(100);
  wait_in_sync();
  Node& failing = cluster().secondary();
  const auto faults = usual_faults();
  faults->sync_error = faults->write_error = 1000000;
  failing.set_faults(faults);
  operate(100);
  wait([&] { return !cluster().in_sync(failing); }, 20 * io::kSecond, "it is out of the set");
  cluster().run_for(20 * io::kSecond);
  EXPECT_FALSE(cluster().in_sync(failing));  // the disk has failed, and stays so
  usual_disk(failing);
  const Status begun = failing.engine().start_verify(/*accept_damage=*/false);
  ASSERT_TRUE(begun) << begun.message();
  wait([&] { return !failing.engine().info().failed; }, 60 * io::kSecond, "it is mended");
  wait([&] { return cluster().in_sync(failing); }, 60 * io::kSecond, "it is in the set again");
  operate(100);
  converge();
}

}  // namespace
}  // namespace cvol::sim
