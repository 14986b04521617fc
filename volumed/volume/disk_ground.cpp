#include "volumed/volume/disk_ground.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <filesystem>

#include "volumed/base/units.h"
#include "volumed/volume/sync_ground.h"

namespace cvol::volume {
namespace {

struct Known {
  uint32_t magic;
  const char* name;
  bool fit;
};
// Those that are not fit lose a reservation (copy on write), or data with the power, or sync late.
constexpr std::array kKnown = {
    Known{0x0000ef53, "ext4", true},     Known{0x58465342, "xfs", true},
    Known{0x01021994, "tmpfs", false},   Known{0x858458f6, "ramfs", false},
    Known{0x9123683e, "btrfs", false},   Known{0x00006969, "nfs", false},
    Known{0x794c7630, "overlay", false}, Known{0x65735546, "fuse", false},
    Known{0xff534d42, "cifs", false},    Known{0xfe534d42, "smb", false},
    Known{0x2fc12fc1, "zfs", false},     Known{0xca451a4e, "bcachefs", false},
    Known{0xf2f52010, "f2fs", false}};

std::string nearest_directory(const std::string& path) {
  std::error_code error;
  std::filesystem::path at(path);
  while (!std::filesystem::is_directory(at, error) && at.has_relative_path()) at = at.parent_path();
  return at.string();
}

// A file without a name; nothing stays of it.
bool opens_directly(const std::string& directory) {
  const int file =
      ::open(directory.c_str(), O_TMPFILE | O_RDWR | O_DIRECT | O_CLOEXEC, S_IRUSR | S_IWUSR);
  if (file >= 0) {
    ::close(file);
    return true;
  }
  return errno != EINVAL;  // other errors say nothing of O_DIRECT
}

}  // namespace

Result<Ground> look_at_ground(const std::string& path) {
  const std::string directory = nearest_directory(path);
  struct stat info {};
  struct statfs system {};
  if (::stat(directory.c_str(), &info) != 0 || ::statfs(directory.c_str(), &system) != 0)
    return status_from_errno(errno, "look at the file system of " + path);
  Ground ground;
  ground.device = info.st_dev;
  ground.size_bytes =
      static_cast<uint64_t>(system.f_blocks) * static_cast<uint64_t>(system.f_bsize);
  ground.direct_io = opens_directly(directory);
  const uint32_t magic = static_cast<uint32_t>(system.f_type);
  ground.type = fmt::format("{:#x}", magic);
  for (const Known& known : kKnown) {
    if (known.magic != magic) continue;
    ground.type = known.name;
    ground.fit = known.fit;
  }
  // Blocks of a file have 32-bit numbers.
  if (ground.type == "ext4")
    ground.largest_file = (uint64_t{UINT32_MAX} - 1) * static_cast<uint64_t>(system.f_bsize);
  return ground;
}

store::FormatOptions bound_capacity(const std::string& path, store::FormatOptions format) {
  const auto ground = look_at_ground(path);
  if (!ground || format.capacity_bytes != 0 || ground->size_bytes <= ground->largest_file)
    return format;
  format.capacity_bytes = ground->largest_file;
  return format;
}

Status check_ground(const std::string& path, const store::FormatOptions& format,
                    const std::vector<std::string>& others) {
  auto ground = look_at_ground(path);
  if (!ground) return ground.status();
  const std::string anyway = "; --force takes it all the same";
  if (!ground->fit)
    return Status(Code::kFailedPrecondition,
                  path + " is on " + ground->type +
                      ", which does not keep the space that a disk has reserved, or what it has "
                      "synced. Use a folder on ext4 or xfs" +
                      anyway);
  if (!ground->direct_io)
    return Status(Code::kFailedPrecondition, "the file system of " + path + " (" + ground->type +
                                                 ") has no O_DIRECT. Use ext4 or xfs on a block "
                                                 "device" +
                                                 anyway);
  const uint64_t wanted = format.capacity_bytes + format.journal_bytes;
  if (wanted < format.capacity_bytes || wanted > ground->size_bytes)
    return Status(Code::kInvalidArgument, "a disk of " + format_size(format.capacity_bytes) +
                                              " is larger than its file " + "system, which has " +
                                              format_size(ground->size_bytes) +
                                              "; give a smaller --capacity" + anyway);
  if (format.capacity_bytes > ground->largest_file)
    return Status(Code::kInvalidArgument, "a disk of " + format_size(format.capacity_bytes) +
                                              " needs a larger file than " + ground->type +
                                              " has (" + format_size(ground->largest_file) +
                                              "); give a smaller --capacity, or use xfs");
  if (Status sync = check_sync(ground->device); !sync.is_ok())
    return Status(sync.code(), path + ": " + sync.message() + anyway);
  for (const std::string& other : others) {
    const auto beside = look_at_ground(other);
    if (!beside || beside->device != ground->device) continue;
    return Status(Code::kFailedPrecondition,
                  path + " is on the same file system as disk " + other +
                      ": they share its space and fail together. Use a file system of its own" +
                      anyway);
  }
  return Status::ok();
}

}  // namespace cvol::volume
