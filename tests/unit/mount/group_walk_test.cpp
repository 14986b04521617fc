#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "volumed/mount/staging.h"

namespace cvol::mount {
namespace {

namespace fs = std::filesystem;

constexpr uint32_t kGroup = 12345;

struct stat look(const fs::path& path) {
  struct stat found {};
  EXPECT_EQ(lstat(path.c_str(), &found), 0) << path;
  return found;
}

class GroupWalk : public ::testing::Test {
 protected:
  void SetUp() override {
    if (geteuid() != 0) GTEST_SKIP() << "only root gives files to any group";
    std::string name = ::testing::TempDir() + "group_walk.XXXXXX";
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    base_ = name;
    fs::create_directories(base_ / "volume/deep/deeper");
    fs::create_directories(base_ / "outside");
    std::ofstream(base_ / "outside/file") << "of the host";
    fs::permissions(base_ / "outside/file", fs::perms::owner_read);
    std::ofstream(base_ / "volume/deep/deeper/file") << "of the volume";
    fs::permissions(base_ / "volume/deep/deeper/file", fs::perms::owner_read);
  }
  void TearDown() override {
    if (!base_.empty()) fs::remove_all(base_);
  }

  fs::path base_;
};

TEST_F(GroupWalk, GivesFilesAndFoldersOfEveryDepth) {
  ASSERT_TRUE(give_to_group(base_ / "volume", kGroup));
  for (const char* name : {"volume", "volume/deep", "volume/deep/deeper"}) {
    EXPECT_EQ(look(base_ / name).st_gid, kGroup) << name;
    EXPECT_EQ(look(base_ / name).st_mode & 02070u, 02070u) << name;
  }
  EXPECT_EQ(look(base_ / "volume/deep/deeper/file").st_gid, kGroup);
  EXPECT_EQ(look(base_ / "volume/deep/deeper/file").st_mode & 07777u, 0460u);
}

TEST_F(GroupWalk, FollowsNoLinkOutOfTheVolume) {
  fs::create_symlink(base_ / "outside", base_ / "volume/folder");
  fs::create_symlink(base_ / "outside/file", base_ / "volume/deep/file");
  ASSERT_TRUE(give_to_group(base_ / "volume", kGroup));
  EXPECT_EQ(look(base_ / "volume/folder").st_gid, kGroup);  // the link itself
  EXPECT_NE(look(base_ / "outside").st_gid, kGroup);
  EXPECT_NE(look(base_ / "outside/file").st_gid, kGroup);
  EXPECT_EQ(look(base_ / "outside/file").st_mode & 07777u, 0400u);
}

TEST_F(GroupWalk, RefusesALinkAsItsTop) {
  fs::create_symlink(base_ / "outside", base_ / "link");
  EXPECT_FALSE(give_to_group(base_ / "link", kGroup));
  EXPECT_NE(look(base_ / "outside/file").st_gid, kGroup);
}

TEST_F(GroupWalk, LeavesTheOtherBitsOfAProgramAsTheyAre) {
  const fs::path program = base_ / "volume/program";
  std::ofstream(program) << "x";
  ASSERT_EQ(chmod(program.c_str(), 04755), 0);
  ASSERT_TRUE(give_to_group(base_ / "volume", kGroup));
  EXPECT_EQ(look(program).st_mode & 07777u, 04775u);
}

}  // namespace
}  // namespace cvol::mount
