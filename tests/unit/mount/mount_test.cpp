#include "volumed/mount/mount.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "volumed/mount/program.h"
#include "volumed/mount/trim.h"

namespace cvol::mount {
namespace {

TEST(Mount, OnlyTwoFileSystemsAreKnown) {
  EXPECT_TRUE(validate_file_system("ext4").is_ok());
  EXPECT_TRUE(validate_file_system("xfs").is_ok());
  for (const char* type : {"", "ext3", "EXT4", "xfs -f", "../xfs"}) {
    EXPECT_EQ(validate_file_system(type).code(), Code::kInvalidArgument) << type;
  }
}

TEST(Mount, ProbeFindsWhatAFileHolds) {
  std::string path = testing::TempDir() + "probe-" + std::to_string(::getpid());
  { std::ofstream(path) << std::string(4 << 20, '\0'); }
  auto nothing = probe(path);
  ASSERT_TRUE(nothing.is_ok()) << nothing.message();
  EXPECT_EQ(*nothing, "");
  ASSERT_TRUE(run_program({"mkfs.ext4", "-q", path}, "e2fsprogs").is_ok());
  EXPECT_EQ(*probe(path), "ext4");
  ::unlink(path.c_str());
  EXPECT_EQ(probe(path).code(), Code::kNotFound);
}

TEST(Mount, TheSmallestVolumeDependsOnTheFileSystem) {
  EXPECT_TRUE(validate_size_for("ext4", smallest_volume("ext4")).is_ok());
  const Status refused = validate_size_for("xfs", uint64_t{299} << 20);
  EXPECT_EQ(refused.code(), Code::kInvalidArgument);
  EXPECT_NE(refused.message().find("300MiB"), std::string::npos) << refused.message();
}

TEST(Mount, WhatNoMkfsOfOursMadeIsNotMadeAnew) {
  std::string path = testing::TempDir() + "anew-" + std::to_string(::getpid());
  { std::ofstream(path) << std::string(4 << 20, '\0'); }
  ASSERT_TRUE(run_program({"mkfs.ext4", "-q", path}, "e2fsprogs").is_ok());
  EXPECT_EQ(make_file_system_anew(path, "xfs").code(), Code::kFailedPrecondition);
  ::unlink(path.c_str());
}

TEST(Trim, NumbersSurviveTheirWay) {
  EXPECT_EQ(*decode_trimmed("18446744073709551615"), UINT64_MAX);
  for (const char* text : {"", "-1", "1x", "18446744073709551616"})
    EXPECT_FALSE(decode_trimmed(text).is_ok()) << text;
}

TEST(Mount, AFileIsNoDevice) {
  std::string path = testing::TempDir() + "nodevice-" + std::to_string(::getpid());
  { std::ofstream(path) << "x"; }
  EXPECT_FALSE(make_file_system(path, "ext4").is_ok());
  EXPECT_FALSE(mount_device(path, path + ".d", "ext4", false).is_ok());
  ::unlink(path.c_str());
  ::rmdir((path + ".d").c_str());
}

TEST(Mount, WhatIsNotMountedIsUnmountedAlready) {
  EXPECT_TRUE(unmount(testing::TempDir()).is_ok());
  EXPECT_TRUE(unmount("/nowhere/at/all").is_ok());
  EXPECT_FALSE(is_mounted(testing::TempDir() + "x", nullptr));
}

TEST(Mount, AMissingOrFailingProgramIsExplained) {
  Status missing = run_program({"no-such-program"}, "some-package");
  EXPECT_EQ(missing.code(), Code::kUnsupported);
  EXPECT_NE(missing.message().find("some-package"), std::string::npos);
  Status failing = run_program({"ls", "/nowhere"}, "coreutils");
  EXPECT_EQ(failing.code(), Code::kIo);
  EXPECT_NE(failing.message().find("/nowhere"), std::string::npos);
}

// Whoever writes the blocks of a volume chooses what 'data' is; the host must not follow him.
TEST(Mount, WhatUsersGetIsAFolderOfTheVolumeAndNoLink) {
  namespace fs = std::filesystem;
  const std::string root = testing::TempDir() + "data-" + std::to_string(::getpid());
  const std::string data = root + "/data";
  fs::create_directories(root + "/elsewhere");
  fs::permissions(root + "/elsewhere", fs::perms::owner_all);
  EXPECT_TRUE(make_data_folder(data).is_ok());
  EXPECT_TRUE(make_data_folder(data).is_ok());
  EXPECT_EQ(fs::status(data).permissions(), fs::perms(0755));
  for (const std::string& target : {root + "/elsewhere", std::string("elsewhere"),
                                    std::string("/etc"), std::string("nothing")}) {
    fs::remove(data);
    fs::create_symlink(target, data);
    const Status refused = make_data_folder(data);
    EXPECT_EQ(refused.code(), Code::kFailedPrecondition) << refused.message();
    EXPECT_EQ(mount::bind(data, root + "/target").code(), Code::kFailedPrecondition);
    EXPECT_FALSE(is_mounted(root + "/target", nullptr));
  }
  EXPECT_EQ(fs::status(root + "/elsewhere").permissions(), fs::perms::owner_all);
  fs::remove(data);
  { std::ofstream(data) << "a file"; }
  EXPECT_EQ(make_data_folder(data).code(), Code::kFailedPrecondition);
  fs::remove_all(root);
}

}  // namespace
}  // namespace cvol::mount
