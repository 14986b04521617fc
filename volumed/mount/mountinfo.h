// The mount table of this process (/proc/self/mountinfo), parsed.
//
// Threading: any thread. parse_mountinfo() is pure; lines that do not hold are left out.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace cvol::mount {

struct MountEntry {
  std::string device_number;  // "7:0"
  std::string target;         // mount point, escapes undone
  std::string type;           // "ext4", "fuse.cvol"
  std::string source;         // "/dev/loop0"
  std::string id = {};        // of the mount, and of the one that it lies on
  std::string parent = {};
  std::string shared = {};         // peer group; empty: private
  std::string master = {};         // peer group that it follows
  std::string super_options = {};  // of the file system: "rw,barrier=1"
};

std::vector<MountEntry> parse_mountinfo(std::string_view text);

// In the order of the table: a later entry with the same target covers an earlier one.
std::vector<MountEntry> read_mountinfo(const std::string& file = "/proc/self/mountinfo");

}  // namespace cvol::mount
