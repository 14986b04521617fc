#include "tests/sim/protocol/history.h"

#include <fmt/format.h>

#include <algorithm>

#include "volumed/base/assert.h"

namespace cvol::sim {

void History::begin_write(uint64_t block, uint64_t value, uint64_t session) {
  BlockHistory& history = blocks_[block];
  if (history.writes.empty()) {  // what a new volume holds
    history.writes.push_back({0, 0, 0, 1, true, false, {}});
    history.by_value[0] = 0;
  }
  const bool inserted = history.by_value.emplace(value, history.writes.size()).second;
  CVOL_ASSERT(inserted);
  // Of a session that has ended: it may not happen any more (I11).
  history.writes.push_back({value, session, ++clock_, kOpen, false, session <= ended_, {}});
}

History::Write* History::find(uint64_t block, uint64_t value) {
  BlockHistory& history = blocks_[block];
  if (history.writes.empty()) {
    history.writes.push_back({0, 0, 0, 1, true, false, {}});
    history.by_value[0] = 0;
  }
  const auto at = history.by_value.find(value);
  return at == history.by_value.end() ? nullptr : &history.writes[at->second];
}

void History::end_write(uint64_t block, uint64_t value) {
  Write* write = find(block, value);
  CVOL_ASSERT(write != nullptr && !write->answered);
  write->answered = true;
  if (write->end == kOpen) write->end = ++clock_;
  ++writes_;
}

void History::never_was(uint64_t block, uint64_t value) {
  Write* write = find(block, value);
  CVOL_ASSERT(write != nullptr && !write->answered);
  write->never = true;
}

std::string History::end_read(uint64_t block, uint64_t value, Stamp begin) {
  ++reads_;
  Write* write = find(block, value);
  if (write == nullptr) return fmt::format("block {} read a value never written", block);
  write->reads.push_back({begin, ++clock_});
  return check_read(block, *write, begin);
}

std::string History::could_read(uint64_t block, uint64_t value, Stamp begin) {
  const Write* write = find(block, value);
  if (write == nullptr) return fmt::format("block {} read a value never written", block);
  return check_read(block, *write, begin);
}

void History::end_sessions(uint64_t generation) {
  ++clock_;
  ended_ = std::max(ended_, generation);
  for (BlockHistory& history : blocks_) {
    for (Write& write : history.writes) {
      if (write.session <= generation && write.end == kOpen) write.end = clock_;
    }
  }
}

// Overwritten for certain before the read began?
std::string History::check_read(uint64_t block, const Write& write, Stamp begin) const {
  if (write.never)
    return fmt::format("block {} read value {:x}, which must never be", block, write.value);
  Stamp first_end = write.end;
  for (const Read& read : write.reads) first_end = std::min(first_end, read.end);
  for (const Write& other : blocks_[block].writes) {
    if (other.never || !other.answered || other.value == write.value) continue;
    if (other.begin > first_end && other.end < begin)
      return fmt::format("block {} read value {:x}, but {:x} was written after it", block,
                         write.value, other.value);
  }
  return "";
}

std::string History::check() const {
  for (uint64_t block = 0; block < blocks_.size(); ++block) {
    const std::string complaint = check(block);
    if (!complaint.empty()) return complaint;
  }
  return "";
}

std::string History::check(uint64_t block) const {
  std::vector<Zone> zones;
  for (const Write& write : blocks_[block].writes) {
    if (write.never) {
      if (!write.reads.empty())
        return fmt::format("block {}: value {:x} must never be, and was read", block, write.value);
      continue;
    }
    if (!write.answered && write.reads.empty()) continue;  // may never have been
    Stamp first_end = write.end, last_begin = write.begin;
    for (const Read& read : write.reads) {
      if (read.end < write.begin)
        return fmt::format("block {}: value {:x} read before its write", block, write.value);
      first_end = std::min(first_end, read.end);
      last_begin = std::max(last_begin, read.begin);
    }
    zones.push_back({std::min(first_end, last_begin), std::max(first_end, last_begin),
                     first_end < last_begin, write.value});
  }
  std::sort(zones.begin(), zones.end(), [](const Zone& a, const Zone& b) { return a.low < b.low; });
  const Zone* forward = nullptr;  // the last one that began; they do not overlap
  for (const Zone& zone : zones) {
    if (forward != nullptr && zone.forward && zone.low < forward->high)
      return fmt::format("block {}: values {:x} and {:x} alternate", block, forward->value,
                         zone.value);
    if (forward != nullptr && !zone.forward && zone.high < forward->high)
      return fmt::format("block {}: value {:x} lies within the time of {:x}", block, zone.value,
                         forward->value);
    if (zone.forward) forward = &zone;
  }
  return "";
}

std::string History::describe(uint64_t block) const {
  std::string all = fmt::format("history of block {} (order of events):\n", block);
  const auto end_of = [](Stamp stamp) {
    return stamp == kOpen ? std::string("open") : fmt::format("{}", stamp);
  };
  for (const Write& write : blocks_[block].writes) {
    all += fmt::format("  write {:x} of session {} [{}, {}]{}{}\n", write.value, write.session,
                       write.begin, end_of(write.end), write.answered ? "" : " unanswered",
                       write.never ? " refused" : "");
    std::size_t shown = 0;
    for (const Read& read : write.reads) {
      if (++shown > 4 && shown + 2 < write.reads.size()) continue;
      all += fmt::format("    read [{}, {}]\n", read.begin, read.end);
    }
  }
  return all;
}

}  // namespace cvol::sim
