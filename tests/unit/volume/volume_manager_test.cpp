#include "tests/unit/volume/manager_fixture.h"

namespace cvol::volume {
namespace {

TEST_F(VolumeManagerTest, KeepsVolumesAcrossRestarts) {
  create("a");
  ASSERT_TRUE(manager_->create(request("big", kPiB)).is_ok());
  start();
  auto found = manager_->get("big");
  ASSERT_TRUE(found.is_ok()) << found.message();
  EXPECT_EQ(found->record.size_bytes(), kPiB);
  EXPECT_EQ(found->state, VolumeState::kAvailable);
  EXPECT_EQ(manager_->volumes().size(), 2u);
}

TEST_F(VolumeManagerTest, CreatesTwiceOnlyWhatIsIdentical) {
  create("a");
  create("a");
  EXPECT_EQ(manager_->create(request("a", 128 * kMiB)).code(), Code::kAlreadyExists);
  CreateRequest labelled = request("a");
  labelled.labels["x"] = "y";
  EXPECT_EQ(manager_->create(labelled).code(), Code::kAlreadyExists);
}

TEST_F(VolumeManagerTest, CreatesOneVolumeForManyRacers) {
  std::vector<std::thread> racers;
  for (int i = 0; i < 8; ++i) racers.emplace_back([this] { create("a"); });
  for (auto& racer : racers) racer.join();
  EXPECT_EQ(manager_->disks()[0].info.replicas, 1u);
}

TEST_F(VolumeManagerTest, RefusesBadRequests) {
  EXPECT_EQ(manager_->create(request("../x")).code(), Code::kInvalidArgument);
  EXPECT_EQ(manager_->create(request("a", 1)).code(), Code::kInvalidArgument);
  CreateRequest three = request("a");
  three.replicas = 3;
  EXPECT_EQ(manager_->create(three).code(), Code::kInvalidArgument);
  CreateRequest odd = request("a");
  odd.fs = "ntfs";
  EXPECT_EQ(manager_->create(odd).code(), Code::kInvalidArgument);
  EXPECT_EQ(manager_->get("nope").code(), Code::kNotFound);
  create("a");
  EXPECT_EQ(manager_->resize("a", 32 * kMiB).code(), Code::kInvalidArgument);
  EXPECT_EQ(manager_->mount("a", "x", "relative").code(), Code::kInvalidArgument);
  EXPECT_EQ(manager_->mount("a", "x", "/a/../b").code(), Code::kInvalidArgument);
}

TEST_F(VolumeManagerTest, MountsForASetOfCallersAndUnmountsWithTheLast) {
  create("a");
  auto mounted = manager_->mount("a", "x", "");
  ASSERT_TRUE(mounted.is_ok()) << mounted.message();
  EXPECT_EQ(mounted->mountpoint, folder_ + "/mounts/a/data");
  ASSERT_TRUE(manager_->mount("a", "x", "").is_ok());
  ASSERT_TRUE(manager_->mount("a", "y", "/mnt/y").is_ok());
  EXPECT_EQ(host_.formats, 1);
  EXPECT_EQ(manager_->remove("a", false).code(), Code::kFailedPrecondition);
  EXPECT_EQ(manager_->detach("a").code(), Code::kFailedPrecondition);
  ASSERT_TRUE(manager_->unmount("a", "unknown").is_ok());
  ASSERT_TRUE(manager_->unmount("a", "x").is_ok());
  EXPECT_EQ(manager_->get("a")->state, VolumeState::kMounted);
  ASSERT_TRUE(manager_->unmount("a", "y").is_ok());
  EXPECT_TRUE(host_.mounts.empty());
  EXPECT_TRUE(host_.attached.empty());
  EXPECT_EQ(manager_->get("a")->state, VolumeState::kAvailable);
  ASSERT_TRUE(manager_->mount("a", "x", "").is_ok());
  EXPECT_EQ(host_.formats, 1);
}

TEST_F(VolumeManagerTest, KeepsLiveMountsAcrossARestart) {
  create("a");
  ASSERT_TRUE(manager_->mount("a", "x", "/mnt/x").is_ok());
  start();
  auto found = manager_->get("a");
  EXPECT_EQ(found->state, VolumeState::kMounted);
  EXPECT_EQ(found->record.mount().caller_ids_size(), 1);
  ASSERT_TRUE(manager_->unmount("a", "x").is_ok());
  EXPECT_TRUE(host_.mounts.empty());
}

TEST_F(VolumeManagerTest, ForgetsCallersAfterAReboot) {
  create("a");
  ASSERT_TRUE(manager_->mount("a", "x", "").is_ok());
  host_.attached.clear();
  host_.mounts.clear();
  boot_id_ = "boot-2";
  start();
  auto found = manager_->get("a");
  EXPECT_EQ(found->state, VolumeState::kAvailable);
  EXPECT_EQ(found->record.mount().caller_ids_size(), 0);
  EXPECT_TRUE(found->record.session().id().empty());
  EXPECT_TRUE(manager_->remove("a", false).is_ok());
}

TEST_F(VolumeManagerTest, NeverFormatsADoneOrForeignDevice) {
  create("a");
  host_.content["/dev/fake-a"] = "LVM2_member";
  EXPECT_EQ(manager_->mount("a", "x", "").code(), Code::kFailedPrecondition);
  EXPECT_EQ(host_.formats, 0);
  EXPECT_TRUE(host_.attached.empty());
  host_.content["/dev/fake-a"] = "ext4";  // made by hand
  EXPECT_TRUE(manager_->mount("a", "x", "").is_ok());
  EXPECT_EQ(host_.formats, 0);
}

TEST_F(VolumeManagerTest, FormatsAgainAfterAnInterruptedMkfsOnlyIfNothingIsThere) {
  create("a");
  host_.make_fails = Status(Code::kIo, "killed");
  EXPECT_EQ(manager_->mount("a", "x", "").code(), Code::kIo);
  EXPECT_EQ(manager_->get("a")->record.format_state(), v1::FORMAT_STATE_MAKING);
  host_.make_fails = Status();
  EXPECT_TRUE(manager_->mount("a", "x", "").is_ok());
  EXPECT_EQ(manager_->get("a")->record.format_state(), v1::FORMAT_STATE_DONE);
}

TEST_F(VolumeManagerTest, RemovesByForceWhatIsMountedUnlessItIsBusy) {
  create("a");
  ASSERT_TRUE(manager_->mount("a", "x", "").is_ok());
  host_.busy.insert(folder_ + "/mounts/a");
  EXPECT_EQ(manager_->remove("a", true).code(), Code::kBusy);
  EXPECT_TRUE(manager_->get("a").is_ok());
  host_.busy.clear();
  EXPECT_TRUE(manager_->remove("a", true).is_ok());
  EXPECT_EQ(manager_->get("a").code(), Code::kNotFound);
  EXPECT_TRUE(host_.attached.empty());
  EXPECT_EQ(manager_->disks()[0].info.replicas, 0u);
  create("a");
}

TEST_F(VolumeManagerTest, FinishesOrUndoesWhatACrashCutShort) {
  create("making");
  create("going");
  create("stays");
  edit_record("making", [](v1::VolumeRecord& record) { record.set_state("creating"); });
  edit_record("going", [](v1::VolumeRecord& record) { record.set_state("removing"); });
  start();
  EXPECT_EQ(manager_->volumes().size(), 1u);
  EXPECT_EQ(manager_->disks()[0].info.replicas, 1u);
  create("making");
}

TEST_F(VolumeManagerTest, ReportsAVolumeWithoutItsReplicaAndKeepsAReplicaWithoutRecord) {
  create("a");
  edit_record("a", [](v1::VolumeRecord& record) {
    record.mutable_members(0)->set_replica_id("11111111-1111-4111-8111-111111111111");
  });
  start();
  auto found = manager_->get("a");
  EXPECT_EQ(found->state, VolumeState::kDamaged);
  EXPECT_EQ(manager_->mount("a", "x", "").code(), Code::kDamaged);
  EXPECT_EQ(manager_->disks()[0].info.replicas, 1u);
  EXPECT_EQ(manager_->problems().size(), 2u);
  EXPECT_EQ(manager_->remove("a", false).code(), Code::kFailedPrecondition);
  EXPECT_TRUE(manager_->remove("a", true).is_ok());
}

TEST_F(VolumeManagerTest, ScrubsADiskNamedByPathOrId) {
  const DiskView disk = manager_->disks()[0];
  EXPECT_EQ(disk.scrub.record.completed, 0u);
  EXPECT_EQ(disk.next_scrub, 0u);
  EXPECT_EQ(manager_->scrub_disk("/nowhere", 0).code(), Code::kNotFound);
  EXPECT_EQ(manager_->scrub_disk(disk.id.substr(0, 3), 0).code(), Code::kNotFound);
  EXPECT_EQ(manager_->scrub_disk(disk.path, 1).code(), Code::kInvalidArgument);
  for (const std::string& name : {disk.path, disk.path + "/", disk.id, disk.id.substr(0, 4)}) {
    auto begun = manager_->scrub_disk(name, 0);
    ASSERT_TRUE(begun.is_ok()) << begun.message();
    EXPECT_TRUE(manager_->stop_scrub(name).is_ok());
  }
  ASSERT_TRUE(manager_->scrub_disk(disk.path, kGiB).is_ok());
  wait_for_scrub();
  EXPECT_TRUE(has_event("disk_scrubbed", disk.path, "sound"));
}

TEST_F(VolumeManagerTest, ScrubsWhenItIsTime) {
  scrub_interval_ = std::chrono::seconds(1);
  start();
  DiskView disk = manager_->disks()[0];
  // None is planned while one runs.
  for (int i = 0; i < 2000 && (disk.scrub.record.completed == 0 || disk.next_scrub == 0); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    disk = manager_->disks()[0];
  }
  EXPECT_GT(disk.scrub.record.completed, 0u);
  EXPECT_GE(disk.next_scrub, disk.scrub.record.completed + 1);
}

TEST_F(VolumeManagerTest, TellsOfAFailedDiskAndServesItAgainAfterAVerify) {
  create("a");
  const DiskView disk = manager_->disks()[0];
  note_failure(disk.id, "write the journal: Input/output error");
  start();
  EXPECT_NE(manager_->disks()[0].problem.find("Input/output error"), std::string::npos);
  EXPECT_NE(manager_->disks()[0].problem.find("cvol disk verify"), std::string::npos);
  EXPECT_EQ(manager_->get("a")->state, VolumeState::kDamaged);
  EXPECT_EQ(manager_->volumes()[0].state, VolumeState::kDamaged);
  EXPECT_EQ(manager_->mount("a", "x", "").code(), Code::kFailedPrecondition);
  EXPECT_EQ(manager_->attach("a").code(), Code::kFailedPrecondition);
  EXPECT_EQ(manager_->create(request("b")).code(), Code::kFailedPrecondition);
  EXPECT_EQ(manager_->scrub_disk(disk.path, 0).code(), Code::kFailedPrecondition);
  EXPECT_FALSE(manager_->problems().empty());
  start();  // it stays so
  EXPECT_FALSE(manager_->disks()[0].problem.empty());
  auto begun = manager_->verify_disk(disk.id, false);
  ASSERT_TRUE(begun.is_ok()) << begun.message();
  wait_for_scrub();
  EXPECT_EQ(manager_->disks()[0].scrub.outcome, "");
  EXPECT_EQ(manager_->disks()[0].problem, "");
  EXPECT_TRUE(has_event("disk_mended", disk.path, "in service"));
  EXPECT_EQ(manager_->get("a")->state, VolumeState::kAvailable);
  EXPECT_TRUE(manager_->mount("a", "x", "").is_ok());
  EXPECT_TRUE(manager_->unmount("a", "x").is_ok());
  start();
  EXPECT_EQ(manager_->disks()[0].problem, "");
}

TEST_F(VolumeManagerTest, AddsADiskOnce) {
  store::FormatOptions format;
  format.capacity_bytes = 128 * kMiB;
  format.journal_bytes = 16 * kMiB;
  auto added = manager_->add_disk(folder_ + "/disks/second", format, /*force=*/true);
  ASSERT_TRUE(added.is_ok()) << added.message();
  EXPECT_EQ(manager_->add_disk(folder_ + "/disks/second", format)->id, added->id);
  EXPECT_EQ(manager_->add_disk("relative", format).code(), Code::kInvalidArgument);
  start();
  EXPECT_EQ(manager_->disks().size(), 2u);
}

// Another store, or another cluster in it: what is here belongs to neither.
TEST_F(VolumeManagerTest, AStoreOfAnotherClusterIsRefusedBeforeAnythingIsTouched) {
  create("pg");
  manager_.reset();
  const auto start_on = [&](const std::string& folder, const std::string& cluster) {
    auto store = meta::open_rocksdb_store(folder);
    EXPECT_TRUE(store.is_ok()) << store.message();
    ManagerOptions options;
    options.data_dir = options.run_dir = folder_;
    options.node_name = "n1";
    options.cluster = cluster;
    options.file_systems = std::make_unique<FakeFileSystems>(host_);
    return VolumeManager::start(std::move(options), std::move(*store)).status();
  };
  host_.attached["pg"] = "/dev/fake-pg";
  const Status empty = start_on(folder_ + "/other", "default");
  EXPECT_EQ(empty.code(), Code::kFailedPrecondition);
  EXPECT_NE(empty.message().find("is empty"), std::string::npos) << empty.message();
  EXPECT_EQ(start_on(folder_ + "/meta", "typo").code(), Code::kFailedPrecondition);
  {  // a store that another data directory has joined
    auto store = meta::open_rocksdb_store(folder_ + "/other");
    ASSERT_TRUE(store.is_ok());
    ASSERT_TRUE(Catalog(**store, "default").register_node("", "n9", "boot-1").is_ok());
  }
  const Status other = start_on(folder_ + "/other", "default");
  EXPECT_EQ(other.code(), Code::kFailedPrecondition);
  EXPECT_NE(other.message().find("belongs to the cluster"), std::string::npos) << other.message();
  {  // nothing was written there
    auto store = meta::open_rocksdb_store(folder_ + "/other");
    ASSERT_TRUE(store.is_ok());
    EXPECT_EQ(Catalog(**store, "default").load_nodes()->size(), 1u);
  }
  EXPECT_EQ(host_.attached.count("pg"), 1u);
  host_.attached.clear();
  start();
  EXPECT_TRUE(manager_->get("pg").is_ok());
}

TEST_F(VolumeManagerTest, ANodeThatWasRemovedDoesNotComeBackAsIfNothingHadBeen) {
  const std::string id = manager_->node().id;
  manager_.reset();
  auto store = meta::open_rocksdb_store(folder_ + "/meta");
  ASSERT_TRUE(store.is_ok());
  v1::NodeRecord node;
  node.set_id(id);
  node.set_name("n1");
  ASSERT_TRUE(Catalog(**store, "default").erase_node(node).is_ok());
  ManagerOptions options;
  options.data_dir = options.run_dir = folder_;
  options.node_name = "n1";
  options.file_systems = std::make_unique<FakeFileSystems>(host_);
  const Status back = VolumeManager::start(std::move(options), std::move(*store)).status();
  EXPECT_EQ(back.code(), Code::kFailedPrecondition);
  EXPECT_NE(back.message().find("node rm"), std::string::npos) << back.message();
}

}  // namespace
}  // namespace cvol::volume
