// Nothing that delays one write of the volume's stream lets a later one of the same block pass
// (R2).
#include "tests/sim/node/blocks.h"

namespace cvol::sim {
namespace {

// The volume grows during a resync, and the joiner's disk is slow to grow: a write across the old
// end waits there. A later one of the last old block must not be applied before it.
TEST_F(BlockScenario, growth_keeps_the_order_of_writes_at_a_joiner) {
  begin(two_replicas());
  put(0, 256, 0x11);
  wait_in_sync();
  cluster().run_for(3 * io::kSecond);
  Node& primary = cluster().primary();
  Node& joiner = cluster().secondary();
  crash_and_wait_until_out(joiner);
  for (uint64_t chunk = 0; chunk < 12; chunk += 2) put(chunk * 16, 16, 0x22);
  cluster().start(joiner);
  wait([&] { return joiner.up(); }, 10 * io::kSecond, "it is up");
  slow_disk(joiner, 300 * io::kMillisecond);
  wait([&] { return joiner.host()->core().ready_join() != 0; }, 10 * io::kSecond, "it joins");
  cluster().run_for(50 * io::kMillisecond);
  const auto slow = usual_faults();  // now its table, too: it grows late
  slow->disk_low = slow->disk_high = 300 * io::kMillisecond;
  slow->helper_low = slow->helper_high = 600 * io::kMillisecond;
  joiner.set_faults(slow);
  cluster().reg().change([&](replication::Record& record) {
    record.epoch = record.epoch.next();
    record.size_bytes = 2 * kMiB;
  });
  wait([&] { return cluster().gateway().size() == 2 * kMiB; }, io::kSecond, "it grows");
  wait([&] { return joiner.host()->core().epoch() == primary.host()->core().epoch(); }, io::kSecond,
       "the joiner knows");
  put(255, 2, 0x33);  // across the old end
  put(255, 1, 0x44);  // the last old block again
  wait_in_sync(60 * io::kSecond);
  usual_disk(joiner);
  cluster().run_for(5 * io::kSecond);
  EXPECT_TRUE(cluster().all_in_sync());
  EXPECT_EQ(held_by(primary, 255), 0x44);
  EXPECT_EQ(held_by(joiner, 255), 0x44);
  cluster().crash(primary);
  wait([&] { return &cluster().primary() == &joiner && cluster().serving(); }, 30 * io::kSecond,
       "the other one serves");
  EXPECT_EQ(client_sees(255), 0x44);
}

}  // namespace
}  // namespace cvol::sim
