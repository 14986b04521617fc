#include "volumed/meta/rocksdb_store.h"

#include <gtest/gtest.h>
#include <rocksdb/db.h>

#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <thread>

namespace cvol::meta {
namespace {

using namespace std::chrono_literals;

class RocksDbStoreTest : public testing::Test {
 protected:
  void SetUp() override {
    char folder[] = "/tmp/cvol-meta-XXXXXX";
    ASSERT_NE(::mkdtemp(folder), nullptr);
    folder_ = folder;
    path_ = folder_ + "/meta";
    reopen();
  }
  void TearDown() override {
    store_.reset();
    std::filesystem::remove_all(folder_);
  }
  void reopen() {
    store_.reset();
    auto opened = open_rocksdb_store(path_);
    ASSERT_TRUE(opened.is_ok()) << opened.message();
    store_ = std::move(*opened);
  }
  CommitResult put(const std::string& key, const std::string& value, LeaseId lease = 0) {
    auto done = store_->commit({{}, {{key, value, lease}}});
    EXPECT_TRUE(done.is_ok()) << done.message();
    return *done;
  }
  std::string value(const std::string& key) {
    auto entry = store_->get(key);
    EXPECT_TRUE(entry.is_ok()) << entry.message();
    return *entry ? (*entry)->value : "(none)";
  }

  std::string folder_;
  std::string path_;
  std::unique_ptr<MetadataStore> store_;
};

TEST_F(RocksDbStoreTest, KeepsEntriesAndRevisionsAcrossReopening) {
  put("/a/1", "one");
  const Revision second = put("/a/2", "two").revision;
  reopen();
  EXPECT_EQ(value("/a/1"), "one");
  auto entries = store_->list("/a/");
  ASSERT_TRUE(entries.is_ok());
  ASSERT_EQ(entries->size(), 2u);
  EXPECT_EQ((*entries)[1].revision, second);
  EXPECT_GT(put("/a/3", "three").revision, second);
}

TEST_F(RocksDbStoreTest, ListsOnlyThePrefix) {
  put("/a/1", "");
  put("/ab", "");
  put("/b", "");
  EXPECT_EQ(store_->list("/a/")->size(), 1u);
  EXPECT_EQ(store_->list("/a")->size(), 2u);
}

TEST_F(RocksDbStoreTest, CommitsOnlyIfEveryConditionHolds) {
  const Revision first = put("/a", "one").revision;
  auto fresh = store_->commit({{{"/a", first}, {"/b", 0}}, {{"/a", "two", 0}, {"/b", "new", 0}}});
  ASSERT_TRUE(fresh.is_ok());
  EXPECT_TRUE(fresh->applied);
  auto stale = store_->commit({{{"/a", first}}, {{"/a", "three", 0}, {"/b", {}, 0}}});
  ASSERT_TRUE(stale.is_ok());
  EXPECT_FALSE(stale->applied);
  EXPECT_EQ(value("/a"), "two");
  EXPECT_EQ(value("/b"), "new");
}

TEST_F(RocksDbStoreTest, LetsOneOfManyRacersWin) {
  std::atomic<int> won = 0;
  std::vector<std::thread> racers;
  for (int i = 0; i < 8; ++i) {
    racers.emplace_back([&, i] {
      auto done = store_->commit({{{"/name", 0}}, {{"/name", std::to_string(i), 0}}});
      if (done && done->applied) ++won;
    });
  }
  for (auto& racer : racers) racer.join();
  EXPECT_EQ(won, 1);
}

TEST_F(RocksDbStoreTest, TellsWatchersWhatHappenedInOrder) {
  std::mutex mutex;
  std::condition_variable seen;
  std::vector<WatchEvent> events;
  auto watch = store_->watch("/a/", [&](const std::vector<WatchEvent>& batch) {
    std::lock_guard lock(mutex);
    events.insert(events.end(), batch.begin(), batch.end());
    seen.notify_all();
  });
  ASSERT_TRUE(watch.is_ok());
  put("/a/1", "one");
  put("/b", "not watched");
  ASSERT_TRUE(store_->commit({{}, {{"/a/1", {}, 0}}}).is_ok());
  std::unique_lock lock(mutex);
  ASSERT_TRUE(seen.wait_for(lock, 5s, [&] { return events.size() == 2; }));
  EXPECT_EQ(events[0].value, "one");
  EXPECT_FALSE(events[1].value.has_value());
  EXPECT_LT(events[0].revision, events[1].revision);
}

TEST_F(RocksDbStoreTest, EndsAKeyWithItsLease) {
  auto lease = store_->grant_lease(50ms);
  ASSERT_TRUE(lease.is_ok());
  put("/alive/n1", "yes", *lease);
  EXPECT_EQ(value("/alive/n1"), "yes");
  for (int i = 0; i < 100 && value("/alive/n1") != "(none)"; ++i) std::this_thread::sleep_for(20ms);
  EXPECT_EQ(value("/alive/n1"), "(none)");
  EXPECT_EQ(store_->keep_alive(*lease).code(), Code::kNotFound);
  EXPECT_EQ(store_->commit({{}, {{"/alive/n1", "late", *lease}}}).code(), Code::kNotFound);
}

TEST_F(RocksDbStoreTest, KeepsALeaseThatIsKeptAlive) {
  auto lease = store_->grant_lease(300ms);
  put("/alive/n1", "yes", *lease);
  for (int i = 0; i < 5; ++i) {
    std::this_thread::sleep_for(100ms);
    EXPECT_TRUE(store_->keep_alive(*lease).is_ok());
  }
  EXPECT_EQ(value("/alive/n1"), "yes");
  EXPECT_TRUE(store_->revoke_lease(*lease).is_ok());
  EXPECT_EQ(value("/alive/n1"), "(none)");
}

TEST_F(RocksDbStoreTest, ForgetsLeasedKeysOfAnEarlierProcess) {
  put("/alive/n1", "yes", *store_->grant_lease(1h));
  put("/a", "stays");
  reopen();
  EXPECT_EQ(value("/alive/n1"), "(none)");
  EXPECT_EQ(value("/a"), "stays");
}

TEST_F(RocksDbStoreTest, RefusesASecondOpening) {
  auto second = open_rocksdb_store(path_);
  EXPECT_EQ(second.code(), Code::kBusy) << second.message();
}

TEST_F(RocksDbStoreTest, RefusesANewerFormat) {
  store_.reset();
  rocksdb::DB* db = nullptr;
  ASSERT_TRUE(rocksdb::DB::Open({}, path_, &db).ok());
  ASSERT_TRUE(db->Put({}, "mformat_version", "2").ok());
  delete db;
  auto opened = open_rocksdb_store(path_);
  EXPECT_EQ(opened.code(), Code::kUnsupported);
  EXPECT_NE(opened.message().find(path_), std::string::npos);
}

// The newest write-ahead log.
std::filesystem::path newest_log(const std::string& path) {
  std::filesystem::path newest;
  for (const auto& file : std::filesystem::directory_iterator(path)) {
    if (file.path().extension() == ".log" && file.path() > newest) newest = file.path();
  }
  return newest;
}

TEST_F(RocksDbStoreTest, CutsOffATornLastWrite) {
  put("/a", "one");
  put("/b", "two");
  store_.reset();
  const auto log = newest_log(path_);
  std::filesystem::resize_file(log, std::filesystem::file_size(log) - 3);
  reopen();
  EXPECT_EQ(value("/a"), "one");
  EXPECT_EQ(value("/b"), "(none)");
}

TEST_F(RocksDbStoreTest, RefusesDamageInTheMiddleAndNamesThePath) {
  for (int i = 0; i < 100; ++i) put("/a/" + std::to_string(i), std::string(500, 'x'));
  store_.reset();
  {
    std::fstream file(newest_log(path_), std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(2000);
    file.write("garbage garbage", 15);
  }
  auto opened = open_rocksdb_store(path_);
  EXPECT_EQ(opened.code(), Code::kDamaged) << opened.message();
  EXPECT_NE(opened.message().find(path_), std::string::npos);
}

}  // namespace
}  // namespace cvol::meta
