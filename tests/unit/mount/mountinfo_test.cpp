#include "volumed/mount/mountinfo.h"

#include <gtest/gtest.h>

namespace cvol::mount {
namespace {

TEST(MountInfo, OptionalFieldsAndEscapesAreUnderstood) {
  auto entries = parse_mountinfo(
      "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 propagate_from:2 - ext3 /dev/root rw\n"
      "37 35 7:0 / /with\\040space rw - ext4 /dev/loop0 rw\n");
  ASSERT_EQ(entries.size(), 2u);
  EXPECT_EQ(entries[0].target, "/mnt2");
  EXPECT_EQ(entries[0].type, "ext3");
  EXPECT_EQ(entries[1].target, "/with space");
  EXPECT_EQ(entries[1].device_number, "7:0");
  EXPECT_EQ(entries[1].source, "/dev/loop0");
}

TEST(MountInfo, BrokenLinesAreLeftOut) {
  EXPECT_TRUE(parse_mountinfo("").empty());
  EXPECT_TRUE(parse_mountinfo("\n\nnonsense\n36 35 98:0 / /x rw - ext4\n").empty());
  EXPECT_TRUE(parse_mountinfo("36 35 98:0 / /x rw master:1 ext4 /dev/x rw").empty());
}

TEST(MountInfo, TheRootOfThisProcessIsThere) {
  bool found = false;
  for (const auto& entry : read_mountinfo()) found = found || entry.target == "/";
  EXPECT_TRUE(found);
}

}  // namespace
}  // namespace cvol::mount
