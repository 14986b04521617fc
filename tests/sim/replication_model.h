// ReplicationModel: what an engine keeps for replication, compared with what it was told.
//
// After a crash the state is the last one whose put was answered, or one under way; the commit
// point was noted, and is not older than it may be; and versions and zeroed ranges cover every
// operation above the commit point, also those that took place without being answered.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <functional>
#include <string>
#include <vector>

#include "tests/sim/block_model.h"
#include "volumed/store/disk_engine.h"

namespace cvol::sim {

// What an engine says.
struct Kept {
  bool whole = false;
  std::string state;
  uint64_t commit_point = 0;
  uint64_t last_seq = 0;
  std::vector<store::ChunkVersion> changed;
  std::vector<store::ZeroedRange> zeroed;
  bool operator==(const Kept&) const = default;
};

inline Task<void> ask_kept(store::DiskEngine* engine, store::ReplicaNumber number, uint64_t after,
                           Kept* kept) {
  Result<std::vector<store::ChunkVersion>> changed = co_await engine->changed_chunks(number, after);
  Result<std::string> state = engine->replica_state(number);
  Result<store::ReplicaInfo> info = engine->replica(number);
  if (!changed || !state || !info) co_return;
  kept->changed = std::move(*changed);
  kept->state = std::move(*state);
  kept->commit_point = info->commit_point;
  kept->last_seq = info->last_seq;
  kept->zeroed = engine->zeroed_after(number, after);
  std::sort(kept->zeroed.begin(), kept->zeroed.end(), [](const auto& a, const auto& b) {
    return std::tie(a.first_block, a.blocks, a.seq) < std::tie(b.first_block, b.blocks, b.seq);
  });
  kept->whole = true;
}

class ReplicationModel {
 public:
  // --- what the engine is told ---
  void begin_put(const std::string& state) { putting_.push_back(state); }
  void end_put(const std::string& state) {  // answered
    while (putting_.front() != state) putting_.pop_front();
    putting_.pop_front();
    state_ = state;
  }
  void note(uint64_t seq, io::Nanoseconds now) {
    noted_ = std::max(noted_, seq);
    if (state_.empty()) return;
    notes_.push_back({first_note_ ? now : now + 100 * io::kMillisecond, seq});
    first_note_ = false;
  }
  // An operation that began at `begun` was answered: it took along what was due.
  void answered(uint64_t seq, io::Nanoseconds begun) {
    acknowledged_seq_ = std::max(acknowledged_seq_, seq);
    while (!notes_.empty() && notes_.front().due < begun) {
      floor_ = std::max(floor_, notes_.front().seq);
      notes_.pop_front();
      ++carried_;
    }
  }
  void used(uint64_t seq) { highest_seq_ = std::max(highest_seq_, seq); }
  // The disk was opened again, and this is what it has: it must never have less.
  void opened(const Kept& kept) {
    state_ = kept.state;
    putting_.clear();
    notes_.clear();
    first_note_ = true;
    floor_ = std::max(floor_, kept.commit_point);
  }
  uint64_t noted() const { return noted_; }
  const std::string& state() const { return state_; }
  uint64_t carried() const { return carried_; }

  // --- what it must say then; false if it does not ---
  bool check(const Kept& kept, uint64_t after, uint64_t blocks,
             const std::function<uint64_t(uint64_t block)>& touched) const {
    if (!kept.whole) return fail("it does not answer");
    const bool putting = std::find(putting_.begin(), putting_.end(), kept.state) != putting_.end();
    if (kept.state != state_ && !putting) return fail("the state is " + kept.state.substr(0, 20));
    if (kept.commit_point > noted_ || kept.commit_point < floor_)
      return fail("the commit point is " + std::to_string(kept.commit_point));
    if (kept.last_seq < acknowledged_seq_ || kept.last_seq > highest_seq_)
      return fail("the last seq is " + std::to_string(kept.last_seq));
    return check_lists(kept, after, blocks) && check_cover(kept, after, blocks, touched);
  }

 private:
  struct Note {
    io::Nanoseconds due;
    uint64_t seq;
  };

  bool fail(const std::string& what) const {
    ADD_FAILURE() << what << "; the state is " << state_.substr(0, 20) << ", noted " << noted_
                  << ", not below " << floor_;
    return false;
  }
  bool check_lists(const Kept& kept, uint64_t after, uint64_t blocks) const {
    uint64_t next = 0;
    for (const store::ChunkVersion& chunk : kept.changed) {
      if (chunk.chunk < next || chunk.version <= after || chunk.version > highest_seq_ ||
          chunk.chunk * kBlocksPerChunk >= blocks) {
        return fail("chunk " + std::to_string(chunk.chunk) + " is out of order or bounds");
      }
      next = chunk.chunk + 1;
    }
    for (const store::ZeroedRange& range : kept.zeroed) {
      if (range.seq <= after || range.seq > highest_seq_ || range.blocks == 0 ||
          range.first_block + range.blocks > blocks) {
        return fail("a zeroed range is out of bounds");
      }
    }
    return kept.zeroed.size() <= store::kMostZeroedRanges || fail("too many zeroed ranges");
  }
  bool check_cover(const Kept& kept, uint64_t after, uint64_t blocks,
                   const std::function<uint64_t(uint64_t block)>& touched) const {
    std::vector<uint64_t> cover(blocks, 0);
    for (const store::ChunkVersion& chunk : kept.changed) {
      const uint64_t first = chunk.chunk * kBlocksPerChunk;
      for (uint64_t i = first; i < std::min(first + kBlocksPerChunk, blocks); ++i)
        cover[i] = chunk.version;
    }
    for (const store::ZeroedRange& range : kept.zeroed) {
      for (uint64_t i = range.first_block; i < range.first_block + range.blocks; ++i)
        cover[i] = std::max(cover[i], range.seq);
    }
    for (uint64_t block = 0; block < blocks; ++block) {
      const uint64_t seq = touched(block);
      if (seq <= std::max(after, noted_) || cover[block] >= seq) continue;
      return fail("block " + std::to_string(block) + " was touched by " + std::to_string(seq) +
                  ", covered up to " + std::to_string(cover[block]) + " after " +
                  std::to_string(after));
    }
    return true;
  }

  std::string state_;
  std::deque<std::string> putting_;
  uint64_t noted_ = 0;
  uint64_t floor_ = 0;  // of the commit point
  std::deque<Note> notes_;
  bool first_note_ = true;  // since the disk was opened
  uint64_t acknowledged_seq_ = 0;
  uint64_t highest_seq_ = 0;
  uint64_t carried_ = 0;
};

}  // namespace cvol::sim
