// HostSpaces: how full the host's file systems are, asked without ever waiting long: a file system
// that hangs must not hang a status.
//
// Threading: any thread. A look takes half a second at most, and tells what was seen last, if
// anything was. It is made anew when the last one is older than 10 s.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

namespace cvol::volume {

struct HostSpace {
  uint64_t total_bytes = 0;
  uint64_t available_bytes = 0;  // to those who are not root
  uint64_t device = 0;           // the same for paths of one file system
};

// What the kernel says of the file system at `path`; nothing if it cannot be asked. May hang.
std::optional<HostSpace> read_host_space(const std::string& path);

class HostSpaces {
 public:
  using Read = std::function<std::optional<HostSpace>(const std::string& path)>;
  explicit HostSpaces(Read read = read_host_space) : read_(std::move(read)) {}

  std::optional<HostSpace> look(const std::string& path);

 private:
  struct Sample;
  const Read read_;
  std::mutex mutex_;
  std::map<std::string, std::shared_ptr<Sample>> samples_;
};

}  // namespace cvol::volume
