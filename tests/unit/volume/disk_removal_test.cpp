// Disks that are taken out of the pool: what has left is closed, so that it can be unmounted.
#include <fstream>

#include "tests/unit/volume/manager_fixture.h"

namespace cvol::volume {
namespace {

namespace fs = std::filesystem;

class DiskRemovalTest : public VolumeManagerTest {
 protected:
  std::string second() const { return folder_ + "/disks/second"; }
  // Larger than the first: volumes go there.
  std::string add_second() {
    store::FormatOptions format;
    format.capacity_bytes = 512 * kMiB;
    format.journal_bytes = 16 * kMiB;
    auto added = manager_->add_disk(second(), format, /*force=*/true);
    EXPECT_TRUE(added.is_ok()) << added.message();
    return added.is_ok() ? added->id : "";
  }
  // Files below `path` that this process has open.
  static std::size_t open_below(const std::string& path) {
    std::size_t count = 0;
    std::error_code ignored;
    for (const auto& entry : fs::directory_iterator("/proc/self/fd", ignored)) {
      const fs::path target = fs::read_symlink(entry.path(), ignored);
      count += target.string().starts_with(path + "/") ? 1 : 0;
    }
    return count;
  }
  uint64_t replicas_on_second() {
    for (const DiskView& view : manager_->disks()) {
      if (view.path == second()) return view.info.replicas;
    }
    return 0;
  }
};

TEST_F(DiskRemovalTest, ADiskThatHasLeftThePoolIsClosed) {
  add_second();
  EXPECT_GT(open_below(second()), 0u);
  auto removed = manager_->remove_disk(second(), {});
  ASSERT_TRUE(removed.is_ok()) << removed.message();
  EXPECT_EQ(open_below(second()), 0u);
  ASSERT_EQ(manager_->disks().size(), 1u);
  EXPECT_TRUE(has_event("disk_removed", second(), "it can be unmounted"));
  EXPECT_EQ(manager_->remove_disk(second(), {}).code(), Code::kNotFound);
  // Its file system may go under a running volumed, and the others serve.
  fs::remove_all(second());
  create("v1");
  start();
  EXPECT_EQ(manager_->disks().size(), 1u);
}

TEST_F(DiskRemovalTest, ADiskThatWasTakenOutIsAddedAgain) {
  const std::string id = add_second();
  ASSERT_TRUE(manager_->remove_disk(second(), {}).is_ok());
  EXPECT_EQ(add_second(), id);
  create("v1");
  EXPECT_EQ(replicas_on_second(), 1u);
  // And another one at its path.
  ASSERT_TRUE(manager_->remove("v1", false).is_ok());
  ASSERT_TRUE(manager_->remove_disk(second(), {}).is_ok());
  fs::remove_all(second());
  EXPECT_NE(add_second(), id);
  create("v1");
  EXPECT_EQ(replicas_on_second(), 1u);
  start();
  EXPECT_EQ(manager_->disks().size(), 2u);
  EXPECT_EQ(replicas_on_second(), 1u);
}

TEST_F(DiskRemovalTest, ADiskThatIsRefusedStaysOpen) {
  add_second();
  create("v1");
  EXPECT_EQ(manager_->remove_disk(second(), {}).code(), Code::kFailedPrecondition);
  EXPECT_GT(open_below(second()), 0u);
  EXPECT_EQ(manager_->disks().size(), 2u);
}

// Replicas that no record knows go along with it, and it says so.
TEST_F(DiskRemovalTest, ADiskThatHoldsUnknownReplicasIsClosedWithAWord) {
  add_second();
  create("v1");
  manager_.reset();
  {
    auto store = meta::open_rocksdb_store(folder_ + "/meta");
    ASSERT_TRUE(store.is_ok());
    Catalog catalog(**store, "default");
    std::vector<std::string> problems;
    auto entries = catalog.load_volumes(problems);
    ASSERT_TRUE(entries.is_ok());
    for (const VolumeEntry& entry : *entries) ASSERT_TRUE(catalog.erase_volume(entry).is_ok());
  }
  start();
  ASSERT_TRUE(manager_->remove_disk(second(), {}).is_ok());
  EXPECT_EQ(open_below(second()), 0u);
  EXPECT_TRUE(has_event("disk_removed", second(), "1 replicas that no record knows"));
}

}  // namespace
}  // namespace cvol::volume
