// Workload: random writes, zeroes and reads against one replica, compared block by block with a
// model in memory; for tests. A replicated one also puts states and notes commit points, and uses
// seqs that do not rise.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <vector>

#include "tests/sim/block_model.h"
#include "tests/sim/replication_model.h"
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

  Task<void> create(bool replicated = false) {
    Random& random = disk_.world().random();
    Result<store::ReplicaInfo> made = co_await disk_.engine().create_replica(
        Uuid::make(random), Uuid::make(random), model_.size() * kBlockBytes);
    EXPECT_TRUE(made) << made.message();
    number_ = made->number;
    seq_ = 0;
    replicated_ = replicated;
    if (replicated_) co_await put_state();
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
      if (replicated_) co_await replicate();
      if (kind < 6) {
        co_await write(first, count);
      } else if (kind < 7) {
        co_await zero(first, count);
      } else {
        co_await read(first, count);
      }
    }
  }

  // After an opening, with nothing under way.
  Task<void> verify_all() {
    co_await read_range(0, model_.size(), true);
    if (!replicated_ || !alive_) co_return;
    const auto touched = [this](uint64_t block) { return model_.at(block).touched; };
    Kept all;
    co_await ask_kept(&disk_.engine(), number_, 0, &all);
    kept_.check(all, 0, model_.size(), touched);
    kept_.opened(all);
    const uint64_t after = random().below(seq_ + 1);
    Kept part;
    co_await ask_kept(&disk_.engine(), number_, after, &part);
    kept_.check(part, after, model_.size(), touched);
  }

  void crashed() {
    alive_ = true;
    for (uint64_t i = 0; i < model_.size(); ++i) model_.at(i).busy = false;
  }
  void stop() { alive_ = false; }
  uint64_t acknowledged() const { return acknowledged_; }
  uint64_t refused() const { return refused_; }
  uint64_t operations() const { return operations_; }   // begun
  uint64_t compared() const { return compared_; }       // blocks
  uint64_t carried() const { return kept_.carried(); }  // commit points that had to be durable
  // Continues numbering above what the disk has seen.
  void resume_seq() {
    Result<store::ReplicaInfo> info = disk_.engine().replica(number_);
    ASSERT_TRUE(info);
    EXPECT_LE(info->last_seq, seq_);
    seq_ = std::max(seq_, info->last_seq);
  }

 private:
  Random& random() { return disk_.world().random(); }

  uint64_t next_seq() {
    const uint64_t seq =
        replicated_ && seq_ > 0 && random().chance(1, 4) ? 1 + random().below(seq_) : ++seq_;
    kept_.used(seq);
    return seq;
  }

  Task<void> put_state() {
    std::string state = "state " + std::to_string(++states_);
    state.resize(state.size() + random().below(4000), 'x');
    kept_.begin_put(state);
    const Status status = co_await disk_.engine().put_replica_state(number_, state);
    if (status) {
      kept_.end_put(state);
    } else {
      alive_ = false;
    }
  }

  Task<void> replicate() {
    if (random().chance(1, 40)) co_await put_state();
    if (!random().chance(1, 6)) co_return;
    // Rarely close to the newest: what is not above it is not looked at.
    const uint64_t room = seq_ - std::min(seq_, kept_.noted());
    const uint64_t seq = kept_.noted() + random().below(random().chance(1, 8) ? room + 1 : 3);
    if (seq > seq_) co_return;
    kept_.note(seq, disk_.node().now());
    disk_.engine().note_commit_point(number_, seq);
    // Of a disk that has failed it is not kept.
    EXPECT_LE(disk_.engine().replica(number_)->commit_point, kept_.noted());
  }

  Task<void> write(uint64_t first, uint64_t count) {
    if (model_.busy(first, count)) co_return;
    const uint64_t seq = next_seq();
    const io::Nanoseconds begun = disk_.node().now();
    AlignedMemory memory = aligned(count * kBlockBytes);
    const uint64_t value = ++values_;
    for (uint64_t i = 0; i < count; ++i) {
      fill_block(memory.get() + i * kBlockBytes, first + i, value);
      model_.begin(first + i, value, seq);
    }
    const Status status = co_await disk_.engine().append_write(number_, 1, seq, first * kBlockBytes,
                                                               {memory.get(), count * kBlockBytes});
    settle(status, first, count, value);
    if (status) kept_.answered(seq, begun);
  }

  Task<void> zero(uint64_t first, uint64_t count) {
    if (model_.busy(first, count)) co_return;
    const uint64_t seq = next_seq();
    const io::Nanoseconds begun = disk_.node().now();
    for (uint64_t i = 0; i < count; ++i) model_.begin(first + i, 0, seq);
    const Status status = co_await disk_.engine().append_zero(
        number_, 1, seq, first * kBlockBytes, count * kBlockBytes, random().chance(1, 3));
    settle(status, first, count, 0);
    if (status) kept_.answered(seq, begun);
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
  ReplicationModel kept_;
  bool replicated_ = false;
  uint64_t states_ = 0;
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
