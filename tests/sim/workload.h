// Workload: random writes, zeroes and reads against one replica, compared block by block with a
// model in memory; for tests.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <vector>

#include "tests/sim/block_model.h"
#include "tests/sim/sim_disk.h"

namespace cvol::sim {

struct AlignedFree {
  void operator()(std::byte* memory) const { std::free(memory); }
};
using AlignedMemory = std::unique_ptr<std::byte, AlignedFree>;

inline AlignedMemory aligned(uint64_t bytes) {
  return AlignedMemory(static_cast<std::byte*>(std::aligned_alloc(kBlockBytes, bytes)));
}

// Drives random operations against one replica.
class Workload {
 public:
  Workload(SimDisk& disk, uint64_t blocks) : disk_(disk), model_(blocks) {}

  Task<void> create() {
    Random& random = disk_.world().random();
    Result<store::ReplicaInfo> made = co_await disk_.engine().create_replica(
        Uuid::make(random), Uuid::make(random), model_.size() * kBlockBytes);
    EXPECT_TRUE(made) << made.message();
    number_ = made->number;
    seq_ = 0;
  }

  // One client: operations one after another until stopped or the disk fails.
  Task<void> client(uint64_t operations) {
    for (uint64_t i = 0; i < operations && alive_; ++i) {
      ++operations_;
      const uint64_t kind = random().below(10);
      uint64_t count = random().chance(1, 5) ? 1 + random().below(64) : 1 + random().below(6);
      if (random().chance(1, 10)) count = 16 * (1 + random().below(4));
      count = std::min(count, model_.size());
      uint64_t first = random().below(model_.size() - count + 1);
      if (random().chance(1, 3)) first = first / 16 * 16;
      if (kind < 6) {
        co_await write(first, count);
      } else if (kind < 7) {
        co_await zero(first, count);
      } else {
        co_await read(first, count);
      }
    }
  }

  Task<void> verify_all() { co_await read_range(0, model_.size(), true); }

  void crashed() {
    alive_ = true;
    for (uint64_t i = 0; i < model_.size(); ++i) model_.at(i).busy = false;
  }
  void stop() { alive_ = false; }
  uint64_t acknowledged() const { return acknowledged_; }
  uint64_t refused() const { return refused_; }
  uint64_t operations() const { return operations_; }  // begun
  uint64_t compared() const { return compared_; }      // blocks
  // Continues numbering above what the disk has seen.
  void resume_seq() {
    Result<store::ReplicaInfo> info = disk_.engine().replica(number_);
    ASSERT_TRUE(info);
    EXPECT_LE(info->last_seq, seq_);
    seq_ = std::max(seq_, info->last_seq);
  }

 private:
  Random& random() { return disk_.world().random(); }

  Task<void> write(uint64_t first, uint64_t count) {
    if (model_.busy(first, count)) co_return;
    AlignedMemory memory = aligned(count * kBlockBytes);
    const uint64_t value = ++values_;
    for (uint64_t i = 0; i < count; ++i) {
      fill_block(memory.get() + i * kBlockBytes, first + i, value);
      model_.begin(first + i, value);
    }
    const Status status = co_await disk_.engine().append_write(
        number_, 1, ++seq_, first * kBlockBytes, {memory.get(), count * kBlockBytes});
    settle(status, first, count, value);
  }

  Task<void> zero(uint64_t first, uint64_t count) {
    if (model_.busy(first, count)) co_return;
    for (uint64_t i = 0; i < count; ++i) model_.begin(first + i, 0);
    const Status status = co_await disk_.engine().append_zero(
        number_, 1, ++seq_, first * kBlockBytes, count * kBlockBytes, random().chance(1, 3));
    settle(status, first, count, 0);
  }

  void settle(const Status& status, uint64_t first, uint64_t count, uint64_t value) {
    if (status) {
      for (uint64_t i = 0; i < count; ++i) model_.acknowledge(first + i, value);
      ++acknowledged_;
    } else if (status.code() == Code::kNoSpace) {
      for (uint64_t i = 0; i < count; ++i) model_.refuse(first + i, value);
      ++refused_;
    } else {
      alive_ = false;  // the node has crashed or the disk has failed: the outcome is unknown
    }
  }

  Task<void> read(uint64_t first, uint64_t count) { co_await read_range(first, count, false); }

  Task<void> read_range(uint64_t first, uint64_t count, bool settle_values) {
    AlignedMemory memory = aligned(count * kBlockBytes);
    std::vector<uint64_t> changes;
    for (uint64_t i = 0; i < count; ++i) changes.push_back(model_.at(first + i).changes);
    const Status status = co_await disk_.engine().read(number_, first * kBlockBytes,
                                                       {memory.get(), count * kBlockBytes});
    if (!status) {
      EXPECT_EQ(status.code(), Code::kIo) << status.message();
      alive_ = false;
      co_return;
    }
    for (uint64_t i = 0; i < count; ++i) {
      const uint64_t block = first + i;
      if (model_.at(block).busy || model_.at(block).changes != changes[i]) continue;
      const std::optional<uint64_t> value = block_value(memory.get() + i * kBlockBytes, block);
      if (!value.has_value()) {
        ADD_FAILURE() << "block " << block << " is torn or foreign";
        continue;
      }
      ++compared_;
      EXPECT_TRUE(model_.allows(block, *value))
          << "block " << block << " holds " << *value << ", acknowledged is "
          << model_.at(block).acknowledged;
      if (settle_values) model_.settle(block, *value);
    }
  }

  SimDisk& disk_;
  BlockModel model_;
  store::ReplicaNumber number_ = 0;
  uint64_t seq_ = 0;
  uint64_t values_ = 0;
  uint64_t acknowledged_ = 0;
  uint64_t refused_ = 0;
  uint64_t operations_ = 0;
  uint64_t compared_ = 0;
  bool alive_ = true;
};

}  // namespace cvol::sim
