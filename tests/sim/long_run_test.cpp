// A long random run on one disk: crashes, orderly restarts, scrubs that go on all the while, and
// every block compared with a model in memory. One disk lives through all of it, so that what ages
// (the ring's turns, generations, freed and reused places) ages.
//
// CVOL_LONG_OPERATIONS: how many operations (default 150,000: some seconds); CVOL_LONG_SEED: which.
#include <chrono>
#include <cinttypes>
#include <cstdio>

#include "tests/sim/workload.h"
#include "volumed/base/log.h"

namespace cvol::sim {
namespace {

uint64_t number_from(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text != nullptr ? std::strtoull(text, nullptr, 10) : otherwise;
}

struct Figures {
  uint64_t crashes = 0, restarts = 0, scrubs = 0, scrubbed_bytes = 0;
};

class LongRun {
 public:
  explicit LongRun(uint64_t seed) : world_(seed), disk_(world_, format(), options()) {
    world_.faults.disk_high = 600 * io::kMicrosecond;
  }

  void run(uint64_t operations) {
    ASSERT_TRUE(disk_.format() && disk_.open()) << disk_.failure().message();
    ASSERT_TRUE(disk_.run(work_.create(/*replicated=*/true)));
    uint64_t said = 0;
    while (work_.operations() < operations) {
      ASSERT_NO_FATAL_FAILURE(one_life());
      if (work_.operations() / 500000 == said) continue;
      said = work_.operations() / 500000;
      print("so far");
    }
    print("done");
    EXPECT_GT(figures_.crashes, operations / 20000);
    EXPECT_GT(figures_.scrubs, 0u);
  }

 private:
  static store::FormatOptions format() {
    store::FormatOptions format;
    format.journal_bytes = 4 * kMiB;
    format.capacity_bytes = 12 * kMiB;  // less than the volume: full at times
    return format;
  }
  static store::EngineOptions options() {
    store::EngineOptions options;
    options.idle_after = 5 * io::kMillisecond;
    options.destage_round_blocks = 256;
    options.scrub_rate = 4 * kMiB;
    options.scrub_commit_after = 200 * io::kMillisecond;
    return options;
  }

  // From one opening of the disk to the next.
  void one_life() {
    Random& random = world_.random();
    begin_scrub();
    const uint64_t clients = 1 + random.below(8);
    for (uint64_t i = 0; i < clients; ++i) disk_.node().start(work_.client(50 + random.below(400)));
    const bool crash = random.chance(4, 5);
    uint64_t events = crash ? random.below(20000) : UINT64_MAX;
    while (!disk_.node().done() && events-- > 0 && world_.step()) {
    }
    note_scrub();
    if (crash) {
      power_loss();
    } else {
      ASSERT_TRUE(disk_.node().done());
      disk_.engine().check_invariants();
      disk_.close();
      ++figures_.restarts;
    }
    ASSERT_TRUE(disk_.open()) << disk_.failure().message();
    disk_.engine().check_invariants();
    work_.crashed();
    work_.resume_seq();
    ASSERT_TRUE(disk_.run(work_.verify_all()));
    ASSERT_FALSE(::testing::Test::HasFailure());
  }

  void power_loss() {
    Random& random = world_.random();
    work_.stop();
    const uint64_t kept = random.below(101);
    const bool whole = random.chance(1, 2);
    disk_.crash([&](const io::SimWrite& write, uint64_t) {
      if (whole) return (write.number * 2654435761u >> 7) % 101 < kept;
      return random.below(100) < kept;
    });
    ++figures_.crashes;
  }

  void begin_scrub() {
    const store::ScrubInfo info = disk_.engine().scrub();
    if (info.record.state == store::ScrubState::kRunning) return;
    if (info.record.completed != 0) ++figures_.scrubs;
    ASSERT_TRUE(disk_.engine().start_scrub(0).is_ok());
  }

  void note_scrub() {
    const store::ScrubInfo info = disk_.engine().scrub();
    figures_.scrubbed_bytes += info.bytes_total;
    EXPECT_EQ(info.damaged_total, 0u) << "a scrub took a sound block for damaged";
    EXPECT_EQ(disk_.engine().metrics().damaged_blocks.get(), 0u);
  }

  void print(const char* when) {
    const auto took = std::chrono::steady_clock::now() - began_;
    std::printf(
        "%s: %" PRIu64 " operations, %" PRIu64 " writes acknowledged, %" PRIu64
        " refused for space, %" PRIu64 " crashes, %" PRIu64 " restarts, %" PRIu64
        " blocks compared, %" PRIu64 " scrubs, %" PRIu64 " MiB scrubbed, %" PRIu64
        " events, %lld s\n",
        when, work_.operations(), work_.acknowledged(), work_.refused(), figures_.crashes,
        figures_.restarts, work_.compared(), figures_.scrubs, figures_.scrubbed_bytes >> 20,
        world_.events_run(),
        static_cast<long long>(std::chrono::duration_cast<std::chrono::seconds>(took).count()));
    std::fflush(stdout);
  }

  io::SimWorld world_;
  SimDisk disk_;
  Workload work_{disk_, 4096};
  Figures figures_;
  std::chrono::steady_clock::time_point began_ = std::chrono::steady_clock::now();
};

TEST(LongRun, one_disk_keeps_every_acknowledged_block_for_life) {
  log::set_level("off");
  const uint64_t seed = number_from("CVOL_LONG_SEED", 1);
  SCOPED_TRACE("seed " + std::to_string(seed));
  LongRun run(seed);
  run.run(number_from("CVOL_LONG_OPERATIONS", 150000));
}

}  // namespace
}  // namespace cvol::sim
