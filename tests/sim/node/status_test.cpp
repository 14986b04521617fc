// Allocation state is read like data (R6): of what is committed, under leases.
#include <optional>

#include "tests/sim/node/blocks.h"

namespace cvol::sim {
namespace {

Task<void> ask_zero(replication::Gateway* gateway, uint64_t block, uint64_t count,
                    std::optional<bool>* zero) {
  const auto extents = co_await gateway->block_status(block * kBlockBytes, count * kBlockBytes);
  *zero = extents.is_ok() && extents->front().zero;
}

TEST_F(BlockScenario, a_discard_on_its_way_is_not_shown) {
  begin(two_replicas());
  put(64, 16, 0x55);
  wait_in_sync();
  cluster().run_for(2 * io::kSecond);
  cluster().cut(cluster().primary(), cluster().secondary());  // nothing can be committed
  Status discarded(Code::kBusy, "on its way");
  std::optional<bool> zero;
  io::SimReactor& front_end = cluster().gateway_node().reactor();
  front_end.start(discard(&cluster().gateway(), 64, 16, &discarded));
  cluster().run_for(100 * io::kMillisecond);
  front_end.start(ask_zero(&cluster().gateway(), 64, 16, &zero));
  cluster().run_for(300 * io::kMillisecond);
  EXPECT_EQ(discarded.code(), Code::kBusy);
  EXPECT_FALSE(zero.has_value());
  wait([&] { return zero.has_value() && discarded.code() != Code::kBusy; }, 20 * io::kSecond,
       "both are answered");
  EXPECT_TRUE(discarded) << discarded.message();
  EXPECT_TRUE(*zero);
}

// Nor does a primary that was cut off answer when its leases are over.
TEST_F(BlockScenario, a_primary_without_leases_tells_no_allocation) {
  ClusterShape shape = two_replicas();
  shape.gateway_node = 1;
  begin(shape);
  put(64, 16, 0x55);
  wait_in_sync();
  ASSERT_EQ(cluster().primary().number(), 1u);
  cluster().run_for(2 * io::kSecond);
  cluster().isolate(cluster().node(1));
  cluster().node(1).register_client().set_cut(true);  // it can put nobody out
  cluster().run_for(2 * io::kSecond);                 // longer than a lease
  std::optional<bool> zero;
  cluster().node(1).reactor().start(ask_zero(&cluster().gateway(), 64, 16, &zero));
  cluster().run_for(io::kSecond);
  EXPECT_FALSE(zero.has_value());
  cluster().node(1).register_client().set_cut(false);
  cluster().heal();
  wait([&] { return zero.has_value(); }, 20 * io::kSecond, "it is answered");
  EXPECT_FALSE(*zero);
}

}  // namespace
}  // namespace cvol::sim
