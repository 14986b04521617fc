// Disk: the model of one replica's durable state.
//
// Every block holds a value and the version of the write that put it there. Values name themselves:
// each block of each client write has its own; those with kZeroBit read as zeroes. Appends take
// time and take effect when they complete, overlapping ones in the order of their submission. A
// crash keeps what was completed and a drawn subset of what was under way. Persisted blobs complete
// in order; a crash keeps a prefix of those under way. The commit point is remembered lazily, at
// the latest with the next blob.
#pragma once

#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <vector>

#include "replication/core/driver.h"
#include "tests/sim/protocol/world.h"

namespace cvol::sim {

using replication::AppendResult;
using replication::BlockRange;
using replication::Durable;
using replication::Epoch;
using replication::Seq;
using replication::WriteKind;

constexpr uint64_t kZeroBit = uint64_t{1} << 63;
inline bool reads_as_zero(uint64_t value) {
  return value == 0 || (value & kZeroBit) != 0;
}

struct Version {
  Epoch epoch;
  Seq seq;
  auto operator<=>(const Version&) const = default;
};

struct Block {
  uint64_t value = 0;
  Version version;
  bool operator==(const Block&) const = default;
};

class Disk {
 public:
  struct Times {
    Nanoseconds append = kMillisecond;   // mean
    Nanoseconds persist = kMillisecond;  // mean
    Nanoseconds read = kMillisecond / 4;
    Nanoseconds commit_point = kSecond;  // until a noted one is durable
  };
  Disk(World& world, uint64_t blocks, const Times& times);

  // The first content of block range.begin + i is blocks[i]. `done` at completion. Not
  // `holds_up_later`: a piece of a resync; nobody who appends later waits for it, as nothing orders
  // the writes of two roles.
  void append(BlockRange range, std::vector<Block> blocks, std::function<void(AppendResult)> done,
              bool holds_up_later = true);
  void persist(const Durable& state, std::function<void()> done);
  void note_commit_point(Seq seq);
  // What was under way is decided, `done`s of it are never called.
  void crash();

  const Block& block(uint64_t index) const { return state_.blocks[index]; }
  const std::vector<Block>& blocks() const { return state_.blocks; }
  const Durable& durable() const { return state_.durable; }
  Seq commit_point() const { return state_.commit_point; }
  Seq highest_seq() const { return state_.highest; }
  // Ranges of blocks with a seq above `after`; `pending`: those under way, too.
  std::vector<BlockRange> tail(Seq after, bool pending) const;
  std::size_t under_way() const { return appends_.size(); }
  bool under_way(BlockRange range) const;
  void format(const Durable& durable) { state_.durable = durable; }

  // --- faults ---
  void set_slowness(Nanoseconds factor) { slowness_ = factor; }
  void stick_until(Nanoseconds when) { stuck_until_ = when; }
  void set_failed(bool failed) { failed_ = failed; }
  bool failed() const { return failed_; }
  // Blocks with data that fit; beyond: AppendResult::kNoSpace.
  void set_capacity(uint64_t blocks) { capacity_ = blocks; }
  uint64_t allocated() const;
  // An image of the whole disk as it is, and back to it; not while appends are under way.
  void take_image() { image_ = state_; }
  bool has_image() const { return image_.has_value(); }
  void roll_back();
  // Nobody was told that it was rolled back; until its replica says so itself.
  void set_behind() { behind_ = true; }
  bool behind() const { return behind_; }
  void set_incarnation(uint64_t incarnation) { state_.durable.incarnation = incarnation; }
  void set_rebuilding(bool rebuilding) { state_.durable.rebuilding = rebuilding; }
  // Mutant 12: blocks above the durable commit point get back what they held before.
  void keep_older(bool keep) { keep_older_ = keep; }
  void roll_tail_back();
  Nanoseconds read_time();

 private:
  struct State {
    std::vector<Block> blocks;
    Durable durable;
    Seq commit_point, highest;
  };
  struct Append {
    BlockRange range;
    std::vector<Block> blocks;
    std::function<void(AppendResult)> done;
    Nanoseconds due = 0;
    bool fits = true;
    bool holds_up_later = true;
  };
  struct Persist {
    Durable state;
    Seq commit_point;
    std::function<void()> done;
    Nanoseconds due = 0;
  };
  using Appends = std::list<Append>;

  void apply(const Append& append, uint64_t from, uint64_t to);
  void complete(Appends::iterator at, uint64_t life);
  void wait_for(Appends::iterator at);
  void complete_persist(uint64_t life);
  void take(const Persist& persist);

  World& world_;
  const Times times_;
  State state_;
  Seq noted_;  // commit point
  std::optional<State> image_;
  Appends appends_;
  std::deque<Persist> persists_;
  uint64_t life_ = 0;  // raised by a crash
  Nanoseconds slowness_ = 1;
  Nanoseconds stuck_until_ = 0;
  bool failed_ = false;
  bool behind_ = false;
  uint64_t capacity_;
  bool keep_older_ = false;
  std::vector<std::vector<Block>> older_;
};

}  // namespace cvol::sim
