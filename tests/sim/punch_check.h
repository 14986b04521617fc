// PunchCheck: stands at the world's punches and looks whether one meets a place that the durable
// chunk table gives to a chunk. A punch is no part of the journal, so this may never be, not even
// for a moment: what a place holds may go only after the commit that took it from its chunk.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <set>
#include <string>

#include "tests/sim/sim_disk.h"

namespace cvol::sim {

class PunchCheck {
 public:
  PunchCheck(io::SimWorld& world, std::function<SimDisk&()> disk)
      : world_(world), disk_(std::move(disk)) {
    world_.before_punch = [this](io::FileRange range) { look(range); };
  }
  ~PunchCheck() { world_.before_punch = nullptr; }
  PunchCheck(const PunchCheck&) = delete;
  PunchCheck& operator=(const PunchCheck&) = delete;

  uint64_t punched_places() const { return punched_places_; }

 private:
  void look(io::FileRange range) {
    punched_places_ += (range.end - range.begin) / kChunkBytes;
    for (const store::MemoryTableState* table : {&disk_().table(), &disk_().table2()}) {
      if (table->dead || table->commits_left == 0) continue;  // it may be behind for good
      look(*table, range);
    }
  }
  static void look(const store::MemoryTableState& table, io::FileRange range) {
    std::set<uint32_t> removing;
    for (const auto& [key, value] : table.content) {
      uint32_t number = 0;
      uint64_t chunk = 0;
      uint64_t point = 0;
      if (store::parse_replica_key(key, &number)) {
        if (store::decode_replica_record(value)->removing) removing.insert(number);
      } else if (store::parse_chunk_key(key, &number, &chunk, &point) &&
                 !removing.contains(number)) {
        const uint64_t at = uint64_t{store::decode_chunk_record(value)->place} * kChunkBytes;
        EXPECT_FALSE(at >= range.begin && at < range.end)
            << "a punch meets the place of chunk " << chunk;
      }
    }
  }

  io::SimWorld& world_;
  std::function<SimDisk&()> disk_;
  uint64_t punched_places_ = 0;
};

}  // namespace cvol::sim
