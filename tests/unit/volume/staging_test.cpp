// Volumes that an orchestrator has reserved and staged: the rules, and what a crash leaves.
#include "tests/unit/volume/manager_fixture.h"

namespace cvol::volume {
namespace {

class StagingTest : public VolumeManagerTest {
 protected:
  void SetUp() override {
    VolumeManagerTest::SetUp();
    ASSERT_TRUE(manager_->create(request("v")));
  }
  void reserve(bool read_only = false) {
    auto reserved = manager_->reserve("v", "n1", read_only);
    ASSERT_TRUE(reserved) << reserved.message();
  }
  static StageRequest at(const std::string& path) {
    StageRequest request;
    request.path = path;
    return request;
  }
  static ShowRequest to(const std::string& target) {
    ShowRequest request;
    request.path = "/staging";
    request.target = target;
    return request;
  }
  Code stage(const StageRequest& request) { return manager_->stage("v", request).code(); }
  Code show(const ShowRequest& request) { return manager_->show("v", request).code(); }
  v1::VolumeRecord record() { return manager_->get("v")->record; }
};

TEST_F(StagingTest, VolumesAreFoundByTheirId) {
  EXPECT_EQ(manager_->resolve(record().id()), "v");
  EXPECT_EQ(manager_->resolve("v"), "v");
  EXPECT_EQ(manager_->create(request(record().id())).code(), Code::kInvalidArgument);
}

TEST_F(StagingTest, AReservationIsKeptUntilItIsReleased) {
  reserve();
  reserve();
  EXPECT_EQ(manager_->reserve("v", "n1", true).code(), Code::kAlreadyExists);
  EXPECT_EQ(manager_->reserve("v", "n2", false).code(), Code::kNotFound);
  EXPECT_EQ(manager_->remove("v", false).code(), Code::kFailedPrecondition);
  start();
  EXPECT_TRUE(record().session().reserved());
  EXPECT_TRUE(manager_->release("v", "n2"));
  EXPECT_TRUE(record().session().reserved());
  EXPECT_TRUE(manager_->release("v", "n1"));
  EXPECT_TRUE(manager_->release("v", "n1"));
  EXPECT_TRUE(record().session().id().empty());
  EXPECT_TRUE(manager_->remove("v", false));
}

TEST_F(StagingTest, OnlyAReservedVolumeIsStaged) {
  EXPECT_EQ(stage(at("/staging")), Code::kFailedPrecondition);
  EXPECT_TRUE(host_.attached.empty());
  reserve();
  EXPECT_EQ(stage(at("/staging")), Code::kOk);
  EXPECT_EQ(host_.mounts["/staging"], "/dev/fake-v");
  EXPECT_EQ(host_.formats, 1);
}

TEST_F(StagingTest, StagingIsIdempotentAndOnce) {
  reserve();
  ASSERT_EQ(stage(at("/staging")), Code::kOk);
  EXPECT_EQ(stage(at("/staging")), Code::kOk);
  EXPECT_EQ(host_.formats, 1);
  StageRequest other = at("/staging");
  other.mount_flags = {"sync"};
  EXPECT_EQ(stage(other), Code::kAlreadyExists);
  EXPECT_EQ(stage(at("/elsewhere")), Code::kFailedPrecondition);
  EXPECT_EQ(manager_->release("v", "n1").code(), Code::kFailedPrecondition);
  EXPECT_EQ(manager_->mount("v", "me", "").code(), Code::kFailedPrecondition);
  EXPECT_EQ(manager_->detach("v").code(), Code::kFailedPrecondition);
}

TEST_F(StagingTest, BadRequestsChangeNothing) {
  reserve();
  EXPECT_EQ(stage(at("relative")), Code::kInvalidArgument);
  EXPECT_EQ(stage(at("/")), Code::kInvalidArgument);
  EXPECT_EQ(stage(at("/a/../b")), Code::kInvalidArgument);
  StageRequest bad = at("/staging");
  bad.mount_flags = {"bind"};
  EXPECT_EQ(stage(bad), Code::kInvalidArgument);
  bad = at("/staging");
  bad.mkfs_options = {"/dev/sda"};
  EXPECT_EQ(stage(bad), Code::kInvalidArgument);
  EXPECT_FALSE(record().has_stage());
}

TEST_F(StagingTest, AFailureLeavesNothing) {
  reserve();
  host_.check_fails = Status(Code::kDamaged, "needs a repair");
  EXPECT_EQ(stage(at("/staging")), Code::kDamaged);
  EXPECT_TRUE(host_.attached.empty());
  EXPECT_TRUE(host_.mounts.empty());
  EXPECT_FALSE(record().has_stage());
  EXPECT_TRUE(record().session().reserved());
}

TEST_F(StagingTest, WhatABlockVolumeMayHoldIsNeverFormatted) {
  reserve();
  StageRequest block = at("/staging");
  block.block = true;
  ASSERT_EQ(stage(block), Code::kOk);
  EXPECT_EQ(stage(at("/staging")), Code::kAlreadyExists);
  ASSERT_TRUE(manager_->unstage("v", "/staging"));
  EXPECT_EQ(stage(at("/staging")), Code::kFailedPrecondition);
  EXPECT_EQ(host_.formats, 0);
}

TEST_F(StagingTest, ReadersGetAReadOnlyFileSystem) {
  reserve(true);
  host_.content["/dev/fake-v"] = "ext4";
  ASSERT_EQ(stage(at("/staging")), Code::kOk);
  EXPECT_EQ(host_.flags["/staging"], (std::vector<std::string>{"ro"}));
}

TEST_F(StagingTest, ItIsShownWhereItIsStaged) {
  reserve();
  EXPECT_EQ(show(to("/pod")), Code::kFailedPrecondition);
  ASSERT_EQ(stage(at("/staging")), Code::kOk);
  EXPECT_EQ(show(to("/pod")), Code::kOk);
  EXPECT_EQ(show(to("/pod")), Code::kOk);
  ShowRequest other = to("/pod");
  other.read_only = true;
  EXPECT_EQ(show(other), Code::kAlreadyExists);
  other = to("/pod2");
  other.alone = true;
  EXPECT_EQ(show(other), Code::kFailedPrecondition);
  other.alone = false;
  EXPECT_EQ(show(other), Code::kOk);
  EXPECT_EQ(manager_->unstage("v", "/staging").code(), Code::kFailedPrecondition);
  for (const char* target : {"/pod", "/pod2", "/pod2", "/never"})
    EXPECT_TRUE(manager_->hide("v", target)) << target;
  EXPECT_TRUE(manager_->unstage("v", "/other"));
  EXPECT_TRUE(record().has_stage());
  EXPECT_TRUE(manager_->unstage("v", "/staging"));
  EXPECT_TRUE(manager_->unstage("v", "/staging"));
  EXPECT_TRUE(host_.attached.empty());
  EXPECT_TRUE(host_.mounts.empty());
}

TEST_F(StagingTest, AStagingLivesOnAcrossARestart) {
  reserve();
  ASSERT_EQ(stage(at("/staging")), Code::kOk);
  ASSERT_EQ(show(to("/pod")), Code::kOk);
  start();
  EXPECT_TRUE(record().stage().targets().contains("/pod"));
  EXPECT_EQ(host_.mounts.count("/staging"), 1u);
  EXPECT_EQ(stage(at("/staging")), Code::kOk);
  EXPECT_EQ(show(to("/pod")), Code::kOk);
}

TEST_F(StagingTest, AStagingDoesNotSurviveAReboot) {
  reserve();
  ASSERT_EQ(stage(at("/staging")), Code::kOk);
  manager_.reset();
  host_.attached.clear();
  host_.mounts.clear();
  boot_id_ = "another";
  start();
  EXPECT_FALSE(record().has_stage());
  EXPECT_TRUE(record().session().reserved());
  EXPECT_EQ(stage(at("/staging")), Code::kOk);
}

TEST_F(StagingTest, UsageIsAskedWhereItIs) {
  reserve();
  ASSERT_EQ(stage(at("/staging")), Code::kOk);
  EXPECT_EQ(manager_->usage("v", "/staging")->usage.total_bytes, 1000u);
  EXPECT_EQ(manager_->usage("v", "/elsewhere").code(), Code::kNotFound);
}

TEST_F(StagingTest, AForeignMountAtTheStagingPathStays) {
  reserve();
  host_.mounts["/staging"] = "tmpfs";
  EXPECT_EQ(stage(at("/staging")), Code::kFailedPrecondition);
  EXPECT_EQ(host_.mounts["/staging"], "tmpfs");
  EXPECT_TRUE(host_.attached.empty());
  EXPECT_FALSE(record().has_stage());
  EXPECT_TRUE(manager_->unstage("v", "/staging"));
  EXPECT_EQ(host_.mounts["/staging"], "tmpfs");
}

TEST_F(StagingTest, AForeignMountOverAStagingIsNeitherShownNorUnmounted) {
  reserve();
  ASSERT_EQ(stage(at("/staging")), Code::kOk);
  host_.mounts["/staging"] = "tmpfs";
  EXPECT_EQ(stage(at("/staging")), Code::kFailedPrecondition);
  EXPECT_EQ(show(to("/pod")), Code::kFailedPrecondition);
  EXPECT_EQ(manager_->usage("v", "/staging").code(), Code::kNotFound);
  EXPECT_TRUE(manager_->unstage("v", "/staging"));
  EXPECT_EQ(host_.mounts["/staging"], "tmpfs");
}

TEST_F(StagingTest, ForeignTargetsStay) {
  reserve();
  host_.mounts["/pod"] = "tmpfs";
  EXPECT_TRUE(manager_->hide("v", "/pod"));
  ASSERT_EQ(stage(at("/staging")), Code::kOk);
  EXPECT_EQ(show(to("/pod")), Code::kFailedPrecondition);
  EXPECT_TRUE(record().stage().targets().empty());
  EXPECT_TRUE(manager_->hide("v", "/pod"));
  EXPECT_EQ(host_.mounts["/pod"], "tmpfs");
}

TEST_F(StagingTest, ABrokenFileSystemIsToldAndNotShown) {
  reserve();
  ASSERT_EQ(stage(at("/staging")), Code::kOk);
  EXPECT_EQ(manager_->usage("v", "/staging")->trouble, "");
  host_.became_read_only = true;
  EXPECT_NE(manager_->usage("v", "/staging")->trouble, "");
  EXPECT_EQ(show(to("/pod")), Code::kFailedPrecondition);
  EXPECT_EQ(stage(at("/staging")), Code::kFailedPrecondition);
  EXPECT_TRUE(manager_->unstage("v", "/staging"));
}

TEST_F(StagingTest, WhatIsMeantToBeReadOnlyIsNotBroken) {
  reserve();
  StageRequest flagged = at("/staging");
  flagged.mount_flags = {"ro"};
  ASSERT_EQ(stage(flagged), Code::kOk);
  host_.became_read_only = true;
  EXPECT_EQ(stage(flagged), Code::kOk);
  EXPECT_EQ(manager_->usage("v", "/staging")->trouble, "");
}

TEST_F(StagingTest, AReaderDoesNotMakeTheWritersDeviceReadOnly) {
  reserve();
  StageRequest block = at("/staging");
  block.block = true;
  ASSERT_EQ(stage(block), Code::kOk);
  ASSERT_EQ(show(to("/writer")), Code::kOk);
  ShowRequest reader = to("/reader");
  reader.read_only = true;
  EXPECT_EQ(show(reader), Code::kFailedPrecondition);
  EXPECT_FALSE(record().stage().targets().contains("/reader"));
  EXPECT_FALSE(host_.read_only["/dev/fake-v"]);
}

TEST_F(StagingTest, AStagingThatWasCutIsEndedByDetaching) {
  reserve();
  ASSERT_EQ(stage(at("/staging")), Code::kOk);
  EXPECT_EQ(manager_->detach("v").code(), Code::kFailedPrecondition);
  host_.mounts.erase("/staging");  // as if volumed had died before it mounted
  host_.check_fails = Status(Code::kDamaged, "needs a repair");
  EXPECT_EQ(stage(at("/staging")), Code::kDamaged);
  EXPECT_FALSE(host_.attached.empty());
  EXPECT_TRUE(manager_->detach("v"));
  EXPECT_TRUE(host_.attached.empty());
  EXPECT_FALSE(record().has_stage());
  EXPECT_TRUE(manager_->release("v", "n1"));
}

TEST_F(StagingTest, RemovalByForceTakesAllOfItAway) {
  reserve();
  ASSERT_EQ(stage(at("/staging")), Code::kOk);
  ASSERT_EQ(show(to("/pod")), Code::kOk);
  EXPECT_EQ(manager_->remove("v", false).code(), Code::kFailedPrecondition);
  EXPECT_TRUE(manager_->remove("v", true));
  EXPECT_TRUE(host_.attached.empty());
  EXPECT_TRUE(host_.mounts.empty());
}

}  // namespace
}  // namespace cvol::volume
