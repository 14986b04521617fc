#include "volumed/volume/sync_ground.h"

#include <fmt/format.h>
#include <sys/sysmacros.h>

#include <filesystem>
#include <fstream>
#include <string_view>
#include <system_error>
#include <vector>

#include "volumed/mount/mountinfo.h"

namespace cvol::volume {
namespace {

constexpr int kMaxLoops = 8;  // loop devices on files of loop devices

bool has_option(std::string_view options, std::string_view wanted) {
  while (!options.empty()) {
    const std::size_t end = options.find(',');
    if (options.substr(0, end) == wanted) return true;
    if (end == std::string_view::npos) return false;
    options.remove_prefix(end + 1);
  }
  return false;
}

bool is_below(std::string_view path, std::string_view target) {
  if (target == "/") return path.starts_with('/');
  if (!path.starts_with(target)) return false;
  return path.size() == target.size() || path[target.size()] == '/';
}

// The mount that holds `path`: the longest target, and of equal ones the last, covers the others.
const mount::MountEntry* find_mount(const std::vector<mount::MountEntry>& mounts,
                                    std::string_view path) {
  const mount::MountEntry* found = nullptr;
  for (const mount::MountEntry& entry : mounts) {
    if (!is_below(path, entry.target)) continue;
    if (found == nullptr || entry.target.size() >= found->target.size()) found = &entry;
  }
  return found;
}

// The path is that of the mount namespace in which the device was set up: another file may be here
// by that name, or none. Sectors are of 512 bytes; a rest of the file is not shown.
bool is_same_file(const KernelFiles& kernel, const std::string& loop, const std::string& path) {
  std::ifstream file(loop + "/../size");
  uint64_t sectors = 0;
  if (!(file >> sectors)) return false;
  std::error_code error;
  const uint64_t bytes = std::filesystem::file_size(kernel.root + path, error);
  return !error && bytes / 512 == sectors;
}

// Empty if the device is no loop device, or its file is not certain. A partition lies in the folder
// of its device.
std::string backing_file(const KernelFiles& kernel, const std::string& number) {
  const std::string device = kernel.sys + "/dev/block/" + number;
  for (const char* at : {"/loop", "/../loop"}) {
    const std::string loop = device + at;
    std::ifstream file(loop + "/backing_file");
    std::string path;
    if (!std::getline(file, path)) continue;
    return is_same_file(kernel, loop, path) ? path : std::string();
  }
  return {};
}

// Empty, or why a sync on this mount reaches no medium.
std::string defect_of(const mount::MountEntry& entry) {
  if (entry.type == "tmpfs" || entry.type == "ramfs")
    return entry.target + " (" + entry.type + ") is memory";
  for (const char* option : {"nobarrier", "barrier=0", "volatile"})
    if (has_option(entry.super_options, option)) return entry.target + " is mounted with " + option;
  return {};
}

}  // namespace

Status check_sync(uint64_t device, const KernelFiles& kernel) {
  const auto mounts = mount::read_mountinfo(kernel.mountinfo);
  const std::string number = fmt::format("{}:{}", major(device), minor(device));
  const mount::MountEntry* entry = nullptr;
  for (const mount::MountEntry& each : mounts)
    if (each.device_number == number) entry = &each;
  for (int depth = 0; entry != nullptr && depth < kMaxLoops; ++depth) {
    if (const std::string defect = defect_of(*entry); !defect.empty())
      return Status(Code::kFailedPrecondition,
                    "a sync does not reach a medium: " + defect +
                        ". Use a file system on a block device, mounted with barriers");
    const std::string file = backing_file(kernel, entry->device_number);
    if (file.empty()) break;
    entry = find_mount(mounts, file);
  }
  return Status::ok();
}

}  // namespace cvol::volume
