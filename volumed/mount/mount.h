// File systems on attached devices: probe, make, mount, unmount, grow.
//
// Threading: any thread; calls block (mkfs takes seconds). No shell is involved; programs are run
// by path with an argument vector.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "volumed/base/result.h"

namespace cvol::mount {

// "ext4" or "xfs".
Status validate_file_system(const std::string& type);

// What is on the device, with what the kernel still has to write to it (libblkid): a file system
// type, "" for nothing at all, or the name of whatever else holds data there (partition table, LVM,
// RAID member).
Result<std::string> probe(const std::string& device);

// Makes a file system on an empty device. kFailedPrecondition if probe() finds anything, or if the
// first or last MiB is not all zeroes: data is never overwritten. That nothing lies between them is
// for the caller to know. What a mkfs that failed has written is discarded. `options`: more words
// for mkfs, that validate_mkfs_options() let pass.
Status make_file_system(const std::string& device, const std::string& type,
                        const std::vector<std::string>& options = {});

// The same on a device that holds what is left of a mkfs that was cut off, and nothing else: the
// caller knows that. It is discarded first. kFailedPrecondition if probe() finds anything but a
// file system of this type.
Status make_file_system_anew(const std::string& device, const std::string& type,
                             const std::vector<std::string>& options = {});

// Bytes of the smallest volume that `type` can be made on, and what to say of a smaller one.
uint64_t smallest_volume(const std::string& type);
Status validate_size_for(const std::string& type, uint64_t bytes);

// Mounts at `target` (created if absent; must be an empty directory or already this mount:
// idempotent). read-write, noatime unless options say otherwise. Files in it give no rights on the
// host, which can reach them: nosuid and nodev, unless `privileged`.
Status mount_device(const std::string& device, const std::string& target, const std::string& type,
                    bool read_only, bool privileged = false);

// Idempotent. kBusy if processes use it (names up to three of them).
Status unmount(const std::string& target);

// Processes of the host that have something open at or below the path, up to three of them:
// "postgres (1234), bash (99)"; "" if there is none.
std::string processes_in(const std::string& path);

// Takes a mount whose device is gone out of the tree, though processes may hang in it. Idempotent.
Status unmount_lazily(const std::string& target);

// Makes `target` (created if absent) show `source`, whose last part is a folder of a user's file
// system and may be no link. Idempotent. kFailedPrecondition if something else is mounted there.
Status bind(const std::string& source, const std::string& target);

// The folder within a mounted file system that users get, made if absent. kFailedPrecondition if
// there is something else, a link for one: users write the file system, and the host follows none.
Status make_data_folder(const std::string& path);

// True if something is mounted at `target` (/proc/self/mountinfo); `device` gets its source.
bool is_mounted(const std::string& target, std::string* device);

// Grows the mounted file system to its device.
Status grow_file_system(const std::string& device, const std::string& target,
                        const std::string& type);

}  // namespace cvol::mount
