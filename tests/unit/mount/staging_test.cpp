#include "volumed/mount/staging.h"
#include "volumed/mount/identity.h"

#include <gtest/gtest.h>
#include <sys/mount.h>

namespace cvol::mount {
namespace {

TEST(MountFlags, AreOfTheKernelOrOfTheFileSystem) {
  auto options = parse_mount_flags({"noatime", "ro", "commit=30", "nodev", "defaults", "discard"});
  ASSERT_TRUE(options) << options.message();
  EXPECT_EQ(options->flags, static_cast<unsigned long>(MS_NOATIME | MS_RDONLY | MS_NODEV));
  EXPECT_EQ(options->data, "commit=30,discard");
}

TEST(MountFlags, TheLastOneWins) {
  EXPECT_EQ(parse_mount_flags({"ro", "rw"})->flags, 0u);
  EXPECT_EQ(parse_mount_flags({"noatime", "strictatime"})->flags,
            static_cast<unsigned long>(MS_STRICTATIME));
}

TEST(MountFlags, NothingThatWouldMakeItAnotherCall) {
  for (const char* bad : {"bind", "rbind", "remount", "move", "loop", "loop=/dev/loop0", "x-mount",
                          "shared", "a,b", "a b", "", "a;b", "logdev=/dev/sda"})
    EXPECT_EQ(parse_mount_flags({bad}).code(), Code::kInvalidArgument) << bad;
}

TEST(MkfsOptions, AreOfAListWithTheirValues) {
  EXPECT_TRUE(validate_mkfs_options(
      "ext4", {"-i", "8192", "-O", "^has_journal,extent", "-E", "lazy_itable_init=0"}));
  EXPECT_TRUE(validate_mkfs_options("xfs", {"-m", "reflink=1", "-d", "agcount=4"}));
  for (const std::vector<std::string>& bad : std::vector<std::vector<std::string>>{{"-F"},
                                                                                   {"-i"},
                                                                                   {"8192"},
                                                                                   {"/dev/sda"},
                                                                                   {"-L", "/etc"},
                                                                                   {"-i8192"},
                                                                                   {"--help"},
                                                                                   {"-L", "-F"},
                                                                                   {"-n"},
                                                                                   {"-c"},
                                                                                   {"-i", "1 2"}})
    EXPECT_EQ(validate_mkfs_options("ext4", bad).code(), Code::kInvalidArgument) << bad.back();
  EXPECT_EQ(validate_mkfs_options("xfs", {"-f"}).code(), Code::kInvalidArgument);
  EXPECT_EQ(validate_mkfs_options("xfs", {"-d", "name=/etc/passwd"}).code(),
            Code::kInvalidArgument);
}

TEST(MkfsOptions, SayNothingOfErrors) {
  for (const std::vector<std::string>& bad : std::vector<std::vector<std::string>>{
           {"-e", "panic"}, {"-E", "offset=4096"}, {"-E", "stride=4,test_fs"}})
    EXPECT_EQ(validate_mkfs_options("ext4", bad).code(), Code::kInvalidArgument) << bad.back();
  EXPECT_EQ(parse_mount_flags({"errors=panic"}).code(), Code::kInvalidArgument);
  EXPECT_EQ(parse_mount_flags({"errors=continue"}).code(), Code::kInvalidArgument);
  EXPECT_EQ(parse_mount_flags({"errors=remount-ro"})->data, "errors=remount-ro");
}

TEST(Identity, SurvivesItsWay) {
  for (Seen seen : {Seen::kNothing, Seen::kOurs, Seen::kForeign})
    EXPECT_EQ(*decode_seen(encode_seen(seen)), seen);
  EXPECT_FALSE(decode_seen(""));
  EXPECT_FALSE(decode_seen("our"));
}

TEST(Identity, WhatIsMountedIsComparedByItsDevice) {
  EXPECT_EQ(what_is_at("/nowhere/at/all", "/dev/null"), Seen::kNothing);
  EXPECT_EQ(what_is_at("/proc", "/dev/null"), Seen::kForeign);
  EXPECT_EQ(what_is_at("/proc", "/nowhere"), Seen::kForeign);
}

TEST(Usage, TroubleIsWhatShouldNotBe) {
  Usage usage;
  EXPECT_EQ(trouble_of(usage, false), "");
  usage.read_only = true;
  EXPECT_EQ(trouble_of(usage, true), "");
  EXPECT_NE(trouble_of(usage, false), "");
  EXPECT_TRUE(decode_usage(encode_usage(usage))->read_only);
  usage.shut_down = true;
  EXPECT_NE(trouble_of(usage, true), "");
  EXPECT_TRUE(decode_usage(encode_usage(usage))->shut_down);
}

TEST(Usage, SurvivesItsWay) {
  Usage usage;
  usage.total_bytes = 10;
  usage.used_inodes = 3;
  EXPECT_EQ(decode_usage(encode_usage(usage))->total_bytes, 10u);
  EXPECT_EQ(decode_usage(encode_usage(usage))->used_inodes, 3u);
  EXPECT_FALSE(decode_usage("1 2"));
}

}  // namespace
}  // namespace cvol::mount
