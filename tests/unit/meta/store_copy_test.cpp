// The copy of an embedded store's records, and what is made of it.
#include "volumed/meta/store_copy.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "volumed/meta/rocksdb_store.h"

namespace cvol::meta {
namespace {

class StoreCopyTest : public testing::Test {
 protected:
  void SetUp() override {
    char folder[] = "/tmp/cvol-copy-XXXXXX";
    ASSERT_NE(::mkdtemp(folder), nullptr);
    folder_ = folder;
    path_ = folder_ + "/metadata.copy";
    open("meta");
  }
  void TearDown() override {
    store_.reset();
    std::filesystem::remove_all(folder_);
  }
  void open(const std::string& name) {
    store_.reset();
    auto opened = open_rocksdb_store(folder_ + "/" + name);
    ASSERT_TRUE(opened.is_ok()) << opened.message();
    store_ = std::move(*opened);
  }
  void put(const std::string& key, const std::string& value) {
    ASSERT_TRUE(store_->commit({{}, {{key, value, 0}}}).is_ok());
  }
  std::string value(const std::string& key) {
    auto entry = store_->get(key);
    EXPECT_TRUE(entry.is_ok()) << entry.message();
    return entry.is_ok() && *entry ? (*entry)->value : "(none)";
  }
  // 200 volumes, the cluster's record, and one that is only of this moment.
  void fill() {
    put(keys_.cluster(), "c");
    put(keys_.alive("n"), "lives");
    for (int i = 0; i < 200; ++i) put(keys_.volume(std::to_string(i)), std::string(5000, 'v'));
  }

  Keys keys_{"default"};
  std::string folder_;
  std::string path_;
  std::unique_ptr<MetadataStore> store_;
};

TEST_F(StoreCopyTest, BringsAllRecordsIntoAnEmptyStore) {
  fill();
  ASSERT_TRUE(write_store_copy(*store_, keys_, path_).is_ok());
  open("other");
  auto restored = restore_store_copy(*store_, keys_, path_);
  ASSERT_TRUE(restored.is_ok()) << restored.message();
  EXPECT_EQ(*restored, 201u);
  EXPECT_EQ(value(keys_.cluster()), "c");
  EXPECT_EQ(value(keys_.volume("199")), std::string(5000, 'v'));
  EXPECT_EQ(value(keys_.alive("n")), "(none)");
}

TEST_F(StoreCopyTest, LeavesAStoreThatHasRecordsAndOneWithoutACopy) {
  EXPECT_EQ(*restore_store_copy(*store_, keys_, path_), 0u);
  fill();
  ASSERT_TRUE(write_store_copy(*store_, keys_, path_).is_ok());
  put(keys_.volume("1"), "newer");
  EXPECT_EQ(*restore_store_copy(*store_, keys_, path_), 0u);
  EXPECT_EQ(value(keys_.volume("1")), "newer");
}

TEST_F(StoreCopyTest, ARestoreThatWasCutShortIsMadeAgain) {
  fill();
  ASSERT_TRUE(write_store_copy(*store_, keys_, path_).is_ok());
  open("other");
  put(keys_.volume("1"), std::string(5000, 'v'));  // it came so far
  auto restored = restore_store_copy(*store_, keys_, path_);
  ASSERT_TRUE(restored.is_ok()) << restored.message();
  EXPECT_EQ(*restored, 201u);
}

TEST_F(StoreCopyTest, RefusesEveryDamagedByteAndLength) {
  put(keys_.cluster(), "c");
  put(keys_.volume("1"), "v");
  ASSERT_TRUE(write_store_copy(*store_, keys_, path_).is_ok());
  open("other");
  std::ifstream in(path_, std::ios::binary);
  const std::string whole((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  const auto refused = [&](const std::string& text) {
    std::ofstream(path_, std::ios::binary | std::ios::trunc) << text;
    const auto restored = restore_store_copy(*store_, keys_, path_);
    return !restored.is_ok() && value(keys_.cluster()) == "(none)";
  };
  for (std::size_t at = 0; at < whole.size(); ++at) {
    std::string odd = whole;
    odd[at] = static_cast<char>(odd[at] ^ 4);
    EXPECT_TRUE(refused(odd)) << "byte " << at;
    EXPECT_TRUE(refused(whole.substr(0, at))) << "length " << at;
  }
  EXPECT_TRUE(refused(whole + "x"));
}

}  // namespace
}  // namespace cvol::meta
