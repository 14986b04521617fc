// Damage anywhere: a bit flips, or 4 KiB become zeroes, at sampled positions of every file of a
// disk; then it is opened and everything is read. A read is right or an error, never wrong; an
// error only for the block whose data was hit; a single flipped bit is never a reason to refuse.
//
// Where zeroes are more than redundancy can mend the disk is refused (a batch's header that a later
// batch proves), or the last batch is lost: nothing on the disk can tell that from a write that a
// crash cut off.
#include <gtest/gtest.h>
#include <stdlib.h>

#include <cstdlib>
#include <filesystem>

#include "tests/sim/damaged_disk.h"
#include "volumed/base/flipped_bit.h"
#include "volumed/base/log.h"

namespace cvol::sim {
namespace {

uint64_t scale() {
  const char* text = std::getenv("CVOL_DAMAGE_SCALE");
  return text != nullptr ? std::strtoull(text, nullptr, 10) : 1;
}

struct Tally {
  uint64_t tried = 0, clean = 0, errors = 0, refused = 0, lost_end = 0;
};

class Sweep {
 public:
  explicit Sweep(DamagedDisk& disk) : disk_(disk) {}

  void flip(const std::string& file, uint64_t bit) {
    SCOPED_TRACE(file + ": bit " + std::to_string(bit % 8) + " of byte " + std::to_string(bit / 8));
    DamagedDisk::Bytes bytes = disk_.files().at(file);
    flip_bit(bytes, bit);
    Tally& tally = flips_[group(file)];
    const Outcome outcome = disk_.open_with(file, bytes, ++tally.tried % 16 == 0);
    EXPECT_TRUE(outcome.opened.is_ok()) << outcome.opened.message();
    expect_errors_only_where_hit(outcome, file, bit / 8);
    EXPECT_TRUE(outcome.wrong.empty()) << first_of(outcome.wrong);
    ++(outcome.errors.empty() ? tally.clean : tally.errors);
    // In the journal even the data itself is mended.
    EXPECT_TRUE(outcome.errors.empty() || file == "chunks") << first_of(outcome.errors);
  }

  void zero_block(const std::string& file, uint64_t offset) {
    SCOPED_TRACE(file + ": zeroes from byte " + std::to_string(offset));
    DamagedDisk::Bytes bytes = disk_.files().at(file);
    const uint64_t count = std::min<uint64_t>(kBlockBytes, bytes.size() - offset);
    std::fill_n(bytes.begin() + static_cast<std::ptrdiff_t>(offset), count, std::byte{0});
    Tally& tally = zeroes_[group(file)];
    const Outcome outcome = disk_.open_with(file, bytes, ++tally.tried % 16 == 0);
    const bool in_last = file == "journal" && offset >= disk_.batches().back().header_at &&
                         offset < disk_.batches().back().end_at;
    if (file == "journal" && !in_last && is_header(offset)) {
      EXPECT_EQ(outcome.opened.code(), Code::kDamaged) << "lost records were not told";
      ++tally.refused;
      return;
    }
    EXPECT_TRUE(outcome.opened.is_ok()) << outcome.opened.message();
    expect_errors_only_where_hit(outcome, file, offset);
    if (in_last) {
      EXPECT_EQ(outcome.wrong, disk_.last_write());
      ++tally.lost_end;
      return;
    }
    EXPECT_TRUE(outcome.wrong.empty()) << first_of(outcome.wrong);
    ++(outcome.errors.empty() ? tally.clean : tally.errors);
  }

  void print() const {
    for (const auto& [name, tallies] :
         {std::pair("bit flips", &flips_), std::pair("4 KiB zeroed", &zeroes_)}) {
      for (const auto& [file, tally] : *tallies) {
        std::printf(
            "%-13s %-17s %5lu tried: %lu harmless, %lu one error, %lu refused, %lu cut the "
            "journal's end\n",
            name, file.c_str(), tally.tried, tally.clean, tally.errors, tally.refused,
            tally.lost_end);
      }
    }
  }

 private:
  static std::string first_of(const std::set<BlockName>& blocks) {
    if (blocks.empty()) return "";
    return std::to_string(blocks.size()) + " blocks, the first is " +
           std::to_string(blocks.begin()->block) + " of replica " +
           std::to_string(blocks.begin()->replica);
  }
  // "table/000012.sst" is "table .sst".
  static std::string group(const std::string& file) {
    const std::size_t slash = file.find('/');
    if (slash == std::string::npos) return file;
    const std::size_t dot = file.rfind('.');
    const std::string name = dot != std::string::npos ? file.substr(dot) : file.substr(slash + 1);
    return file.substr(0, slash) + " " + name.substr(0, name.find_first_of("-0123456789"));
  }
  bool is_header(uint64_t offset) const {
    for (const DamagedDisk::Batch& batch : disk_.batches()) {
      if (offset >= batch.header_at && offset < batch.payload_at) return true;
    }
    return false;
  }
  void expect_errors_only_where_hit(const Outcome& outcome, const std::string& file,
                                    uint64_t offset) {
    const std::optional<BlockName> hit = disk_.block_at(file, offset);
    for (const BlockName& error : outcome.errors) {
      EXPECT_TRUE(hit == error) << "block " << error.block << " of replica " << error.replica;
    }
  }

  DamagedDisk& disk_;
  std::map<std::string, Tally> flips_, zeroes_;
};

TEST(DamageSweep, label_journal_and_chunks) {
  log::set_level("off");
  DamagedDisk disk;
  Sweep sweep(disk);
  Random random(1);
  for (const auto& [file, bytes] : disk.files()) {
    const uint64_t bits = bytes.size() * 8;
    for (uint64_t i = 0; i < 400 * scale() && !::testing::Test::HasFailure(); ++i)
      sweep.flip(file, random.below(bits));
    for (uint64_t at = 0; at < bytes.size() && !::testing::Test::HasFailure(); at += kBlockBytes)
      sweep.zero_block(file, at);
  }
  // Where every bit matters: the fields of headers, and the batches that are to be replayed.
  for (const char* file : {"label", "journal"}) {
    for (uint64_t bit = 0; bit < 64 * 8 && !::testing::Test::HasFailure(); bit += 3)
      sweep.flip(file, bit);
  }
  for (const DamagedDisk::Batch& batch : disk.batches()) {
    for (uint64_t i = 0; i < 60 * scale() && !::testing::Test::HasFailure(); ++i) {
      sweep.flip("journal", batch.header_at * 8 + random.below(200 * 8));
      sweep.flip("journal",
                 batch.header_at * 8 + random.below((batch.end_at - batch.header_at) * 8));
    }
  }
  sweep.print();
}

TEST(DamageSweep, every_file_of_rocksdb) {
  log::set_level("off");
  // In memory where that is possible: a thousand disks are opened, and their syncs prove nothing.
  const std::filesystem::path shared = "/dev/shm";
  const bool in_memory = std::filesystem::is_directory(shared);
  std::string name =
      ((in_memory ? shared : std::filesystem::temp_directory_path()) / "cvol-damage-XXXXXX")
          .string();
  ASSERT_NE(mkdtemp(name.data()), nullptr);
  DamagedDisk disk(name);
  Sweep sweep(disk);
  Random random(2);
  for (const auto& [file, bytes] : disk.files()) {
    if (!file.starts_with("table") || bytes.empty()) continue;
    if (file.ends_with("/LOG") || file.find("/LOG.") != std::string::npos) continue;  // text
    const uint64_t bits = bytes.size() * 8;
    const bool formal =
        file.find("OPTIONS") != std::string::npos || file.find("IDENTITY") != std::string::npos;
    const uint64_t samples = (formal ? 4 : 16) * scale();
    for (uint64_t i = 0; i < samples && !::testing::Test::HasFailure(); ++i)
      sweep.flip(file, random.below(bits));
    // The header of a log's first record, and its end.
    for (uint64_t byte = 0; byte < 8 && !formal && !::testing::Test::HasFailure(); ++byte) {
      sweep.flip(file, byte % bytes.size() * 8 + random.below(8));
      sweep.flip(file, (bytes.size() - 1 - byte % bytes.size()) * 8 + random.below(8));
    }
    for (uint64_t at = 0; at < bytes.size() && !::testing::Test::HasFailure(); at += kBlockBytes)
      sweep.zero_block(file, at);
  }
  sweep.print();
  std::filesystem::remove_all(name);
}

}  // namespace
}  // namespace cvol::sim
