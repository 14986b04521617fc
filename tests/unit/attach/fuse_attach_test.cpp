// Attach by FUSE and loop on this host, with nbdkit as the server.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/fs.h>

#include <atomic>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <thread>

#include "nbd/attach/attach.h"
#include "nbd/attach/device_record.h"
#include "nbd/attach/holders.h"
#include "nbd/attach/host.h"
#include "volumed/base/units.h"
#include "volumed/mount/mount.h"

namespace cvol::attach {
namespace {

class FuseAttachTest : public testing::Test {
 protected:
  void SetUp() override {
    if (geteuid() != 0 || access("/dev/fuse", W_OK) != 0 ||
        access("/dev/loop-control", W_OK) != 0 || access("/usr/bin/nbdkit", X_OK) != 0) {
      GTEST_SKIP() << "needs root, /dev/fuse, /dev/loop-control and nbdkit";
    }
    root_ = testing::TempDir() + "fuse-attach-" + std::to_string(getpid());
    std::filesystem::create_directories(root_ + "/state");
    make_image(512 * kMiB);
    start_server();
    open();
  }
  void TearDown() override {
    if (attacher_ == nullptr) return;
    EXPECT_TRUE(mount::unmount(target()));
    (void)attacher_->detach("v1");
    stop_server();
    std::filesystem::remove_all(root_);
  }

  void make_image(uint64_t bytes) {
    std::ofstream(root_ + "/image", std::ios::app).flush();
    std::filesystem::resize_file(root_ + "/image", bytes);
  }
  void start_server() {
    std::filesystem::remove(socket());
    std::string file = root_ + "/image";
    std::string path = socket();
    const char* words[] = {"nbdkit", "-f", "-U", path.c_str(), "file", file.c_str(), nullptr};
    ASSERT_EQ(
        posix_spawnp(&server_, "nbdkit", nullptr, nullptr, const_cast<char**>(words), environ), 0);
    ASSERT_TRUE(
        wait_until(std::chrono::seconds(10), [&] { return std::filesystem::exists(socket()); }));
  }
  void stop_server() {
    kill(server_, SIGKILL);
    waitpid(server_, nullptr, 0);
  }
  void open(const std::string& instance = "node-1") {
    AttachOptions options;
    options.instance = instance;
    options.method = Method::kFuse;
    options.run_dir = root_ + "/run";
    options.state_dir = instance == "node-1" ? root_ + "/state" : root_ + "/other-state";
    options.nbd_socket = socket();
    options.on_lost = [this](const std::string& volume, const std::string&) {
      EXPECT_EQ(volume, "v1");
      ++lost_;
    };
    auto opened = Attacher::open(options);
    ASSERT_TRUE(opened.is_ok()) << opened.message();
    attacher_ = std::move(*opened);
  }
  std::string attach() {
    auto device = attacher_->attach("v1", 512 * kMiB);
    EXPECT_TRUE(device.is_ok()) << device.message();
    return device.is_ok() ? device->path : "";
  }
  int64_t holder_pid() const {
    auto records = read_records(root_ + "/state");
    return records.is_ok() && records->size() == 1 ? (*records)[0].holder_pid : 0;
  }
  std::string socket() const { return root_ + "/nbd.sock"; }
  std::string target() const { return root_ + "/target"; }

  std::string root_;
  pid_t server_ = -1;
  std::atomic<int> lost_{0};
  std::unique_ptr<Attacher> attacher_;
};

std::string backing_of(const std::string& device) {
  return read_line("/sys/block/" + device.substr(5) + "/loop/backing_file");
}

TEST_F(FuseAttachTest, AttachesOnceAndDetaches) {
  std::string device = attach();
  EXPECT_EQ(attach(), device);
  EXPECT_EQ(attacher_->list().size(), 1u);
  EXPECT_EQ(read_line("/sys/block/" + device.substr(5) + "/loop/dio"), "1");
  EXPECT_TRUE(attacher_->detach("v1").is_ok());
  EXPECT_EQ(backing_of(device), "");
  EXPECT_EQ(attacher_->detach("v1").code(), Code::kNotFound);
  EXPECT_TRUE(attacher_->list().empty());
}

TEST_F(FuseAttachTest, AMountedDeviceIsNotDetached) {
  std::string device = attach();
  ASSERT_TRUE(mount::make_file_system(device, "ext4").is_ok());
  EXPECT_EQ(*mount::probe(device), "ext4");
  EXPECT_EQ(mount::make_file_system(device, "xfs").code(), Code::kFailedPrecondition);
  ASSERT_TRUE(mount::mount_device(device, target(), "ext4", false).is_ok());
  ASSERT_TRUE(mount::mount_device(device, target(), "ext4", false).is_ok());
  EXPECT_TRUE(std::filesystem::is_empty(target()));
  EXPECT_EQ(attacher_->detach("v1").code(), Code::kBusy);
  int file = ::open((target() + "/f").c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
  Status busy = mount::unmount(target());
  EXPECT_EQ(busy.code(), Code::kBusy);
  EXPECT_NE(busy.message().find(std::to_string(getpid())), std::string::npos) << busy.message();
  close(file);
  EXPECT_TRUE(mount::unmount(target()).is_ok());
  EXPECT_TRUE(mount::unmount(target()).is_ok());
}

TEST_F(FuseAttachTest, IoWaitsForARestartedServerAndANewAttacherFindsTheDevice) {
  std::string device = attach();
  ASSERT_TRUE(mount::make_file_system(device, "xfs").is_ok());
  ASSERT_TRUE(mount::mount_device(device, target(), "xfs", false).is_ok());
  stop_server();
  std::atomic<bool> done{false};
  std::thread writer([&] {
    int file = ::open((target() + "/f").c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    std::string data(1 << 20, 'd');
    EXPECT_EQ(write(file, data.data(), data.size()), static_cast<ssize_t>(data.size()));
    EXPECT_EQ(fsync(file), 0);
    close(file);
    done = true;
  });
  usleep(500'000);
  EXPECT_FALSE(done);
  attacher_.reset();
  start_server();
  open();
  auto devices = attacher_->reconcile();
  writer.join();
  ASSERT_TRUE(devices.is_ok());
  ASSERT_EQ(devices->size(), 1u);
  EXPECT_EQ((*devices)[0].path, device);
  EXPECT_EQ(attach(), device);
}

TEST_F(FuseAttachTest, AKilledHolderIsCleanedUpAndTheNextAttachWorks) {
  std::string device = attach();
  ASSERT_TRUE(mount::make_file_system(device, "ext4").is_ok());
  ASSERT_TRUE(mount::mount_device(device, target(), "ext4", false).is_ok());
  ASSERT_GT(holder_pid(), 0);
  kill(static_cast<pid_t>(holder_pid()), SIGKILL);
  usleep(200'000);
  open();
  auto devices = attacher_->reconcile();
  ASSERT_TRUE(devices.is_ok());
  EXPECT_TRUE(devices->empty());
  EXPECT_FALSE(mount::is_mounted(target(), nullptr));
  EXPECT_EQ(backing_of(device), "");
  std::string again = attach();
  EXPECT_TRUE(mount::mount_device(again, target(), "ext4", false).is_ok());
}

// The server is gone, as for an attachment that is over: nothing else would ever end the write.
TEST_F(FuseAttachTest, WhatWaitsEndsWithAnErrorWhenTheDeviceIsCut) {
  std::string device = attach();
  stop_server();
  int file = ::open(device.c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_GE(file, 0);
  std::string data(4096, 'd');
  ASSERT_EQ(write(file, data.data(), data.size()), 4096);
  std::atomic<int> result{1};
  std::thread writer([&] { result = fsync(file); });
  usleep(300'000);
  EXPECT_EQ(result, 1);
  attacher_->cut("v1");
  EXPECT_TRUE(wait_until(std::chrono::seconds(20), [&] { return result != 1; }));
  writer.join();
  EXPECT_EQ(result, -1);
  close(file);
  start_server();
}

TEST_F(FuseAttachTest, ADeviceIsDiscardedUnderAFileSystemWithUnwrittenData) {
  std::string device = attach();
  ASSERT_TRUE(mount::make_file_system(device, "ext4").is_ok());
  ASSERT_TRUE(mount::mount_device(device, target(), "ext4", false).is_ok());
  stop_server();
  int file = ::open((target() + "/f").c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
  ASSERT_GE(file, 0);
  std::string data(1 << 20, 'd');
  EXPECT_EQ(write(file, data.data(), data.size()), static_cast<ssize_t>(data.size()));
  close(file);
  EXPECT_TRUE(attacher_->discard("v1").is_ok());
  EXPECT_FALSE(mount::is_mounted(target(), nullptr));
  EXPECT_TRUE(attacher_->list().empty());
  EXPECT_EQ(backing_of(device), "");
  start_server();
}

// Somebody may have the device beyond our reach, in another mount namespace: without its holder he
// cannot write beside the next device of the volume.
TEST_F(FuseAttachTest, CleaningUpADeviceWithoutARecordEndsItsHolder) {
  attach();
  const int64_t pid = holder_pid();
  ASSERT_TRUE(remove_record(root_ + "/state", "v1").is_ok());
  open();
  auto devices = attacher_->reconcile();
  ASSERT_TRUE(devices.is_ok());
  EXPECT_TRUE(devices->empty());
  EXPECT_EQ(process_start_time(pid), 0u);
  EXPECT_FALSE(attach().empty());
  EXPECT_EQ(find_holders(root_ + "/run").size(), 1u);
}

TEST_F(FuseAttachTest, ARecordThatCannotBeReadKeepsItsDevice) {
  std::string device = attach();
  const int64_t pid = holder_pid();
  std::ofstream(root_ + "/state/v1.json") << "{";
  open();
  auto devices = attacher_->reconcile();
  ASSERT_TRUE(devices.is_ok());
  ASSERT_EQ(devices->size(), 1u);
  EXPECT_EQ((*devices)[0].path, device);
  EXPECT_EQ((*devices)[0].size_bytes, 512 * kMiB);
  EXPECT_NE(process_start_time(pid), 0u);
  EXPECT_EQ(attach(), device);
  EXPECT_TRUE(attacher_->detach("v1").is_ok());
  EXPECT_EQ(process_start_time(pid), 0u);
}

// volumed was started with another data directory and the same run directory.
TEST_F(FuseAttachTest, ADeviceOfAnotherInstanceStays) {
  std::string device = attach();
  const int64_t pid = holder_pid();
  open("node-2");
  auto devices = attacher_->reconcile();
  ASSERT_TRUE(devices.is_ok());
  EXPECT_TRUE(devices->empty());
  EXPECT_NE(process_start_time(pid), 0u);
  EXPECT_NE(backing_of(device), "");
  auto refused = attacher_->attach("v1", 512 * kMiB);
  EXPECT_EQ(refused.code(), Code::kFailedPrecondition) << refused.message();
  EXPECT_NE(process_start_time(pid), 0u);
  open();
  EXPECT_EQ(attacher_->reconcile()->size(), 1u);
  EXPECT_EQ(attach(), device);
}

TEST_F(FuseAttachTest, ARunDirectoryWithDevicesOfAnotherInstanceIsRefused) {
  AttachOptions options;
  options.method = Method::kFuse;
  options.run_dir = root_ + "/node/attach";
  options.state_dir = root_ + "/state";
  options.nbd_socket = socket();
  options.instance = "node-1";
  auto opened = Attacher::open(options);
  ASSERT_TRUE(opened.is_ok()) << opened.message();
  attacher_ = std::move(*opened);
  ASSERT_TRUE(claim_run_dir(root_ + "/node", "node-1", "/data/one").is_ok());
  EXPECT_TRUE(check_run_dir(root_ + "/node", "node-2").is_ok());
  ASSERT_FALSE(attach().empty());
  EXPECT_TRUE(check_run_dir(root_ + "/node", "node-1").is_ok());
  for (const char* other : {"node-2", ""}) {
    Status refused = check_run_dir(root_ + "/node", other);
    EXPECT_EQ(refused.code(), Code::kFailedPrecondition);
    EXPECT_NE(refused.message().find("/data/one"), std::string::npos) << refused.message();
    EXPECT_NE(refused.message().find("'v1'"), std::string::npos) << refused.message();
  }
}

TEST_F(FuseAttachTest, AHolderThatEndsByItselfIsNoticed) {
  attach();
  ASSERT_TRUE(attacher_->detach("v1").is_ok());
  attach();
  attacher_->cut("v1");
  ASSERT_TRUE(attacher_->discard("v1").is_ok());
  attach();
  EXPECT_EQ(lost_, 0);
  open();
  ASSERT_EQ(attacher_->reconcile()->size(), 1u);
  kill(static_cast<pid_t>(holder_pid()), SIGKILL);
  EXPECT_TRUE(wait_until(std::chrono::seconds(10), [&] { return lost_ == 1; }));
  EXPECT_FALSE(attach().empty());
}

TEST_F(FuseAttachTest, AHolderInUseIgnoresSigterm) {
  std::string device = attach();
  kill(static_cast<pid_t>(holder_pid()), SIGTERM);
  usleep(200'000);
  EXPECT_NE(process_start_time(holder_pid()), 0u);
  EXPECT_EQ(*mount::probe(device), "");
}

TEST_F(FuseAttachTest, TheDeviceGrows) {
  std::string device = attach();
  ASSERT_TRUE(mount::make_file_system(device, "xfs").is_ok());
  ASSERT_TRUE(mount::mount_device(device, target(), "xfs", false).is_ok());
  EXPECT_EQ(attacher_->resize("v1", 256 * kMiB).code(), Code::kInvalidArgument);
  auto before = std::filesystem::space(target()).capacity;
  stop_server();
  make_image(kGiB);
  start_server();
  ASSERT_TRUE(attacher_->resize("v1", kGiB).is_ok());
  Status grown = mount::grow_file_system(device, target(), "xfs");
  ASSERT_TRUE(grown.is_ok()) << grown.message();
  EXPECT_GT(std::filesystem::space(target()).capacity, before + 400 * kMiB);
}

TEST_F(FuseAttachTest, NobodyListeningIsToldAndNothingIsLeft) {
  stop_server();
  auto device = attacher_->attach("v1", 512 * kMiB);
  EXPECT_EQ(device.code(), Code::kUnavailable);
  EXPECT_TRUE(attacher_->list().empty());
  EXPECT_TRUE(read_records(root_ + "/state")->empty());
  start_server();
}

}  // namespace
}  // namespace cvol::attach
