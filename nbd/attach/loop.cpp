#include "nbd/attach/loop.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "nbd/attach/host.h"
#include "volumed/base/log.h"
#include "volumed/base/units.h"

namespace cvol::attach {
namespace {

constexpr unsigned kLoopMajor = 7;
constexpr int kMostTries = 64;  // other programs take free loop devices too
constexpr std::chrono::seconds kDetachTime{5};

std::string name_of(const std::string& device) {
  return device.substr(device.rfind('/') + 1);
}

std::string backing_file(const std::string& device) {
  return read_line("/sys/block/" + name_of(device) + "/loop/backing_file");
}

// Containers and minimal systems have no udev to make the node.
Status ensure_node(const std::string& device, int index) {
  if (access(device.c_str(), F_OK) == 0) return Status::ok();
  dev_t number = makedev(kLoopMajor, static_cast<unsigned>(index));
  if (mknod(device.c_str(), S_IFBLK | 0600, number) != 0 && errno != EEXIST) {
    return status_from_errno(errno, "create " + device);
  }
  return Status::ok();
}

loop_config make_config(int file, const std::string& path) {
  loop_config config{};
  config.fd = static_cast<uint32_t>(file);
  config.block_size = kBlockBytes;
  config.info.lo_flags = LO_FLAGS_DIRECT_IO;
  std::strncpy(reinterpret_cast<char*>(config.info.lo_file_name), path.c_str(), LO_NAME_SIZE - 1);
  return config;
}

// Requests of at most 1 MiB, which is what FUSE carries in one piece; no I/O scheduler in front of
// a device that is served by a process.
void tune(const std::string& device) {
  std::string queue = "/sys/block/" + name_of(device) + "/queue/";
  for (auto [file, text] : {std::pair("max_sectors_kb", "1024"), std::pair("scheduler", "none")}) {
    if (Status status = write_text(queue + file, text); !status) {
      log::debug("attach", "a queue setting is left as it is", {{"reason", status.message()}});
    }
  }
  if (read_line("/sys/block/" + name_of(device) + "/loop/dio") != "1") {
    log::warning("attach", "the loop device does not use direct I/O; data is cached twice",
                 {{"device", device}});
  }
}

// A reader of a block volume is kept from writing by a mark (BLKROSET) that the kernel leaves on
// the device when its file goes: whoever gets the device next could not write.
void drop_read_only_mark(int loop, const std::string& device) {
  const int off = 0;
  if (ioctl(loop, BLKROSET, &off) != 0) {
    log::warning("attach", "a device may be left read-only",
                 {{"device", device}, {"reason", std::string(std::strerror(errno))}});
  }
}

// One try: true when configured, false when another program took the device first.
Result<bool> configure(const std::string& device, const std::string& path, int file) {
  Descriptor loop(open(device.c_str(), O_RDWR | O_CLOEXEC));
  if (!loop.is_open()) return status_from_errno(errno, "open " + device);
  loop_config config = make_config(file, path);
  if (ioctl(loop.number(), LOOP_CONFIGURE, &config) == 0) {
    drop_read_only_mark(loop.number(), device);
    return true;
  }
  if (errno == EBUSY) return false;
  if (errno == EINVAL || errno == ENOTTY) {
    return Status(Code::kUnsupported, "configure " + device + ": " + std::strerror(errno) +
                                          "; the loop driver must be that of Linux 5.8 or newer");
  }
  return status_from_errno(errno, "configure " + device);
}

}  // namespace

Result<std::string> loop_attach(const std::string& file) {
  Descriptor backing(open(file.c_str(), O_RDWR | O_DIRECT | O_CLOEXEC));
  if (!backing.is_open()) return status_from_errno(errno, "open " + file);
  Descriptor control(open("/dev/loop-control", O_RDWR | O_CLOEXEC));
  if (!control.is_open()) {
    return Status(Code::kUnsupported, std::string("open /dev/loop-control: ") +
                                          std::strerror(errno) + "; load the loop module");
  }
  for (int i = 0; i < kMostTries; ++i) {
    int index = ioctl(control.number(), LOOP_CTL_GET_FREE);
    if (index < 0) return status_from_errno(errno, "find a free loop device");
    std::string device = "/dev/loop" + std::to_string(index);
    CVOL_TRY(ensure_node(device, index));
    Result<bool> done = configure(device, file, backing.number());
    if (!done) return done.status();
    if (*done) {
      tune(device);
      return device;
    }
  }
  return Status(Code::kBusy, "other programs took every loop device that was free; try again");
}

std::string loop_of_file(const std::string& file) {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/sys/block", error)) {
    std::string name = entry.path().filename();
    if (name.rfind("loop", 0) == 0 && backing_file(name) == file) return "/dev/" + name;
  }
  return "";
}

// The kernel frees the device with the close of the last descriptor, which may be ours.
Status loop_detach(const std::string& device) {
  std::string file = backing_file(device);
  if (file.empty()) return Status::ok();
  {
    Descriptor loop(open(device.c_str(), O_RDWR | O_CLOEXEC));
    if (!loop.is_open()) return status_from_errno(errno, "open " + device);
    drop_read_only_mark(loop.number(), device);
    if (ioctl(loop.number(), LOOP_CLR_FD) != 0 && errno != ENXIO) {
      return status_from_errno(errno, "detach " + device);
    }
  }
  if (wait_until(kDetachTime, [&] { return backing_file(device) != file; })) return Status::ok();
  return Status(Code::kBusy, device + " is still open in a process; it goes with the last close");
}

uint64_t loop_size(const std::string& device) {
  return std::strtoull(read_line("/sys/block/" + name_of(device) + "/size").c_str(), nullptr, 10) *
         512;
}

Status loop_update_size(const std::string& device) {
  Descriptor loop(open(device.c_str(), O_RDWR | O_CLOEXEC));
  if (!loop.is_open()) return status_from_errno(errno, "open " + device);
  if (ioctl(loop.number(), LOOP_SET_CAPACITY) != 0) {
    return status_from_errno(errno, "set the capacity of " + device);
  }
  return Status::ok();
}

}  // namespace cvol::attach
