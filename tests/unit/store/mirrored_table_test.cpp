// The chunk table in two copies, over tables in memory (faults, crashes) and over RocksDB.
#include "volumed/store/mirrored_table.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <map>
#include <thread>

#include "volumed/base/log.h"
#include "volumed/store/format.h"
#include "volumed/store/memory_table.h"

namespace cvol::store {
namespace {

using Content = std::map<std::string, std::string>;

// What a reader sees.
Content read_all(Table& table, Status* status) {
  Content content;
  *status = table.scan([&](std::string_view key, std::string_view value) {
    content.emplace(key, value);
    return Status::ok();
  });
  return content;
}

TableBatch numbered(uint64_t number) {
  TableBatch batch;
  batch.put(meta_key(), "meta " + std::to_string(number));
  batch.put(chunk_key(1, number), "chunk " + std::to_string(number));
  batch.put(chunk_key(1, 1000000), "last is " + std::to_string(number));
  return batch;
}

class MirroredTableTest : public ::testing::Test {
 protected:
  MirroredTableTest() {
    log::set_level("off");
    opener_ = memory_table_opener(first_, second_);
    Result<std::unique_ptr<Table>> made = MirroredTable::create(opener_, "table");
    EXPECT_TRUE(made);
    table_ = std::move(*made);
    for (uint64_t i = 1; i <= 10; ++i) EXPECT_TRUE(table_->commit(numbered(i)).is_ok());
  }
  Status open() {
    table_.reset();
    Result<std::unique_ptr<Table>> opened = MirroredTable::open(opener_, "table");
    if (opened) table_ = std::move(*opened);
    return opened.status();
  }
  // Opens, reads everything, commits: as the engine does. The number of the last commit seen.
  uint64_t open_and_commit() {
    const Status opened = open();
    EXPECT_TRUE(opened.is_ok()) << opened.message();
    if (!opened) return 0;
    Status status;
    const Content content = read_all(*table_, &status);
    EXPECT_TRUE(status.is_ok()) << status.message();
    if (!status) return 0;
    const uint64_t last = std::stoull(content.at(chunk_key(1, 1000000)).substr(8));
    EXPECT_EQ(content.size(), last + 2);
    status = table_->commit(numbered(last + 1));
    EXPECT_TRUE(status.is_ok()) << status.message();
    EXPECT_EQ(first_->content, second_->content) << "the copies are not level";
    return last;
  }

  std::shared_ptr<MemoryTableState> first_ = std::make_shared<MemoryTableState>();
  std::shared_ptr<MemoryTableState> second_ = std::make_shared<MemoryTableState>();
  TableOpener opener_;
  std::unique_ptr<Table> table_;
};

TEST_F(MirroredTableTest, both_copies_hold_the_same_and_marks_are_not_shown) {
  EXPECT_EQ(first_->content, second_->content);
  EXPECT_EQ(open_and_commit(), 10u);
  EXPECT_EQ(open_and_commit(), 11u);
}

TEST_F(MirroredTableTest, a_crash_between_the_two_commits_is_brought_level) {
  for (auto [late, number] : {std::pair(second_, 10u), std::pair(first_, 12u)}) {
    const auto before = late->content;
    ASSERT_TRUE(table_->commit(numbered(number + 1)).is_ok());
    late->content = before;
    EXPECT_EQ(open_and_commit(), number + 1) << "the newer copy counts";
  }
}

TEST_F(MirroredTableTest, of_two_copies_a_commit_apart_the_older_serves_if_the_newer_is_damaged) {
  second_->content = first_->content;
  const auto before = second_->content;
  ASSERT_TRUE(table_->commit(numbered(11)).is_ok());
  second_->content = before;
  first_->damaged_at = chunk_key(1, 4);
  EXPECT_EQ(open_and_commit(), 10u);
}

TEST_F(MirroredTableTest, a_copy_that_lost_commits_is_made_anew) {
  second_->lose_commits = 3;
  for (uint64_t i = 11; i <= 13; ++i) ASSERT_TRUE(table_->commit(numbered(i)).is_ok());
  EXPECT_EQ(open_and_commit(), 13u);
  first_->lose_commits = 1;  // a gap in the middle: the last commit is there
  for (uint64_t i = 15; i <= 16; ++i) ASSERT_TRUE(table_->commit(numbered(i)).is_ok());
  EXPECT_EQ(open_and_commit(), 16u);
  EXPECT_EQ(open_and_commit(), 17u);
}

TEST_F(MirroredTableTest, a_copy_that_cannot_be_opened_or_is_missing_is_made_anew) {
  first_->damaged = true;
  EXPECT_EQ(open_and_commit(), 10u);
  second_->exists = false;
  second_->content.clear();
  EXPECT_EQ(open_and_commit(), 11u);
}

TEST_F(MirroredTableTest, a_table_of_an_older_version_gets_its_second_copy) {
  second_->exists = false;
  second_->content.clear();
  std::erase_if(first_->content,
                [](const auto& pair) { return pair.first.starts_with(commit_mark_prefix()); });
  EXPECT_EQ(open_and_commit(), 10u);
  EXPECT_EQ(open_and_commit(), 11u);
}

TEST_F(MirroredTableTest, a_scan_goes_on_in_the_other_copy_where_damage_stopped_it) {
  first_->damaged_at = chunk_key(1, 5);
  EXPECT_EQ(open_and_commit(), 10u);
  EXPECT_FALSE(first_->damaged_at.has_value()) << "made anew";
}

TEST_F(MirroredTableTest, damage_to_both_copies_is_refused_and_nothing_is_changed) {
  const auto first = first_->content;
  const auto second = second_->content;
  Status status;
  first_->damaged_at = chunk_key(1, 5);
  second_->damaged_at = chunk_key(1, 7);
  ASSERT_TRUE(open().is_ok());
  (void)read_all(*table_, &status);
  EXPECT_EQ(status.code(), Code::kDamaged);

  // Each has what the other lacks: all can be read, but nothing is made from half a copy.
  second_->damaged_at = chunk_key(1, 2);
  ASSERT_TRUE(open().is_ok());
  (void)read_all(*table_, &status);
  EXPECT_TRUE(status.is_ok());
  EXPECT_EQ(table_->commit({}).code(), Code::kDamaged);

  first_->damaged = second_->damaged = true;
  EXPECT_EQ(open().code(), Code::kDamaged);
  EXPECT_EQ(first_->content, first);
  EXPECT_EQ(second_->content, second);
}

TEST_F(MirroredTableTest, a_crash_at_any_commit_of_the_repair_is_repaired_again) {
  for (uint64_t i = 11; i <= 60000; i += 1) {  // several pieces
    TableBatch batch;
    for (const uint64_t end = i + 5000; i < end; ++i) batch.put(chunk_key(2, i), "x");
    ASSERT_TRUE(table_->commit(batch).is_ok());
  }
  const auto good = first_->content;
  uint64_t crashes = 0;
  for (const bool behind : {false, true}) {
    for (auto* hurt : {&first_, &second_}) {
      for (uint64_t commits = 0;; ++commits) {
        first_->content = second_->content = good;
        if (behind) {  // by one commit: the newest mark is the highest
          (*hurt)->content.erase(std::prev((*hurt)->content.end()));
          (*hurt)->content.erase(chunk_key(2, 20000));
        } else {
          (*hurt)->damaged = true;
        }
        ASSERT_TRUE(open().is_ok());
        Status status;
        const Content seen = read_all(*table_, &status);
        ASSERT_TRUE(status.is_ok());
        (*hurt)->commits_left = commits;  // the crash
        (void)table_->commit({});
        const bool crashed = (*hurt)->dead;
        (*hurt)->dead = false;
        (*hurt)->commits_left = UINT64_MAX;
        ASSERT_TRUE(open().is_ok());
        EXPECT_EQ(read_all(*table_, &status), seen) << commits;
        ASSERT_TRUE(status.is_ok() && table_->commit({}).is_ok());
        ASSERT_EQ(first_->content, second_->content) << commits;
        if (!crashed) break;
        ++crashes;
      }
    }
  }
  EXPECT_GE(crashes, 15u);
}

TEST_F(MirroredTableTest, a_copy_that_fails_in_service_is_given_up_and_made_anew_at_the_next_open) {
  for (auto* failing : {&first_, &second_}) {
    const uint64_t last = open_and_commit() + 1;
    (*failing)->fail_commits = true;
    ASSERT_TRUE(table_->commit(numbered(last + 1)).is_ok());
    (*failing)->fail_commits = false;
    ASSERT_TRUE(table_->commit(numbered(last + 2)).is_ok());
    Status status;
    EXPECT_EQ(read_all(*table_, &status).at(chunk_key(1, 1000000)),
              "last is " + std::to_string(last + 2));
    EXPECT_EQ(open_and_commit(), last + 2);
  }
}

TEST_F(MirroredTableTest, a_commit_that_neither_copy_takes_is_an_error_and_harms_neither) {
  first_->fail_commits = second_->fail_commits = true;
  EXPECT_EQ(table_->commit(numbered(11)).code(), Code::kIo);
  first_->fail_commits = second_->fail_commits = false;
  EXPECT_EQ(open_and_commit(), 10u);
}

TEST_F(MirroredTableTest, verify_tells_damage_and_the_next_open_mends_it) {
  EXPECT_TRUE(table_->verify().is_ok());
  second_->damaged_at = chunk_key(1, 3);
  EXPECT_EQ(table_->verify().code(), Code::kDamaged);
  EXPECT_EQ(table_->verify().code(), Code::kDamaged) << "until it is mended";
  ASSERT_TRUE(table_->commit(numbered(11)).is_ok());
  EXPECT_EQ(open_and_commit(), 11u);
  EXPECT_TRUE(table_->verify().is_ok());
}

TEST_F(MirroredTableTest, more_commits_than_marks) {
  for (uint64_t i = 11; i <= 2 * kCommitMarks + 5; ++i)
    ASSERT_TRUE(table_->commit(numbered(i)).is_ok());
  EXPECT_EQ(open_and_commit(), 2 * kCommitMarks + 5);
}

// --- RocksDB ---

class RocksdbTest : public ::testing::Test {
 protected:
  RocksdbTest() {
    log::set_level("off");
    std::string name = (std::filesystem::temp_directory_path() / "cvol-table-XXXXXX").string();
    EXPECT_NE(mkdtemp(name.data()), nullptr);
    folder_ = name;
  }
  ~RocksdbTest() override {
    table_.reset();
    std::filesystem::remove_all(folder_);
  }
  void create(uint64_t commits) {
    Result<std::unique_ptr<Table>> made = MirroredTable::create(open_rocksdb_table, path());
    ASSERT_TRUE(made) << made.message();
    table_ = std::move(*made);
    for (uint64_t i = 1; i <= commits; ++i) ASSERT_TRUE(table_->commit(numbered(i)).is_ok());
  }
  Status open() {
    table_.reset();
    Result<std::unique_ptr<Table>> opened = MirroredTable::open(open_rocksdb_table, path());
    if (opened) table_ = std::move(*opened);
    return opened.status();
  }
  std::string path() const { return (folder_ / "table").string(); }
  // Files of one copy whose names end so.
  std::vector<std::filesystem::path> files(const std::string& copy, const std::string& end) {
    std::vector<std::filesystem::path> found;
    for (const auto& entry : std::filesystem::directory_iterator(folder_ / copy)) {
      if (entry.path().filename().string().ends_with(end)) found.push_back(entry.path());
    }
    return found;
  }
  static void flip(const std::filesystem::path& file, uint64_t offset) {
    std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
    stream.seekg(static_cast<std::streamoff>(offset));
    const int byte = stream.get();
    stream.seekp(static_cast<std::streamoff>(offset));
    stream.put(static_cast<char>(byte ^ 16));
  }

  std::filesystem::path folder_;
  std::unique_ptr<Table> table_;
};

TEST_F(RocksdbTest, commits_are_there_after_opening_again) {
  create(600);  // and a flush
  Status status;
  const Content before = read_all(*table_, &status);
  EXPECT_EQ(before.size(), 602u);
  ASSERT_TRUE(open().is_ok());
  EXPECT_EQ(read_all(*table_, &status), before);
}

TEST_F(RocksdbTest, a_range_scan_begins_after_its_key) {
  create(20);
  std::vector<std::string> keys;
  ASSERT_TRUE(table_
                  ->scan_range(chunk_prefix(1), chunk_key(1, 7),
                               [&](std::string_view key, std::string_view) {
                                 keys.emplace_back(key);
                                 return Status::ok();
                               })
                  .is_ok());
  ASSERT_EQ(keys.size(), 14u);
  EXPECT_EQ(keys.front(), chunk_key(1, 8));
}

TEST_F(RocksdbTest, verify_finds_damage_under_an_open_table) {
  create(600);
  EXPECT_TRUE(table_->verify().is_ok()) << table_->verify().message();
  for (const char* end : {".sst", "CURRENT"}) {
    const std::vector<std::filesystem::path> found = files("table2", end);
    ASSERT_FALSE(found.empty()) << end;
    flip(found.front(), 5);
    EXPECT_EQ(table_->verify().code(), Code::kDamaged) << end;
    Status status;
    EXPECT_EQ(read_all(*table_, &status).size(), 602u);
    ASSERT_TRUE(table_->commit({}).is_ok());
    ASSERT_TRUE(open().is_ok());
    ASSERT_TRUE(table_->commit({}).is_ok());
    EXPECT_TRUE(table_->verify().is_ok()) << "mended";
  }
}

TEST_F(RocksdbTest, a_scan_goes_on_in_the_other_copy_where_a_table_file_is_damaged) {
  create(600);
  Status status;
  const Content before = read_all(*table_, &status);
  table_.reset();
  const std::vector<std::filesystem::path> found = files("table", ".sst");
  ASSERT_FALSE(found.empty());
  flip(found.front(), std::filesystem::file_size(found.front()) / 3);  // among the chunks
  ASSERT_TRUE(open().is_ok());
  EXPECT_EQ(read_all(*table_, &status), before);
  EXPECT_TRUE(status.is_ok()) << status.message();
  ASSERT_TRUE(table_->commit({}).is_ok());
  EXPECT_TRUE(table_->verify().is_ok()) << "made anew";
}

TEST_F(RocksdbTest, verify_runs_beside_commits_and_scans) {
  create(10);
  std::atomic<bool> stop = false;
  uint64_t verified = 0;
  std::thread scrub([&] {
    do {
      const Status status = table_->verify();
      EXPECT_TRUE(status.is_ok()) << status.message();
      ++verified;
    } while (!stop);
  });
  for (uint64_t i = 11; i <= 700; ++i) {  // flushes and compactions come in between
    EXPECT_TRUE(table_->commit(numbered(i)).is_ok());
    if (i % 100 != 0) continue;
    Status status;
    EXPECT_EQ(read_all(*table_, &status).size(), i + 2);
  }
  stop = true;
  scrub.join();
  EXPECT_GT(verified, 2u);
}

TEST_F(RocksdbTest, a_copy_whose_log_lost_its_tail_is_not_believed) {
  create(40);
  Status status;
  const Content before = read_all(*table_, &status);
  table_.reset();
  const std::vector<std::filesystem::path> logs = files("table", ".log");
  ASSERT_EQ(logs.size(), 1u);
  std::filesystem::resize_file(logs[0], std::filesystem::file_size(logs[0]) / 2);
  ASSERT_TRUE(open().is_ok());
  EXPECT_EQ(read_all(*table_, &status), before);
  ASSERT_TRUE(table_->commit({}).is_ok());
  std::filesystem::remove_all(folder_ / "table2");
  ASSERT_TRUE(open().is_ok());
  EXPECT_EQ(read_all(*table_, &status), before);
}

}  // namespace
}  // namespace cvol::store
