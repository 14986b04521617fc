// What there is room for, and what comes back.
#include "tests/unit/volume/manager_fixture.h"
#include "volumed/volume/pool_space.h"
#include "volumed/volume/trim_schedule.h"

namespace cvol::volume {
namespace {

DiskView disk_with(uint64_t percent) {
  DiskView disk;
  disk.id = "d";
  disk.path = "/d";
  disk.info.capacity_bytes = kGiB * 100;
  disk.info.allocated_bytes = kGiB * percent;
  return disk;
}

TEST(PoolSpace, FullnessIsToldInSteps) {
  EXPECT_EQ(fullness_step(0, 0), 0u);
  EXPECT_EQ(fullness_step(100 * kGiB, 79 * kGiB), 0u);
  EXPECT_EQ(fullness_step(100 * kGiB, 80 * kGiB), 80u);
  EXPECT_EQ(fullness_step(100 * kGiB, 94 * kGiB), 90u);
  EXPECT_EQ(fullness_step(100 * kGiB, 99 * kGiB), 95u);
  EXPECT_EQ(fullness_step(100 * kGiB, 100 * kGiB), 100u);
  EXPECT_EQ(describe_fullness(disk_with(50)), "");
  EXPECT_NE(describe_fullness(disk_with(91)).find("more than 90 %"), std::string::npos);
  EXPECT_NE(describe_fullness(disk_with(100)).find("is full"), std::string::npos);
}

TEST(PoolSpace, OnlyChangesAreEvents) {
  FullnessWatch watch;
  EXPECT_FALSE(watch.look(disk_with(10)).has_value());
  EXPECT_TRUE(watch.look(disk_with(85)).has_value());
  EXPECT_FALSE(watch.look(disk_with(86)).has_value());
  EXPECT_NE(watch.look(disk_with(100))->find("full"), std::string::npos);
  EXPECT_NE(watch.look(disk_with(10))->find("room again"), std::string::npos);
}

TEST(TrimSchedule, EachVolumeIsDueOnceAnInterval) {
  constexpr uint64_t kDay = 86400;
  const uint64_t now = 1'800'000'000;
  int due = 0;
  for (uint64_t at = now; at < now + kDay; at += 600)
    due += trim_slot("some-id", at, kDay) != trim_slot("some-id", at + 600, kDay) ? 1 : 0;
  EXPECT_EQ(due, 1);
}

class SpaceTest : public VolumeManagerTest {
 protected:
  void adjust(ManagerOptions& options) override { options.overcommit_limit = limit_; }
  uint32_t limit_ = 0;
};

TEST_F(SpaceTest, ASizeBeyondThePoolIsTold) {
  auto small = manager_->create(request("aa"));
  ASSERT_TRUE(small.is_ok()) << small.message();
  EXPECT_TRUE(small->warnings.empty());
  auto huge = manager_->create(request("bb", kPiB));
  ASSERT_TRUE(huge.is_ok()) << huge.message();
  EXPECT_EQ(huge->warnings.size(), 1u);
  auto grown = manager_->resize("aa", kTiB);
  ASSERT_TRUE(grown.is_ok()) << grown.message();
  EXPECT_EQ(grown->warnings.size(), 1u);
}

TEST_F(SpaceTest, OneBeyondTheLimitIsRefused) {
  create("aa");
  limit_ = 20;
  start();
  EXPECT_EQ(manager_->create(request("bb", kTiB)).code(), Code::kInvalidArgument);
  EXPECT_FALSE(manager_->get("bb").is_ok());
  EXPECT_EQ(manager_->resize("aa", kTiB).code(), Code::kInvalidArgument);
  EXPECT_EQ(manager_->get("aa")->record.size_bytes(), 64 * kMiB);
  EXPECT_TRUE(manager_->create(request("cc", kGiB)).is_ok());
}

TEST_F(SpaceTest, AVolumeTooSmallForItsFileSystemIsRefusedAtOnce) {
  CreateRequest small = request("aa", 299 * kMiB);
  small.fs = "xfs";
  EXPECT_EQ(manager_->create(small).code(), Code::kInvalidArgument);
  small.size_bytes = 300 * kMiB;
  EXPECT_TRUE(manager_->create(small).is_ok());
}

TEST_F(SpaceTest, ThePolicyForAFullPoolIsKeptAndChanged) {
  CreateRequest wanted = request("aa");
  wanted.on_full = "often";
  EXPECT_EQ(manager_->create(wanted).code(), Code::kInvalidArgument);
  wanted.on_full = "wait";
  ASSERT_TRUE(manager_->create(wanted).is_ok());
  start();
  EXPECT_EQ(on_full_of(manager_->get("aa")->record), nbd::OnFull::kWait);
  ModifyRequest modify;
  modify.on_full = "error";
  ASSERT_TRUE(manager_->modify("aa", modify).is_ok());
  EXPECT_EQ(on_full_of(manager_->get("aa")->record), nbd::OnFull::kError);
  modify.on_full = "default";
  ASSERT_TRUE(manager_->modify("aa", modify).is_ok());
  EXPECT_EQ(on_full_of(manager_->get("aa")->record), nbd::OnFull::kDevicesWait);
  modify.replicas = 2;
  EXPECT_EQ(manager_->modify("aa", modify).code(), Code::kFailedPrecondition);
}

TEST_F(SpaceTest, AMountedFileSystemIsTrimmed) {
  create("aa");
  EXPECT_EQ(manager_->trim("aa").code(), Code::kFailedPrecondition);
  ASSERT_TRUE(manager_->mount("aa", "x", "").is_ok());
  auto trimmed = manager_->trim("aa");
  ASSERT_TRUE(trimmed.is_ok()) << trimmed.message();
  EXPECT_EQ(*trimmed, 4096u);
  EXPECT_EQ(host_.trimmed[folder_ + "/mounts/aa"], 1);
  EXPECT_EQ(manager_->trim("nobody").code(), Code::kNotFound);
}

}  // namespace
}  // namespace cvol::volume
