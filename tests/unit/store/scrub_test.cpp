// Scrub, damage that is told, and disks that have failed: on the simulated disk.
#include <algorithm>

#include "tests/unit/store/disk_fixture.h"
#include "volumed/store/aligned.h"

namespace cvol::store {
namespace {

class ScrubTest : public DiskTest {};

// --- scrub ---

TEST_F(ScrubTest, a_sound_disk_is_read_once_and_clean) {
  start();
  fill_chunks(20);
  ASSERT_TRUE(write(1000, 3, 7).is_ok());
  EXPECT_EQ(scrub_all(), 0u);
  const ScrubInfo info = engine().scrub();
  EXPECT_EQ(info.record.completed_bytes, 20 * kChunkBytes + 3 * kBlockBytes);
  EXPECT_GT(info.record.completed, 0u);
  EXPECT_TRUE(told_.empty());
}

TEST_F(ScrubTest, finds_flips_in_chunks_and_tells_each_once) {
  start();
  fill_chunks(4);
  flip("/disk/chunks", 5 * kBlockBytes + 100);
  flip("/disk/chunks", 37 * kBlockBytes + 4000);
  EXPECT_EQ(scrub_all(), 2u);
  ASSERT_EQ(told_.size(), 2u);
  EXPECT_EQ(told_[0].block, 5u);
  EXPECT_EQ(told_[0].file, DamagedFile::kChunks);
  EXPECT_STREQ(told_[0].found_by, "scrub");
  EXPECT_EQ(told_[1].block, 37u);
  EXPECT_EQ(told_[1].volume, engine().replica(number_)->volume);
  EXPECT_EQ(read(5, 1).code(), Code::kDamaged);
  EXPECT_EQ(scrub_all(), 2u);
  EXPECT_EQ(told_.size(), 2u) << "the same block fills the log";
  EXPECT_EQ(engine().scrub().damage.size(), 2u);
  ASSERT_TRUE(write(5, 1, 9).is_ok());
  ASSERT_TRUE(write(32, 16, 9).is_ok());
  EXPECT_EQ(scrub_all(), 0u) << "writing a block mends it";
}

TEST_F(ScrubTest, finds_a_flip_in_the_journal_before_destage_does) {
  start();
  ASSERT_TRUE(write(1, 1, 1).is_ok());
  ASSERT_TRUE(write(2, 1, 2).is_ok());
  ASSERT_TRUE(write(3, 1, 3).is_ok());
  // Header, payload, header, payload ... Two bits: replay would put one right.
  flip("/disk/journal", 2 * kBlockBytes + 9);
  flip("/disk/journal", 2 * kBlockBytes + 99);
  EXPECT_EQ(scrub_all(), 1u);
  ASSERT_EQ(told_.size(), 1u);
  EXPECT_EQ(told_[0].block, 1u);
  EXPECT_EQ(told_[0].file, DamagedFile::kJournal);
  ASSERT_TRUE(reopen());
  ASSERT_EQ(told_.size(), 2u);
  EXPECT_STREQ(told_[1].found_by, "replay");
  EXPECT_EQ(told_[1].block, 1u);
  ASSERT_TRUE(destage().is_ok());
  EXPECT_EQ(told_.size(), 2u);
  EXPECT_EQ(read(1, 1).code(), Code::kDamaged);
  EXPECT_EQ(scrub_all(), 1u);
  EXPECT_EQ(told_.size(), 2u);
}

TEST_F(ScrubTest, damage_beyond_the_bound_is_counted_and_told_once) {
  start();
  fill_chunks(40);
  for (uint64_t block = 0; block < 640; ++block) flip("/disk/chunks", block * kBlockBytes + 11);
  EXPECT_EQ(scrub_all(), 640u);
  EXPECT_EQ(told_.size(), kMostDamageTold + 1);
  EXPECT_EQ(told_.back().more, kMostDamageTold);
  EXPECT_EQ(engine().scrub().damage.size(), kMostDamageTold);
}

TEST_F(ScrubTest, a_damaged_table_is_told) {
  start();
  disk_->table().verify_fails = true;
  EXPECT_EQ(scrub_all(), 1u);
  ASSERT_EQ(told_.size(), 1u);
  EXPECT_EQ(told_[0].file, DamagedFile::kTable);
}

TEST_F(ScrubTest, a_block_that_cannot_be_read_is_damage_and_no_failure) {
  start();
  fill_chunks(2);
  world_.faults.read_error = 1000000;
  EXPECT_EQ(read(3, 1).code(), Code::kIo);
  EXPECT_EQ(scrub_all(), 32u);
  world_.faults.read_error = 0;
  ASSERT_EQ(told_.size(), 32u);
  EXPECT_TRUE(told_[0].unreadable);
  EXPECT_FALSE(engine().info().failed);
  expect_value(3, 1);
  EXPECT_EQ(scrub_all(), 0u);
}

// One request to the disk takes in several blocks: the event names the one that is bad.
TEST_F(ScrubTest, a_read_of_several_blocks_names_the_unreadable_one) {
  start();
  fill_chunks(2);
  world_.faults.bad_byte = 11 * kBlockBytes + 7;
  EXPECT_EQ(read(4, 10).code(), Code::kIo);
  ASSERT_EQ(told_.size(), 1u);
  EXPECT_EQ(told_[0].block, 11u);
  EXPECT_EQ(told_[0].file_block, 11u);
  EXPECT_TRUE(told_[0].unreadable);
  EXPECT_TRUE(read(12, 4).is_ok());
}

TEST_F(ScrubTest, a_read_that_fails_now_and_then_is_tried_again) {
  start();
  fill_chunks(30);
  world_.faults.read_error = 100000;
  EXPECT_EQ(scrub_all(), 0u);
}

TEST_F(ScrubTest, stops_and_goes_on_where_it_was) {
  start();
  fill_chunks(60);
  ASSERT_TRUE(engine().start_scrub(4 * kMiB).is_ok());
  pass_time(300 * io::kMillisecond);
  EXPECT_TRUE(scrub_runs());
  ASSERT_TRUE(wait([this] { return engine().stop_scrub(); }).is_ok());
  const ScrubInfo stopped = engine().scrub();
  EXPECT_EQ(stopped.record.state, ScrubState::kStopped);
  EXPECT_GT(stopped.record.next_place, 4u);
  EXPECT_LT(stopped.record.next_place, 50u);
  EXPECT_GT(stopped.progress, 0.0);
  ASSERT_TRUE(reopen());
  pass_time(100 * io::kMillisecond);
  EXPECT_EQ(engine().scrub().record, stopped.record) << "a stopped scrub went on by itself";
  EXPECT_EQ(scrub_all(), 0u);
  EXPECT_EQ(engine().scrub().record.completed_bytes, 60 * kChunkBytes);
  EXPECT_EQ(engine().scrub().bytes_total, 60 * kChunkBytes - stopped.record.bytes);
}

TEST_F(ScrubTest, goes_on_by_itself_after_a_close_and_after_a_crash) {
  options_.scrub_commit_after = 100 * io::kMillisecond;
  start();
  fill_chunks(60);
  ASSERT_TRUE(engine().start_scrub(2 * kMiB).is_ok());
  pass_time(300 * io::kMillisecond);
  const uint32_t before = engine().scrub().record.next_place;
  ASSERT_TRUE(reopen());
  EXPECT_TRUE(scrub_runs());
  EXPECT_GE(engine().scrub().record.next_place, before);
  EXPECT_EQ(engine().scrub().record.rate, 2 * kMiB);
  pass_time(500 * io::kMillisecond);
  const uint32_t then = engine().scrub().record.next_place;
  EXPECT_GT(then, before + 4);
  disk_->crash([](const io::SimWrite&, uint64_t) { return false; });
  ASSERT_TRUE(disk_->open());
  EXPECT_TRUE(scrub_runs());
  EXPECT_GE(engine().scrub().record.next_place, before + 4) << "more was lost than 100 ms";
  EXPECT_LE(engine().scrub().record.next_place, then + 2);
  finish_scrub();
  EXPECT_EQ(engine().scrub().record.completed_damaged, 0u);
}

TEST_F(ScrubTest, keeps_its_rate_and_takes_a_new_one_while_it_runs) {
  start();
  fill_chunks(32);
  const io::Nanoseconds began = world_.now();
  ASSERT_TRUE(engine().start_scrub(kMiB).is_ok());
  finish_scrub();  // 2 MiB
  EXPECT_GT(world_.now() - began, 1800 * io::kMillisecond);
  EXPECT_LT(world_.now() - began, 3 * io::kSecond);
  ASSERT_TRUE(engine().start_scrub(64 * kKiB).is_ok());
  pass_time(100 * io::kMillisecond);
  ASSERT_TRUE(engine().start_scrub(kGiB).is_ok());
  const io::Nanoseconds raised = world_.now();
  finish_scrub();
  EXPECT_LT(world_.now() - raised, 3 * io::kSecond);
}

class Writers {
 public:
  Writers(SimDisk& disk, ReplicaNumber number) : disk_(disk), number_(number) {}
  Task<void> client() {
    Random& random = disk_.world().random();
    while (!stopped) {
      const uint64_t count = random.chance(1, 4) ? 16 * (1 + random.below(4)) : 1 + random.below(5);
      uint64_t first = random.below(320 - count);
      if (count >= 16) first = first / 16 * 16;
      const AlignedBytes data = aligned_zeroes(count * kBlockBytes);
      for (uint64_t i = 0; i < count; ++i)
        sim::fill_block(data.get() + i * kBlockBytes, first + i, ++value_);
      Status status;
      if (random.chance(1, 5)) {
        status = co_await disk_.engine().append_zero(number_, 1, ++seq, first * kBlockBytes,
                                                     count * kBlockBytes, false);
      } else {
        status = co_await disk_.engine().append_write(number_, 1, ++seq, first * kBlockBytes,
                                                      {data.get(), count * kBlockBytes});
      }
      EXPECT_TRUE(status.is_ok()) << status.message();
      ++done;
    }
  }
  // Takes every write to its place at once.
  Task<void> destager() {
    while (!stopped) {
      const Status status = co_await disk_.engine().destage_all();
      EXPECT_TRUE(status.is_ok()) << status.message();
      co_await disk_.node().sleep(100 * io::kMicrosecond);
    }
  }
  bool stopped = false;
  uint64_t done = 0;
  uint64_t seq = 1000;

 private:
  SimDisk& disk_;
  ReplicaNumber number_;
  uint64_t value_ = 0;
};

TEST_F(ScrubTest, never_takes_a_block_that_changes_for_damage) {
  options_.destage_round_blocks = 64;
  options_.destage_when_idle = true;
  options_.idle_after = io::kMillisecond;
  // A read may take longer than it takes a write to come through the journal to its place.
  world_.faults.disk_high = 8 * io::kMillisecond;
  world_.faults.helper_high = 100 * io::kMicrosecond;
  start();
  Writers writers(*disk_, number_);
  for (int i = 0; i < 4; ++i) disk_->node().start(writers.client());
  disk_->node().start(writers.destager());
  uint64_t passes = 0;
  while (writers.done < 30000 && world_.step()) {
    if (scrub_runs()) continue;
    ASSERT_EQ(engine().scrub().record.completed_damaged, 0u);
    ASSERT_TRUE(engine().start_scrub(kGiB).is_ok());
    ++passes;
  }
  writers.stopped = true;
  ASSERT_TRUE(world_.run_until([this] { return disk_->node().done() && !scrub_runs(); }));
  EXPECT_GT(passes, 20u);
  EXPECT_GE(writers.done, 30000u);
  EXPECT_TRUE(told_.empty());
  EXPECT_EQ(engine().scrub().damaged_total, 0u);
  engine().check_invariants();
}

TEST_F(ScrubTest, a_block_that_is_overwritten_in_its_place_under_a_read_is_no_damage) {
  for (int how = 0; how < 3; ++how) {
    world_.files.clear();
    start();
    fill_chunks(4);
    ASSERT_TRUE(write(70, 1, 5).is_ok());
    ASSERT_TRUE(engine().start_scrub(0).is_ok());
    world_.faults.disk_low = world_.faults.disk_high = 200 * io::kMillisecond;
    pass_time(20 * io::kMillisecond);  // now the piece is being read
    ASSERT_EQ(engine().scrub().record.next_place, 0u);
    world_.faults = io::SimFaults();
    Status destaged(Code::kInternal, "not done");
    if (how == 0) {
      ASSERT_TRUE(write(5, 1, 99).is_ok());
    } else {
      ASSERT_TRUE(write(0, 16, 99).is_ok());
    }
    disk_->node().start(store_status(engine().destage_all(), &destaged));
    if (how == 2) pass_time(50 * io::kMillisecond);
    finish_scrub();
    ASSERT_TRUE(world_.run_until([this] { return disk_->node().done(); }));
    EXPECT_EQ(engine().scrub().record.completed_damaged, 0u) << how;
    EXPECT_TRUE(told_.empty());
    expect_value(5, 99);
    EXPECT_EQ(scrub_all(), 0u);
    disk_.reset();
  }
}

TEST_F(ScrubTest, gives_way_to_the_foreground_and_never_stands_still) {
  start();
  fill_chunks(64);
  Writers writers(*disk_, number_);
  disk_->node().start(writers.client());
  ASSERT_TRUE(engine().start_scrub(64 * kMiB).is_ok());
  const io::Nanoseconds began = world_.now();
  while (scrub_runs() && world_.step()) {
  }
  const io::Nanoseconds took = world_.now() - began;
  writers.stopped = true;
  ASSERT_TRUE(world_.run_until([this] { return disk_->node().done(); }));
  EXPECT_GT(took, 70 * io::kMillisecond);  // 63 ms without anybody else
  EXPECT_LT(took, 5 * io::kSecond);
}

// --- failed disks ---

TEST_F(ScrubTest, a_failed_disk_stays_failed_until_a_verify_clears_it) {
  start();
  ASSERT_TRUE(write(1, 1, 1).is_ok());
  world_.faults.sync_error = 1000000;
  EXPECT_FALSE(destage().is_ok());
  world_.faults.sync_error = 0;
  pass_time(10 * io::kMillisecond);
  ASSERT_EQ(failures_.size(), 1u);
  for (int i = 0; i < 2; ++i) {
    ASSERT_TRUE(reopen()) << disk_->failure().message();
    EXPECT_TRUE(engine().info().failed);
    EXPECT_NE(engine().info().failure.find("cvol disk verify"), std::string::npos);
    EXPECT_EQ(engine().replicas().size(), 1u);
    EXPECT_EQ(read(1, 1).code(), Code::kIo);
    EXPECT_EQ(write(1, 1, 1).code(), Code::kIo);
    EXPECT_EQ(engine().start_scrub(0).code(), Code::kFailedPrecondition);
  }
  EXPECT_EQ(verify(false), "");
  EXPECT_FALSE(engine().info().failed);
  EXPECT_EQ(mended_, 1);
  expect_value(1, 1);
  ASSERT_TRUE(write(2, 1, 2).is_ok());
  ASSERT_TRUE(reopen());
  EXPECT_FALSE(engine().info().failed);
  expect_value(1, 1);
  expect_value(2, 2);
  EXPECT_GT(engine().scrub().record.completed, 0u);
  engine().check_invariants();
}

TEST_F(ScrubTest, a_disk_that_fails_is_verified_and_served_without_being_opened_anew) {
  start();
  fill_chunks(3);
  ASSERT_TRUE(write(7, 1, 70).is_ok());
  const EngineMetrics* metrics = &engine().metrics();
  world_.faults.write_error = 1000000;
  EXPECT_EQ(write(8, 1, 80).code(), Code::kIo);
  world_.faults.write_error = 0;
  EXPECT_TRUE(engine().info().failed);
  EXPECT_EQ(verify(false), "");
  EXPECT_FALSE(engine().info().failed);
  EXPECT_EQ(metrics, &engine().metrics());
  expect_value(7, 70);
  expect_value(40, 3);
  ASSERT_TRUE(write(8, 1, 81).is_ok());
  ASSERT_TRUE(destage().is_ok());
  expect_value(8, 81);
  engine().check_invariants();
  ASSERT_TRUE(reopen());
  EXPECT_FALSE(engine().info().failed);
  expect_value(8, 81);
}

TEST_F(ScrubTest, requests_under_way_end_before_a_failed_disk_is_opened_again) {
  start();
  fill_chunks(8);
  std::vector<Status> answers(40, Status(Code::kInternal, "not done"));
  world_.faults.write_error = 200000;
  for (std::size_t i = 0; i < answers.size(); ++i) {
    Task<Status> task =
        i % 2 == 0 ? engine().append_write(number_, 1, ++seq_, i * kBlockBytes, memory(1 + i % 3))
                   : engine().read(number_, i * kBlockBytes, memory(1));
    disk_->node().start(store_status(std::move(task), &answers[i]));
  }
  while (!engine().info().failed && world_.step()) {
  }
  world_.faults.write_error = 0;
  ASSERT_TRUE(engine().start_verify(false).is_ok());
  EXPECT_EQ(engine().start_verify(false).code(), Code::kBusy);
  ASSERT_TRUE(world_.run_until([this] { return disk_->node().done() && !scrub_runs(); }));
  for (const Status& answer : answers) EXPECT_NE(answer.code(), Code::kInternal);
  EXPECT_EQ(engine().scrub().outcome, "");
  EXPECT_FALSE(engine().info().failed);
  ASSERT_TRUE(write(3, 1, 5).is_ok());
  engine().check_invariants();
}

TEST_F(ScrubTest, a_failed_disk_with_damage_stays_failed_unless_that_is_accepted) {
  start();
  fill_chunks(3);
  world_.faults.write_error = 1000000;
  EXPECT_EQ(write(8, 1, 80).code(), Code::kIo);
  world_.faults.write_error = 0;
  flip("/disk/chunks", 5 * kBlockBytes + 100);
  EXPECT_NE(verify(false).find("--accept-damage"), std::string::npos);
  EXPECT_TRUE(engine().info().failed);
  EXPECT_EQ(engine().scrub().damage.size(), 1u);
  ASSERT_TRUE(reopen());
  EXPECT_TRUE(engine().info().failed);
  EXPECT_NE(verify(false), "");
  EXPECT_EQ(verify(true), "");
  EXPECT_FALSE(engine().info().failed);
  EXPECT_EQ(read(5, 1).code(), Code::kDamaged);
  expect_value(4, 1);
  ASSERT_TRUE(write(5, 1, 6).is_ok());
  expect_value(5, 6);
  ASSERT_TRUE(reopen());
  EXPECT_FALSE(engine().info().failed);
}

TEST_F(ScrubTest, a_disk_that_still_cannot_write_stays_failed) {
  start();
  fill_chunks(3);
  world_.faults.sync_error = 1000000;
  ASSERT_TRUE(write(8, 1, 80).code() == Code::kIo || !destage().is_ok());
  EXPECT_TRUE(engine().info().failed);
  EXPECT_NE(verify(false).find("sync"), std::string::npos) << engine().scrub().outcome;
  EXPECT_TRUE(engine().info().failed);
  EXPECT_EQ(mended_, 0);
  world_.faults.sync_error = 0;
  EXPECT_EQ(verify(false), "");
  expect_value(17, 2);
}

TEST_F(ScrubTest, the_owner_can_know_of_a_failure_that_the_disk_could_not_note) {
  start();
  fill_chunks(1);
  disk_->close();
  disk_->options().known_failure = "it did so yesterday";
  ASSERT_TRUE(disk_->open()) << disk_->failure().message();
  EXPECT_TRUE(engine().info().failed);
  EXPECT_NE(engine().info().failure.find("yesterday"), std::string::npos);
}

TEST_F(ScrubTest, a_damaged_state_block_counts_as_a_failure) {
  start();
  fill_chunks(1);
  disk_->close();
  io::SimFile& label = *world_.files.at("/disk/label");
  io::SimImage image = label.current();
  const std::byte odd{7};
  image.write(kStateBlockOffset + 100, {&odd, 1});
  label.reset(image);
  ASSERT_TRUE(disk_->open());
  EXPECT_TRUE(engine().info().failed);
  EXPECT_EQ(verify(false), "");
  ASSERT_TRUE(reopen());
  EXPECT_FALSE(engine().info().failed);
  expect_value(3, 1);
}

TEST_F(ScrubTest, a_failed_table_commit_fails_the_disk_for_good) {
  start();
  ASSERT_TRUE(write(1, 1, 1).is_ok());
  disk_->table().fail_commits = disk_->table2().fail_commits = true;
  EXPECT_FALSE(destage().is_ok());
  disk_->table().fail_commits = disk_->table2().fail_commits = false;
  ASSERT_TRUE(reopen());
  EXPECT_TRUE(engine().info().failed);
  EXPECT_EQ(verify(false), "");
  expect_value(1, 1);
}

TEST_F(ScrubTest, a_full_file_system_is_waited_for) {
  start();
  ASSERT_TRUE(write(1, 1, 1).is_ok());
  disk_->table().full = true;
  Status destaged(Code::kInternal, "not done");
  disk_->node().start(store_status(engine().destage_all(), &destaged));
  for (int i = 0; i < 4000 && world_.now() < 20 * io::kSecond && world_.step(); ++i) {
  }
  EXPECT_EQ(destaged.code(), Code::kInternal);
  EXPECT_FALSE(engine().info().failed);
  EXPECT_EQ(notices_.size(), 1u);
  disk_->table().full = false;
  ASSERT_TRUE(world_.run_until([this] { return disk_->node().done(); }));
  EXPECT_TRUE(destaged.is_ok()) << destaged.message();
  EXPECT_EQ(notices_.size(), 2u);
  expect_value(1, 1);
  // And a stop does not wait for it, nor mark the disk.
  ASSERT_TRUE(write(2, 1, 2).is_ok());
  disk_->table().full = true;
  disk_->node().start(store_status(engine().destage_all(), &destaged));
  for (int i = 0; i < 200 && world_.step(); ++i) {
  }
  disk_->close();
  disk_->table().full = false;
  EXPECT_TRUE(failures_.empty());
  ASSERT_TRUE(disk_->open()) << disk_->failure().message();
  EXPECT_FALSE(engine().info().failed);
  expect_value(2, 2);
}

TEST_F(ScrubTest, a_disk_is_not_opened_nor_marked_while_its_table_finds_no_room) {
  start();
  ASSERT_TRUE(write(1, 1, 1).is_ok());
  disk_->close();
  disk_->table().full = true;
  EXPECT_FALSE(disk_->open());
  EXPECT_EQ(disk_->failure().code(), Code::kNoSpace);
  disk_->table().full = false;
  ASSERT_TRUE(disk_->open()) << disk_->failure().message();
  EXPECT_FALSE(engine().info().failed);
  expect_value(1, 1);
}

TEST_F(ScrubTest, a_scrub_ends_when_its_disk_fails_and_a_verify_is_not_taken_for_one) {
  start();
  fill_chunks(60);
  ASSERT_TRUE(engine().start_scrub(kMiB).is_ok());
  pass_time(100 * io::kMillisecond);
  world_.faults.write_error = 1000000;
  EXPECT_EQ(write(8, 1, 80).code(), Code::kIo);
  world_.faults.write_error = 0;
  finish_scrub();
  EXPECT_EQ(engine().scrub().record.state, ScrubState::kStopped);
  ASSERT_TRUE(reopen());
  EXPECT_EQ(engine().scrub().record.state, ScrubState::kStopped);
  ASSERT_TRUE(engine().start_verify(false).is_ok());
  EXPECT_TRUE(engine().scrub().verify);
  pass_time(100 * io::kMicrosecond);
  ASSERT_TRUE(wait([this] { return engine().stop_scrub(); }).is_ok());
  EXPECT_TRUE(engine().info().failed) << "a verify that was stopped decides nothing";
  EXPECT_EQ(engine().scrub().outcome, "it was stopped");
  EXPECT_EQ(verify(false), "");
  expect_value(17, 2);
}

TEST_F(ScrubTest, a_close_in_the_middle_of_a_verify_leaves_the_disk_failed) {
  for (int steps = 1; steps < 200; steps += 7) {
    world_.files.clear();
    start();
    fill_chunks(10);
    world_.faults.write_error = 1000000;
    EXPECT_EQ(write(8, 1, 80).code(), Code::kIo);
    world_.faults.write_error = 0;
    ASSERT_TRUE(engine().start_verify(false).is_ok());
    for (int i = 0; i < steps && scrub_runs() && world_.step(); ++i) {
    }
    disk_->close();
    ASSERT_TRUE(disk_->open()) << disk_->failure().message();
    if (engine().info().failed) {
      EXPECT_EQ(verify(false), "");
    } else {  // it had read everything
      EXPECT_EQ(engine().scrub().record.completed_bytes, 10 * kChunkBytes) << steps << " steps";
    }
    expect_value(17, 2);
    engine().check_invariants();
    disk_.reset();
  }
}

// A path to the disk that is gone for a while: the only copy may be there.
TEST_F(ScrubTest, reads_of_the_journal_that_fail_for_a_while_lose_nothing) {
  start();
  ASSERT_TRUE(write(1, 1, 1).is_ok());
  ASSERT_TRUE(write(40, 1, 2).is_ok());
  world_.faults.read_error = 1000000;
  world_.at(world_.now() + 20 * io::kSecond, [this] { world_.faults.read_error = 0; });
  ASSERT_TRUE(destage().is_ok());
  EXPECT_EQ(world_.faults.read_error, 0u) << "it did not wait";
  EXPECT_TRUE(told_.empty());
  expect_value(1, 1);
  expect_value(40, 2);
}

// What is written again meanwhile is not damaged, and not waited for.
TEST_F(ScrubTest, a_block_of_the_journal_that_cannot_be_read_may_be_written_again) {
  options_.destage_when_idle = true;
  start();
  ASSERT_TRUE(write(1, 1, 1).is_ok());
  world_.faults.read_error = 1000000;
  pass_time(5 * io::kSecond);
  ASSERT_TRUE(write(1, 1, 2).is_ok());
  const io::Nanoseconds began = world_.now();
  pass_time(3 * io::kSecond);
  world_.faults.read_error = 0;
  ASSERT_TRUE(destage().is_ok());
  EXPECT_LT(world_.now() - began, 6 * io::kSecond);
  EXPECT_TRUE(told_.empty());
  expect_value(1, 2);
}

TEST_F(ScrubTest, a_journal_that_cannot_be_read_loses_blocks_and_not_the_disk) {
  start();
  ASSERT_TRUE(write(1, 1, 1).is_ok());
  world_.faults.read_error = 1000000;
  ASSERT_TRUE(destage().is_ok());
  world_.faults.read_error = 0;
  EXPECT_FALSE(engine().info().failed);
  ASSERT_EQ(told_.size(), 1u);
  EXPECT_TRUE(told_[0].unreadable);
  EXPECT_STREQ(told_[0].found_by, "destage");
  EXPECT_EQ(read(1, 1).code(), Code::kDamaged);
  ASSERT_TRUE(write(1, 1, 2).is_ok());
  world_.faults.read_error = 300000;  // now and then
  ASSERT_TRUE(destage().is_ok());
  world_.faults.read_error = 0;
  expect_value(1, 2);
}

// --- full disks ---

TEST_F(ScrubTest, a_full_disk_takes_overwrites_and_trims_and_heals_when_a_replica_goes) {
  format_.capacity_bytes = 4 * kMiB;
  start();
  fill_chunks(64);
  EXPECT_EQ(write(64 * 16, 1, 2).code(), Code::kNoSpace);
  for (uint64_t chunk = 0; chunk < 64; ++chunk) ASSERT_TRUE(write(chunk * 16, 16, 3).is_ok());
  expect_value(63 * 16, 3);
  EXPECT_EQ(scrub_all(), 0u);
  ASSERT_TRUE(wait([this] { return engine().remove_replica(number_); }).is_ok());
  ASSERT_TRUE(disk_->run(make_replica(this)));
  for (uint64_t chunk = 0; chunk < 64; ++chunk) ASSERT_TRUE(write(chunk * 16, 3, 4).is_ok());
  ASSERT_TRUE(destage().is_ok());
  EXPECT_EQ(scrub_all(), 0u);
  expect_value(62 * 16, 4);
  engine().check_invariants();
}

}  // namespace
}  // namespace cvol::store
