#include "volumed/mount/device_users.h"

#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <map>

#include "volumed/mount/mount.h"

namespace cvol::mount {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMostNamed = 3;

std::string link_of(const fs::path& path) {
  std::error_code error;
  const fs::path target = fs::read_symlink(path, error);
  return error ? "" : target.string();
}

std::string name_of(const fs::path& process) {
  std::ifstream file(process / "comm");
  std::string name;
  std::getline(file, name);
  return name + " (" + process.filename().string() + ")";
}

const MountEntry* parent_of(const std::vector<MountEntry>& all, const MountEntry& entry) {
  const auto found = std::find_if(
      all.begin(), all.end(), [&](const MountEntry& other) { return other.id == entry.parent; });
  return found == all.end() ? nullptr : &*found;
}

// One process of each mount namespace but this one's.
std::map<std::string, fs::path> other_namespaces() {
  std::map<std::string, fs::path> found;
  const std::string own = link_of("/proc/self/ns/mnt");
  std::error_code error;
  for (const auto& entry : fs::directory_iterator("/proc", error)) {
    const std::string pid = entry.path().filename();
    if (pid.find_first_not_of("0123456789") != std::string::npos) continue;
    const std::string space = link_of(entry.path() / "ns/mnt");
    if (!space.empty() && space != own) found.emplace(space, entry.path());
  }
  return found;
}

class Users {
 public:
  void add(const std::string& text) {
    if (count_++ < kMostNamed) text_ += (text_.empty() ? "" : ", ") + text;
  }
  const std::string& text() const { return text_; }

 private:
  std::size_t count_ = 0;
  std::string text_;
};

// Adds bind mounts of this namespace that are none of ours; answers the peer groups below ours.
std::set<std::string> look_here(const std::string& number, const std::vector<std::string>& ours,
                                Users& users) {
  std::set<std::string> carried;
  const std::vector<MountEntry> all = read_mountinfo();
  for (const MountEntry& entry : all) {
    if (entry.device_number != number) continue;
    if (std::find(ours.begin(), ours.end(), entry.target) == ours.end()) {
      users.add("a mount at " + entry.target);
      continue;
    }
    const MountEntry* parent = parent_of(all, entry);
    if (parent != nullptr && !parent->shared.empty()) carried.insert(parent->shared);
  }
  return carried;
}

void look_at_holders(const std::string& device, Users& users) {
  const std::string name = fs::path(device).filename();
  std::error_code error;
  for (const auto& entry : fs::directory_iterator("/sys/block/" + name + "/holders", error))
    users.add("device " + entry.path().filename().string());
}

}  // namespace

std::vector<MountEntry> mounts_that_stay(const std::vector<MountEntry>& theirs,
                                         const std::string& number,
                                         const std::set<std::string>& carried) {
  std::vector<MountEntry> stay;
  for (const MountEntry& entry : theirs) {
    if (entry.device_number != number) continue;
    const MountEntry* parent = parent_of(theirs, entry);
    const bool follows =
        parent != nullptr && (carried.contains(parent->shared) || carried.contains(parent->master));
    if (!follows) stay.push_back(entry);
  }
  return stay;
}

Result<std::string> users_of_device(const std::string& device,
                                    const std::vector<std::string>& ours) {
  struct stat found {};
  if (stat(device.c_str(), &found) != 0) {
    if (errno == ENOENT) return std::string();
    return status_from_errno(errno, "look at " + device);
  }
  const std::string number =
      std::to_string(major(found.st_rdev)) + ":" + std::to_string(minor(found.st_rdev));
  std::vector<std::string> real;  // as the mount table has them
  for (const std::string& path : ours) {
    std::error_code error;
    const fs::path canonical = fs::weakly_canonical(fs::path(path).parent_path(), error);
    real.push_back(error ? path : (canonical / fs::path(path).filename()).string());
  }
  Users users;
  const std::set<std::string> carried = look_here(number, real, users);
  for (const auto& [space, process] : other_namespaces()) {
    const auto theirs = read_mountinfo(process / "mountinfo");
    if (!mounts_that_stay(theirs, number, carried).empty())
      users.add(name_of(process) + " in another mount namespace");
  }
  for (const std::string& path : real) {
    if (const std::string names = processes_in(path); !names.empty()) users.add(names);
  }
  if (const std::string names = processes_in(device); !names.empty()) users.add(names);
  look_at_holders(device, users);
  return users.text();
}

}  // namespace cvol::mount
