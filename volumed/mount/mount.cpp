#include "volumed/mount/mount.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "volumed/base/log.h"
#include "volumed/mount/mountinfo.h"
#include "volumed/mount/program.h"

namespace cvol::mount {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMostUsersNamed = 3;

// The path as the mount table has it; unchanged if it does not exist.
std::string real_path(const std::string& path) {
  std::error_code error;
  fs::path real = fs::canonical(path, error);
  if (!error) return real;
  return path;  // a dead file system cannot be looked at; its path was resolved when it was mounted
}

bool find_mount(const std::string& target, MountEntry& into) {
  std::string path = real_path(target);
  bool found = false;
  for (MountEntry& entry : read_mountinfo()) {
    if (entry.target != path) continue;
    into = std::move(entry);  // the last one is on top
    found = true;
  }
  return found;
}

std::string device_number(const std::string& device) {
  struct stat attributes;
  if (stat(device.c_str(), &attributes) != 0 || !S_ISBLK(attributes.st_mode)) return "";
  return std::to_string(major(attributes.st_rdev)) + ":" +
         std::to_string(minor(attributes.st_rdev));
}

Status prepare_target(const std::string& target) {
  std::error_code error;
  fs::create_directories(target, error);
  if (error) return Status(Code::kIo, "create " + target + ": " + error.message());
  bool empty = fs::is_empty(target, error);
  if (error) return Status(Code::kIo, "look into " + target + ": " + error.message());
  if (empty) return Status::ok();
  return Status(Code::kFailedPrecondition,
                target + " is not empty; mount the volume at an empty directory");
}

// Images expect the root of a fresh volume to be empty (initdb insists). e2fsck makes the directory
// again when it has something to put there; rmdir then leaves it alone.
void remove_lost_and_found(const std::string& target) {
  std::string path = target + "/lost+found";
  if (rmdir(path.c_str()) != 0 && errno != ENOENT && errno != ENOTEMPTY) {
    log::debug("mount", "lost+found stays", {{"path", path}, {"reason", std::strerror(errno)}});
  }
}

bool is_below(const std::string& path, const std::string& target) {
  return path == target || path.rfind(target + "/", 0) == 0;
}

bool process_uses(const fs::path& process, const std::string& target) {
  std::error_code error;
  for (const char* link : {"cwd", "root", "exe"}) {
    fs::path to = fs::read_symlink(process / link, error);
    if (!error && is_below(to, target)) return true;
  }
  for (const auto& entry : fs::directory_iterator(process / "fd", error)) {
    std::error_code ignored;
    if (is_below(fs::read_symlink(entry.path(), ignored), target)) return true;
  }
  return false;
}

bool is_same_folder(const std::string& one, const std::string& other) {
  struct stat a;
  struct stat b;
  return stat(one.c_str(), &a) == 0 && stat(other.c_str(), &b) == 0 && a.st_dev == b.st_dev &&
         a.st_ino == b.st_ino;
}

Status mount_failed(int error, const std::string& device, const std::string& target,
                    const std::string& type) {
  Status status = status_from_errno(error, "mount " + device + " at " + target);
  std::string advice;
  if (error == EUCLEAN || error == EINVAL || error == EIO) {
    std::string check = type == "xfs" ? "xfs_repair -n " : "e2fsck -fn ";
    advice = "; see the kernel log, check with " + check + device;
  }
  if (error == ENODEV) advice = "; this kernel has no " + type + ", load the module";
  return Status(status.code(), status.message() + advice);
}

}  // namespace

std::string processes_in(const std::string& path) {
  std::string text;
  std::size_t named = 0;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator("/proc", error)) {
    std::string pid = entry.path().filename();
    if (pid.find_first_not_of("0123456789") != std::string::npos) continue;
    if (!process_uses(entry.path(), path)) continue;
    std::ifstream file(entry.path() / "comm");
    std::string name;
    std::getline(file, name);
    text += (named == 0 ? "" : ", ") + name + " (" + pid + ")";
    if (++named == kMostUsersNamed) break;
  }
  return text;
}

Status mount_device(const std::string& device, const std::string& target, const std::string& type,
                    bool read_only, bool privileged) {
  CVOL_TRY(validate_file_system(type));
  if (MountEntry entry; find_mount(target, entry)) {
    if (entry.device_number == device_number(device)) return Status::ok();
    return Status(Code::kFailedPrecondition,
                  target + " already has " + entry.source + " mounted on it");
  }
  CVOL_TRY(prepare_target(target));
  unsigned long flags = MS_NOATIME;
  if (read_only) flags |= MS_RDONLY;
  if (!privileged) flags |= MS_NOSUID | MS_NODEV;
  const char* data = type == "ext4" ? "errors=remount-ro" : nullptr;
  if (::mount(device.c_str(), target.c_str(), type.c_str(), flags, data) != 0) {
    return mount_failed(errno, device, target, type);
  }
  if (type == "ext4" && !read_only) remove_lost_and_found(target);
  return Status::ok();
}

Status unmount(const std::string& target) {
  std::string path = real_path(target);
  if (umount2(path.c_str(), 0) == 0 || errno == EINVAL || errno == ENOENT) return Status::ok();
  if (errno != EBUSY) return status_from_errno(errno, "unmount " + target);
  std::string users = processes_in(path);
  return Status(Code::kBusy, target + " is in use" + (users.empty() ? "" : " by " + users));
}

Status unmount_lazily(const std::string& target) {
  if (umount2(target.c_str(), MNT_DETACH) == 0 || errno == EINVAL || errno == ENOENT)
    return Status::ok();
  return status_from_errno(errno, "unmount " + target);
}

namespace {

// openat2(2) has no wrapper in glibc.
int open_without_links(int folder, const char* name) {
  open_how how{};
  how.flags = O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
  return static_cast<int>(syscall(SYS_openat2, folder, name, &how, sizeof how));
}

// The last part of `path` is a name in a user's file system, who may have made anything of it; what
// lies before is the host's. Opens it if it is a folder and no link.
Result<int> open_users_folder(const std::string& path) {
  const fs::path whole(path);
  const int parent = open(whole.parent_path().c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (parent < 0) return status_from_errno(errno, "open " + whole.parent_path().string());
  const int folder = open_without_links(parent, whole.filename().c_str());
  const int error = errno;
  close(parent);
  if (folder >= 0) return folder;
  if (error != ELOOP && error != ENOTDIR && error != EXDEV)
    return status_from_errno(error, "open " + path);
  return Status(Code::kFailedPrecondition,
                path +
                    " is no folder of the volume but a link or a file; the volume is not shown. "
                    "Attach it ('cvol volume attach'), mount the device elsewhere, and move '" +
                    whole.filename().string() + "' away");
}

Status bind_folder(const std::string& opened, const std::string& source,
                   const std::string& target) {
  std::error_code error;
  fs::create_directories(target, error);
  if (error) return status_from_errno(error.value(), "create " + target);
  if (is_mounted(target, nullptr)) {
    if (is_same_folder(opened, target)) return Status::ok();
    return Status(Code::kFailedPrecondition,
                  "something is mounted at " + target + " already; choose another target");
  }
  if (::mount(opened.c_str(), target.c_str(), nullptr, MS_BIND, nullptr) != 0)
    return status_from_errno(errno, "bind " + source + " to " + target);
  return Status::ok();
}

}  // namespace

Status bind(const std::string& source, const std::string& target) {
  auto folder = open_users_folder(source);
  if (!folder) return folder.status();
  const std::string opened = "/proc/self/fd/" + std::to_string(*folder);
  const Status bound = bind_folder(opened, source, target);
  close(*folder);
  return bound;
}

Status make_data_folder(const std::string& path) {
  const bool made = mkdir(path.c_str(), 0755) == 0;
  if (!made && errno != EEXIST) return status_from_errno(errno, "create " + path);
  auto folder = open_users_folder(path);
  if (!folder) return folder.status();
  // A descriptor of O_PATH cannot be changed by itself.
  const std::string opened = "/proc/self/fd/" + std::to_string(*folder);
  const bool open_to_all = !made || chmod(opened.c_str(), 0755) == 0;
  const int error = errno;
  close(*folder);
  return open_to_all ? Status::ok() : status_from_errno(error, "chmod " + path);
}

bool is_mounted(const std::string& target, std::string* device) {
  MountEntry entry;
  if (!find_mount(target, entry)) return false;
  if (device != nullptr) *device = entry.source;
  return true;
}

Status grow_file_system(const std::string& device, const std::string& target,
                        const std::string& type) {
  CVOL_TRY(validate_file_system(type));
  if (type == "xfs") return run_program({"xfs_growfs", real_path(target)}, "xfsprogs");
  return run_program({"resize2fs", device}, "e2fsprogs");
}

}  // namespace cvol::mount
