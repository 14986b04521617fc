// BlockModel: what the blocks of a volume may hold, and content that names itself.
//
// Every written block carries its block number and a number of its own in each of its 512-byte
// lanes, so torn, stale, misplaced and foreign content are told apart. A block may hold the last
// acknowledged value or any value whose write was not answered.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "volumed/base/random.h"
#include "volumed/base/units.h"

namespace cvol::sim {

// Fills one block; value 0 is all zeroes.
inline void fill_block(std::byte* at, uint64_t block, uint64_t value) {
  std::memset(at, 0, kBlockBytes);
  if (value == 0) return;
  for (uint64_t lane = 0; lane < kBlockBytes / 512; ++lane) {
    const uint64_t words[3] = {block, value, lane};
    std::memcpy(at + lane * 512, words, sizeof words);
  }
}

// The value in a block; nullopt if it is torn or not this block's.
inline std::optional<uint64_t> block_value(const std::byte* at, uint64_t block) {
  std::byte expected[kBlockBytes];
  uint64_t value = 0;
  std::memcpy(&value, at + 8, sizeof value);
  fill_block(expected, block, value);
  if (std::memcmp(expected, at, kBlockBytes) != 0) return std::nullopt;
  return value;
}

struct ModelBlock {
  uint64_t acknowledged = 0;
  std::set<uint64_t> unanswered;  // may be there or not
  bool busy = false;              // a write is under way
  uint64_t changes = 0;
  uint64_t touched = 0;    // highest seq of the operations that took place
  uint64_t under_way = 0;  // seq of the one that was not answered
};

class BlockModel {
 public:
  explicit BlockModel(uint64_t blocks) : blocks_(blocks) {}
  uint64_t size() const { return blocks_.size(); }
  ModelBlock& at(uint64_t block) { return blocks_[block]; }
  const ModelBlock& at(uint64_t block) const { return blocks_[block]; }

  bool busy(uint64_t first, uint64_t count) const {
    for (uint64_t i = first; i < first + count; ++i) {
      if (blocks_[i].busy) return true;
    }
    return false;
  }
  void begin(uint64_t block, uint64_t value, uint64_t seq = 0) {
    blocks_[block].under_way = seq;
    blocks_[block].busy = true;
    blocks_[block].unanswered.insert(value);
    ++blocks_[block].changes;
  }
  void acknowledge(uint64_t block, uint64_t value) {
    ModelBlock& entry = blocks_[block];
    entry.busy = false;
    entry.acknowledged = value;
    entry.unanswered.clear();
    entry.touched = std::max(entry.touched, entry.under_way);
    entry.under_way = 0;
    ++entry.changes;
  }
  // The write was refused and changed nothing.
  void refuse(uint64_t block, uint64_t value) {
    blocks_[block].busy = false;
    blocks_[block].unanswered.erase(value);
    blocks_[block].under_way = 0;
    ++blocks_[block].changes;
  }
  bool allows(uint64_t block, uint64_t value) const {
    return blocks_[block].acknowledged == value || blocks_[block].unanswered.contains(value);
  }
  // Highest seq that is known to have touched a block in which `value` is seen. (Zeroes that may
  // have come over zeroes cannot be seen.)
  uint64_t touched(uint64_t block, uint64_t value) const {
    const ModelBlock& entry = blocks_[block];
    const bool took_place = value != entry.acknowledged && entry.unanswered.contains(value);
    return took_place ? std::max(entry.touched, entry.under_way) : entry.touched;
  }
  // After a crash: what was seen is what is there from now on.
  void settle(uint64_t block, uint64_t value) {
    const uint64_t seq = touched(block, value);
    blocks_[block] = ModelBlock{};
    blocks_[block].acknowledged = value;
    blocks_[block].touched = seq;
  }

 private:
  std::vector<ModelBlock> blocks_;
};

}  // namespace cvol::sim
