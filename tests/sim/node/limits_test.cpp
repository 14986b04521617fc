// Requests of any length, and disks that are full: an error, and never the end of the process.
#include "tests/sim/node/blocks.h"

namespace cvol::sim {
namespace {

Task<void> zero_keeping(replication::Gateway* gateway, uint64_t bytes, Status* status) {
  *status = co_await gateway->write_zeroes(0, bytes, /*keep_allocated=*/true, /*fua=*/false);
}

// Zeroes that keep their space find none at the primary, but at the member: it takes them back. To
// do so the primary makes what was there before, as data.
TEST_F(BlockScenario, long_zeroes_without_space_are_taken_back) {
  ClusterShape shape = two_replicas();
  shape.work.blocks = 65536;  // 256 MiB
  shape.work.no_space_allowed = true;
  shape.format.capacity_bytes = 512 * kMiB;
  shape.format_of = [](uint32_t number, store::FormatOptions& format) {
    if (number == 1) format.capacity_bytes = kMiB;
  };
  begin(shape);
  wait_in_sync();
  ASSERT_EQ(cluster().primary().number(), 1u);
  Status status;
  ASSERT_TRUE(cluster().run_on(cluster().gateway_node(),
                               zero_keeping(&cluster().gateway(), 200 * kMiB, &status)));
  EXPECT_EQ(status.code(), Code::kNoSpace) << status.message();
  EXPECT_TRUE(cluster().all_in_sync());
  EXPECT_EQ(client_sees(0), 0);
  EXPECT_EQ(held_by(cluster().secondary(), 0), 0);
}

}  // namespace
}  // namespace cvol::sim
