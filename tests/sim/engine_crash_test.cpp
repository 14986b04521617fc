// The engine against a plain model: random writes, zeroes and reads, many at once, with crashes at
// any event, in which every unsynced sector may be kept or lost. I1, I2, I9, I12, I13.
#include <gtest/gtest.h>

#include <cstdlib>
#include <memory>

#include "tests/sim/block_model.h"
#include "tests/sim/sim_disk.h"
#include "volumed/base/log.h"

namespace cvol::sim {
namespace {

struct AlignedFree {
  void operator()(std::byte* memory) const { std::free(memory); }
};
using Aligned = std::unique_ptr<std::byte, AlignedFree>;

Aligned aligned(uint64_t bytes) {
  return Aligned(static_cast<std::byte*>(std::aligned_alloc(kBlockBytes, bytes)));
}

// Drives random operations against one replica.
class Workload {
 public:
  Workload(SimDisk& disk, uint64_t blocks) : disk_(disk), model_(blocks) {}

  Task<void> create() {
    Random& random = disk_.world().random();
    Result<store::ReplicaInfo> made = co_await disk_.engine().create_replica(
        Uuid::make(random), Uuid::make(random), model_.size() * kBlockBytes);
    EXPECT_TRUE(made) << made.message();
    number_ = made->number;
    seq_ = 0;
  }

  // One client: operations one after another until stopped or the disk fails.
  Task<void> client(uint64_t operations) {
    for (uint64_t i = 0; i < operations && alive_; ++i) {
      const uint64_t kind = random().below(10);
      uint64_t count = random().chance(1, 5) ? 1 + random().below(64) : 1 + random().below(6);
      if (random().chance(1, 10)) count = 16 * (1 + random().below(4));
      count = std::min(count, model_.size());
      uint64_t first = random().below(model_.size() - count + 1);
      if (random().chance(1, 3)) first = first / 16 * 16;
      if (kind < 6) {
        co_await write(first, count);
      } else if (kind < 7) {
        co_await zero(first, count);
      } else {
        co_await read(first, count);
      }
    }
  }

  Task<void> verify_all() { co_await read_range(0, model_.size(), true); }

  void crashed() {
    alive_ = true;
    for (uint64_t i = 0; i < model_.size(); ++i) model_.at(i).busy = false;
  }
  void stop() { alive_ = false; }
  uint64_t acknowledged() const { return acknowledged_; }
  uint64_t refused() const { return refused_; }
  // Continues numbering above what the disk has seen.
  void resume_seq() {
    Result<store::ReplicaInfo> info = disk_.engine().replica(number_);
    ASSERT_TRUE(info);
    EXPECT_LE(info->last_seq, seq_);
    seq_ = std::max(seq_, info->last_seq);
  }

 private:
  Random& random() { return disk_.world().random(); }

  Task<void> write(uint64_t first, uint64_t count) {
    if (model_.busy(first, count)) co_return;
    Aligned memory = aligned(count * kBlockBytes);
    const uint64_t value = ++values_;
    for (uint64_t i = 0; i < count; ++i) {
      fill_block(memory.get() + i * kBlockBytes, first + i, value);
      model_.begin(first + i, value);
    }
    const Status status = co_await disk_.engine().append_write(
        number_, 1, ++seq_, first * kBlockBytes, {memory.get(), count * kBlockBytes});
    settle(status, first, count, value);
  }

  Task<void> zero(uint64_t first, uint64_t count) {
    if (model_.busy(first, count)) co_return;
    for (uint64_t i = 0; i < count; ++i) model_.begin(first + i, 0);
    const Status status = co_await disk_.engine().append_zero(
        number_, 1, ++seq_, first * kBlockBytes, count * kBlockBytes, random().chance(1, 3));
    settle(status, first, count, 0);
  }

  void settle(const Status& status, uint64_t first, uint64_t count, uint64_t value) {
    if (status) {
      for (uint64_t i = 0; i < count; ++i) model_.acknowledge(first + i, value);
      ++acknowledged_;
    } else if (status.code() == Code::kNoSpace) {
      for (uint64_t i = 0; i < count; ++i) model_.refuse(first + i, value);
      ++refused_;
    } else {
      alive_ = false;  // the node has crashed or the disk has failed: the outcome is unknown
    }
  }

  Task<void> read(uint64_t first, uint64_t count) { co_await read_range(first, count, false); }

  Task<void> read_range(uint64_t first, uint64_t count, bool settle_values) {
    Aligned memory = aligned(count * kBlockBytes);
    std::vector<uint64_t> changes;
    for (uint64_t i = 0; i < count; ++i) changes.push_back(model_.at(first + i).changes);
    const Status status = co_await disk_.engine().read(number_, first * kBlockBytes,
                                                       {memory.get(), count * kBlockBytes});
    if (!status) {
      EXPECT_EQ(status.code(), Code::kIo) << status.message();
      alive_ = false;
      co_return;
    }
    for (uint64_t i = 0; i < count; ++i) {
      const uint64_t block = first + i;
      if (model_.at(block).busy || model_.at(block).changes != changes[i]) continue;
      const std::optional<uint64_t> value = block_value(memory.get() + i * kBlockBytes, block);
      if (!value.has_value()) {
        ADD_FAILURE() << "block " << block << " is torn or foreign";
        continue;
      }
      EXPECT_TRUE(model_.allows(block, *value))
          << "block " << block << " holds " << *value << ", acknowledged is "
          << model_.at(block).acknowledged;
      if (settle_values) model_.settle(block, *value);
    }
  }

  SimDisk& disk_;
  BlockModel model_;
  store::ReplicaNumber number_ = 0;
  uint64_t seq_ = 0;
  uint64_t values_ = 0;
  uint64_t acknowledged_ = 0;
  uint64_t refused_ = 0;
  bool alive_ = true;
};

uint64_t seeds() {
  const char* text = std::getenv("CVOL_SIM_SEEDS");
  return text != nullptr ? std::strtoull(text, nullptr, 10) : 300;
}

uint64_t first_seed() {
  const char* text = std::getenv("CVOL_SIM_FIRST_SEED");
  return text != nullptr ? std::strtoull(text, nullptr, 10) : 1;
}

struct Totals {
  uint64_t acknowledged = 0, refused = 0, crashes = 0, events = 0;
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
  SimDisk disk(world, format, options);
  ASSERT_TRUE(disk.format()) << disk.failure().message();
  ASSERT_TRUE(disk.open()) << disk.failure().message();
  Workload work(disk, 256 + random.below(800));
  ASSERT_TRUE(disk.run(work.create()));
  const uint64_t cycles = 2 + random.below(5);
  for (uint64_t cycle = 0; cycle < cycles; ++cycle) {
    const uint64_t clients = 1 + random.below(8);
    for (uint64_t i = 0; i < clients; ++i) disk.node().start(work.client(20 + random.below(150)));
    const bool crash = random.chance(4, 5);
    uint64_t events = crash ? random.below(4000) : UINT64_MAX;
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
    if (::testing::Test::HasFailure()) return;
  }
  totals.acknowledged += work.acknowledged();
  totals.refused += work.refused();
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
}

}  // namespace
}  // namespace cvol::sim
