// Disks that lie: one write to the journal, the chunks or a copy of the chunk table is acknowledged
// and does not happen, or happens at another place. A read is then right or an error, never wrong,
// before and after the disk is opened again; or the disk is refused.
//
// What cannot be told: that the very last batch of the journal never got there. So the write that
// is hit is followed by two more.
#include <gtest/gtest.h>

#include <cstdlib>

#include "tests/sim/damaged_disk.h"
#include "volumed/base/log.h"

namespace cvol::sim {
namespace {

enum class Lie { kLost, kMisdirected };

uint64_t scale() {
  const char* text = std::getenv("CVOL_DAMAGE_SCALE");
  return text != nullptr ? std::strtoull(text, nullptr, 10) : 1;
}

struct Tally {
  uint64_t tried = 0, harmless = 0, errors = 0, refused = 0;
};

class Liar {
 public:
  Liar(uint64_t seed, Lie lie, std::string where)
      : random_(seed), lie_(lie), where_(std::move(where)), world_(seed) {
    world_.faults.disk_low = world_.faults.disk_high = 0;
    world_.faults.helper_low = world_.faults.helper_high = 0;
    store::FormatOptions format;
    format.journal_bytes = store::kMinJournalBytes;
    format.capacity_bytes = 4 * kMiB;
    store::EngineOptions options;
    options.destage_when_idle = false;
    options.destage_round_blocks = 8 << random_.below(8);
    disk_ = std::make_unique<SimDisk>(world_, format, options);
    EXPECT_TRUE(disk_->format() && disk_->open() && create_replicas(*disk_));
  }

  void run(Tally& tally) {
    ++tally.tried;
    work(random_.below(40));
    arm();
    for (int i = 0; i < 60 && !told_; ++i) work(1);
    for (int i = 0; i < 2; ++i)
      ASSERT_TRUE(write(*disk_, contents_, 1, random_.below(kReplicaBlocks), 1, ++number_).is_ok());
    if (random_.chance(1, 3)) work(1 + random_.below(30));
    Outcome before;
    read_all(*disk_, contents_, before);
    EXPECT_TRUE(before.wrong.empty()) << "in service";
    disk_->close();
    if (!disk_->open()) {
      EXPECT_EQ(disk_->failure().code(), Code::kDamaged) << disk_->failure().message();
      ++tally.refused;
      return;
    }
    disk_->engine().check_invariants();
    Outcome after;
    read_all(*disk_, contents_, after);
    EXPECT_TRUE(after.wrong.empty()) << "after opening: block " << after.wrong.begin()->block
                                     << " of replica " << after.wrong.begin()->replica;
    EXPECT_TRUE(destage(*disk_).is_ok());
    Outcome last;
    read_all(*disk_, contents_, last);
    EXPECT_TRUE(last.wrong.empty()) << "after destage";
    EXPECT_TRUE(last.errors.empty() || !where_.starts_with("table")) << "there was another copy";
    ++(last.errors.empty() ? tally.harmless : tally.errors);
  }

 private:
  void work(uint64_t operations) {
    for (uint64_t i = 0; i < operations; ++i) {
      const uint64_t replica = 1 + random_.below(kReplicas);
      const uint64_t kind = random_.below(10);
      uint64_t count = 1 + random_.below(kind < 7 ? 5 : 48);
      const uint64_t first = random_.below(kReplicaBlocks - count);
      Status status;
      if (kind == 0) {
        status = destage(*disk_);
      } else if (kind == 1) {
        status = zero(*disk_, contents_, replica, first, count);
      } else {
        status = write(*disk_, contents_, replica, first, count, ++number_);
      }
      EXPECT_TRUE(status.is_ok() || status.code() == Code::kNoSpace) << status.message();
    }
  }

  // The next write there, or one soon after, is the one.
  void arm() {
    told_ = false;
    const uint64_t skip = random_.below(4);
    if (where_.starts_with("table")) {
      store::MemoryTableState& table = where_ == "table" ? disk_->table() : disk_->table2();
      table.lose_commits = 1;
      told_ = true;
      return;
    }
    io::SimFile* file = world_.files.at("/disk/" + where_).get();
    file->divert = [this, file, left = skip](uint64_t* offset) mutable {
      if (told_ || left-- > 0) return true;
      told_ = true;
      if (lie_ == Lie::kLost) return false;
      const uint64_t blocks = file->size() / kBlockBytes;
      const uint64_t there = random_.below(blocks > 64 ? blocks - 64 : 1) * kBlockBytes;
      *offset = random_.chance(1, 2) ? there : *offset + kBlockBytes;
      return true;
    };
  }

  Random random_;
  Lie lie_;
  std::string where_;
  io::SimWorld world_;
  std::unique_ptr<SimDisk> disk_;
  Contents contents_;
  uint64_t number_ = 0;
  bool told_ = false;
};

void try_lies(Lie lie, const std::string& where, uint64_t runs, Tally& tally) {
  log::set_level("off");
  for (uint64_t seed = 1; seed <= runs * scale() && !::testing::Test::HasFailure(); ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Liar(seed, lie, where).run(tally);
  }
  std::printf("%lu tried: %lu harmless, %lu with errors, %lu refused\n", tally.tried,
              tally.harmless, tally.errors, tally.refused);
}

TEST(LostWrites, of_the_journal_are_told) {
  Tally tally;
  try_lies(Lie::kLost, "journal", 400, tally);
  EXPECT_GT(tally.refused, 10u);
}

TEST(LostWrites, of_the_chunks_are_told) {
  Tally tally;
  try_lies(Lie::kLost, "chunks", 400, tally);
  EXPECT_GT(tally.errors, 10u);
}

TEST(LostWrites, of_either_copy_of_the_table_cost_nothing) {
  for (const char* copy : {"table", "table2"}) {
    Tally tally;
    try_lies(Lie::kLost, copy, 200, tally);
    EXPECT_EQ(tally.harmless, tally.tried);
  }
}

TEST(MisdirectedWrites, of_the_journal_are_told) {
  Tally tally;
  try_lies(Lie::kMisdirected, "journal", 400, tally);
  EXPECT_GT(tally.refused, 10u);
}

TEST(MisdirectedWrites, of_the_chunks_are_told) {
  Tally tally;
  try_lies(Lie::kMisdirected, "chunks", 400, tally);
  EXPECT_GT(tally.errors, 10u);
}

}  // namespace
}  // namespace cvol::sim
