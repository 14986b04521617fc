// Space that is free goes back to the file system, and comes again when it is needed.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

#include "tests/sim/punch_check.h"
#include "tests/unit/store/disk_fixture.h"
#include "volumed/io/uring_reactor.h"

namespace cvol::store {
namespace {

class GiveBackTest : public DiskTest {
 protected:
  GiveBackTest() : check_(world_, [this]() -> SimDisk& { return *disk_; }) {
    options_.keep_free_bytes = 0;
    options_.give_back_after = io::kMillisecond;
  }
  void zero(uint64_t first, uint64_t count) {
    const Status status = wait([=, this] {
      return engine().append_zero(number_, 1, ++seq_, first * kBlockBytes, count * kBlockBytes,
                                  false);
    });
    ASSERT_TRUE(status.is_ok()) << status.message();
  }
  io::SimFile& chunks() { return *world_.files.at("/disk/chunks"); }
  uint64_t space() { return chunks().size() - chunks().hole_bytes(); }

  sim::PunchCheck check_;
};

TEST_F(GiveBackTest, trimmed_space_leaves_the_disk_after_the_commit) {
  start();
  fill_chunks(100);
  pass_time(20 * io::kSecond);
  EXPECT_EQ(space(), 100 * kChunkBytes);
  zero(0, 90 * 16);
  pass_time(20 * io::kSecond);
  EXPECT_EQ(space(), 100 * kChunkBytes) << "the table still has the chunks";
  ASSERT_TRUE(destage().is_ok());
  pass_time(20 * io::kSecond);
  EXPECT_EQ(space(), 10 * kChunkBytes);
  expect_value(95 * 16, 96);
  expect_value(5 * 16, 0);
  EXPECT_EQ(engine().metrics().given_back_bytes.get(), chunks().hole_bytes());
  engine().check_invariants();
}

TEST_F(GiveBackTest, what_was_given_back_is_had_again_before_it_is_written) {
  start();
  fill_chunks(200);
  zero(0, 200 * 16);
  ASSERT_TRUE(destage().is_ok());
  pass_time(20 * io::kSecond);
  EXPECT_EQ(space(), 0u);
  fill_chunks(256);  // all that the disk has
  for (uint64_t chunk = 0; chunk < 256; ++chunk) expect_value(chunk * 16 + 3, 1 + chunk);
  EXPECT_EQ(chunks().writes_into_holes, 0u);
  engine().check_invariants();
}

TEST_F(GiveBackTest, holes_are_found_again_at_open_and_the_rest_is_given_back_then) {
  options_.give_back = false;
  start();
  fill_chunks(100);
  zero(0, 60 * 16);
  ASSERT_TRUE(destage().is_ok());
  pass_time(20 * io::kSecond);
  EXPECT_GE(space(), 100 * kChunkBytes);
  disk_->options().give_back = true;
  ASSERT_TRUE(reopen());
  pass_time(20 * io::kSecond);
  EXPECT_EQ(space(), 40 * kChunkBytes);
  disk_->options().give_back_after = 3600 * io::kSecond;
  ASSERT_TRUE(reopen());
  EXPECT_EQ(space(), 40 * kChunkBytes) << "opening reserved the holes again";
  fill_chunks(120);
  EXPECT_EQ(chunks().writes_into_holes, 0u);
  engine().check_invariants();
}

TEST_F(GiveBackTest, a_promise_rests_on_space_that_others_cannot_take) {
  start();
  fill_chunks(100);
  zero(0, 100 * 16);
  ASSERT_TRUE(destage().is_ok());
  pass_time(20 * io::kSecond);
  ASSERT_TRUE(write(0, 1, 7).is_ok());  // promised now
  pass_time(20 * io::kSecond);
  EXPECT_GE(space(), kChunkBytes);
  world_.faults.disk_bytes = 0;  // others have filled the file system
  EXPECT_EQ(chunks().writes_into_holes, 0u);
  ASSERT_TRUE(destage().is_ok());
  EXPECT_EQ(chunks().writes_into_holes, 0u);
  expect_value(0, 7);
}

TEST_F(GiveBackTest, some_space_is_kept_for_the_next_writes) {
  options_.keep_free_bytes = 20 * kChunkBytes;
  start();
  fill_chunks(100);
  zero(0, 100 * 16);
  ASSERT_TRUE(destage().is_ok());
  pass_time(20 * io::kSecond);
  EXPECT_EQ(space(), 20 * kChunkBytes);
}

TEST_F(GiveBackTest, a_sync_that_lacks_memory_fails_no_disk) {
  start();
  world_.faults.sync_starved = 700000;
  for (uint64_t chunk = 0; chunk < 50; ++chunk) {
    ASSERT_TRUE(write(chunk * 16, 1, 9).is_ok());
    const Status destaged = destage();  // writes the journal's block to its chunk, and syncs
    ASSERT_TRUE(destaged.is_ok()) << destaged.message();
  }
  for (uint64_t chunk = 0; chunk < 50; ++chunk) expect_value(chunk * 16, 9);
  fill_chunks(100);
  zero(0, 100 * 16);
  ASSERT_TRUE(destage().is_ok());
  fill_chunks(200);
  world_.faults.sync_starved = 0;
  EXPECT_TRUE(failures_.empty());
  for (uint64_t chunk = 0; chunk < 200; ++chunk) expect_value(chunk * 16 + 3, 1 + chunk);
}

// --- on a real file ---

class Folder {
 public:
  Folder() {
    std::string name = std::filesystem::temp_directory_path() / "cvol-give-back-XXXXXX";
    path_ = mkdtemp(name.data());
  }
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::string& path() const { return path_; }
  bool in_memory() const {
    struct statfs info {};
    return statfs(path_.c_str(), &info) != 0 || info.f_type == 0x01021994;  // tmpfs
  }
  uint64_t chunk_file_bytes() const {
    struct stat info {};
    return stat((path_ + "/chunks").c_str(), &info) == 0 ? uint64_t(info.st_blocks) * 512 : 0;
  }

 private:
  std::string path_;
};

Task<void> falls(io::Reactor& reactor, const Folder& folder, uint64_t below) {
  for (int i = 0; i < 3000 && folder.chunk_file_bytes() >= below; ++i)
    co_await reactor.sleep(10 * io::kMillisecond);
  EXPECT_LT(folder.chunk_file_bytes(), below);
}

Task<void> on_a_real_file(io::Reactor& reactor, const Folder& folder) {
  FormatOptions format;
  format.journal_bytes = 8 * kMiB;
  format.capacity_bytes = 256 * kMiB;
  Result<Uuid> made = co_await format_disk(reactor, folder.path(), format);
  EXPECT_TRUE(made) << made.message();
  EngineOptions options;
  options.keep_free_bytes = kMiB;
  options.give_back_after = 10 * io::kMillisecond;
  Result<std::unique_ptr<DiskEngine>> opened = co_await open_disk(reactor, folder.path(), options);
  EXPECT_TRUE(opened) << opened.message();
  if (!opened) co_return;
  DiskEngine& engine = **opened;
  Result<ReplicaInfo> replica = co_await engine.create_replica(
      Uuid::make(reactor.random()), Uuid::make(reactor.random()), 128 * kMiB);
  uint64_t seq = 0;
  const std::span<std::byte> data = memory(256);
  for (uint64_t at = 0; at < 128 * kMiB; at += kMiB) {
    for (uint64_t i = 0; i < 256; ++i)
      sim::fill_block(data.data() + i * kBlockBytes, at / kBlockBytes + i, 3);
    const Status wrote = co_await engine.append_write(replica->number, 1, ++seq, at, data);
    EXPECT_TRUE(wrote.is_ok()) << wrote.message();
  }
  EXPECT_GE(folder.chunk_file_bytes(), 128 * kMiB);
  const Status zeroed =
      co_await engine.append_zero(replica->number, 1, ++seq, 8 * kMiB, 120 * kMiB, false);
  EXPECT_TRUE(zeroed.is_ok()) << zeroed.message();
  const Status destaged = co_await engine.destage_all();
  EXPECT_TRUE(destaged.is_ok()) << destaged.message();
  co_await falls(reactor, folder, 16 * kMiB);
  const Status read = co_await engine.read(replica->number, 7 * kMiB, data);
  EXPECT_TRUE(read.is_ok()) << read.message();
  for (uint64_t i = 0; i < 256; ++i) {
    const uint64_t block = 7 * kMiB / kBlockBytes + i;
    EXPECT_EQ(sim::block_value(data.data() + i * kBlockBytes, block), 3u);
  }
  const Status again = co_await engine.append_write(replica->number, 1, ++seq, 64 * kMiB, data);
  EXPECT_TRUE(again.is_ok()) << again.message();
  const Status removed = co_await engine.remove_replica(replica->number);
  EXPECT_TRUE(removed.is_ok()) << removed.message();
  co_await falls(reactor, folder, 3 * kMiB);
  co_await engine.close();
}

TEST(GiveBack, the_blocks_of_a_real_file_fall_after_a_trim_and_a_removal) {
  log::set_level("off");
  Folder folder;
  if (folder.in_memory()) GTEST_SKIP() << "a file system in memory does not tell its extents";
  Result<std::unique_ptr<io::UringReactor>> reactor = io::UringReactor::make(io::UringOptions{});
  ASSERT_TRUE(reactor) << reactor.message();
  (*reactor)->run_until_done(on_a_real_file(**reactor, folder));
}

}  // namespace
}  // namespace cvol::store
