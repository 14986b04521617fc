// The persisted map device <-> volume: one JSON file per volume in the state directory.
//
// Threading: any thread, no state of its own. write_record() returns when the file is durable:
// a reader sees the old record or the new one, never a part.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "volumed/base/result.h"

namespace cvol::attach {

struct DeviceRecord {
  std::string volume;  // name
  std::string method;  // "kernel", "fuse"
  std::string device;  // "/dev/loop3"; empty while attach is under way
  uint64_t size_bytes = 0;
  std::string boot_id;        // the kernel that the device belongs to
  int64_t holder_pid = 0;     // fuse: cvol-holder ...
  uint64_t holder_start = 0;  // ... and its start time, since pids are used again
  uint32_t connections = 0;   // kernel: sockets of the device
  std::string instance;       // who made the device; empty: a cvol that did not name itself
};

constexpr uint32_t kRecordFormat = 1;
constexpr std::size_t kMaxRecordBytes = 64 * 1024;

std::string encode_record(const DeviceRecord& record);
// kDamaged: not a record. kUnsupported: written by a newer cvol.
Result<DeviceRecord> decode_record(std::string_view text);

Status write_record(const std::string& state_dir, const DeviceRecord& record);
// Idempotent.
Status remove_record(const std::string& state_dir, const std::string& volume);
// All records; files that cannot be read are logged and left where they are. `unreadable` (may be
// null) gets the volumes of those: their devices are not to be touched.
Result<std::vector<DeviceRecord>> read_records(const std::string& state_dir,
                                               std::vector<std::string>* unreadable = nullptr);

}  // namespace cvol::attach
