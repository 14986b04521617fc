#include "nbd/attach/host.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>
#include <sstream>
#include <thread>
#include <utility>
#include <vector>

#include "volumed/base/log.h"
#include "volumed/mount/mountinfo.h"

namespace cvol::attach {

Descriptor& Descriptor::operator=(Descriptor&& other) noexcept {
  if (this != &other) {
    if (number_ >= 0) close(number_);
    number_ = other.release();
  }
  return *this;
}

Descriptor::~Descriptor() {
  if (number_ >= 0) close(number_);
}

int Descriptor::release() {
  return std::exchange(number_, -1);
}

std::string read_line(const std::string& path) {
  Descriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  char buffer[4096];
  ssize_t got = file.is_open() ? read(file.number(), buffer, sizeof buffer) : 0;
  if (got <= 0) return "";
  std::string text(buffer, static_cast<std::size_t>(got));
  return text.substr(0, text.find('\n'));
}

Status write_text(const std::string& path, const std::string& text) {
  Descriptor file(open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!file.is_open()) return status_from_errno(errno, "open " + path);
  if (write(file.number(), text.data(), text.size()) < 0) {
    return status_from_errno(errno, "write " + path);
  }
  return Status::ok();
}

std::string boot_id() {
  return read_line("/proc/sys/kernel/random/boot_id");
}

uint64_t process_start_time(int64_t pid) {
  if (pid <= 0) return 0;
  std::string line = read_line("/proc/" + std::to_string(pid) + "/stat");
  std::size_t end_of_name = line.rfind(')');  // the name may hold spaces and parentheses
  if (end_of_name == std::string::npos) return 0;
  std::istringstream words(line.substr(end_of_name + 1));
  std::string word;
  for (int field = 3; words >> word; ++field) {
    if (field == 3 && (word == "Z" || word == "X")) return 0;
    if (field == 22) return std::strtoull(word.c_str(), nullptr, 10);
  }
  return 0;
}

bool wait_until(std::chrono::milliseconds most, const std::function<bool()>& done) {
  auto end = std::chrono::steady_clock::now() + most;
  while (!done()) {
    if (std::chrono::steady_clock::now() >= end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return true;
}

// O_EXCL on a block device asks for the claim that mount(2) and device mapper hold.
Status check_device_is_free(const std::string& device) {
  Descriptor file(open(device.c_str(), O_RDONLY | O_EXCL | O_CLOEXEC));
  if (file.is_open()) return Status::ok();
  if (errno == EBUSY) {
    return Status(Code::kBusy, device + " is in use (mounted, here or in a container); unmount it");
  }
  return status_from_errno(errno, "open " + device);
}

void unmount_all_of_device(const std::string& device) {
  struct stat attributes;
  if (stat(device.c_str(), &attributes) != 0 || !S_ISBLK(attributes.st_mode)) return;
  std::string number =
      std::to_string(major(attributes.st_rdev)) + ":" + std::to_string(minor(attributes.st_rdev));
  std::vector<mount::MountEntry> entries = mount::read_mountinfo();
  for (auto entry = entries.rbegin(); entry != entries.rend(); ++entry) {
    if (entry->device_number != number && entry->source != device) continue;
    log::warning("attach", "unmounting a file system whose device is dead",
                 {{"device", device}, {"target", entry->target}});
    umount2(entry->target.c_str(), MNT_DETACH);
  }
}

bool is_mount_point(const std::string& path) {
  for (const mount::MountEntry& entry : mount::read_mountinfo()) {
    if (entry.target == path) return true;
  }
  return false;
}

}  // namespace cvol::attach
