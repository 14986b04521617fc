#include "volumed/mount/identity.h"

#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <filesystem>

namespace cvol::mount {
namespace {

namespace fs = std::filesystem;

bool is_from_volume_device(const MountEntry& entry, const std::string& target) {
  if (entry.source.starts_with("/dev/loop") || entry.source.starts_with("/dev/nbd")) return true;
  struct stat shown;
  return stat(target.c_str(), &shown) == 0 && S_ISBLK(shown.st_mode);
}

bool is_of_device(const MountEntry& entry, const std::string& target, const std::string& device) {
  struct stat wanted;
  if (stat(device.c_str(), &wanted) != 0 || !S_ISBLK(wanted.st_mode)) return false;
  const std::string number =
      std::to_string(major(wanted.st_rdev)) + ":" + std::to_string(minor(wanted.st_rdev));
  if (entry.device_number == number) return true;
  // The device as a file lies in the file system of /dev, which never hangs.
  if (entry.type != "devtmpfs" && entry.type != "tmpfs") return false;
  struct stat shown;
  return stat(target.c_str(), &shown) == 0 && S_ISBLK(shown.st_mode) &&
         shown.st_rdev == wanted.st_rdev;
}

}  // namespace

bool find_mount(const std::string& target, MountEntry& into) {
  std::error_code error;
  const fs::path real = fs::canonical(target, error);
  const std::string path = error ? fs::path(target).lexically_normal() : real;
  bool found = false;
  for (MountEntry& entry : read_mountinfo()) {
    if (entry.target != path) continue;
    into = std::move(entry);
    found = true;
  }
  return found;
}

Seen what_is_at(const std::string& target, const std::string& device) {
  MountEntry entry;
  if (!find_mount(target, entry)) return Seen::kNothing;
  const bool ours =
      device.empty() ? is_from_volume_device(entry, target) : is_of_device(entry, target, device);
  return ours ? Seen::kOurs : Seen::kForeign;
}

std::string encode_seen(Seen seen) {
  return seen == Seen::kNothing ? "nothing" : seen == Seen::kOurs ? "ours" : "foreign";
}

Result<Seen> decode_seen(std::string_view text) {
  for (Seen seen : {Seen::kNothing, Seen::kOurs, Seen::kForeign}) {
    if (encode_seen(seen) == text) return seen;
  }
  return Status(Code::kInternal, "no answer to what is mounted: " + std::string(text));
}

}  // namespace cvol::mount
