// Three members of etcd, one of which is killed or paused.
#include <gtest/gtest.h>

#include "tests/unit/meta/etcd_cluster.h"

namespace cvol::meta {
namespace {

class EtcdFailoverTest : public testing::Test {
 protected:
  EtcdFailoverTest() : cluster_(3) {}

  // The defaults: they are what is tested.
  std::unique_ptr<MetadataStore> open(std::vector<std::string> endpoints) {
    EtcdOptions options;
    options.endpoints = std::move(endpoints);
    return open_or_die(options);
  }
  static std::string value(MetadataStore& store, const std::string& key) {
    Result<std::optional<Entry>> entry = std::optional<Entry>();
    EXPECT_TRUE(eventually([&] {
      entry = store.get(key);
      return entry.is_ok();
    })) << entry.message();
    return entry && *entry ? (*entry)->value : "(none)";
  }

  EtcdCluster cluster_;
};

TEST_F(EtcdFailoverTest, GoesOnWhenTheMemberInUseIsKilled) {
  auto store = open(cluster_.endpoints());
  commit_until_answered(*store, {{}, {{"/a", "one", 0}}});
  auto lease = store->grant_lease(std::chrono::minutes(1));
  cluster_.kill(0);
  EXPECT_EQ(value(*store, "/a"), "one");
  commit_until_answered(*store, {{}, {{"/a", "two", 0}}});
  EXPECT_EQ(value(*store, "/a"), "two");
  ASSERT_TRUE(lease.is_ok()) << lease.message();
  EXPECT_TRUE(eventually([&] { return store->keep_alive(*lease).is_ok(); }));
}

TEST_F(EtcdFailoverTest, GoesOnWhenTheLeaderIsPaused) {
  const int leader = cluster_.leader();
  auto store = open(cluster_.endpoints(leader));
  commit_until_answered(*store, {{}, {{"/a", "one", 0}}});
  cluster_.pause(leader);
  EXPECT_EQ(value(*store, "/a"), "one");
  commit_until_answered(*store, {{}, {{"/a", "two", 0}}});
  cluster_.resume(leader);
  EXPECT_EQ(value(*store, "/a"), "two");
  // The old leader, asked alone: it has to find the new one before it answers.
  EXPECT_EQ(value(*open({cluster_.endpoint(leader)}), "/a"), "two");
}

TEST_F(EtcdFailoverTest, WatchesElsewhereWhenTheMemberInUseIsPaused) {
  auto store = open(cluster_.endpoints(0));
  Recorder recorder;
  auto watch = store->watch("/a/", recorder.callback());
  ASSERT_TRUE(watch.is_ok()) << watch.message();
  auto writer = open({cluster_.endpoint(1), cluster_.endpoint(2)});
  commit_until_answered(*writer, {{{"/a/1", 0}}, {{"/a/1", "one", 0}}});
  ASSERT_EQ(recorder.await(1).size(), 1u);
  cluster_.pause(0);
  commit_until_answered(*writer, {{{"/a/2", 0}}, {{"/a/2", "two", 0}}});
  const auto events = recorder.await(2);
  cluster_.resume(0);
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[1].value, "two");
}

}  // namespace
}  // namespace cvol::meta
