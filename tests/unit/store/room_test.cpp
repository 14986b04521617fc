// Want of room is no failure of a disk; whose disk it is, is asked before it is touched; what a
// large removal leaves to others.
#include "tests/unit/store/disk_fixture.h"

namespace cvol::store {
namespace {

class RoomTest : public DiskTest {
 protected:
  // Starts a write of block `first` and leaves it to the world.
  void begin_write(uint64_t first, uint64_t value, Status* answer) {
    sim::fill_block(memory(1).data(), first, value);
    disk_->node().start(store_status(
        engine().append_write(number_, 1, ++seq_, first * kBlockBytes, memory(1)), answer));
  }
  void let_pass(io::Nanoseconds time) {
    const io::Nanoseconds until = world_.now() + time;
    for (int i = 0; i < 20000 && world_.now() < until && world_.step(); ++i) {
    }
  }
  bool end_all() {
    return world_.run_until([this] { return disk_->node().done(); });
  }
};

TEST_F(RoomTest, a_write_of_the_journal_waits_for_room) {
  start();
  ASSERT_TRUE(write(1, 1, 1).is_ok());
  world_.faults.write_full = 1000000;
  Status wrote(Code::kInternal, "not done");
  begin_write(1, 2, &wrote);
  let_pass(20 * io::kSecond);
  EXPECT_EQ(wrote.code(), Code::kInternal);
  EXPECT_FALSE(engine().info().failed);
  EXPECT_EQ(notices_.size(), 1u);
  world_.faults.write_full = 0;
  ASSERT_TRUE(end_all());
  EXPECT_TRUE(wrote.is_ok()) << wrote.message();
  EXPECT_EQ(notices_.size(), 2u);
  EXPECT_TRUE(failures_.empty());
  expect_value(1, 2);
  ASSERT_TRUE(reopen());
  expect_value(1, 2);
}

TEST_F(RoomTest, writes_that_find_room_now_and_then_all_arrive) {
  start();
  world_.faults.write_full = 500000;
  for (uint64_t block = 0; block < 20; ++block) ASSERT_TRUE(write(block, 1, 7).is_ok());
  ASSERT_TRUE(write(64, 32, 8).is_ok());  // whole chunks, past the journal
  ASSERT_TRUE(destage().is_ok());
  world_.faults.write_full = 0;
  for (uint64_t block = 0; block < 20; ++block) expect_value(block, 7);
  expect_value(95, 8);
  EXPECT_FALSE(engine().info().failed);
  engine().check_invariants();
}

TEST_F(RoomTest, destage_waits_for_room) {
  start();
  ASSERT_TRUE(write(3, 1, 4).is_ok());
  world_.faults.write_full = 1000000;
  Status destaged(Code::kInternal, "not done");
  disk_->node().start(store_status(engine().destage_all(), &destaged));
  let_pass(20 * io::kSecond);
  EXPECT_EQ(destaged.code(), Code::kInternal);
  EXPECT_FALSE(engine().info().failed);
  world_.faults.write_full = 0;
  ASSERT_TRUE(end_all());
  EXPECT_TRUE(destaged.is_ok()) << destaged.message();
  expect_value(3, 4);
}

TEST_F(RoomTest, a_close_does_not_wait_for_room_nor_mark_the_disk) {
  start();
  ASSERT_TRUE(write(1, 1, 1).is_ok());
  world_.faults.write_full = 1000000;
  Status wrote(Code::kInternal, "not done");
  begin_write(2, 2, &wrote);
  let_pass(5 * io::kSecond);
  disk_->close();
  EXPECT_FALSE(wrote.is_ok());
  EXPECT_NE(wrote.code(), Code::kInternal);
  EXPECT_TRUE(failures_.empty());
  world_.faults.write_full = 0;
  ASSERT_TRUE(disk_->open()) << disk_->failure().message();
  EXPECT_FALSE(engine().info().failed);
  expect_value(1, 1);
}

TEST_F(RoomTest, a_table_without_descriptors_is_waited_for) {
  start();
  ASSERT_TRUE(write(1, 1, 1).is_ok());
  disk_->table().starved = true;
  Status destaged(Code::kInternal, "not done");
  disk_->node().start(store_status(engine().destage_all(), &destaged));
  let_pass(20 * io::kSecond);
  EXPECT_EQ(destaged.code(), Code::kInternal);
  EXPECT_FALSE(engine().info().failed);
  disk_->table().starved = false;
  ASSERT_TRUE(end_all());
  EXPECT_TRUE(destaged.is_ok()) << destaged.message();
  EXPECT_TRUE(failures_.empty());
  expect_value(1, 1);
}

TEST_F(RoomTest, a_read_without_memory_is_made_again_and_no_damage) {
  start();
  ASSERT_TRUE(write(1, 1, 1).is_ok());
  world_.faults.read_starved = 1000000;
  world_.at(world_.now() + 5 * io::kSecond, [this] { world_.faults.read_starved = 0; });
  expect_value(1, 1);
  EXPECT_EQ(world_.faults.read_starved, 0u) << "it did not wait";
  EXPECT_TRUE(told_.empty());
}

TEST_F(RoomTest, an_opening_that_lacks_memory_opens_no_failed_disk) {
  start();
  ASSERT_TRUE(write(1, 1, 1).is_ok());
  disk_->close();
  int opened = 0;
  for (int i = 0; i < 100; ++i) {
    world_.faults.read_starved = 200000;
    const bool open = disk_->open();
    world_.faults.read_starved = 0;
    if (!open) continue;  // it is tried again later
    ++opened;
    EXPECT_FALSE(engine().info().failed) << engine().info().failure;
    disk_->close();
  }
  EXPECT_GT(opened, 0);
  ASSERT_TRUE(disk_->open()) << disk_->failure().message();
  expect_value(1, 1);
}

TEST_F(RoomTest, other_errors_of_a_write_still_fail_the_disk) {
  start();
  world_.faults.write_error = 1000000;
  EXPECT_EQ(write(1, 1, 1).code(), Code::kIo);
  world_.faults.write_error = 0;
  EXPECT_TRUE(engine().info().failed);
}

TEST_F(RoomTest, a_sparse_copy_without_room_is_served_and_said_to_be_one) {
  start();
  ASSERT_TRUE(write(1, 1, 1).is_ok());
  disk_->close();
  world_.faults.own_fails = true;
  ASSERT_TRUE(disk_->open()) << disk_->failure().message();
  ASSERT_EQ(notices_.size(), 1u);
  EXPECT_NE(notices_[0].find("copy"), std::string::npos);
  expect_value(1, 1);
}

// --- whose disk it is ---

TEST_F(RoomTest, a_disk_that_is_not_admitted_is_left_as_it_is) {
  start();
  const DiskInfo before = engine().info();
  disk_->close();
  flip("/disk/label", kBlockBytes + 20);  // would be mended
  const auto table = disk_->table().content;
  const io::SimImage label = world_.files.at("/disk/label")->current();
  int asked = 0;
  disk_->options().admit = [&](const Uuid& disk, std::optional<uint64_t> generation) -> Status {
    EXPECT_EQ(disk, before.disk);
    ++asked;
    if (!generation) return Status::ok();
    EXPECT_EQ(*generation, before.generation);
    return Status(Code::kFailedPrecondition, "an older copy");
  };
  EXPECT_FALSE(disk_->open());
  EXPECT_EQ(disk_->failure().code(), Code::kFailedPrecondition);
  EXPECT_EQ(asked, 2);
  EXPECT_EQ(disk_->table().content, table);
  EXPECT_TRUE(world_.files.at("/disk/label")->current() == label);
  disk_->options().admit = nullptr;
  ASSERT_TRUE(disk_->open()) << disk_->failure().message();
  EXPECT_EQ(engine().info().generation, before.generation + 1);
}

// --- large removals ---

constexpr uint64_t kLarge = 2 * kGiB;

class RemovalTest : public RoomTest {
 protected:
  RemovalTest() { format_.capacity_bytes = kLarge + 16 * kMiB; }
  // Replica `big_` with 32768 empty chunks, and a small one, number_.
  void start_large() {
    start();
    ASSERT_TRUE(disk_->run(make_replica(this, kLarge)));
    big_ = number_;
    for (const uint64_t at : {uint64_t{0}, kGiB})
      ASSERT_TRUE(wait([=, this] {
                    return engine().append_zero(big_, 1, ++seq_, at, kGiB, true);
                  }).is_ok());
    ASSERT_TRUE(destage().is_ok());
    ASSERT_TRUE(disk_->run(make_replica(this)));
    ASSERT_GE(engine().info().allocated_bytes, kLarge);
  }
  static Task<Status> write_and_destage(RemovalTest* test, uint64_t first) {
    const Status wrote = co_await test->engine().append_write(test->number_, 1, ++test->seq_,
                                                              first * kBlockBytes, memory(1));
    if (!wrote) co_return wrote;
    co_return co_await test->engine().destage_all();
  }
  uint64_t chunk_keys() {
    const std::string prefix = chunk_prefix(big_);
    const auto& content = disk_->table().content;
    uint64_t count = 0;
    for (auto at = content.lower_bound(prefix); at != content.end(); ++at, ++count) {
      if (!at->first.starts_with(prefix)) break;
    }
    return count;
  }

  ReplicaNumber big_ = 0;
};

TEST_F(RemovalTest, others_commit_between_the_slices_of_a_removal) {
  start_large();
  sim::fill_block(memory(1).data(), 5, 9);
  Status removed(Code::kInternal, "not done"), destaged(Code::kInternal, "not done");
  disk_->node().start(store_status(engine().remove_replica(big_), &removed));
  ASSERT_TRUE(world_.run_until([this] { return chunk_keys() < kLarge / kChunkBytes; }));
  disk_->node().start(store_status(write_and_destage(this, 5), &destaged));
  ASSERT_TRUE(world_.run_until([&] { return destaged.code() != Code::kInternal; }));
  EXPECT_TRUE(destaged.is_ok()) << destaged.message();
  EXPECT_EQ(removed.code(), Code::kInternal) << "the removal kept its turn to its end";
  ASSERT_TRUE(end_all());
  EXPECT_TRUE(removed.is_ok()) << removed.message();
  EXPECT_EQ(chunk_keys(), 0u);
  EXPECT_LT(engine().info().allocated_bytes, kMiB);
  expect_value(5, 9);
  engine().check_invariants();
}

TEST_F(RemovalTest, a_removal_that_a_crash_cut_short_is_finished_after_the_open) {
  start_large();
  Status removed(Code::kInternal, "not done");
  disk_->node().start(store_status(engine().remove_replica(big_), &removed));
  ASSERT_TRUE(world_.run_until([this] { return chunk_keys() < kLarge / kChunkBytes / 2; }));
  disk_->crash([](const io::SimWrite&, uint64_t) { return false; });
  ASSERT_GT(chunk_keys(), 0u);
  ASSERT_TRUE(disk_->open()) << disk_->failure().message();
  EXPECT_EQ(engine().info().replicas, 2u);
  engine().check_invariants();
  pass_time(10 * io::kSecond);
  EXPECT_EQ(chunk_keys(), 0u);
  EXPECT_FALSE(disk_->table().content.contains(replica_key(big_)));
  engine().check_invariants();
}

TEST_F(RemovalTest, closing_waits_for_a_removal_that_is_under_way) {
  start_large();
  Status removed(Code::kInternal, "not done"), closed(Code::kInternal, "not done");
  disk_->node().start(store_status(engine().remove_replica(big_), &removed));
  ASSERT_TRUE(world_.run_until([this] { return chunk_keys() < kLarge / kChunkBytes; }));
  const auto close = [](Engine* engine) -> Task<Status> {
    co_await engine->close();
    co_return Status::ok();
  };
  disk_->node().start(store_status(close(&engine()), &closed));
  ASSERT_TRUE(world_.run_until([&] { return closed.is_ok(); }));
  EXPECT_EQ(removed.code(), Code::kCancelled) << "its files were closed under it";
}

}  // namespace
}  // namespace cvol::store
