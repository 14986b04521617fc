// The files of a volume given to a group. Names in a volume are its users': the walk follows no
// symbolic link, leaves the file system of its top never, and has at most three descriptors open.
#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "volumed/mount/staging.h"

namespace cvol::mount {
namespace {

class File {
 public:
  explicit File(int number) : number_(number) {}
  ~File() {
    if (number_ >= 0) close(number_);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  int number() const { return number_; }
  int release() { return std::exchange(number_, -1); }

 private:
  int number_;
};

struct CloseDirectory {
  void operator()(DIR* directory) const { closedir(directory); }
};

// `path` below `top`, through no link and into no other file system.
int open_below(int top, const std::string& path) {
  open_how how{};
  how.flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV;
  return static_cast<int>(syscall(SYS_openat2, top, path.c_str(), &how, sizeof how));
}

// Group members may do what the owner may; new files get the group.
// `file` is open (O_PATH will do), so that it is the one that `found` describes.
Status give_one(int file, const struct stat& found, uint32_t group, const std::string& path) {
  if (fchownat(file, "", static_cast<uid_t>(-1), group, AT_EMPTY_PATH) != 0)
    return status_from_errno(errno, "give " + path + " to group " + std::to_string(group));
  if (S_ISLNK(found.st_mode)) return Status::ok();  // a link has no mode
  const mode_t more = S_ISDIR(found.st_mode) ? 02070 : 0060;
  const std::string name = "/proc/self/fd/" + std::to_string(file);
  if (chmod(name.c_str(), (found.st_mode | more) & 07777) != 0)
    return status_from_errno(errno, "let the group use " + path);
  return Status::ok();
}

struct Walk {
  int top;
  dev_t device;
  uint32_t group;
  std::string target;                // for errors
  std::vector<std::string> pending;  // folders below `top` that are still to be read
};

Status visit(Walk& walk, int folder, const std::string& parent, const std::string& name) {
  const std::string below = parent == "." ? name : parent + "/" + name;
  const std::string path = walk.target + "/" + below;
  File file(openat(folder, name.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
  if (file.number() < 0)
    return errno == ENOENT ? Status::ok() : status_from_errno(errno, "open " + path);
  struct stat found;
  if (fstat(file.number(), &found) != 0) return status_from_errno(errno, "look at " + path);
  if (found.st_dev != walk.device) return Status::ok();  // mounted there: not of this volume
  if (S_ISDIR(found.st_mode)) walk.pending.push_back(below);
  return give_one(file.number(), found, walk.group, path);
}

Status read_folder(Walk& walk, const std::string& below) {
  const std::string path = walk.target + "/" + below;
  File file(open_below(walk.top, below));
  // Removed or replaced by a link since it was seen: no folder of the volume any more. EXDEV: a
  // file system has been mounted there.
  if (file.number() < 0 &&
      (errno == ENOENT || errno == ELOOP || errno == ENOTDIR || errno == EXDEV))
    return Status::ok();
  if (file.number() < 0) return status_from_errno(errno, "open " + path);
  std::unique_ptr<DIR, CloseDirectory> folder(fdopendir(file.number()));
  if (!folder) return status_from_errno(errno, "read " + path);
  const int number = file.release();  // the folder closes it
  for (;;) {
    errno = 0;
    const dirent* entry = readdir(folder.get());
    if (entry == nullptr) break;
    const std::string_view name(entry->d_name);
    if (name == "." || name == "..") continue;
    CVOL_TRY(visit(walk, number, below, entry->d_name));
  }
  if (errno != 0) return status_from_errno(errno, "read " + path);
  return Status::ok();
}

}  // namespace

Status give_to_group(const std::string& target, uint32_t group) {
  File top(open(target.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (top.number() < 0) return status_from_errno(errno, "open " + target);
  struct stat found;
  if (fstat(top.number(), &found) != 0) return status_from_errno(errno, "look at " + target);
  if (found.st_gid == group && (found.st_mode & 02070) == 02070) return Status::ok();
  Walk walk{top.number(), found.st_dev, group, target, {"."}};
  while (!walk.pending.empty()) {
    const std::string below = std::move(walk.pending.back());
    walk.pending.pop_back();
    CVOL_TRY(read_folder(walk, below));
  }
  // The last: it says that the others are done.
  return give_one(top.number(), found, group, target);
}

}  // namespace cvol::mount
