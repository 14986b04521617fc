// check_sync() over a mount table and a sysfs of the test's own.
#include "volumed/volume/sync_ground.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/sysmacros.h>

#include <filesystem>
#include <fstream>
#include <string>

namespace cvol::volume {
namespace {

class SyncGround : public ::testing::Test {
 protected:
  SyncGround() {
    std::string name = (std::filesystem::temp_directory_path() / "sync_ground.XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) ADD_FAILURE() << "mkdtemp " << name;
    root_ = name;
  }
  ~SyncGround() override { std::filesystem::remove_all(root_); }

  void mount(const std::string& number, const std::string& target, const std::string& type,
             const std::string& options) {
    std::ofstream(root_ + "/mountinfo", std::ios::app)
        << "36 35 " << number << " / " << target << " rw shared:1 - " << type << " /dev/x "
        << options << "\n";
  }
  void loop(const std::string& device, const std::string& file) {
    const std::string folder = root_ + "/dev/block/" + device + "/loop";
    std::filesystem::create_directories(folder);
    std::ofstream(folder + "/backing_file") << file << "\n";
    std::ofstream(root_ + "/dev/block/" + device + "/size") << 8 << "\n";
    const std::filesystem::path image(root_ + file);
    std::filesystem::create_directories(image.parent_path());
    std::ofstream(image) << std::string(4096, 'x');
  }
  Status check(unsigned int major_number, unsigned int minor_number) {
    return check_sync(makedev(major_number, minor_number), {root_, root_ + "/mountinfo", root_});
  }

  std::string root_;
};

TEST_F(SyncGround, takes_a_plain_file_system_and_one_that_is_not_listed) {
  mount("8:1", "/data", "ext4", "rw,barrier=1");
  EXPECT_TRUE(check(8, 1).is_ok());
  EXPECT_TRUE(check(8, 2).is_ok());
}

TEST_F(SyncGround, refuses_mounts_without_barriers_and_volatile_overlays) {
  mount("8:1", "/a", "ext4", "rw,nobarrier");
  mount("8:2", "/b", "ext4", "barrier=0");
  mount("0:9", "/c", "overlay", "rw,lowerdir=/l,volatile");
  EXPECT_EQ(check(8, 1).code(), Code::kFailedPrecondition);
  EXPECT_EQ(check(8, 2).code(), Code::kFailedPrecondition);
  EXPECT_EQ(check(0, 9).code(), Code::kFailedPrecondition);
}

TEST_F(SyncGround, refuses_a_loop_device_in_memory_below_another_one) {
  mount("8:1", "/", "ext4", "rw");
  mount("0:5", "/shm", "tmpfs", "rw");
  mount("7:0", "/outer", "ext4", "rw");
  mount("7:1", "/inner", "xfs", "rw");
  loop("7:0", "/shm/image");
  loop("7:1", "/outer/image");
  EXPECT_EQ(check(7, 1).code(), Code::kFailedPrecondition);
}

TEST_F(SyncGround, takes_a_loop_device_whose_file_is_of_another_namespace) {
  mount("0:5", "/", "tmpfs", "rw");
  mount("7:0", "/a", "ext4", "rw");
  loop("7:0", "/volume");
  EXPECT_EQ(check(7, 0).code(), Code::kFailedPrecondition);
  std::filesystem::resize_file(root_ + "/volume", 8192);
  EXPECT_TRUE(check(7, 0).is_ok());
  std::filesystem::remove(root_ + "/volume");
  EXPECT_TRUE(check(7, 0).is_ok());
}

TEST_F(SyncGround, takes_a_loop_device_on_a_disk_and_ends_on_a_circle) {
  mount("8:1", "/", "ext4", "rw");
  mount("0:5", "/shm", "tmpfs", "rw");
  mount("7:0", "/a", "ext4", "rw");
  mount("7:1", "/b", "ext4", "rw");
  loop("7:0", "/shmem/image");  // not below /shm
  loop("7:1", "/b/image");
  EXPECT_TRUE(check(7, 0).is_ok());
  EXPECT_TRUE(check(7, 1).is_ok());
}

}  // namespace
}  // namespace cvol::volume
