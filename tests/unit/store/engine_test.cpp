// What the engine does with trouble: damage, full disks, failing disks, wrong directories.
#include <gtest/gtest.h>

#include <array>
#include <cstdlib>
#include <vector>

#include "tests/sim/block_model.h"
#include "tests/sim/sim_disk.h"
#include "volumed/base/bytes.h"
#include "volumed/base/checksum.h"
#include "volumed/base/log.h"

namespace cvol::store {
namespace {

using sim::SimDisk;

std::span<std::byte> memory(uint64_t blocks) {
  static std::byte* const all = static_cast<std::byte*>(std::aligned_alloc(4096, 8 * kMiB));
  return {all, blocks * kBlockBytes};
}

class EngineTest : public ::testing::Test {
 protected:
  EngineTest() : world_(1) {
    log::set_level("off");
    format_.journal_bytes = kMiB;
    format_.capacity_bytes = 4 * kMiB;
    options_.destage_when_idle = false;
  }
  void start() {
    disk_ = std::make_unique<SimDisk>(world_, format_, options_);
    ASSERT_TRUE(disk_->format()) << disk_->failure().message();
    ASSERT_TRUE(disk_->open()) << disk_->failure().message();
    run([](EngineTest* test) -> Task<void> {
      Random& random = test->world_.random();
      Result<ReplicaInfo> made =
          co_await test->engine().create_replica(Uuid::make(random), Uuid::make(random), 64 * kMiB);
      EXPECT_TRUE(made) << made.message();
      test->number_ = made->number;
    });
  }
  template <typename Make>
  void run(Make make) {
    ASSERT_TRUE(disk_->run(make(this)));
  }
  Engine& engine() { return disk_->engine(); }

  Status write(uint64_t first, uint64_t count, uint64_t value) {
    for (uint64_t i = 0; i < count; ++i)
      sim::fill_block(memory(count).data() + i * kBlockBytes, first + i, value);
    return wait([=, this] {
      return engine().append_write(number_, 1, ++seq_, first * kBlockBytes, memory(count));
    });
  }
  Status zero(uint64_t first, uint64_t count) {
    return wait([=, this] {
      return engine().append_zero(number_, 1, ++seq_, first * kBlockBytes, count * kBlockBytes,
                                  false);
    });
  }
  Status read(uint64_t first, uint64_t count) {
    return wait([=, this] { return engine().read(number_, first * kBlockBytes, memory(count)); });
  }
  Status destage() {
    return wait([this] { return engine().destage_all(); });
  }
  void expect_value(uint64_t block, uint64_t value) {
    ASSERT_TRUE(read(block, 1).is_ok());
    EXPECT_EQ(sim::block_value(memory(1).data(), block), value) << "block " << block;
  }
  template <typename Make>
  Status wait(Make make) {
    Status status(Code::kInternal, "not done");
    EXPECT_TRUE(disk_->run(store_status(make(), &status)));
    return status;
  }
  static Task<void> store_status(Task<Status> task, Status* into) {
    *into = co_await std::move(task);
  }
  // Flips one bit, or those of `bits`, of a file's bytes, as the disk would.
  void flip(const std::string& path, uint64_t offset, int bits = 4) {
    io::SimFile& file = *world_.files.at(path);
    io::SimImage image = file.current();
    std::byte byte;
    image.read(offset, {&byte, 1});
    byte ^= static_cast<std::byte>(bits);
    image.write(offset, {&byte, 1});
    const bool locked = file.locked;
    file.reset(image);
    file.locked = locked;
  }
  bool reopen() {
    disk_->close();
    return disk_->open();
  }

  io::SimWorld world_;
  FormatOptions format_;
  EngineOptions options_;
  std::unique_ptr<SimDisk> disk_;
  ReplicaNumber number_ = 0;
  uint64_t seq_ = 0;
};

TEST_F(EngineTest, unwritten_blocks_read_as_zeroes) {
  start();
  expect_value(5, 0);
}

TEST_F(EngineTest, reads_see_the_newest_from_journal_and_chunks) {
  start();
  ASSERT_TRUE(write(3, 2, 7).is_ok());
  expect_value(4, 7);
  ASSERT_TRUE(destage().is_ok());
  expect_value(4, 7);
  ASSERT_TRUE(write(4, 1, 8).is_ok());
  expect_value(3, 7);
  expect_value(4, 8);
}

TEST_F(EngineTest, whole_chunks_are_written_once) {
  start();
  ASSERT_TRUE(write(16, 32, 9).is_ok());
  EXPECT_LT(engine().metrics().journal_bytes.get(), 3 * kBlockBytes);
  expect_value(47, 9);
  ASSERT_TRUE(reopen());
  expect_value(47, 9);
}

TEST_F(EngineTest, zeroed_chunks_are_given_back) {
  start();
  ASSERT_TRUE(write(0, 64, 1).is_ok());
  EXPECT_EQ(engine().info().allocated_bytes, 4 * kChunkBytes);
  ASSERT_TRUE(zero(0, 64).is_ok());
  ASSERT_TRUE(destage().is_ok());
  EXPECT_EQ(engine().info().allocated_bytes, 0u);
  expect_value(10, 0);
}

TEST_F(EngineTest, a_damaged_block_is_an_error_for_exactly_that_block) {
  start();
  ASSERT_TRUE(write(0, 16, 1).is_ok());
  ASSERT_TRUE(destage().is_ok());
  flip("/disk/chunks", 5 * kBlockBytes + 100);
  EXPECT_EQ(read(5, 1).code(), Code::kDamaged);
  EXPECT_EQ(read(0, 16).code(), Code::kDamaged);
  expect_value(4, 1);
  expect_value(6, 1);
  ASSERT_TRUE(write(5, 1, 2).is_ok());  // writing it anew mends it
  expect_value(5, 2);
}

TEST_F(EngineTest, a_misdirected_block_is_noticed) {
  start();
  ASSERT_TRUE(write(0, 16, 1).is_ok());
  ASSERT_TRUE(destage().is_ok());
  io::SimFile& chunks = *world_.files.at("/disk/chunks");
  io::SimImage image = chunks.current();
  std::vector<std::byte> block(kBlockBytes);
  image.read(3 * kBlockBytes, block);
  image.write(4 * kBlockBytes, block);  // block 3's content at block 4's place
  chunks.reset(image);
  EXPECT_EQ(read(4, 1).code(), Code::kDamaged);
}

TEST_F(EngineTest, a_damaged_payload_in_the_journal_is_told_and_survives_destage_as_damage) {
  start();
  ASSERT_TRUE(write(1, 1, 1).is_ok());
  ASSERT_TRUE(write(2, 1, 2).is_ok());
  ASSERT_TRUE(write(3, 1, 3).is_ok());
  // Batches are two blocks each, after the header block: header, payload, header, payload ...
  flip("/disk/journal", 2 * kBlockBytes + 9, 6);
  EXPECT_EQ(read(1, 1).code(), Code::kDamaged);
  ASSERT_TRUE(reopen()) << disk_->failure().message();
  EXPECT_EQ(read(1, 1).code(), Code::kDamaged);
  expect_value(2, 2);
  ASSERT_TRUE(destage().is_ok());
  EXPECT_EQ(read(1, 1).code(), Code::kDamaged);
  expect_value(3, 3);
}

TEST_F(EngineTest, a_flipped_bit_in_a_payload_of_the_journal_is_flipped_back_at_open) {
  start();
  ASSERT_TRUE(write(1, 1, 1).is_ok());
  ASSERT_TRUE(write(2, 1, 2).is_ok());
  const io::SimImage good = world_.files.at("/disk/journal")->current();
  disk_->close();
  flip("/disk/journal", 2 * kBlockBytes + 9);  // of the first batch
  flip("/disk/journal", 4 * kBlockBytes + 9);  // of the last one: nothing later says it was whole
  ASSERT_TRUE(disk_->open()) << disk_->failure().message();
  expect_value(1, 1);
  expect_value(2, 2);
  EXPECT_TRUE(world_.files.at("/disk/journal")->current() == good);
}

TEST_F(EngineTest, journal_damaged_middle_is_refused_not_forgotten) {
  start();
  for (uint64_t i = 0; i < 6; ++i) ASSERT_TRUE(write(i, 1, 10 + i).is_ok());
  flip("/disk/journal", 3 * kBlockBytes + 20, 6);  // the second batch's header
  disk_->close();
  EXPECT_FALSE(disk_->open());
  EXPECT_EQ(disk_->failure().code(), Code::kDamaged);
  EXPECT_NE(disk_->failure().message().find("restore"), std::string::npos);
  flip("/disk/journal", 3 * kBlockBytes + 20, 6);  // nothing was changed by the attempt
  ASSERT_TRUE(disk_->open()) << disk_->failure().message();
  expect_value(5, 15);
}

TEST_F(EngineTest, journal_torn_tail_is_an_end) {
  start();
  ASSERT_TRUE(write(1, 1, 1).is_ok());
  ASSERT_TRUE(write(2, 1, 2).is_ok());
  flip("/disk/journal", 3 * kBlockBytes + 20, 6);
  ASSERT_TRUE(reopen()) << disk_->failure().message();
  expect_value(1, 1);
  expect_value(2, 0);
}

TEST_F(EngineTest, a_flipped_bit_anywhere_in_a_batch_header_is_flipped_back_at_open) {
  start();
  for (uint64_t i = 0; i < 3; ++i) ASSERT_TRUE(write(i, 1, 10 + i).is_ok());
  const io::SimImage good = world_.files.at("/disk/journal")->current();
  for (const uint64_t block : {1u, 3u, 5u}) {  // the last one is proved by nothing later
    for (uint64_t byte = 0; byte < kBlockBytes; byte += byte < 300 ? 1 : 101) {
      disk_->close();
      flip("/disk/journal", block * kBlockBytes + byte, 1 << byte % 8);
      ASSERT_TRUE(disk_->open()) << byte << ": " << disk_->failure().message();
      for (uint64_t i = 0; i < 3; ++i) expect_value(i, 10 + i);
      ASSERT_TRUE(world_.files.at("/disk/journal")->current() == good) << byte;
    }
  }
}

TEST_F(EngineTest, a_damaged_label_is_mended_from_its_copy) {
  start();
  disk_->close();
  const io::SimImage good = world_.files.at("/disk/label")->current();
  EXPECT_EQ(good.size, 2 * kBlockBytes);
  for (const uint64_t at : {0u, 8u, 50u, 4090u, 4096u, 4104u, 4200u, 8190u}) {
    flip("/disk/label", at);
    ASSERT_TRUE(disk_->open()) << disk_->failure().message();
    disk_->close();
    EXPECT_TRUE(world_.files.at("/disk/label")->current() == good) << at;
  }
}

TEST_F(EngineTest, a_label_of_one_block_gets_its_copy) {
  start();
  disk_->close();
  io::SimFile& file = *world_.files.at("/disk/label");
  const io::SimImage good = file.current();
  std::vector<std::byte> block(kBlockBytes);
  good.read(0, block);
  io::SimImage first;
  first.write(0, block);
  file.reset(first);
  ASSERT_TRUE(disk_->open()) << disk_->failure().message();
  EXPECT_TRUE(file.current() == good);
}

TEST_F(EngineTest, a_label_damaged_in_both_copies_is_refused) {
  start();
  disk_->close();
  flip("/disk/label", 50);
  flip("/disk/label", kBlockBytes + 50);
  EXPECT_FALSE(disk_->open());
  EXPECT_EQ(disk_->failure().code(), Code::kDamaged);
  flip("/disk/label", 50);
  EXPECT_TRUE(disk_->open());
}

TEST_F(EngineTest, a_newer_label_is_refused_whatever_the_other_copy_says) {
  start();
  disk_->close();
  io::SimFile& file = *world_.files.at("/disk/label");
  io::SimImage image = file.current();
  std::vector<std::byte> block(kBlockBytes);
  image.read(kBlockBytes, block);
  store_le<uint32_t>(&block[8], kDiskFormatVersion + 1);
  store_le<uint64_t>(&block[kBlockBytes - 8], plain_checksum(std::span(block).first(4088)));
  image.write(kBlockBytes, block);
  file.reset(image);
  EXPECT_FALSE(disk_->open());
  EXPECT_EQ(disk_->failure().code(), Code::kUnsupported);
}

TEST_F(EngineTest, a_damaged_journal_header_is_written_again) {
  start();
  disk_->close();
  const io::SimImage good = world_.files.at("/disk/journal")->current();
  for (const uint64_t at : {0u, 8u, 33u, 4095u}) {
    flip("/disk/journal", at, 255);
    ASSERT_TRUE(disk_->open()) << disk_->failure().message();
    disk_->close();
    EXPECT_TRUE(world_.files.at("/disk/journal")->current() == good);
  }
}

TEST_F(EngineTest, the_journal_of_another_disk_is_refused) {
  start();
  disk_->close();
  io::SimFile& file = *world_.files.at("/disk/journal");
  io::SimImage image = file.current();
  std::array<std::byte, kBlockBytes> block;
  Label other;
  other.journal_bytes = kMiB;
  other.capacity_chunks = 64;
  encode_journal_header(other, block);
  image.write(0, block);
  file.reset(image);
  EXPECT_FALSE(disk_->open());
  EXPECT_EQ(disk_->failure().code(), Code::kDamaged);
  EXPECT_TRUE(file.current() == image) << "nothing may be changed";
}

TEST_F(EngineTest, a_table_older_than_the_journal_is_refused) {
  start();
  ASSERT_TRUE(write(1, 1, 1).is_ok());
  const auto old = disk_->table().content;
  ASSERT_TRUE(destage().is_ok());
  ASSERT_TRUE(write(2, 1, 2).is_ok());
  disk_->close();
  disk_->table().content = disk_->table2().content = old;
  EXPECT_FALSE(disk_->open());
  EXPECT_EQ(disk_->failure().code(), Code::kDamaged);
}

// RocksDB's checksums would tell; what gets past them is not believed.
TEST_F(EngineTest, damaged_records_of_the_table_are_refused) {
  start();
  ASSERT_TRUE(write(0, 16, 1).is_ok());
  ASSERT_TRUE(destage().is_ok());
  disk_->close();
  const auto good = disk_->table().content;
  for (const auto& [key, value] : good) {
    for (store::MemoryTableState* copy : {&disk_->table(), &disk_->table2()})
      copy->content[key] = value.substr(0, value.size() - 1);
    EXPECT_FALSE(disk_->open());
    EXPECT_EQ(disk_->failure().code(), Code::kDamaged);
    disk_->table().content = disk_->table2().content = good;
  }
  EXPECT_TRUE(disk_->open());
  expect_value(3, 1);
}

TEST_F(EngineTest, full_disk_refuses_new_chunks_and_heals) {
  start();  // 64 chunks
  for (uint64_t chunk = 0; chunk < 64; ++chunk) ASSERT_TRUE(write(chunk * 16, 1, 1).is_ok());
  EXPECT_EQ(write(64 * 16, 1, 2).code(), Code::kNoSpace);
  EXPECT_EQ(write(64 * 16, 64, 2).code(), Code::kNoSpace);
  EXPECT_TRUE(write(0, 16, 3).is_ok());  // overwrites of what has its place go on
  EXPECT_TRUE(write(5 * 16 + 3, 4, 3).is_ok());
  EXPECT_TRUE(zero(16, 16).is_ok());
  EXPECT_TRUE(write(64 * 16, 1, 4).is_ok());  // healed, without a restart
  expect_value(64 * 16, 4);
  expect_value(0, 3);
  expect_value(2 * 16, 1);
  engine().check_invariants();
}

TEST_F(EngineTest, a_file_system_that_fills_up_is_no_harm) {
  format_.capacity_bytes = kGiB;
  start();
  ASSERT_TRUE(write(0, 1, 1).is_ok());
  world_.faults.disk_bytes = world_.allocated_bytes() + 100 * kMiB;  // less than the reserve
  Status status = wait([this] { return engine().resize_replica(number_, kGiB); });
  for (uint64_t chunk = 1; chunk < 2048 && status; ++chunk) status = write(chunk * 16, 1, 1);
  EXPECT_EQ(status.code(), Code::kNoSpace);
  EXPECT_TRUE(write(0, 1, 2).is_ok());
  expect_value(0, 2);
}

TEST_F(EngineTest, sync_error_fails_the_disk) {
  start();
  ASSERT_TRUE(write(1, 1, 1).is_ok());
  world_.faults.sync_error = 1000000;
  EXPECT_FALSE(destage().is_ok());
  world_.faults.sync_error = 0;
  EXPECT_EQ(write(2, 1, 1).code(), Code::kIo);
  EXPECT_TRUE(engine().info().failed);
  ASSERT_TRUE(reopen());
  EXPECT_TRUE(engine().info().failed);  // for good: scrub_test.cpp has the way back
}

TEST_F(EngineTest, write_error_fails_the_disk_and_answers_everyone) {
  start();
  world_.faults.write_error = 1000000;
  EXPECT_EQ(write(1, 1, 1).code(), Code::kIo);
  world_.faults.write_error = 0;
  EXPECT_EQ(write(1, 1, 1).code(), Code::kIo);
}

TEST_F(EngineTest, a_failed_table_commit_fails_the_disk) {
  start();
  ASSERT_TRUE(write(1, 1, 1).is_ok());
  disk_->table().fail_commits = disk_->table2().fail_commits = true;
  EXPECT_FALSE(destage().is_ok());
  disk_->table().fail_commits = disk_->table2().fail_commits = false;
  EXPECT_EQ(read(1, 1).code(), Code::kIo);
}

TEST_F(EngineTest, a_second_opener_is_refused) {
  start();
  io::OpenOptions options;
  options.exclusive = true;
  EXPECT_EQ(disk_->node().open("/disk/journal", options).code(), Code::kBusy);
}

TEST_F(EngineTest, removed_replicas_leave_nothing) {
  start();
  ASSERT_TRUE(write(0, 64, 1).is_ok());
  ASSERT_TRUE(write(100, 1, 1).is_ok());
  const Status removed = wait([this] { return engine().remove_replica(number_); });
  EXPECT_TRUE(removed.is_ok()) << removed.message();
  EXPECT_EQ(engine().info().allocated_bytes, 0u);
  EXPECT_TRUE(engine().replicas().empty());
  engine().check_invariants();
  ASSERT_TRUE(reopen());
  EXPECT_EQ(engine().info().allocated_bytes, 0u);
  for (const auto& [key, value] : disk_->table().content)
    EXPECT_TRUE(key == meta_key() || key.starts_with(commit_mark_prefix()));
}

TEST_F(EngineTest, a_resize_is_not_undone_by_a_destage_under_way) {
  for (uint64_t steps = 0; steps < 60; ++steps) {
    world_.files.clear();
    start();
    ASSERT_TRUE(write(1, 1, 1).is_ok());
    Status destaged;
    Status resized;
    disk_->node().start(store_status(engine().destage_all(), &destaged));
    for (uint64_t i = 0; i < steps && world_.step(); ++i) {
    }
    disk_->node().start(store_status(engine().resize_replica(number_, kGiB), &resized));
    ASSERT_TRUE(world_.run_until([this] { return disk_->node().done(); }));
    ASSERT_TRUE(resized.is_ok() && destaged.is_ok());
    ASSERT_TRUE(reopen());
    EXPECT_EQ(engine().replica(number_)->size_bytes, kGiB) << "after " << steps << " steps";
    disk_.reset();
  }
}

TEST_F(EngineTest, a_format_that_was_cut_short_is_made_anew) {
  disk_ = std::make_unique<SimDisk>(world_, format_, options_);
  for (const char* name : {"/disk/format-unfinished", "/disk/label", "/disk/journal"})
    world_.files[name] = std::make_shared<io::SimFile>();
  EXPECT_FALSE(is_disk(disk_->node(), "/disk"));
  ASSERT_TRUE(disk_->format()) << disk_->failure().message();
  EXPECT_TRUE(is_disk(disk_->node(), "/disk"));
  ASSERT_TRUE(disk_->open()) << disk_->failure().message();
}

TEST_F(EngineTest, a_directory_with_other_things_is_not_formatted) {
  disk_ = std::make_unique<SimDisk>(world_, format_, options_);
  world_.files["/disk/photos"] = std::make_shared<io::SimFile>();
  EXPECT_FALSE(disk_->format());
  EXPECT_EQ(disk_->failure().code(), Code::kFailedPrecondition);
}

TEST_F(EngineTest, a_huge_thin_volume_costs_nothing) {
  start();
  Status status = wait([this]() -> Task<Status> { return engine().resize_replica(number_, kPiB); });
  ASSERT_TRUE(status.is_ok()) << status.message();
  const uint64_t far = kPiB / kBlockBytes - 4;
  ASSERT_TRUE(write(far, 1, 5).is_ok());
  expect_value(far, 5);
  EXPECT_EQ(engine().info().allocated_bytes, kChunkBytes);
  // One step over all that is not there, up to the part of the volume that has the block.
  std::vector<Extent> extents = engine().block_status(number_, 0, kPiB);
  ASSERT_GE(extents.size(), 1u);
  EXPECT_TRUE(extents[0].hole);
  EXPECT_GE(extents[0].length, kPiB - kGiB);
  uint64_t stored = 0;
  int calls = 0;
  for (uint64_t at = 0; at < kPiB; ++calls) {
    ASSERT_LT(calls, 10);
    extents = engine().block_status(number_, at, kPiB - at);
    ASSERT_FALSE(extents.empty());
    for (const Extent& extent : extents) {
      if (!extent.zero) stored += extent.length;
      at += extent.length;
    }
  }
  EXPECT_EQ(stored, kBlockBytes);
}

TEST_F(EngineTest, block_status_follows_what_is_freed_and_opened_again) {
  start();
  const auto stored = [this] {
    uint64_t bytes = 0;
    for (const Extent& extent : engine().block_status(number_, 0, 64 * kMiB)) {
      if (!extent.zero) bytes += extent.length;
    }
    return bytes;
  };
  ASSERT_TRUE(write(0, 1, 1).is_ok());
  ASSERT_TRUE(write(160, 16, 2).is_ok());
  EXPECT_EQ(stored(), 17 * kBlockBytes);
  disk_->close();
  ASSERT_TRUE(disk_->open()) << disk_->failure().message();
  EXPECT_EQ(stored(), 17 * kBlockBytes);
  ASSERT_TRUE(zero(0, 64 * kMiB / kBlockBytes).is_ok());
  EXPECT_EQ(stored(), 0u);
  const std::vector<Extent> extents = engine().block_status(number_, 0, 64 * kMiB);
  ASSERT_EQ(extents.size(), 1u);
  EXPECT_TRUE(extents[0].hole);
  EXPECT_EQ(extents[0].length, 64 * kMiB);
}

TEST_F(EngineTest, block_status_tells_data_from_holes) {
  start();
  ASSERT_TRUE(write(2, 1, 5).is_ok());
  const std::vector<Extent> extents = engine().block_status(number_, 0, 32 * kBlockBytes);
  ASSERT_EQ(extents.size(), 4u);
  EXPECT_TRUE(extents[0].zero && !extents[0].hole);
  EXPECT_FALSE(extents[1].zero);
  EXPECT_EQ(extents[1].length, kBlockBytes);
  EXPECT_TRUE(extents[3].hole);
  EXPECT_EQ(extents[3].length, kChunkBytes);
}

}  // namespace
}  // namespace cvol::store
