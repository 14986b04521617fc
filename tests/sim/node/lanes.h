// Lanes: what clients saw of a volume, lane by lane of 512 bytes, and whether it is linearizable.
//
// Every written lane carries its own number and a value that no other write has, so torn, stale,
// misplaced and foreign content are told apart. Zeroes look alike: a read of them must fit one of
// the writes of zeroes, and is remembered for the check of zones only if it fits no other.
#pragma once

#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "tests/sim/protocol/history.h"
#include "volumed/base/units.h"

namespace cvol::sim {

constexpr uint64_t kLaneBytes = 512;
constexpr uint64_t kLanes = kBlockBytes / kLaneBytes;  // of a block
constexpr uint64_t kLaneMagic = 0x656e616c6c6f7663;    // "cvollane"

inline void fill_lane(std::byte* at, uint64_t lane, uint64_t value) {
  std::memset(at, static_cast<int>(value % 251), kLaneBytes);
  const uint64_t words[3] = {kLaneMagic, lane, value};
  std::memcpy(at, words, sizeof words);
}

class Lanes {
 public:
  explicit Lanes(uint64_t lanes) : history_(lanes), zeroes_(lanes, std::vector<uint64_t>{0}) {}

  uint64_t next_value() { return ++values_; }
  void begin_write(uint64_t lane, uint64_t count, uint64_t value, uint64_t session) {
    for (uint64_t i = lane; i < lane + count; ++i) history_.begin_write(i, value, session);
  }
  void begin_zero(uint64_t lane, uint64_t count, uint64_t value, uint64_t session) {
    for (uint64_t i = lane; i < lane + count; ++i) {
      history_.begin_write(i, value, session);
      zeroes_[i].push_back(value);
    }
  }
  void end_write(uint64_t lane, uint64_t count, uint64_t value) {
    for (uint64_t i = lane; i < lane + count; ++i) history_.end_write(i, value);
  }
  void never_was(uint64_t lane, uint64_t count, uint64_t value) {
    for (uint64_t i = lane; i < lane + count; ++i) history_.never_was(i, value);
  }
  History::Stamp begin_read() { return history_.begin_read(); }
  // A complaint, or nothing.
  std::string end_read(uint64_t lane, std::span<const std::byte> data, History::Stamp begin);
  History& history() { return history_; }
  const History& history() const { return history_; }

 private:
  std::string end_lane(uint64_t lane, const std::byte* data, History::Stamp begin);

  History history_;
  uint64_t values_ = 0;
  std::vector<std::vector<uint64_t>> zeroes_;  // by lane: the writes of zeroes
};

}  // namespace cvol::sim
