#include "volumed/meta/migrate.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "tests/unit/meta/etcd_cluster.h"
#include "volumed/meta/records.h"
#include "volumed/meta/rocksdb_store.h"

namespace cvol::meta {
namespace {

constexpr int kVolumes = 120;  // more than a batch

// Passes everything on, until the commit with this number: it is lost before it arrives, or its
// answer is; and everything after it too, as if the process had died.
class DyingStore final : public MetadataStore {
 public:
  DyingStore(MetadataStore& store, int& commits_left, bool applied)
      : store_(store), commits_left_(commits_left), applied_(applied) {}

  Result<std::optional<Entry>> get(std::string_view key) override {
    if (commits_left_ < 0) return away();
    return store_.get(key);
  }
  Result<std::vector<Entry>> list(std::string_view prefix) override {
    if (commits_left_ < 0) return away();
    return store_.list(prefix);
  }
  Result<CommitResult> commit(const Transaction& transaction) override {
    if (commits_left_ < 0) return away();
    if (--commits_left_ >= 0) return store_.commit(transaction);
    if (applied_) (void)store_.commit(transaction);
    return away();
  }
  Result<std::unique_ptr<Watch>> watch(std::string, WatchCallback) override { return away(); }
  Result<LeaseId> grant_lease(std::chrono::milliseconds) override { return away(); }
  Status keep_alive(LeaseId) override { return away(); }
  Status revoke_lease(LeaseId) override { return away(); }

 private:
  static Status away() { return Status(Code::kUnavailable, "the test has cut it off"); }

  MetadataStore& store_;
  int& commits_left_;  // of both stores together
  const bool applied_;
};

class MigrateTest : public testing::Test {
 protected:
  void SetUp() override {
    char folder[] = "/tmp/cvol-migrate-XXXXXX";
    ASSERT_NE(::mkdtemp(folder), nullptr);
    folder_ = folder;
    from_ = fresh();
    fill(*from_);
  }
  void TearDown() override {
    from_.reset();
    std::filesystem::remove_all(folder_);
  }
  std::unique_ptr<MetadataStore> fresh() {
    auto opened = open_rocksdb_store(folder_ + "/" + std::to_string(++stores_));
    EXPECT_TRUE(opened.is_ok()) << opened.message();
    return std::move(*opened);
  }
  void put(MetadataStore& store, const std::string& key, const std::string& value) {
    EXPECT_TRUE(store.commit({{}, {{key, value, 0}}}).is_ok());
  }
  void put_cluster(MetadataStore& store, const std::string& id) {
    v1::ClusterRecord cluster;
    cluster.set_id(id);
    put(store, keys_.cluster(), encode_record(cluster));
  }
  void fill(MetadataStore& store) {
    put_cluster(store, "c1");
    Transaction volumes;
    for (int i = 0; i < kVolumes; ++i) {
      volumes.changes.push_back({keys_.volume(std::to_string(i)), "v" + std::to_string(i), 0});
    }
    EXPECT_TRUE(store.commit(volumes).is_ok());
    put(store, keys_.node("n1"), "node");
    put(store, "/cvol/v1/other/cluster", "of another cluster");
    EXPECT_TRUE(
        store.commit({{}, {{keys_.alive("n1"), "yes", *store.grant_lease(std::chrono::hours(1))}}})
            .is_ok());
  }
  bool has(MetadataStore& store, const std::string& key) { return (*store.get(key)).has_value(); }
  bool usable(MetadataStore& store) {
    return check_not_migrating(store, keys_).is_ok() && has(store, keys_.cluster());
  }
  // The target has all of it, and alone.
  void expect_migrated(MetadataStore& to) {
    EXPECT_TRUE(usable(to));
    EXPECT_FALSE(usable(*from_));
    EXPECT_EQ(to.list(keys_.root())->size(), static_cast<std::size_t>(kVolumes + 2));
    EXPECT_EQ((*to.get(keys_.volume("7")))->value, "v7");
    EXPECT_FALSE(has(to, keys_.alive("n1")));
    EXPECT_FALSE(has(to, "/cvol/v1/other/cluster"));
  }

  const Keys keys_{"default"};
  const Migration migration_{"default", "rocksdb:/old", "etcd:new:2379"};
  std::string folder_;
  int stores_ = 0;
  std::unique_ptr<MetadataStore> from_;
};

TEST_F(MigrateTest, MovesAllRecordsButLeases) {
  auto to = fresh();
  const Status done = migrate_store(*from_, *to, migration_);
  ASSERT_TRUE(done.is_ok()) << done.message();
  expect_migrated(*to);
  const Status old = check_not_migrating(*from_, keys_);
  EXPECT_EQ(old.code(), Code::kFailedPrecondition);
  EXPECT_NE(old.message().find("etcd:new:2379"), std::string::npos);
}

TEST_F(MigrateTest, MovesIntoEtcd) {
  EtcdCluster cluster(1);
  auto to = open_or_die(patient_options(cluster.endpoints()));
  const Status done = migrate_store(*from_, *to, migration_);
  ASSERT_TRUE(done.is_ok()) << done.message();
  expect_migrated(*to);
}

TEST_F(MigrateTest, IsDoneOnceAndLeavesLaterChangesAlone) {
  auto to = fresh();
  ASSERT_TRUE(migrate_store(*from_, *to, migration_).is_ok());
  put(*to, keys_.volume("7"), "changed");
  EXPECT_TRUE(migrate_store(*from_, *to, migration_).is_ok());
  EXPECT_EQ((*to->get(keys_.volume("7")))->value, "changed");
}

// Cut off at every commit, lost or without an answer: at no moment are both usable, and the next
// run finishes, also if the source was used in between.
TEST_F(MigrateTest, NeverLeavesTwoUsableStoresAndFinishesAfterACrash) {
  for (int commits = 0;; ++commits) {
    bool crashed = false;
    for (const bool applied : {false, true}) {
      from_ = fresh();
      fill(*from_);
      auto to = fresh();
      int left = commits;
      DyingStore dying_from(*from_, left, applied);
      DyingStore dying_to(*to, left, applied);
      crashed = !migrate_store(dying_from, dying_to, migration_).is_ok();
      EXPECT_FALSE(usable(*from_) && usable(*to)) << "commit " << commits;
      if (usable(*from_)) {
        EXPECT_TRUE(from_->commit({{}, {{keys_.volume("8"), {}, 0}}}).is_ok());
        put(*from_, keys_.volume("new"), "later");
      }
      const Status again = migrate_store(*from_, *to, migration_);
      EXPECT_TRUE(again.is_ok()) << "commit " << commits << ": " << again.message();
      expect_migrated(*to);
    }
    if (!crashed) {
      EXPECT_GT(commits, 5);
      return;
    }
  }
}

TEST_F(MigrateTest, NoticesThatTheSourceChangesMeanwhile) {
  auto to = fresh();
  // Changes the source when it is marked.
  class Changing final : public MetadataStore {
   public:
    Changing(MetadataStore& store, const Keys& keys) : store_(store), keys_(keys) {}
    Result<std::optional<Entry>> get(std::string_view key) override { return store_.get(key); }
    Result<std::vector<Entry>> list(std::string_view prefix) override {
      return store_.list(prefix);
    }
    Result<CommitResult> commit(const Transaction& transaction) override {
      EXPECT_TRUE(store_.commit({{}, {{keys_.volume("7"), "changed", 0}}}).is_ok());
      return store_.commit(transaction);
    }
    Result<std::unique_ptr<Watch>> watch(std::string prefix, WatchCallback callback) override {
      return store_.watch(std::move(prefix), std::move(callback));
    }
    Result<LeaseId> grant_lease(std::chrono::milliseconds time) override {
      return store_.grant_lease(time);
    }
    Status keep_alive(LeaseId lease) override { return store_.keep_alive(lease); }
    Status revoke_lease(LeaseId lease) override { return store_.revoke_lease(lease); }

   private:
    MetadataStore& store_;
    const Keys& keys_;
  } changing(*from_, keys_);
  EXPECT_EQ(migrate_store(changing, *to, migration_).code(), Code::kBusy);
  EXPECT_TRUE(usable(*from_));
  EXPECT_FALSE(usable(*to));
  put(*from_, keys_.volume("7"), "v7");
  EXPECT_TRUE(migrate_store(*from_, *to, migration_).is_ok());
  expect_migrated(*to);
}

TEST_F(MigrateTest, RefusesATargetWithAnotherClusterOrForeignRecords) {
  auto other = fresh();
  put_cluster(*other, "c2");
  EXPECT_EQ(migrate_store(*from_, *other, migration_).code(), Code::kAlreadyExists);
  auto same = fresh();
  put_cluster(*same, "c1");
  EXPECT_EQ(migrate_store(*from_, *same, migration_).code(), Code::kAlreadyExists);
  auto foreign = fresh();
  put(*foreign, keys_.volume("x"), "whose?");
  EXPECT_EQ(migrate_store(*from_, *foreign, migration_).code(), Code::kAlreadyExists);
  EXPECT_TRUE(usable(*from_));
  EXPECT_EQ(other->list("")->size(), 1u);
  EXPECT_EQ(foreign->list("")->size(), 1u);
}

TEST_F(MigrateTest, RefusesASourceThatHasNoClusterOrHasMovedElsewhere) {
  auto to = fresh();
  auto empty = fresh();
  EXPECT_EQ(migrate_store(*empty, *to, migration_).code(), Code::kNotFound);
  ASSERT_TRUE(migrate_store(*from_, *to, migration_).is_ok());
  auto third = fresh();
  EXPECT_EQ(migrate_store(*from_, *third, {"default", "rocksdb:/old", "etcd:third:1"}).code(),
            Code::kFailedPrecondition);
  // The name leads to an empty store now: the old records are out of date.
  EXPECT_EQ(migrate_store(*from_, *third, migration_).code(), Code::kFailedPrecondition);
  EXPECT_TRUE(third->list("")->empty());
}

}  // namespace
}  // namespace cvol::meta
