// Probing and making file systems.
#include <blkid/blkid.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <vector>

#include "volumed/base/units.h"
#include "volumed/mount/mount.h"
#include "volumed/mount/program.h"

namespace cvol::mount {
namespace {

// xfs cannot be smaller: mkfs.xfs refuses, with a less helpful text.
constexpr uint64_t kSmallestXfs = 300 * kMiB;
constexpr uint64_t kSmallestExt4 = 2 * kMiB;
constexpr uint64_t kCheckedBytes = kMiB;  // at both ends of the device
// Discarding a device takes a request per 4 GiB; beyond this size it would take minutes.
constexpr uint64_t kMostDiscarded = 16 * kTiB;
// Beyond these sizes, ext4 as it is by default writes a bitmap into each sixteenth group, far apart
// (a chunk for each 2 GiB of an empty file system), ...
constexpr uint64_t kLargeExt4 = 4 * kTiB;
// ... and beyond this one, its copies of the group descriptors are too large: 17 GiB for 1 PiB.
constexpr uint64_t kLargestExt4 = 256 * kTiB;

struct CloseProbe {
  void operator()(blkid_struct_probe* probe) const { blkid_free_probe(probe); }
};
using Probe = std::unique_ptr<blkid_struct_probe, CloseProbe>;

class Device {
 public:
  ~Device() {
    if (descriptor_ >= 0) close(descriptor_);
  }
  Status open_exclusively(const std::string& path) {
    descriptor_ = open(path.c_str(), O_RDWR | O_EXCL | O_CLOEXEC);
    if (descriptor_ < 0 && errno == EBUSY) {
      return Status(Code::kBusy, path + " is in use (mounted?); no file system is made on it");
    }
    if (descriptor_ < 0) return status_from_errno(errno, "open " + path);
    if (ioctl(descriptor_, BLKGETSIZE64, &size_) != 0) {
      return status_from_errno(errno, "size of " + path);
    }
    return Status::ok();
  }
  uint64_t size() const { return size_; }
  int descriptor() const { return descriptor_; }

 private:
  int descriptor_ = -1;
  uint64_t size_ = 0;
};

Result<bool> is_zero(const Device& device, uint64_t offset, uint64_t length) {
  std::string buffer(length, '\0');
  for (uint64_t done = 0; done < length;) {
    ssize_t got = pread(device.descriptor(), buffer.data() + done, length - done,
                        static_cast<off_t>(offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return status_from_errno(errno, "read the device");
    if (got == 0) return Status(Code::kIo, "the device is shorter than it says");
    done += static_cast<uint64_t>(got);
  }
  return std::all_of(buffer.begin(), buffer.end(), [](char c) { return c == '\0'; });
}

Status check_empty(const Device& device, const std::string& path) {
  Result<std::string> found = probe(path);
  if (!found) return found.status();
  if (!found->empty()) {
    return Status(Code::kFailedPrecondition,
                  path + " holds " + *found + "; a file system is only made on an empty device");
  }
  uint64_t length = std::min(kCheckedBytes, device.size());
  for (uint64_t offset : {uint64_t{0}, device.size() - length}) {
    Result<bool> zero = is_zero(device, offset, length);
    if (!zero) return zero.status();
    if (!*zero) {
      return Status(Code::kFailedPrecondition, path + " holds data of an unknown kind; a file " +
                                                   "system is only made on an empty device");
    }
  }
  return Status::ok();
}

// True if the whole device now reads as zeroes. On a fresh thin volume this costs nearly nothing.
bool discard_all(const Device& device) {
  if (device.size() > kMostDiscarded) return false;
  uint64_t range[2] = {0, device.size()};
  return ioctl(device.descriptor(), BLKDISCARD, range) == 0;
}

// Both ends as zeroes: no signature is left by which mkfs would know another file system.
Status wipe_ends(const Device& device) {
  const uint64_t length = std::min(kCheckedBytes, device.size());
  const std::string zeroes(length, '\0');
  for (uint64_t offset : {uint64_t{0}, device.size() - length}) {
    for (uint64_t done = 0; done < length;) {
      const ssize_t put = pwrite(device.descriptor(), zeroes.data() + done, length - done,
                                 static_cast<off_t>(offset + done));
      if (put < 0 && errno == EINTR) continue;
      if (put <= 0) return status_from_errno(put < 0 ? errno : EIO, "wipe the device");
      done += static_cast<uint64_t>(put);
    }
  }
  if (fsync(device.descriptor()) != 0) return status_from_errno(errno, "wipe the device");
  return Status::ok();
}

// No mkfs of ours leaves space taken by what nobody will use.
void discard_remains(const std::string& path) {
  Device opened;
  if (opened.open_exclusively(path).is_ok()) (void)discard_all(opened);
}

// The device reads as zeroes, so nothing is zeroed again, neither now nor by the kernel in the
// background after the first mount. No space is kept back for root: containers seldom are. Large
// ones get fewer inodes (one for each MiB or 4 MiB), and their metadata in fewer places.
std::vector<std::string> ext4_command(const std::string& path, bool zeroed, uint64_t size) {
  std::string extended = zeroed ? "nodiscard,assume_storage_prezeroed=1"
                                : "nodiscard,lazy_itable_init=1,lazy_journal_init=1";
  std::vector<std::string> command = {"mkfs.ext4", "-q", "-b", "4096", "-m", "0"};
  if (size > kLargeExt4) {
    const char* inode_bytes = size > kMostDiscarded ? "4194304" : "1048576";
    command.insert(command.end(), {"-i", inode_bytes, "-G", "1024"});
  }
  command.insert(command.end(), {"-E", extended, path});
  return command;
}

std::vector<std::string> xfs_command(const std::string& path) {
  return {"mkfs.xfs", "-q", "-K", path};
}

Status check_not_too_large(const std::string& type, uint64_t size) {
  if (type != "ext4" || size <= kLargestExt4) return Status::ok();
  return Status(Code::kInvalidArgument, "ext4 is made on volumes of up to " +
                                            format_size(kLargestExt4) +
                                            ", and this one "
                                            "has " +
                                            format_size(size) +
                                            ": create it with --fs xfs, or use it as a block "
                                            "device");
}

// `size`: of the device. What a mkfs that fails has written does not stay.
Status run_mkfs(const std::string& device, const std::string& type, uint64_t size, bool zeroed,
                const std::vector<std::string>& options) {
  const bool xfs = type == "xfs";
  std::vector<std::string> command = xfs ? xfs_command(device) : ext4_command(device, zeroed, size);
  command.insert(command.end() - 1, options.begin(), options.end());
  Status made = run_program(command, xfs ? "xfsprogs" : "e2fsprogs");
  if (!made.is_ok()) discard_remains(device);
  return made.with_context("make " + type + " on " + device);
}

}  // namespace

Status validate_file_system(const std::string& type) {
  if (type == "ext4" || type == "xfs") return Status::ok();
  return Status(Code::kInvalidArgument, "file system \"" + type + "\" is not one of ext4, xfs");
}

Result<std::string> probe(const std::string& device) {
  // What users wrote through the page cache counts: the volume is asked what it stores after this.
  if (const int file = open(device.c_str(), O_RDONLY | O_CLOEXEC); file >= 0) {
    const int failed = fsync(file);
    const int error = errno;
    close(file);
    if (failed != 0) return status_from_errno(error, "write back " + device);
  }
  Probe probe(blkid_new_probe_from_filename(device.c_str()));
  if (probe == nullptr) return status_from_errno(errno, "probe " + device);
  blkid_probe_enable_superblocks(probe.get(), 1);
  blkid_probe_set_superblocks_flags(probe.get(), BLKID_SUBLKS_TYPE);
  blkid_probe_enable_partitions(probe.get(), 1);
  errno = 0;
  int found = blkid_do_safeprobe(probe.get());
  if (found == 1) return std::string();
  if (found == -2) return std::string("signatures of several file systems");
  if (found != 0) return status_from_errno(errno != 0 ? errno : EIO, "probe " + device);
  const char* name = nullptr;
  if (blkid_probe_lookup_value(probe.get(), "TYPE", &name, nullptr) == 0) return std::string(name);
  if (blkid_probe_lookup_value(probe.get(), "PTTYPE", &name, nullptr) == 0) {
    return "a partition table (" + std::string(name) + ")";
  }
  return std::string("data of an unknown kind");
}

uint64_t smallest_volume(const std::string& type) {
  return type == "xfs" ? kSmallestXfs : kSmallestExt4;
}

Status validate_size_for(const std::string& type, uint64_t bytes) {
  if (bytes < smallest_volume(type))
    return Status(Code::kInvalidArgument, type + " needs a volume of at least " +
                                              format_size(smallest_volume(type)) +
                                              "; this one has " + format_size(bytes));
  return Status::ok();
}

Status make_file_system(const std::string& device, const std::string& type,
                        const std::vector<std::string>& options) {
  CVOL_TRY(validate_file_system(type));
  bool zeroed = false;
  uint64_t size = 0;
  {
    Device opened;
    CVOL_TRY(opened.open_exclusively(device));
    size = opened.size();
    CVOL_TRY(validate_size_for(type, size));
    CVOL_TRY(check_not_too_large(type, size));
    CVOL_TRY(check_empty(opened, device));
    zeroed = discard_all(opened);
  }
  return run_mkfs(device, type, size, zeroed, options);
}

Status make_file_system_anew(const std::string& device, const std::string& type,
                             const std::vector<std::string>& options) {
  CVOL_TRY(validate_file_system(type));
  Result<std::string> found = probe(device);
  if (!found) return found.status();
  if (!found->empty() && *found != type)
    return Status(Code::kFailedPrecondition,
                  device + " holds " + *found + ", which no mkfs of cvol made");
  bool zeroed = false;
  uint64_t size = 0;
  {
    Device opened;
    CVOL_TRY(opened.open_exclusively(device));
    size = opened.size();
    CVOL_TRY(validate_size_for(type, size));
    CVOL_TRY(check_not_too_large(type, size));
    zeroed = discard_all(opened);
    CVOL_TRY(wipe_ends(opened));
  }
  return run_mkfs(device, type, size, zeroed, options);
}

}  // namespace cvol::mount
