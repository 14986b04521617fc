// Which disk is it: copies, older copies, moved ones; disks that open late, and what waits for
// them.
#include <sys/vfs.h>

#include <fstream>

#include "tests/unit/volume/manager_fixture.h"
#include "volumed/volume/disk_ground.h"
#include "volumed/volume/disk_paths.h"

namespace cvol::volume {
namespace {

namespace fs = std::filesystem;

constexpr const char* kNoDisk = "11111111-1111-4111-8111-111111111111";

class DiskOpeningTest : public VolumeManagerTest {
 protected:
  std::string second() const { return folder_ + "/disks/second"; }
  // Larger than the first: volumes go there.
  void add_second() {
    store::FormatOptions format;
    format.capacity_bytes = 512 * kMiB;
    format.journal_bytes = 16 * kMiB;
    auto added = manager_->add_disk(second(), format, /*force=*/true);
    ASSERT_TRUE(added.is_ok()) << added.message();
    id_ = added->id;
  }
  void copy(const std::string& from, const std::string& to) {
    fs::remove(from + "/nbd.sock");  // sockets cannot be copied
    fs::copy(from, to, fs::copy_options::recursive);
  }
  DiskView disk() {
    for (const DiskView& view : manager_->disks()) {
      if (view.id == id_) return view;
    }
    return {};
  }
  static bool within_seconds(int seconds, const std::function<bool()>& holds) {
    for (int i = 0; i < seconds * 100; ++i) {
      if (holds()) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return false;
  }
  v1::DiskRecord record() {
    auto found = Catalog(*store_, "default").load_disk(id_);
    EXPECT_TRUE(found.is_ok() && *found);
    return found.is_ok() && *found ? **found : v1::DiskRecord();
  }

  std::string id_;
};

TEST_F(DiskOpeningTest, RefusesACopyOfADiskOfThePool) {
  add_second();
  manager_.reset();
  copy(second(), folder_ + "/copy");
  start();
  auto added = manager_->add_disk(folder_ + "/copy", {}, true);
  EXPECT_EQ(added.code(), Code::kAlreadyExists);
  EXPECT_NE(added.message().find(second()), std::string::npos) << added.message();
  EXPECT_EQ(manager_->disks().size(), 2u);
  start();
  EXPECT_EQ(disk().path, second());
  EXPECT_EQ(disk().problem, "");
}

TEST_F(DiskOpeningTest, RefusesADiskThatIsMissingAtAnotherPathAndMovesItByCommand) {
  add_second();
  create("a");
  manager_.reset();
  fs::rename(second(), folder_ + "/moved");
  start();
  EXPECT_NE(disk().problem.find("cvol disk move"), std::string::npos) << disk().problem;
  auto added = manager_->add_disk(folder_ + "/moved", {}, true);
  EXPECT_EQ(added.code(), Code::kAlreadyExists);
  EXPECT_NE(added.message().find("cvol disk move"), std::string::npos) << added.message();
  // Nothing is formatted where it was.
  EXPECT_EQ(manager_->add_disk(second(), {}, true).code(), Code::kFailedPrecondition);
  EXPECT_FALSE(fs::exists(second()));
  EXPECT_FALSE(manager_->move_disk(id_, folder_ + "/nowhere", false).is_ok());
  auto moved = manager_->move_disk(id_, folder_ + "/moved", false);
  ASSERT_TRUE(moved.is_ok()) << moved.message();
  EXPECT_EQ(moved->problem, "");
  EXPECT_EQ(manager_->get("a")->state, VolumeState::kAvailable);
  EXPECT_EQ(manager_->move_disk(id_, folder_ + "/moved", false).code(), Code::kFailedPrecondition);
  start();
  EXPECT_EQ(disk().path, folder_ + "/moved");
  EXPECT_EQ(manager_->get("a")->state, VolumeState::kAvailable);
}

TEST_F(DiskOpeningTest, RefusesAnOlderCopyAtStartUnlessTheLossIsAccepted) {
  add_second();
  create("a");
  manager_.reset();
  copy(second(), folder_ + "/older");
  start();  // opens the disk once more than its copy was
  manager_.reset();
  fs::rename(second(), folder_ + "/newer");
  fs::rename(folder_ + "/older", second());
  start();
  EXPECT_NE(disk().problem.find("older copy"), std::string::npos) << disk().problem;
  EXPECT_EQ(manager_->get("a")->state, VolumeState::kDamaged);
  EXPECT_FALSE(manager_->problems().empty());
  EXPECT_EQ(manager_->move_disk(id_, second(), false).code(), Code::kFailedPrecondition);
  auto accepted = manager_->move_disk(id_, second(), true);
  ASSERT_TRUE(accepted.is_ok()) << accepted.message();
  EXPECT_EQ(record().generation(), accepted->info.generation);
  start();
  EXPECT_EQ(disk().problem, "");
}

TEST_F(DiskOpeningTest, CountsOpeningsInTheRecordAndTakesADiskThatIsAhead) {
  add_second();
  const uint64_t first = disk().info.generation;
  EXPECT_EQ(record().generation(), first);
  start();
  EXPECT_EQ(disk().info.generation, first + 1);
  EXPECT_EQ(record().generation(), first + 1);
  // As after a crash between the disk's count and the record's.
  ASSERT_TRUE(Catalog(*store_, "default")
                  .update_disk(id_, [&](v1::DiskRecord& next) { next.set_generation(first); })
                  .is_ok());
  start();
  EXPECT_EQ(disk().problem, "");
  EXPECT_EQ(record().generation(), first + 2);
}

TEST_F(DiskOpeningTest, OpensItsOwnDisksFromACopiedDataDirectory) {
  id_ = manager_->disks()[0].id;
  create("a");
  EXPECT_EQ(record().path(), "disks/default");
  manager_.reset();
  const std::string original = folder_;
  const std::string copied = folder_ + "-copy";
  copy(original, copied);
  folder_ = copied;
  start();
  EXPECT_EQ(disk().path, copied + "/disks/default");
  EXPECT_EQ(manager_->get("a")->state, VolumeState::kAvailable);
  manager_.reset();
  fs::remove_all(original);
}

TEST_F(DiskOpeningTest, TakesOldAbsolutePathsForThoseOfACopiedDataDirectory) {
  id_ = manager_->disks()[0].id;
  ASSERT_TRUE(Catalog(*store_, "default")
                  .update_disk(
                      id_, [&](v1::DiskRecord& next) { next.set_path(folder_ + "/disks/default"); })
                  .is_ok());
  manager_.reset();
  const std::string original = folder_;
  copy(original, original + "-copy");
  folder_ = original + "-copy";
  start();
  EXPECT_EQ(disk().path, folder_ + "/disks/default");
  EXPECT_EQ(record().path(), "disks/default");
  manager_.reset();
  fs::remove_all(original);
}

TEST_F(DiskOpeningTest, KeepsPathsOutsideTheDataDirectory) {
  EXPECT_EQ(to_stored_path("/var/lib/cvol", "/mnt/disk"), "/mnt/disk");
  EXPECT_EQ(to_stored_path("/var/lib/cvol", "/var/lib/cvol"), "/var/lib/cvol");
  EXPECT_EQ(to_stored_path("/var/lib/cvol", "/var/lib/cvol-2/disks/a"), "/var/lib/cvol-2/disks/a");
  EXPECT_EQ(to_stored_path("/var/lib/cvol/", "/var/lib/cvol/disks/a"), "disks/a");
  EXPECT_EQ(to_real_path("/var/lib/cvol", "/mnt/disks/a", kNoDisk), "/mnt/disks/a");
  EXPECT_EQ(to_real_path("/var/lib/cvol", "disks/a", kNoDisk), "/var/lib/cvol/disks/a");
}

TEST_F(DiskOpeningTest, ADiskThatComesLateBringsItsVolumesBack) {
  add_second();
  create("a");
  manager_.reset();
  fs::rename(second(), folder_ + "/away");
  start();
  EXPECT_EQ(manager_->get("a")->state, VolumeState::kDamaged);
  fs::rename(folder_ + "/away", second());
  EXPECT_TRUE(
      within_seconds(15, [&] { return manager_->get("a")->state == VolumeState::kAvailable; }));
  EXPECT_EQ(disk().problem, "");
  EXPECT_TRUE(manager_->mount("a", "x", "").is_ok());
  EXPECT_TRUE(manager_->unmount("a", "x").is_ok());
  EXPECT_TRUE(has_event("disk_opened", second(), "open"));
}

TEST_F(DiskOpeningTest, RemovesAVolumeOfAMissingDiskAndItsReplicaWhenTheDiskIsBack) {
  add_second();
  create("a");
  manager_.reset();
  fs::rename(second(), folder_ + "/away");
  start();
  const Status removed = manager_->remove("a", false);
  EXPECT_TRUE(removed.is_ok()) << removed.message();
  EXPECT_EQ(manager_->get("a").code(), Code::kNotFound);
  create("a");  // elsewhere
  fs::rename(folder_ + "/away", second());
  EXPECT_TRUE(
      within_seconds(15, [&] { return disk().problem.empty() && disk().info.replicas == 0; }));
  EXPECT_TRUE(within_seconds(5, [&] {
    auto left = Catalog(*store_, "default").load_removed();
    return left.is_ok() && left->empty();
  }));
  EXPECT_EQ(manager_->get("a")->state, VolumeState::kAvailable);
}

TEST_F(DiskOpeningTest, RemovesAVolumeOfAFailedDiskAndItsReplicaWhenTheDiskIsSound) {
  create("a");
  id_ = manager_->disks()[0].id;
  note_failure(id_, "write the journal: Input/output error");
  start();
  const Status removed = manager_->remove("a", false);
  EXPECT_TRUE(removed.is_ok()) << removed.message();
  EXPECT_EQ(manager_->get("a").code(), Code::kNotFound);
  start();  // it stays so, and nothing is said of a replica without a record
  EXPECT_EQ(manager_->get("a").code(), Code::kNotFound);
  EXPECT_EQ(manager_->problems().size(), 1u);
  ASSERT_TRUE(manager_->verify_disk(id_, false).is_ok());
  EXPECT_TRUE(
      within_seconds(15, [&] { return disk().problem.empty() && disk().info.replicas == 0; }));
}

TEST_F(DiskOpeningTest, LooksAtWhatLiesUnderADisk) {
  store::FormatOptions format;
  format.journal_bytes = 16 * kMiB;
  format.capacity_bytes = 128 * kMiB;
  auto shared = manager_->add_disk(second(), format);
  EXPECT_EQ(shared.code(), Code::kFailedPrecondition);
  EXPECT_FALSE(fs::exists(second()));
  format.capacity_bytes = kPiB;
  const auto ground = look_at_ground(second());
  ASSERT_TRUE(ground.is_ok()) << ground.message();
  if (ground->fit && ground->direct_io) {
    EXPECT_EQ(check_ground(second(), format, {}).code(), Code::kInvalidArgument);
  }
  struct statfs system {};
  if (::statfs("/dev/shm", &system) == 0 && system.f_type == 0x01021994) {
    const Status memory = check_ground("/dev/shm/cvol-none", {}, {});
    EXPECT_EQ(memory.code(), Code::kFailedPrecondition);
    EXPECT_NE(memory.message().find("tmpfs"), std::string::npos) << memory.message();
  }
}

}  // namespace
}  // namespace cvol::volume
