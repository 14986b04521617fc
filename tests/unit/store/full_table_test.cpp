// The chunk table on RocksDB when others fill the file system under it: a commit that finds no room
// changes nothing, and resume() makes the table go on when there is room again.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

#include "volumed/base/units.h"
#include "volumed/store/table.h"

namespace cvol::store {
namespace {

constexpr int kMostCommits = 5000;  // 70 MiB: the log is preallocated, and there are two buffers

class FullTable : public testing::Test {
 protected:
  void SetUp() override {
    char folder[] = "/tmp/cvol-full-XXXXXX";
    ASSERT_NE(::mkdtemp(folder), nullptr);
    folder_ = folder;
    if (::mount("cvol-full", folder, "tmpfs", 0, "size=48m") != 0)
      GTEST_SKIP() << "a file system of its own needs root";
    mounted_ = true;
  }
  void TearDown() override {
    if (mounted_) ::umount2(folder_.c_str(), MNT_DETACH);
    ::rmdir(folder_.c_str());
  }
  // Writes until nothing fits any more.
  void fill() {
    const int file = ::open((folder_ + "/others").c_str(), O_WRONLY | O_CREAT, 0600);
    ASSERT_GE(file, 0);
    const std::string data(4096, 'x');
    while (::write(file, data.data(), data.size()) > 0) {
    }
    ::close(file);
  }
  void free_again() { ASSERT_EQ(::unlink((folder_ + "/others").c_str()), 0); }
  static TableBatch batch(int number) {
    TableBatch made;
    for (int i = 0; i < 64; ++i)
      made.put("c" + std::to_string(number) + "-" + std::to_string(i), std::string(200, 'v'));
    return made;
  }
  static uint64_t count(Table& table) {
    uint64_t pairs = 0;
    EXPECT_TRUE(table
                    .scan([&](std::string_view, std::string_view) {
                      ++pairs;
                      return Status::ok();
                    })
                    .is_ok());
    return pairs;
  }

  std::string folder_;
  bool mounted_ = false;
};

TEST_F(FullTable, goes_on_when_there_is_room_again) {
  auto opened = open_rocksdb_table(folder_ + "/table", TableOpen::kCreate);
  ASSERT_TRUE(opened.is_ok()) << opened.message();
  std::unique_ptr<Table> table = std::move(*opened);
  ASSERT_TRUE(table->commit(batch(0)).is_ok());
  for (int round = 1; round <= 3; ++round) {
    fill();
    Status status = Status::ok();
    for (int i = 0; i < kMostCommits && status; ++i) status = table->commit(batch(round));
    ASSERT_EQ(status.code(), Code::kNoSpace) << status.message();
    EXPECT_EQ(table->commit(batch(round)).code(), Code::kNoSpace);
    // Too early, unless the table's own logs make room.
    EXPECT_NE(table->resume().code(), Code::kDamaged);
    free_again();
    const Status resumed = table->resume();
    ASSERT_TRUE(resumed.is_ok()) << resumed.message();
    status = table->commit(batch(round));
    ASSERT_TRUE(status.is_ok()) << status.message();
    EXPECT_EQ(count(*table), 64u * static_cast<unsigned>(round + 1));
    EXPECT_TRUE(table->verify().is_ok());
  }
  table.reset();
  auto again = open_rocksdb_table(folder_ + "/table", TableOpen::kExisting);
  ASSERT_TRUE(again.is_ok()) << again.message();
  EXPECT_EQ(count(**again), 4u * 64);
}

TEST_F(FullTable, opens_again_after_a_stop_while_it_was_full) {
  {
    auto opened = open_rocksdb_table(folder_ + "/table", TableOpen::kCreate);
    ASSERT_TRUE(opened.is_ok()) << opened.message();
    ASSERT_TRUE((*opened)->commit(batch(0)).is_ok());
    fill();
    Status status = Status::ok();
    for (int i = 0; i < kMostCommits && status; ++i) status = (*opened)->commit(batch(1));
    ASSERT_EQ(status.code(), Code::kNoSpace);
  }
  free_again();
  auto again = open_rocksdb_table(folder_ + "/table", TableOpen::kExisting);
  ASSERT_TRUE(again.is_ok()) << again.message();
  EXPECT_GE(count(**again), 64u);
}

}  // namespace
}  // namespace cvol::store
