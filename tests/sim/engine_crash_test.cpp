// The engine against a plain model: random writes, zeroes and reads, many at once, with crashes at
// any event, in which every unsynced sector may be kept or lost; for every other seed with what is
// kept for replication. I1, I2, I9, I12, I13.
#include <gtest/gtest.h>

#include <cstdlib>

#include "tests/sim/punch_check.h"
#include "tests/sim/workload.h"
#include "volumed/base/log.h"

namespace cvol::sim {
namespace {

uint64_t seeds() {
  const char* text = std::getenv("CVOL_SIM_SEEDS");
  return text != nullptr ? std::strtoull(text, nullptr, 10) : 300;
}

uint64_t first_seed() {
  const char* text = std::getenv("CVOL_SIM_FIRST_SEED");
  return text != nullptr ? std::strtoull(text, nullptr, 10) : 1;
}

struct Totals {
  uint64_t acknowledged = 0, refused = 0, crashes = 0, events = 0, carried = 0, punched = 0;
};

void run_seed(uint64_t seed, Totals& totals) {
  SCOPED_TRACE("seed " + std::to_string(seed));
  io::SimWorld world(seed);
  Random& random = world.random();
  store::FormatOptions format;
  format.journal_bytes = kMiB << random.below(3);
  format.capacity_bytes = kMiB * (2 + random.below(30));
  if (random.chance(1, 3)) format.capacity_bytes = kMiB;  // full most of the time
  store::EngineOptions options;
  options.journal_depth = 1 + static_cast<uint32_t>(random.below(8));
  options.batch_bytes = 64 * kKiB << random.below(4);
  options.destage_when_idle = random.chance(1, 2);
  options.destage_round_blocks = 4 << random.below(12);
  options.idle_after = 5 * io::kMillisecond;
  world.faults.disk_high = (100 + static_cast<int64_t>(random.below(2000))) * io::kMicrosecond;
  if (seed % 3 == 0) {  // free places come and go all the time
    options.keep_free_bytes = seed % 4 * 4 * kChunkBytes;
    options.give_back_after = 200 * io::kMicrosecond;
  }
  SimDisk disk(world, format, options);
  const PunchCheck punches(world, [&disk]() -> SimDisk& { return disk; });
  ASSERT_TRUE(disk.format()) << disk.failure().message();
  ASSERT_TRUE(disk.open()) << disk.failure().message();
  Workload work(disk, 256 + random.below(800));
  ASSERT_TRUE(disk.run(work.create(/*replicated=*/seed % 2 == 0)));
  const uint64_t cycles = 2 + random.below(5);
  for (uint64_t cycle = 0; cycle < cycles; ++cycle) {
    const uint64_t clients = 1 + random.below(8);
    for (uint64_t i = 0; i < clients; ++i) disk.node().start(work.client(20 + random.below(150)));
    const bool crash = random.chance(4, 5);
    uint64_t events = crash ? random.below(4000) : UINT64_MAX;
    // One copy of the chunk table may die before that.
    store::MemoryTableState& dying = random.chance(1, 2) ? disk.table() : disk.table2();
    if (crash && random.chance(1, 4)) dying.commits_left = random.below(8);
    while (!disk.node().done() && events-- > 0 && world.step()) {
    }
    if (crash) {
      work.stop();
      const uint64_t kept = random.below(101);
      const bool whole = random.chance(1, 2);
      disk.crash([&](const io::SimWrite& write, uint64_t) {
        if (whole) return (write.number * 2654435761u >> 7) % 101 < kept;
        return random.below(100) < kept;
      });
      ++totals.crashes;
    } else {
      ASSERT_TRUE(disk.node().done());
      disk.engine().check_invariants();
      disk.close();
    }
    ASSERT_TRUE(disk.open()) << disk.failure().message();
    disk.engine().check_invariants();
    work.crashed();
    work.resume_seq();
    ASSERT_TRUE(disk.run(work.verify_all()));
    ASSERT_EQ(world.files.at("/disk/chunks")->writes_into_holes, 0u);
    if (::testing::Test::HasFailure()) return;
  }
  totals.acknowledged += work.acknowledged();
  totals.refused += work.refused();
  totals.carried += work.carried();
  totals.punched += punches.punched_places();
  totals.events += world.events_run();
}

TEST(EngineCrash, keeps_every_acknowledged_block_through_crashes) {
  log::set_level("off");
  Totals totals;
  const uint64_t first = first_seed();
  for (uint64_t seed = first; seed < first + seeds(); ++seed) {
    run_seed(seed, totals);
    ASSERT_FALSE(HasFailure()) << "seed " << seed;
  }
  std::printf(
      "%lu seeds: %lu writes acknowledged, %lu refused for space, %lu crashes, %lu events\n",
      seeds(), totals.acknowledged, totals.refused, totals.crashes, totals.events);
  EXPECT_GT(totals.acknowledged, 100 * seeds());
  EXPECT_GT(totals.crashes, seeds());
  EXPECT_GT(totals.punched, seeds());
  EXPECT_GE(totals.carried, seeds() / 4);
}

}  // namespace
}  // namespace cvol::sim
