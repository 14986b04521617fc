// Destage: moves the oldest part of the journal to the chunks, in rounds.
//
// A round: choose the oldest batches; of the blocks that they brought keep those that are still the
// newest (a block that was written again is skipped); read them back, sequentially; give new chunks
// their places in runs; write, sorted by place, adjacent blocks merged; sync; commit the table with
// the new tail; then memory follows and the journal's space is free. The foreground goes on all the
// time: whatever it changes in a chunk meanwhile is recorded later in the journal, so that chunk is
// brought up to date by a later round.
//
// The foreground must not feel it. Work on many blocks is done in slices between which others get
// their turn, sorting is left to a helper thread, and reads and writes are paced: a round is given
// the time that the foreground needs to fill the journal by as much, more of it while the journal
// is rather empty and less when it is rather full, so that the two settle at the same rate. What
// was written again before its turn came need not be moved at all, so destage begins late.
#include <algorithm>
#include <cerrno>
#include <cstring>

#include "volumed/base/assert.h"
#include "volumed/base/checksum.h"
#include "volumed/base/log.h"
#include "volumed/store/engine.h"
#include "volumed/store/patient_write.h"

namespace cvol::store {
namespace {

constexpr uint64_t kReadRunBlocks = 256;  // one read of the journal: 1 MiB
constexpr uint64_t kReadGapBlocks = 16;   // dead blocks that are read along
constexpr uint64_t kWriteRunBlocks = 256;
// Percent points of the journal after the mark where destage begins: it ends, goes as fast as the
// foreground, and goes as fast as it can.
constexpr double kStop = -5;
constexpr double kEven = 15;
constexpr double kFull = 38;
constexpr double kLeastPace = 0.25;  // of the foreground's rate
constexpr io::Nanoseconds kRateWindow = 50 * io::kMillisecond;
constexpr io::Nanoseconds kLeastSleep = 200 * io::kMicrosecond;
constexpr io::Nanoseconds kMostSleep = 5 * io::kMillisecond;  // the journal may fill meanwhile
constexpr std::size_t kSlice = 64;      // blocks or chunks between which others get their turn
constexpr std::size_t kSortHere = 512;  // more are sorted on a helper thread
constexpr int kReadAttempts = 3;        // of a block; more until the round has waited for so long:
constexpr io::Nanoseconds kReadPatience = 30 * io::kSecond;
constexpr std::size_t kMostRetired = 16384;  // places that wait to be free: 1 GiB

}  // namespace

struct Engine::LiveBlock {
  ChunkKey key;
  uint32_t position = 0;  // ring block
  uint32_t place = kNoPlace;
  uint8_t block = 0;  // in the chunk
  uint32_t checksum = 0;
  const std::byte* data = nullptr;

  uint64_t disk_block() const { return uint64_t{place} * kBlocksPerChunk + block; }
};

struct Engine::DestageRound {
  Journal::Region region;
  std::vector<ChunkKey> chunks;  // touched, sorted
  std::vector<LiveBlock> live;
  std::vector<Buffer> buffers;
  Status status;
  uint64_t wrote = 0;
  io::Nanoseconds started = 0;
  uint64_t moved = 0;               // blocks read and written so far; of twice the live ones
  io::Nanoseconds reads_until = 0;  // since reads fail
};

bool Engine::destage_wanted() const {
  if (!failure_ || journal_->tail().lsn > journal_->durable_lsn()) return false;
  if (drain_ || journal_->starved()) return true;
  if (idle_drain_ || journal_->crowded()) return true;
  return used_percent() >= options_.destage_percent || retired_.size() >= kMostRetired;
}

Task<void> Engine::destage_loop() {
  while (!closing_) {
    co_await destage_wake_.wait();
    destage_wake_.reset();
    while (!closing_ && destage_wanted()) {
      const bool pressed = !drain_;
      do {
        destaging_ = true;
        const Status status = co_await destage_round(options_.destage_round_blocks);
        destaging_ = false;
        const bool again = status.code() == Code::kBusy;
        if (!status && !again && status.code() != Code::kCancelled) fail(status);
        destage_done_.wake_all();
        // The same blocks are written again, so what the sync that failed has lost comes back.
        if (again) co_await reactor_.sleep(options_.retry_after, cancel_.get());
      } while (!closing_ && failure_ && pressed &&
               used_percent() > options_.destage_percent + kStop &&
               journal_->tail().lsn <= journal_->durable_lsn());
      if (drain_ && journal_->tail().lsn > drain_lsn_) drain_ = false;
      if (idle_drain_ && appends_ != idle_appends_) idle_drain_ = false;
    }
    if (!failure_) drain_ = false;
    idle_drain_ = false;
    destage_done_.wake_all();
  }
}

Task<Status> Engine::destage_all() {
  const Operation operation(*this);
  if (!failure_) co_return failure_;
  const uint64_t target = journal_->durable_lsn();
  drain_lsn_ = std::max(drain_lsn_, target);
  while (failure_ && !closing_ && journal_->tail().lsn <= target) {
    drain_ = true;
    kick_destage();
    co_await destage_done_.wait();
  }
  if (failure_ && !closing_ && !destaging_) {
    co_await wait_for_readers();
    if (!destaging_) release_retired();
  }
  co_return failure_;
}

// A batch has become durable.
void Engine::on_durable() {
  ++appends_;
  metrics_.allocated_bytes.set(uint64_t{places_->used() + places_->reserved()} * kChunkBytes);
  if (destage_wanted()) kick_destage();
  if (options_.destage_when_idle && !idle_timer_runs_ && !closing_ && !journal_->empty()) {
    idle_timer_runs_ = true;
    scope_.spawn(idle_timer());
  }
}

// Runs while the journal holds something: when nothing new came for a while, destage it all.
Task<void> Engine::idle_timer() {
  while (!closing_ && failure_ && !journal_->empty()) {
    const uint64_t before = appends_;
    co_await reactor_.sleep(options_.idle_after, cancel_.get());
    if (closing_ || appends_ != before || journal_->empty()) continue;
    idle_drain_ = true;
    idle_appends_ = before;
    kick_destage();
  }
  idle_timer_runs_ = false;
}

// How fast the foreground fills the journal, in blocks a second.
double Engine::foreground_rate() {
  const io::Nanoseconds now = reactor_.now();
  const io::Nanoseconds passed = now - rate_since_;
  if (passed >= kRateWindow) {
    const uint64_t head = journal_->tail().position + journal_->used_blocks();
    const double latest = static_cast<double>(head - rate_head_) * io::kSecond / passed;
    // A window long ago says nothing.
    rate_ = passed > 20 * kRateWindow ? latest : rate_ / 2 + latest / 2;
    rate_since_ = now;
    rate_head_ = head;
  }
  return rate_;
}

// Called before each read or write of a round. Waits if the round is ahead of its time.
Task<void> Engine::pace(DestageRound& round) {
  const double all = 2.0 * static_cast<double>(std::max<std::size_t>(round.live.size(), 1));
  while (!closing_ && failure_ && !drain_ && !journal_->starved()) {
    const double over = used_percent() - options_.destage_percent;
    const bool quiet = idle_drain_ && appends_ == idle_appends_;
    if (over >= kFull || quiet || journal_->crowded()) co_return;
    const double rate = foreground_rate();
    const double factor = std::max(kLeastPace, (over - kStop) / (kEven - kStop));
    if (rate * factor < 1) co_return;
    const double time = static_cast<double>(round.region.ring_span) / (rate * factor) *
                        static_cast<double>(round.moved) / all;
    const io::Nanoseconds due = round.started + static_cast<io::Nanoseconds>(time * io::kSecond);
    const io::Nanoseconds now = reactor_.now();
    if (due - now < kLeastSleep) co_return;
    co_await reactor_.sleep(std::min(due - now, kMostSleep), cancel_.get());
  }
}

template <typename Items, typename Less>
Task<void> Engine::sort_aside(Items& items, Less less) {
  if (items.size() <= kSortHere) {
    std::sort(items.begin(), items.end(), less);
    co_return;
  }
  co_await reactor_.blocking([&items, less] {
    std::sort(items.begin(), items.end(), less);
    return 0;
  });
}

// kBusy: the sync lacked memory, and nothing has been committed; the round can be made again.
Task<Status> Engine::destage_round(uint64_t most_blocks) {
  DestageRound round;
  round.region = journal_->oldest(most_blocks);
  if (round.region.batches == 0) co_return Status::ok();
  round.started = reactor_.now();
  co_await collect(round);
  CVOL_CO_TRY(co_await read_live(round));
  give_places(round);
  CVOL_CO_TRY(co_await write_live(round));
  round.buffers.clear();
  if (round.wrote != 0) {
    const int64_t synced = co_await chunks_.sync();
    if (synced < 0) {
      co_return status_from_errno(static_cast<int>(-synced), "sync file 'chunks' of " + path_);
    }
  }
  // With the turn from the first look at a replica's record to the commit: a resize or a removal
  // that comes meanwhile commits after this batch, never before it.
  co_await commit_turn_.acquire();
  TableBatch batch = co_await table_changes(round);
  const Status committed = co_await commit_in_turn(std::move(batch), &round.region);
  commit_turn_.release();
  CVOL_CO_TRY(committed);
  co_await finish_round(round);
  co_await wait_for_readers();  // of places and journal space that are about to be used again
  journal_->release(round.region);
  release_retired();
  metrics_.destage_rounds.add(1);
  metrics_.destage_chunks.add(round.chunks.size());
  metrics_.destage_bytes.add(round.wrote * kBlockBytes);
  co_return Status::ok();
}

// Is what the round has of this block still its newest content? Once it is not, it never is again.
bool Engine::is_newest(const LiveBlock& block) const {
  const OverlayChunk* entry = overlay_.find(block.key);
  return entry != nullptr && ((entry->mask >> block.block) & 1) != 0 &&
         entry->position[block.block] == block.position;
}

// Which chunks the region touched, and which of its blocks are still the newest.
Task<void> Engine::collect(DestageRound& round) {
  for (uint64_t i = 0; i < round.region.refs; ++i) {
    if (i % kSlice == kSlice - 1) co_await io::yield(reactor_);
    const JournalRef& ref = journal_->ref(i);
    round.chunks.push_back(ref.key);
    if (ref.count == 0) continue;
    const OverlayChunk* entry = overlay_.find(ref.key);
    if (entry == nullptr) continue;
    for (uint32_t k = 0; k < ref.count; ++k) {
      const uint32_t block = ref.first + k;
      if (((entry->mask >> block) & 1) == 0 || entry->position[block] != ref.position + k) continue;
      LiveBlock live;
      live.key = ref.key;
      live.position = ref.position + k;
      live.block = static_cast<uint8_t>(block);
      live.checksum = entry->checksum[block];
      round.live.push_back(live);
    }
  }
  co_await sort_aside(round.chunks, std::less<>());
  round.chunks.erase(std::unique(round.chunks.begin(), round.chunks.end()), round.chunks.end());
}

// Refs come in journal order, so the live blocks' positions rise (but for one turn of the ring).
Task<Status> Engine::read_live(DestageRound& round) {
  io::Scope scope;
  for (std::size_t first = 0; first < round.live.size();) {
    const uint64_t start = round.live[first].position;
    std::size_t count = 1;
    while (first + count < round.live.size()) {
      const uint64_t position = round.live[first + count].position;
      const uint64_t before = round.live[first + count - 1].position;
      if (position <= before || position - before > kReadGapBlocks ||
          position - start >= kReadRunBlocks) {
        break;
      }
      ++count;
    }
    co_await pace(round);
    co_await destage_writes_.acquire();
    round.moved += count;
    scope.spawn(read_live_run(round, first, count));
    first += count;
  }
  co_await scope.join();
  co_return round.status;
}

Task<void> Engine::read_live_run(DestageRound& round, std::size_t first, std::size_t count) {
  const uint32_t start = round.live[first].position;
  const uint64_t blocks = round.live[first + count - 1].position - start + 1;
  Buffer buffer = buffers_.try_take(blocks * kBlockBytes);
  CVOL_ASSERT(!buffer.empty());  // the pool is larger than a round
  const iovec iov{buffer.data(), blocks * kBlockBytes};
  const int64_t got = co_await journal_->readv(&iov, 1, start);
  const bool whole = got == static_cast<int64_t>(iov.iov_len);
  for (std::size_t i = first; i < first + count; ++i) {
    if ((i - first) % kSlice == kSlice - 1) co_await io::yield(reactor_);
    LiveBlock& block = round.live[i];
    block.data = buffer.data() + (block.position - start) * kBlockBytes;
    Status read = Status::ok();
    if (!whole) read = co_await read_alone(round, block);
    if (read.code() == Code::kCancelled) round.status = read;
    const Replica* replica = find_replica(block.key.replica());
    if (replica == nullptr || !round.status) continue;
    if (!read && !is_newest(block)) continue;  // nobody asks for it any more
    const uint64_t number = block.key.chunk() * kBlocksPerChunk + block.block;
    if (short_checksum(block_checksum(replica->salt, number, block.data)) == block.checksum)
      continue;
    // It goes to its chunk as it is, with the checksum that it should have: reads tell.
    report_block(block.key, block.block, DamagedFile::kJournal, block.position, !read.is_ok(),
                 "destage");
  }
  round.buffers.push_back(std::move(buffer));
  destage_writes_.release();
}

// A block of a run that could not be read. An error may pass, and this may be the only copy: as
// long as nobody waits for the journal's space it is tried again. kIo if it cannot be read at all:
// it is lost, and what is in its memory then does not pass for it. kCancelled: the next one to open
// the disk tries again.
Task<Status> Engine::read_alone(DestageRound& round, const LiveBlock& block) {
  std::byte* memory = const_cast<std::byte*>(block.data);
  const iovec iov{memory, kBlockBytes};
  if (round.reads_until == 0) round.reads_until = reactor_.now() + kReadPatience;
  const auto goes_on = [&](int attempt) {
    if (attempt < kReadAttempts) return true;
    return reactor_.now() < round.reads_until && is_newest(block) && !journal_->starved() &&
           !journal_->crowded();
  };
  for (int attempt = 0; goes_on(attempt); ++attempt) {
    if (attempt > 0) co_await reactor_.sleep(options_.retry_after, cancel_.get());
    if (closing_) co_return Status(Code::kCancelled, "the disk is being closed");
    const int64_t got = co_await journal_->readv(&iov, 1, block.position);
    if (got == static_cast<int64_t>(kBlockBytes)) co_return Status::ok();
  }
  std::memset(memory, 0, kBlockBytes);
  co_return Status(Code::kIo, "read the journal of " + path_);
}

// Chunks without a place get one, in the order of the volume.
void Engine::give_places(DestageRound& round) {
  std::vector<ChunkKey> homeless;
  for (const ChunkKey key : round.chunks) {
    const OverlayChunk* entry = overlay_.find(key);
    if (entry == nullptr || map_->find(key) != kNoPlace) continue;
    if (entry->reserved && (entry->mask != 0 || entry->writers == 0)) homeless.push_back(key);
  }
  for (std::size_t at = 0; at < homeless.size();) {
    const PlaceAllocator::Run run =
        places_->allocate(static_cast<uint32_t>(homeless.size() - at), /*from_reserved=*/true);
    CVOL_ASSERT(run.count > 0);
    for (uint32_t i = 0; i < run.count; ++i, ++at) {
      OverlayChunk* entry = overlay_.find(homeless[at]);
      entry->reserved = false;
      map_->insert(homeless[at], run.first + i).version = entry->version;
    }
  }
}

Task<Status> Engine::write_live(DestageRound& round) {
  // A chunk may have been zeroed or mapped anew while its blocks were read.
  std::size_t kept = 0;
  for (std::size_t i = 0; i < round.live.size(); ++i) {
    if (i % kSlice == kSlice - 1) co_await io::yield(reactor_);
    LiveBlock block = round.live[i];
    block.place = map_->find(block.key);
    if (block.place != kNoPlace && is_newest(block)) round.live[kept++] = block;
  }
  round.live.resize(kept);
  co_await sort_aside(round.live,
                      [](const auto& a, const auto& b) { return a.disk_block() < b.disk_block(); });
  io::Scope scope;
  for (std::size_t first = 0; first < round.live.size();) {
    std::size_t count = 1;
    while (first + count < round.live.size() && count < kWriteRunBlocks &&
           round.live[first + count].disk_block() == round.live[first].disk_block() + count) {
      ++count;
    }
    co_await pace(round);
    co_await destage_writes_.acquire();
    round.moved += count;
    scope.spawn(write_live_run(round, first, count));
    first += count;
  }
  co_await scope.join();
  co_return round.status;
}

Task<void> Engine::write_live_run(DestageRound& round, std::size_t first, std::size_t count) {
  std::vector<iovec> iov;
  for (std::size_t i = first; i < first + count; ++i) {
    std::byte* data = const_cast<std::byte*>(round.live[i].data);
    if (!iov.empty() && static_cast<std::byte*>(iov.back().iov_base) + iov.back().iov_len == data) {
      iov.back().iov_len += kBlockBytes;
    } else {
      iov.push_back({data, kBlockBytes});
    }
  }
  const uint64_t offset = round.live[first].disk_block() * kBlockBytes;
  int64_t wrote =
      co_await chunks_.writev(iov.data(), static_cast<uint32_t>(iov.size()), offset, false);
  const bool whole = wrote == static_cast<int64_t>(count * kBlockBytes);
  if (!whole && may_go_on(wrote)) {
    const Patience waiting = patience("file 'chunks'");
    wrote = co_await write_patiently(chunks_, std::move(iov), offset, false, waiting);
  }
  if (wrote < 0) {
    round.status = status_from_errno(static_cast<int>(-wrote), "write file 'chunks' of " + path_);
  }
  round.wrote += count;
  destage_writes_.release();
}

// The table after the round: the map as it is, with the blocks that were written.
Task<TableBatch> Engine::table_changes(DestageRound& round) {
  co_await sort_aside(round.live, [](const auto& a, const auto& b) { return a.key < b.key; });
  TableBatch batch;
  std::size_t at = 0;
  std::size_t slice = 0;
  for (const ChunkKey key : round.chunks) {
    if (++slice % kSlice == 0) co_await io::yield(reactor_);
    Replica* replica = find_replica(key.replica());
    if (replica == nullptr) continue;
    mark_dirty(key.replica(), *replica);
    if (replica->record.removing) continue;
    const uint32_t place = map_->find(key);
    if (place == kNoPlace) {
      batch.remove(chunk_key(key.replica(), key.chunk()));
      continue;
    }
    const ChunkSlot& slot = map_->slot(place);
    ChunkRecord record{slot.version, place, slot.present, slot.all_checksums()};
    // The version also of blocks that were overwritten, and of ones that later rounds move.
    const OverlayChunk* entry = overlay_.find(key);
    if (entry != nullptr) record.version = std::max(record.version, entry->version);
    while (at < round.live.size() && round.live[at].key < key) ++at;
    for (; at < round.live.size() && round.live[at].key == key; ++at) {
      if (round.live[at].place != place || !is_newest(round.live[at])) continue;
      record.present |= static_cast<uint16_t>(1u << round.live[at].block);
      record.checksums[round.live[at].block] = round.live[at].checksum;
    }
    batch.put(chunk_key(key.replica(), key.chunk()), encode_chunk_record(record));
  }
  // After the chunks: a chunk that was given back meanwhile is among the zeroed ranges by now.
  add_dirty_replicas(batch);
  co_return batch;
}

// Memory follows the table. What the foreground changed meanwhile stays as it is.
Task<void> Engine::finish_round(DestageRound& round) {
  std::size_t slice = 0;
  for (const LiveBlock& block : round.live) {
    if (++slice % kSlice == 0) co_await io::yield(reactor_);
    if (map_->find(block.key) != block.place || !is_newest(block)) continue;
    OverlayChunk* entry = overlay_.find(block.key);
    const uint16_t bit = static_cast<uint16_t>(1u << block.block);
    ChunkSlot& slot = map_->slot(block.place);
    slot.present |= bit;
    slot.checksums[block.block] = block.checksum;
    slot.version = std::max(slot.version, entry->version);
    entry->mask &= static_cast<uint16_t>(~bit);
    settle(block.key);
  }
  for (const ChunkKey key : round.chunks) {
    if (++slice % kSlice == 0) co_await io::yield(reactor_);
    settle(key);
  }
}

// Places that were taken from their chunks by records before the tail are free for others.
void Engine::release_retired() {
  while (!retired_.empty() && retired_.front().lsn < journal_->tail().lsn) {
    places_->release(retired_.front().place);
    retired_.pop_front();
  }
  if (give_back_wanted()) give_back_wake_.set();
  metrics_.allocated_bytes.set(uint64_t{places_->used() + places_->reserved()} * kChunkBytes);
}

}  // namespace cvol::store
