// How full disks are, told in steps, and what volumes do when nothing is free. Pure.
#pragma once

#include <cvol/v1/records.pb.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "nbd/server/server.h"
#include "volumed/base/result.h"

namespace cvol::volume {

struct DiskView;

// 0, 80, 90 or 95: the highest of these percentages that is used; 100: no chunk is free. 0 for a
// disk without capacity.
uint32_t fullness_step(uint64_t capacity_bytes, uint64_t allocated_bytes);

// A sentence with what to do; empty below 80 %, and for a disk that is not open.
std::string describe_fullness(const DiskView& disk);

// What has changed since the last look. One thread.
class FullnessWatch {
 public:
  // A sentence when the disk has entered another step; nothing at the first look at one that has
  // room.
  std::optional<std::string> look(const DiskView& disk);

 private:
  std::map<std::string, uint32_t> steps_;  // by the id of the disk
};

// "", "wait" or "error" (VolumeRecord.on_full); "default" stands for "".
Status validate_on_full(const std::string& on_full);
nbd::OnFull on_full_of(const v1::VolumeRecord& record);

}  // namespace cvol::volume
