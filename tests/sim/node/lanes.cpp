#include "tests/sim/node/lanes.h"

#include <fmt/format.h>

#include <algorithm>

namespace cvol::sim {

std::string Lanes::end_lane(uint64_t lane, const std::byte* data, History::Stamp begin) {
  uint64_t words[3];
  std::memcpy(words, data, sizeof words);
  std::byte expected[kLaneBytes] = {};
  if (words[0] == kLaneMagic) {
    fill_lane(expected, lane, words[2]);
    if (std::memcmp(expected, data, kLaneBytes) != 0)
      return fmt::format("lane {} holds foreign or torn content: lane {} value {:x}", lane,
                         words[1], words[2]);
    return history_.end_read(lane, words[2], begin);
  }
  if (std::memcmp(expected, data, kLaneBytes) != 0)
    return fmt::format("lane {} holds what nobody wrote", lane);
  std::string why;
  uint64_t fits = 0, value = 0;
  for (const uint64_t zero : zeroes_[lane]) {
    std::string complaint = history_.could_read(lane, zero, begin);
    if (complaint.empty()) {
      ++fits;
      value = zero;
    } else {
      why = std::move(complaint);
    }
  }
  if (fits == 0) return "zeroes: " + why;
  return fits == 1 ? history_.end_read(lane, value, begin) : "";
}

std::string Lanes::end_read(uint64_t lane, std::span<const std::byte> data, History::Stamp begin) {
  for (uint64_t i = 0; i * kLaneBytes < data.size(); ++i) {
    std::string complaint = end_lane(lane + i, data.data() + i * kLaneBytes, begin);
    if (!complaint.empty()) return complaint;
  }
  return "";
}

}  // namespace cvol::sim
