// What every metadata store does, whichever backend.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <thread>

#include "tests/unit/meta/etcd_cluster.h"
#include "volumed/meta/open_store.h"

namespace cvol::meta {
namespace {

using namespace std::chrono_literals;

class MetadataStoreTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (GetParam() == std::string("etcd")) {
      cluster_ = std::make_unique<EtcdCluster>(1);
      store_ = open_or_die(patient_options(cluster_->endpoints()));
      return;
    }
    char folder[] = "/tmp/cvol-meta-XXXXXX";
    ASSERT_NE(::mkdtemp(folder), nullptr);
    folder_ = folder;
    auto opened = open_store("rocksdb:" + folder_ + "/meta");
    ASSERT_TRUE(opened.is_ok()) << opened.message();
    store_ = std::move(*opened);
  }
  void TearDown() override {
    store_.reset();
    if (!folder_.empty()) std::filesystem::remove_all(folder_);
  }
  CommitResult put(const std::string& key, const std::string& value, LeaseId lease = 0) {
    auto done = store_->commit({{}, {{key, value, lease}}});
    EXPECT_TRUE(done.is_ok()) << done.message();
    return done ? *done : CommitResult{};
  }
  std::string value(const std::string& key) {
    auto entry = store_->get(key);
    EXPECT_TRUE(entry.is_ok()) << entry.message();
    return entry && *entry ? (*entry)->value : "(none)";
  }

  std::unique_ptr<EtcdCluster> cluster_;
  std::string folder_;
  std::unique_ptr<MetadataStore> store_;
};

INSTANTIATE_TEST_SUITE_P(Backend, MetadataStoreTest, testing::Values("rocksdb", "etcd"),
                         [](const auto& backend) { return std::string(backend.param); });

TEST_P(MetadataStoreTest, ListsOnlyThePrefixInOrderWithRevisions) {
  const Revision second = put("/a/2", "two").revision;
  put("/a/1", "one");
  put("/ab", "");
  put("/b", "");
  auto entries = store_->list("/a/");
  ASSERT_TRUE(entries.is_ok()) << entries.message();
  ASSERT_EQ(entries->size(), 2u);
  EXPECT_EQ((*entries)[0].value, "one");
  EXPECT_EQ((*entries)[1].key, "/a/2");
  EXPECT_EQ((*entries)[1].revision, second);
  EXPECT_GT((*entries)[0].revision, second);
  EXPECT_EQ(store_->list("/a")->size(), 3u);
  EXPECT_EQ(store_->list("")->size(), 4u);
  EXPECT_EQ(store_->list("/c")->size(), 0u);
}

TEST_P(MetadataStoreTest, CommitsOnlyIfEveryConditionHolds) {
  const Revision first = put("/a", "one").revision;
  auto fresh = store_->commit({{{"/a", first}, {"/b", 0}}, {{"/a", "two", 0}, {"/b", "new", 0}}});
  ASSERT_TRUE(fresh.is_ok());
  EXPECT_TRUE(fresh->applied);
  auto stale = store_->commit({{{"/a", first}}, {{"/a", "three", 0}, {"/b", {}, 0}}});
  ASSERT_TRUE(stale.is_ok());
  EXPECT_FALSE(stale->applied);
  auto exists = store_->commit({{{"/b", 0}}, {{"/b", "newer", 0}}});
  ASSERT_TRUE(exists.is_ok());
  EXPECT_FALSE(exists->applied);
  EXPECT_EQ(value("/a"), "two");
  EXPECT_EQ(value("/b"), "new");
  EXPECT_EQ((*store_->get("/a"))->revision, fresh->revision);
  EXPECT_EQ((*store_->get("/b"))->revision, fresh->revision);
}

TEST_P(MetadataStoreTest, LetsOneOfManyRacersWin) {
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

TEST_P(MetadataStoreTest, TakesATransactionOfAHundredChanges) {
  Transaction transaction;
  for (int i = 0; i < 100; ++i) {
    const std::string key = "/a/" + std::to_string(i);
    transaction.conditions.push_back({key, 0});
    transaction.changes.push_back({key, std::string(5000, 'x'), 0});
  }
  auto done = store_->commit(transaction);
  ASSERT_TRUE(done.is_ok()) << done.message();
  EXPECT_TRUE(done->applied);
  EXPECT_EQ(store_->list("/a/")->size(), 100u);
}

TEST_P(MetadataStoreTest, TellsWatchersWhatHappenedInOrder) {
  put("/a/0", "before");
  Recorder recorder;
  auto watch = store_->watch("/a/", recorder.callback());
  ASSERT_TRUE(watch.is_ok()) << watch.message();
  put("/a/1", "one");
  put("/b", "not watched");
  ASSERT_TRUE(store_->commit({{}, {{"/a/1", {}, 0}, {"/a/2", "two", 0}}}).is_ok());
  const auto events = recorder.await(3);
  ASSERT_EQ(events.size(), 3u);
  EXPECT_EQ(events[0].key, "/a/1");
  EXPECT_EQ(events[0].value, "one");
  EXPECT_FALSE(events[1].value.has_value());
  EXPECT_LT(events[0].revision, events[1].revision);
  EXPECT_EQ(events[1].revision, events[2].revision);
  EXPECT_EQ((*store_->get("/a/2"))->revision, events[2].revision);
}

TEST_P(MetadataStoreTest, EndsAKeyWithItsLeaseAndTellsTheWatch) {
  auto lease = store_->grant_lease(50ms);
  ASSERT_TRUE(lease.is_ok()) << lease.message();
  Recorder recorder;
  auto watch = store_->watch("/alive/", recorder.callback());
  ASSERT_TRUE(watch.is_ok());
  auto done = store_->commit({{}, {{"/alive/n1", "yes", *lease}}});
  if (done) {  // else it has ended already, on a busy machine
    const auto events = recorder.await(2);
    ASSERT_EQ(events.size(), 2u);
    EXPECT_EQ(events[0].value, "yes");
    EXPECT_FALSE(events[1].value.has_value());
  }
  EXPECT_EQ(value("/alive/n1"), "(none)");
  EXPECT_TRUE(eventually([&] { return store_->keep_alive(*lease).code() == Code::kNotFound; }));
  EXPECT_EQ(store_->commit({{}, {{"/alive/n1", "late", *lease}}}).code(), Code::kNotFound);
  EXPECT_EQ(store_->revoke_lease(*lease).code(), Code::kNotFound);
}

TEST_P(MetadataStoreTest, KeepsALeaseThatIsKeptAlive) {
  auto lease = store_->grant_lease(2s);
  ASSERT_TRUE(lease.is_ok()) << lease.message();
  put("/alive/n1", "yes", *lease);
  for (int i = 0; i < 15; ++i) {
    std::this_thread::sleep_for(200ms);
    const Status kept = store_->keep_alive(*lease);
    EXPECT_TRUE(kept.is_ok()) << kept.message();
  }
  EXPECT_EQ(value("/alive/n1"), "yes");
  EXPECT_TRUE(store_->revoke_lease(*lease).is_ok());
  EXPECT_EQ(value("/alive/n1"), "(none)");
}

TEST_P(MetadataStoreTest, KeepsAKeyThatWasTakenOffItsLease) {
  auto lease = store_->grant_lease(1h);
  ASSERT_TRUE(lease.is_ok()) << lease.message();
  put("/a", "leased", *lease);
  put("/a", "for good");
  EXPECT_TRUE(store_->revoke_lease(*lease).is_ok());
  EXPECT_EQ(value("/a"), "for good");
}

}  // namespace
}  // namespace cvol::meta
