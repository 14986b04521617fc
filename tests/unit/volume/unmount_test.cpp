// Who uses a mount, when it ends, and what is finished later.
#include <atomic>
#include <functional>
#include <optional>

#include "manager_fixture.h"
#include "volumed/volume/mount_users.h"

namespace cvol::volume {
namespace {

constexpr char kOther[] = "sleep (7) in another mount namespace";

// A store that takes no changes while it is away.
class AwayStore final : public meta::MetadataStore {
 public:
  AwayStore(std::unique_ptr<meta::MetadataStore> store, std::atomic<bool>& away)
      : store_(std::move(store)), away_(away) {}
  Result<std::optional<meta::Entry>> get(std::string_view key) override { return store_->get(key); }
  Result<std::vector<meta::Entry>> list(std::string_view prefix) override {
    return store_->list(prefix);
  }
  Result<meta::CommitResult> commit(const meta::Transaction& transaction) override {
    if (away_) return Status(Code::kUnavailable, "the store is away");
    return store_->commit(transaction);
  }
  Result<std::unique_ptr<meta::Watch>> watch(std::string prefix,
                                             meta::WatchCallback callback) override {
    return store_->watch(std::move(prefix), std::move(callback));
  }
  Result<meta::LeaseId> grant_lease(std::chrono::milliseconds time) override {
    return store_->grant_lease(time);
  }
  Status keep_alive(meta::LeaseId lease) override { return store_->keep_alive(lease); }
  Status revoke_lease(meta::LeaseId lease) override { return store_->revoke_lease(lease); }

 private:
  std::unique_ptr<meta::MetadataStore> store_;
  std::atomic<bool>& away_;
};

class UnmountTest : public VolumeManagerTest {
 protected:
  void adjust(ManagerOptions& options) override {
    options.mount_times.finish = std::chrono::milliseconds(10);
    options.mount_times.doubt = std::chrono::milliseconds(100);
    options.docker_knows = [this](const std::string&) {
      const Answer answer = docker_;
      return answer == kAway ? std::nullopt : std::optional<bool>(answer == kYes);
    };
  }
  std::unique_ptr<meta::MetadataStore> wrap(std::unique_ptr<meta::MetadataStore> store) override {
    return std::make_unique<AwayStore>(std::move(store), away_);
  }
  static Leave under(const std::string& use) {
    Leave how;
    how.use = use;
    return how;
  }
  static Leave stale() {
    Leave how;
    how.stale = true;
    return how;
  }
  void mount(const std::string& caller, const std::string& use) {
    auto mounted = manager_->mount("a", caller, "", use);
    ASSERT_TRUE(mounted.is_ok()) << mounted.message();
  }
  void unmount(const std::string& caller, const std::string& use) {
    auto gone = manager_->unmount("a", caller, under(use));
    ASSERT_TRUE(gone.is_ok()) << gone.message();
  }
  VolumeState state() { return manager_->get("a")->state; }
  static bool eventually(const std::function<bool()>& holds) {
    for (int i = 0; i < 400 && !holds(); ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    return holds();
  }
  bool becomes(VolumeState wanted) {
    return eventually([&] { return state() == wanted; });
  }
  bool is_settled() {
    return eventually([&] {
      const auto found = manager_->get("a");
      return !found->record.has_mount() && found->record.session().id().empty() &&
             found->waits.empty();
    });
  }

  enum Answer { kAway, kNo, kYes };
  std::atomic<Answer> docker_{kAway};
  std::atomic<bool> away_{false};
};

TEST_F(UnmountTest, MountsUnderOneIdAreCountedAndARepeatedRequestCountsOnce) {
  create("a");
  mount("docker:x", "1");
  host_.set_users("/dev/fake-a", kOther);
  for (const char* use : {"2", "2"}) mount("docker:x", use);
  host_.set_users("/dev/fake-a", "");
  for (const char* use : {"3", "3"}) {
    unmount("docker:x", use);
    EXPECT_EQ(state(), VolumeState::kMounted);
  }
  unmount("docker:x", "4");
  EXPECT_EQ(state(), VolumeState::kAvailable);
  EXPECT_TRUE(manager_->remove("a", false).is_ok());
}

// dockerd was killed, or volumed was away at the Unmount: the container is gone, its id comes
// again.
TEST_F(UnmountTest, AMountWhoseUnmountWasLostCountsOnce) {
  create("a");
  for (const char* use : {"1", "2"}) mount("docker:x", use);
  unmount("docker:x", "3");
  EXPECT_EQ(state(), VolumeState::kAvailable);
}

// A container holds the mount in its namespace while `docker cp` mounts and unmounts under its id.
TEST_F(UnmountTest, ACopyIntoARunningContainerChangesNothing) {
  create("a");
  mount("docker:x", "1");
  host_.set_users("/dev/fake-a", kOther);
  for (int i = 0; i < 2; ++i) {
    mount("docker:x", "m" + std::to_string(i));
    unmount("docker:x", "u" + std::to_string(i));
  }
  EXPECT_EQ(manager_->get("a")->waits, "");
  host_.set_users("/dev/fake-a", "");
  unmount("docker:x", "2");
  EXPECT_EQ(state(), VolumeState::kAvailable);
}

TEST_F(UnmountTest, AnUnmountThatFindsTheDeviceInUseIsFinishedLater) {
  create("a");
  mount("docker:x", "1");
  host_.set_users("/dev/fake-a", kOther);
  unmount("docker:x", "2");
  auto found = manager_->get("a");
  EXPECT_EQ(found->state, VolumeState::kMounted);  // the host's mount did not go
  EXPECT_NE(found->waits.find(kOther), std::string::npos);
  EXPECT_FALSE(manager_->problems().empty());
  EXPECT_FALSE(manager_->remove("a", false).is_ok());
  host_.set_users("/dev/fake-a", "");
  EXPECT_TRUE(becomes(VolumeState::kAvailable));
  EXPECT_TRUE(is_settled());
  EXPECT_TRUE(host_.attached.empty());
  EXPECT_TRUE(manager_->problems().empty());
}

TEST_F(UnmountTest, WhatIsUnfinishedIsFinishedByTheNextProcess) {
  create("a");
  mount("docker:x", "1");
  host_.set_users("/dev/fake-a", kOther);
  unmount("docker:x", "2");
  start();
  EXPECT_EQ(state(), VolumeState::kMounted);
  host_.set_users("/dev/fake-a", "");
  EXPECT_TRUE(becomes(VolumeState::kAvailable));
}

// dockerd does not ask again: its unmount is noted when the store answers.
TEST_F(UnmountTest, AnUnmountWhileTheStoreIsAwayIsNotedLater) {
  create("a");
  mount("docker:x", "1");
  host_.set_users("/dev/fake-a", kOther);
  mount("docker:x", "2");
  host_.set_users("/dev/fake-a", "");
  away_ = true;
  EXPECT_EQ(manager_->unmount("a", "docker:x").code(), Code::kUnavailable);
  away_ = false;
  create("b");
  ASSERT_TRUE(manager_->mount("a", "docker:x", "", "3").is_ok());
  away_ = true;
  unmount("docker:x", "4");
  EXPECT_FALSE(manager_->mount("a", "docker:y", "", "5").is_ok());
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_EQ(manager_->get("a")->record.mount().caller_ids_size(), 1);
  away_ = false;
  EXPECT_TRUE(is_settled());
  EXPECT_EQ(state(), VolumeState::kAvailable);
}

TEST_F(UnmountTest, ANewMountEndsAnUnmountThatWaits) {
  create("a");
  mount("docker:x", "1");
  host_.set_users("/dev/fake-a", kOther);
  unmount("docker:x", "2");
  mount("docker:y", "3");
  host_.set_users("/dev/fake-a", "");
  std::this_thread::sleep_for(std::chrono::milliseconds(60));
  EXPECT_EQ(state(), VolumeState::kMounted);
  EXPECT_EQ(manager_->get("a")->record.mount().caller_ids_size(), 1);
  unmount("docker:y", "4");
  EXPECT_EQ(state(), VolumeState::kAvailable);
}

TEST_F(UnmountTest, ADeviceThatTheHostHoldsIsDetachedLater) {
  create("a");
  mount("docker:x", "1");
  host_.hold("a", true);
  unmount("docker:x", "2");
  EXPECT_EQ(state(), VolumeState::kAttached);
  EXPECT_FALSE(host_.mounts.contains(folder_ + "/mounts/a"));
  start();
  EXPECT_EQ(state(), VolumeState::kAttached);
  EXPECT_FALSE(manager_->remove("a", false).is_ok());
  host_.hold("a", false);
  EXPECT_TRUE(becomes(VolumeState::kAvailable));
  EXPECT_TRUE(is_settled());
}

TEST_F(UnmountTest, ACallerWhoCanAskAgainIsRefusedAndNothingIsChanged) {
  create("a");
  ASSERT_TRUE(manager_->mount("a", "cli:/mnt", "/mnt").is_ok());
  host_.set_users("/dev/fake-a", kOther);
  const auto refused = manager_->unmount("a", "cli:/mnt");
  EXPECT_EQ(refused.code(), Code::kBusy);
  EXPECT_NE(refused.message().find(kOther), std::string::npos);
  EXPECT_TRUE(host_.mounts.contains("/mnt"));
  EXPECT_EQ(manager_->remove("a", true).code(), Code::kBusy);
  EXPECT_TRUE(host_.mounts.contains("/mnt"));
  EXPECT_EQ(manager_->get("a")->record.mount().caller_ids_size(), 1);
}

TEST_F(UnmountTest, TheMountThatWasNotMadeIsNotTakenBack) {
  create("a");
  mount("docker:x", "1");
  Leave undo;
  undo.undo = "2";
  ASSERT_TRUE(manager_->unmount("a", "docker:x", undo).is_ok());
  EXPECT_EQ(state(), VolumeState::kMounted);
  undo.undo = "1";
  ASSERT_TRUE(manager_->unmount("a", "docker:x", undo).is_ok());
  EXPECT_EQ(state(), VolumeState::kAvailable);
}

TEST_F(UnmountTest, UsersOfAnotherNodesMountAreItsOwn) {
  create("a");
  mount("docker:x", "1");
  edit_record("a", [](v1::VolumeRecord& next) { next.mutable_mount()->set_node_id("other"); });
  start();
  EXPECT_FALSE(manager_->get("a")->mounted_here);
  for (const Leave& how : {Leave(), under("2"), stale()})
    EXPECT_EQ(manager_->unmount("a", "docker:x", how).code(), Code::kFailedPrecondition);
  EXPECT_TRUE(manager_->unmount("a", "docker:never-seen", under("3")).is_ok());
  EXPECT_EQ(manager_->get("a")->record.mount().caller_ids_size(), 1);
}

TEST_F(UnmountTest, AStaleUserGoesOnlyWhenNothingHasTheDevice) {
  create("a");
  for (const char* use : {"1", "2"}) mount("docker:x", use);
  host_.set_users("/dev/fake-a", kOther);
  EXPECT_EQ(manager_->unmount("a", "docker:x", stale()).code(), Code::kFailedPrecondition);
  host_.set_users("/dev/fake-a", "");
  docker_ = kYes;
  EXPECT_EQ(manager_->unmount("a", "docker:x", stale()).code(), Code::kFailedPrecondition);
  docker_ = kAway;  // nobody says that the container is gone
  EXPECT_EQ(manager_->unmount("a", "docker:x", stale()).code(), Code::kFailedPrecondition);
  docker_ = kNo;
  EXPECT_TRUE(manager_->unmount("a", "docker:x", stale()).is_ok());
  EXPECT_EQ(state(), VolumeState::kAvailable);
}

TEST_F(UnmountTest, ALostUserIsDoubtedAndOneThatMayLiveIsKept) {
  create("a");
  mount("docker:x", "1");
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  EXPECT_EQ(state(), VolumeState::kMounted);  // dockerd cannot be asked
  host_.set_users("/dev/fake-a", kOther);
  docker_ = kNo;
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  EXPECT_EQ(state(), VolumeState::kMounted);
  docker_ = kYes;
  host_.set_users("/dev/fake-a", "");
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  EXPECT_EQ(state(), VolumeState::kMounted);
  docker_ = kNo;
  EXPECT_TRUE(becomes(VolumeState::kAvailable));
  EXPECT_TRUE(has_event("volume_user_lost", "a", "docker:x"));
}

TEST_F(UnmountTest, ADeviceThatAUserAttachedStaysHis) {
  create("a");
  ASSERT_TRUE(manager_->attach("a").is_ok());
  mount("docker:x", "1");
  unmount("docker:x", "2");
  EXPECT_EQ(state(), VolumeState::kAttached);
  ASSERT_TRUE(manager_->detach("a").is_ok());
  mount("docker:x", "3");
  unmount("docker:x", "4");
  EXPECT_EQ(state(), VolumeState::kAvailable);
}

}  // namespace
}  // namespace cvol::volume
