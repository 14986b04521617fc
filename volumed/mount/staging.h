// What orchestrators ask of a device beyond mount.h: mount flags, checks, bind mounts of files and
// of the device itself, read-only, owners, usage.
//
// Threading: any thread; calls block. All but the parsers run in cvol-device.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "volumed/base/result.h"

namespace cvol::mount {

struct MountOptions {
  unsigned long flags = 0;  // MS_*
  std::string data;         // what the file system is told, "a,b=c"
};

// Flags as in fstab: "noatime", "nosuid", "commit=30". kInvalidArgument names one that would change
// what the call does (bind, remount, ...) or is no word. What only mount(8) reads is left out.
Result<MountOptions> parse_mount_flags(const std::vector<std::string>& flags);

// Words for mkfs of `type`: options of a known list with their values. kInvalidArgument names what
// is not among them; paths are refused, for they would name other files of this host.
Status validate_mkfs_options(const std::string& type, const std::vector<std::string>& words);

// Before a mount: replays the journal of an ext4 and looks at its state. kDamaged if it needs a
// repair, which is the user's to begin. An xfs recovers when it is mounted.
Status check_file_system(const std::string& device, const std::string& type, bool read_only);

// As mount_device() of mount.h, with options. Idempotent.
Status mount_with(const std::string& device, const std::string& target, const std::string& type,
                  const MountOptions& options);

// The files below `target` belong to the group, and what is made there later too. Nothing happens
// if the top says so already. No symbolic link is followed, not even as the top, and what is
// mounted below is left alone.
Status give_to_group(const std::string& target, uint32_t group);

// The files at `source` at `target` too; the folder is made, its parent is there. Idempotent.
Status show_files(const std::string& source, const std::string& target, bool read_only);
// The device as a file at `target`. Idempotent.
Status show_device(const std::string& device, const std::string& target);
// Undoes both: unmounts, and removes the empty folder or file. Nothing there: ok. What is mounted
// there and is none of `device` (empty: of any volume's device) stays: kFailedPrecondition.
Status hide(const std::string& target, const std::string& device);

// The kernel refuses writes to the device, or takes them again.
Status set_read_only(const std::string& device, bool read_only);

struct Usage {
  uint64_t total_bytes = 0, available_bytes = 0, used_bytes = 0;
  uint64_t total_inodes = 0, free_inodes = 0, used_inodes = 0;
  bool read_only = false;  // here: by its mount, or because it broke
  bool shut_down = false;  // answers EIO
};
// Of the file system at the path. kNotFound if nothing is mounted there.
Result<Usage> usage_of(const std::string& path);
// What is wrong, as what the file system "was" or "became"; empty: nothing. `read_only`: it should
// be.
std::string trouble_of(const Usage& usage, bool read_only);
std::string encode_usage(const Usage& usage);
Result<Usage> decode_usage(const std::string& text);

}  // namespace cvol::mount
