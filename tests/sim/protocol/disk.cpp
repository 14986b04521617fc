#include "tests/sim/protocol/disk.h"

#include <algorithm>

#include "volumed/base/assert.h"

namespace cvol::sim {
namespace {
constexpr Nanoseconds kLook = kSecond / 2;  // how often a stuck disk looks whether it still is
}

Disk::Disk(World& world, uint64_t blocks, const Times& times)
    : world_(world), times_(times), capacity_(blocks), older_(blocks) {
  state_.blocks.resize(blocks);
}

// Data of blocks that hold none yet needs space: those under way are counted as if written.
uint64_t Disk::allocated() const {
  std::vector<bool> has(state_.blocks.size());
  for (uint64_t i = 0; i < has.size(); ++i) has[i] = !reads_as_zero(state_.blocks[i].value);
  for (const Append& append : appends_) {
    if (!append.fits) continue;
    for (uint64_t i = 0; i < append.blocks.size(); ++i) {
      if (!reads_as_zero(append.blocks[i].value)) has[append.range.begin + i] = true;
    }
  }
  return static_cast<uint64_t>(std::count(has.begin(), has.end(), true));
}

void Disk::append(BlockRange range, std::vector<Block> blocks,
                  std::function<void(AppendResult)> done, bool holds_up_later) {
  CVOL_ASSERT(!range.empty() && range.end <= state_.blocks.size());
  CVOL_ASSERT(blocks.size() == range.blocks());
  Append append{range, std::move(blocks), std::move(done), 0, true, holds_up_later};
  if (capacity_ < state_.blocks.size()) {
    const uint64_t before = allocated();
    appends_.push_back(append);
    const uint64_t after = allocated();
    appends_.pop_back();
    append.fits = after <= capacity_ || after == before;
  }
  append.due = world_.now() + world_.around(times_.append * slowness_);
  for (const Append& earlier : appends_) {
    if (earlier.holds_up_later && earlier.range.overlaps(range))
      append.due = std::max(append.due, earlier.due + 1);
  }
  appends_.push_back(std::move(append));
  wait_for(std::prev(appends_.end()));
}

void Disk::wait_for(Appends::iterator at) {
  world_.at(at->due, [this, at, life = life_] { complete(at, life); });
}

void Disk::complete(Appends::iterator at, uint64_t life) {
  if (life != life_) return;
  bool wait = world_.now() < stuck_until_;
  if (wait) at->due = std::min(stuck_until_, world_.now() + kLook) + 1;
  for (auto earlier = appends_.begin(); earlier != at; ++earlier) {
    if (earlier->holds_up_later && earlier->range.overlaps(at->range)) {
      wait = true;
      at->due = std::max({at->due, earlier->due, world_.now()}) + 1;
    }
  }
  if (wait) return wait_for(at);
  const Append append = std::move(*at);
  appends_.erase(at);
  if (failed_) return append.done(AppendResult::kFailed);
  if (!append.fits) return append.done(AppendResult::kNoSpace);
  apply(append, append.range.begin, append.range.end);
  append.done(AppendResult::kDurable);
}

void Disk::apply(const Append& append, uint64_t from, uint64_t to) {
  for (uint64_t i = from; i < to; ++i) {
    const Block& block = append.blocks[i - append.range.begin];
    if (keep_older_) older_[i].push_back(state_.blocks[i]);
    state_.blocks[i] = block;
    state_.highest = std::max(state_.highest, block.version.seq);
  }
}

void Disk::persist(const Durable& state, std::function<void()> done) {
  Nanoseconds due = world_.now() + world_.around(times_.persist * slowness_);
  if (!persists_.empty()) due = std::max(due, persists_.back().due + 1);
  persists_.push_back({state, noted_, std::move(done), due});
  world_.at(due, [this, life = life_] { complete_persist(life); });
}

void Disk::complete_persist(uint64_t life) {
  if (life != life_ || failed_) return;
  if (world_.now() < stuck_until_) {
    world_.after(kLook, [this, life] { complete_persist(life); });
    return;
  }
  CVOL_ASSERT(!persists_.empty());
  const Persist persist = std::move(persists_.front());
  persists_.pop_front();
  take(persist);
  persist.done();
}

void Disk::take(const Persist& persist) {
  if (persist.state.incarnation != state_.durable.incarnation) behind_ = false;
  state_.durable = persist.state;
  state_.commit_point = std::max(state_.commit_point, persist.commit_point);
}

void Disk::note_commit_point(Seq seq) {
  noted_ = std::max(noted_, seq);
  world_.after(world_.around(times_.commit_point), [this, seq, life = life_] {
    if (life == life_) state_.commit_point = std::max(state_.commit_point, seq);
  });
}

void Disk::crash() {
  ++life_;
  for (const Append& append : appends_) {
    if (failed_ || !append.fits || world_.percent(50)) continue;
    const bool torn = world_.percent(20);
    const uint64_t end =
        torn ? append.range.begin + world_.random().below(append.range.blocks()) : append.range.end;
    apply(append, append.range.begin, end);
  }
  appends_.clear();
  const uint64_t kept = failed_ ? 0 : world_.random().below(persists_.size() + 1);
  if (kept > 0) take(persists_[kept - 1]);
  persists_.clear();
  noted_ = state_.commit_point;
}

std::vector<BlockRange> Disk::tail(Seq after, bool pending) const {
  std::vector<bool> newer(state_.blocks.size());
  for (uint64_t i = 0; i < newer.size(); ++i) newer[i] = state_.blocks[i].version.seq > after;
  if (pending) {
    for (const Append& append : appends_) {
      for (uint64_t i = append.range.begin; i < append.range.end; ++i) newer[i] = true;
    }
  }
  std::vector<BlockRange> ranges;
  for (uint64_t i = 0; i < newer.size(); ++i) {
    if (!newer[i]) continue;
    if (!ranges.empty() && ranges.back().end == i) {
      ++ranges.back().end;
    } else {
      ranges.push_back({i, i + 1});
    }
  }
  return ranges;
}

bool Disk::under_way(BlockRange range) const {
  for (const Append& append : appends_) {
    if (append.range.overlaps(range)) return true;
  }
  return false;
}

void Disk::roll_back() {
  CVOL_ASSERT(image_ && appends_.empty());
  state_ = *image_;
  noted_ = state_.commit_point;
}

void Disk::roll_tail_back() {
  for (uint64_t i = 0; i < state_.blocks.size(); ++i) {
    while (!older_[i].empty() && state_.blocks[i].version.seq > state_.commit_point) {
      state_.blocks[i] = older_[i].back();
      older_[i].pop_back();
    }
  }
}

Nanoseconds Disk::read_time() {
  const Nanoseconds time = world_.around(times_.read * slowness_);
  return std::max(time, std::min(stuck_until_ - world_.now(), 20 * kSecond));
}

}  // namespace cvol::sim
