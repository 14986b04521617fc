// Small questions to the host: files of /proc and /sys, processes, who has a device.
//
// Threading: any thread; no state.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>

#include "volumed/base/result.h"

namespace cvol::attach {

// First line of a file of /proc or /sys, at most 4 KiB; "" if it cannot be read.
std::string read_line(const std::string& path);
// For files of /sys.
Status write_text(const std::string& path, const std::string& text);

std::string boot_id();
// Start time in clock ticks since boot; 0 if there is no such process, or it is a zombie.
uint64_t process_start_time(int64_t pid);

// Polls until `done` or the time is over; false in the second case.
bool wait_until(std::chrono::milliseconds most, const std::function<bool()>& done);

// kBusy if a file system, LVM, another daemon ... holds the block device.
Status check_device_is_free(const std::string& device);

// Unmounts, lazily, every file system that is mounted from `device`. For devices that are dead.
void unmount_all_of_device(const std::string& device);

bool is_mount_point(const std::string& path);

// Descriptor that closes itself.
class Descriptor {
 public:
  explicit Descriptor(int number = -1) : number_(number) {}
  Descriptor(Descriptor&& other) noexcept : number_(other.release()) {}
  Descriptor& operator=(Descriptor&& other) noexcept;
  ~Descriptor();
  int number() const { return number_; }
  bool is_open() const { return number_ >= 0; }
  int release();

 private:
  int number_;
};

}  // namespace cvol::attach
