#include "volumed/mount/staging.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <sstream>

#include "volumed/mount/identity.h"
#include "volumed/mount/mount.h"
#include "volumed/mount/program.h"

namespace cvol::mount {
namespace {

namespace fs = std::filesystem;

bool is_same_file(const std::string& one, const std::string& other) {
  struct stat a;
  struct stat b;
  if (stat(one.c_str(), &a) != 0 || stat(other.c_str(), &b) != 0) return false;
  if (S_ISBLK(a.st_mode) && S_ISBLK(b.st_mode)) return a.st_rdev == b.st_rdev;
  return a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

Status bind_to(const std::string& source, const std::string& target) {
  if (MountEntry entry; find_mount(target, entry)) {
    if (is_same_file(source, target)) return Status::ok();
    return Status(Code::kFailedPrecondition, "something else is mounted at " + target + " already");
  }
  if (::mount(source.c_str(), target.c_str(), nullptr, MS_BIND, nullptr) != 0)
    return status_from_errno(errno, "bind " + source + " to " + target);
  return Status::ok();
}

// The flags of a mount have to be said again when one of them changes.
unsigned long flags_of(const std::string& target) {
  struct statvfs found;
  if (statvfs(target.c_str(), &found) != 0) return 0;
  unsigned long flags = 0;
  if ((found.f_flag & ST_NOSUID) != 0) flags |= MS_NOSUID;
  if ((found.f_flag & ST_NODEV) != 0) flags |= MS_NODEV;
  if ((found.f_flag & ST_NOEXEC) != 0) flags |= MS_NOEXEC;
  if ((found.f_flag & ST_NOATIME) != 0) flags |= MS_NOATIME;
  if ((found.f_flag & ST_NODIRATIME) != 0) flags |= MS_NODIRATIME;
  if ((found.f_flag & ST_RELATIME) != 0) flags |= MS_RELATIME;
  return flags;
}

// A file system that was shut down answers EIO to a look into its top.
bool can_be_read(const std::string& path) {
  std::error_code error;
  (void)fs::directory_iterator(path, error);
  return error.value() != EIO;
}

}  // namespace

Status check_file_system(const std::string& device, const std::string& type, bool read_only) {
  CVOL_TRY(validate_file_system(type));
  if (type == "xfs") return Status::ok();
  if (!read_only) {
    Status replayed = run_program({"e2fsck", "-p", "-E", "journal_only", device}, "e2fsprogs");
    if (replayed.code() == Code::kUnsupported) return replayed;
  }
  // Quick on a file system that is marked clean; reads everything if errors were noted.
  Status sound = run_program({"e2fsck", "-n", device}, "e2fsprogs");
  if (sound.code() != Code::kIo) return sound;
  return Status(Code::kDamaged,
                "the file system on " + device +
                    " needs a repair, which cvol does not begin by itself: attach "
                    "the volume, look with 'e2fsck -fn', repair with 'e2fsck -f' (" +
                    sound.message() + ")");
}

Status mount_with(const std::string& device, const std::string& target, const std::string& type,
                  const MountOptions& options) {
  CVOL_TRY(validate_file_system(type));
  if (MountEntry entry; find_mount(target, entry)) {
    struct stat found;
    struct stat wanted;
    if (stat(target.c_str(), &found) == 0 && stat(device.c_str(), &wanted) == 0 &&
        found.st_dev == wanted.st_rdev)
      return Status::ok();
    return Status(Code::kFailedPrecondition,
                  target + " already has " + entry.source + " mounted on it");
  }
  std::error_code error;
  fs::create_directories(target, error);
  if (error) return status_from_errno(error.value(), "create " + target);
  // A file system that is damaged takes no more writes; parse_mount_flags() lets nothing else in.
  std::string data = options.data;
  if (type == "ext4" && data.find("errors=") == std::string::npos)
    data += (data.empty() ? "" : ",") + std::string("errors=remount-ro");
  if (::mount(device.c_str(), target.c_str(), type.c_str(), options.flags, data.c_str()) != 0) {
    const int reason = errno;
    Status failed = status_from_errno(reason, "mount " + device + " at " + target);
    if (reason != EINVAL) return failed;
    return Status(Code::kFailedPrecondition, failed.message() + "; does " + type +
                                                 " know all the flags '" + data +
                                                 "'? The kernel log says more");
  }
  // An empty volume is an empty folder: initdb and its like insist.
  if (type == "ext4" && (options.flags & MS_RDONLY) == 0) ::rmdir((target + "/lost+found").c_str());
  return Status::ok();
}

Status show_files(const std::string& source, const std::string& target, bool read_only) {
  if (mkdir(target.c_str(), 0750) != 0 && errno != EEXIST)
    return status_from_errno(errno, "create " + target);
  CVOL_TRY(bind_to(source, target));
  if (!read_only) return Status::ok();
  const unsigned long flags = MS_BIND | MS_REMOUNT | MS_RDONLY | flags_of(target);
  if (::mount(nullptr, target.c_str(), nullptr, flags, nullptr) == 0) return Status::ok();
  Status failed = status_from_errno(errno, "make " + target + " read-only");
  umount2(target.c_str(), MNT_DETACH);  // not writable by mistake
  return failed;
}

Status show_device(const std::string& device, const std::string& target) {
  const int file = open(target.c_str(), O_CREAT | O_CLOEXEC | O_RDONLY | O_NONBLOCK, 0640);
  if (file < 0) return status_from_errno(errno, "create " + target);
  close(file);
  return bind_to(device, target);
}

Status hide(const std::string& target, const std::string& device) {
  for (Seen seen = what_is_at(target, device); seen != Seen::kNothing;
       seen = what_is_at(target, device)) {
    if (seen == Seen::kForeign)
      return Status(Code::kFailedPrecondition,
                    "what is mounted at " + target + " is not this volume; it stays");
    CVOL_TRY(unmount(target));
  }
  struct stat left;
  if (lstat(target.c_str(), &left) != 0) return Status::ok();
  const bool empty_file = S_ISREG(left.st_mode) && left.st_size == 0;
  const int gone = S_ISDIR(left.st_mode) ? rmdir(target.c_str())
                   : empty_file          ? ::unlink(target.c_str())
                                         : -1;
  if (gone == 0 || errno == ENOENT) return Status::ok();
  return Status(Code::kFailedPrecondition,
                target + " is left: it holds files that are not of the volume");
}

Status set_read_only(const std::string& device, bool read_only) {
  const int file = open(device.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return status_from_errno(errno, "open " + device);
  int wanted = read_only ? 1 : 0;
  const bool set = ioctl(file, BLKROSET, &wanted) == 0;
  const int error = errno;
  close(file);
  return set ? Status::ok() : status_from_errno(error, "make " + device + " read-only");
}

std::string trouble_of(const Usage& usage, bool read_only) {
  if (usage.shut_down)
    return "was shut down after an I/O error: end its users, unpublish, unstage and stage it again";
  if (usage.read_only && !read_only)
    return "became read-only after an error: end its users, unpublish and unstage it; the next "
           "staging checks it";
  return "";
}

Result<Usage> usage_of(const std::string& path) {
  if (MountEntry entry; !find_mount(path, entry))
    return Status(Code::kNotFound, "nothing is mounted at " + path);
  struct statvfs found;
  if (statvfs(path.c_str(), &found) != 0) {
    if (errno != EIO) return status_from_errno(errno, "usage of " + path);
    Usage none;
    none.shut_down = true;
    return none;
  }
  Usage usage;
  usage.read_only = (found.f_flag & ST_RDONLY) != 0;
  usage.shut_down = !can_be_read(path);
  usage.total_bytes = found.f_blocks * found.f_frsize;
  usage.available_bytes = found.f_bavail * found.f_frsize;
  usage.used_bytes = (found.f_blocks - found.f_bfree) * found.f_frsize;
  usage.total_inodes = found.f_files;
  usage.free_inodes = found.f_ffree;
  usage.used_inodes = found.f_files - found.f_ffree;
  return usage;
}

std::string encode_usage(const Usage& usage) {
  std::ostringstream text;
  text << usage.total_bytes << ' ' << usage.available_bytes << ' ' << usage.used_bytes << ' '
       << usage.total_inodes << ' ' << usage.free_inodes << ' ' << usage.used_inodes << ' '
       << usage.read_only << ' ' << usage.shut_down;
  return text.str();
}

Result<Usage> decode_usage(const std::string& text) {
  std::istringstream words(text);
  Usage usage;
  words >> usage.total_bytes >> usage.available_bytes >> usage.used_bytes >> usage.total_inodes >>
      usage.free_inodes >> usage.used_inodes >> usage.read_only >> usage.shut_down;
  if (!words) return Status(Code::kInternal, "no usage: " + text);
  return usage;
}

}  // namespace cvol::mount
