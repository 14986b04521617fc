// What is particular to the embedded store; the rest is in store_contract_test.cpp.
#include "volumed/meta/rocksdb_store.h"

#include <gtest/gtest.h>
#include <rocksdb/db.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

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

TEST_F(RocksDbStoreTest, ForgetsLeasedKeysOfAnEarlierProcess) {
  put("/alive/n1", "yes", *store_->grant_lease(1h));
  put("/a", "stays");
  reopen();
  EXPECT_EQ(value("/alive/n1"), "(none)");
  EXPECT_EQ(value("/a"), "stays");
}

// On a full file system a file for RocksDB's own words cannot be written, which ends the process.
TEST_F(RocksDbStoreTest, KeepsNoFileForWhatRocksDbSays) {
  put("/a", "one");
  reopen();
  EXPECT_FALSE(std::filesystem::exists(path_ + "/LOG"));
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
