#include "volumed/mount/device_users.h"

#include <gtest/gtest.h>

namespace cvol::mount {
namespace {

// A container has the volume bound into its own tree; a service's namespace follows the host's.
TEST(DeviceUsers, AContainerStaysAndACopyThatFollowsTheHostDoesNot) {
  const auto container = parse_mountinfo(
      "50 1 0:30 / / rw - overlay overlay rw\n"
      "51 50 7:3 /data /db rw,nosuid - ext4 /dev/loop3 rw\n"
      "52 50 7:4 / /else rw - ext4 /dev/loop4 rw\n");
  const auto stay = mounts_that_stay(container, "7:3", {"1"});
  ASSERT_EQ(stay.size(), 1u);
  EXPECT_EQ(stay[0].target, "/db");
  const auto service = parse_mountinfo(
      "60 1 8:1 / / rw master:1 - ext4 /dev/sda1 rw\n"
      "61 60 7:3 / /var/lib/cvol/mounts/v rw master:9 - ext4 /dev/loop3 rw\n");
  EXPECT_TRUE(mounts_that_stay(service, "7:3", {"1"}).empty());
  EXPECT_EQ(mounts_that_stay(service, "7:3", {"2"}).size(), 1u);
  EXPECT_EQ(mounts_that_stay(service, "7:3", {}).size(), 1u);
}

TEST(DeviceUsers, ADeviceThatIsGoneHasNone) {
  auto users = users_of_device("/dev/no-such-device", {"/mnt"});
  ASSERT_TRUE(users.is_ok());
  EXPECT_EQ(*users, "");
}

}  // namespace
}  // namespace cvol::mount
