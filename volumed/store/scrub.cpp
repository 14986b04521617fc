// Scrub: reads everything that the disk stores and checks it, in three phases: file `chunks` in the
// order of places, the live blocks of the journal, the chunk table.
//
// The foreground goes on. A block that was overwritten, moved or freed while it was read is not
// damage: what does not hold is looked for again, and counts only if it still lies where it lay.
// The scrub is a reader like others, so a place that it reads is not given to another chunk.
//
// Pace: so many bytes per second, in pieces of at most 1 MiB; while the foreground is busy in
// smaller pieces, each waiting for a quiet moment, for a bounded time: never zero.
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>

#include "volumed/base/assert.h"
#include "volumed/base/checksum.h"
#include "volumed/base/log.h"
#include "volumed/store/engine.h"

namespace cvol::store {
namespace {

constexpr uint64_t kPieceBytes = kMiB;
constexpr uint32_t kPieceBlocks = kPieceBytes / kBlockBytes;
constexpr uint64_t kBusyPieceBytes = 256 * kKiB;
constexpr uint64_t kGapBlocks = 16;       // dead blocks of the journal that are read along
constexpr uint32_t kSkipPlaces = 65536;   // looked at in one turn of the loop
constexpr uint64_t kPiecesPerSecond = 8;  // at least, of a slow scrub
constexpr io::Nanoseconds kQuietStep = 2 * io::kMillisecond;
constexpr io::Nanoseconds kMostQuietWait = 250 * io::kMillisecond;
constexpr int kConfirmAttempts = 3;
constexpr double kJournalAt = 0.98;  // progress at which the phases begin
constexpr double kTableAt = 0.99;

struct FreeDeleter {
  void operator()(std::byte* memory) const { std::free(memory); }
};

}  // namespace

// A block as it lay when its piece was chosen.
struct Engine::ScrubBlock {
  ChunkKey key;
  uint32_t block = 0;  // in the chunk
  uint32_t checksum = 0;
  DamagedFile file = DamagedFile::kChunks;
  uint64_t at = 0;  // block of file `chunks`, or ring block
};

struct Engine::ScrubPass {
  std::unique_ptr<std::byte, FreeDeleter> memory{
      static_cast<std::byte*>(std::aligned_alloc(kBlockBytes, kPieceBytes))};
  io::Nanoseconds next_at = 0;       // of the next piece
  io::Nanoseconds committed_at = 0;  // the record
  uint64_t committed_bytes = 0;
  uint64_t appends = 0;  // as last seen
  std::vector<ScrubBlock> blocks;
};

// --- starting and stopping ---

Status Engine::start_scrub(uint64_t rate) {
  if (stopping_) return Status(Code::kUnavailable, "disk " + path_ + " is being closed");
  if (!failure_) return Status(Code::kFailedPrecondition, failure_.message());
  if (verifies_) return Status(Code::kBusy, "disk " + path_ + " is being verified");
  scrub_.rate = rate != 0 ? rate : options_.scrub_rate;
  if (scrub_runs_) return Status::ok();
  scrub_runs_ = true;
  scrub_stop_wanted_ = false;
  scrub_scope_.spawn(run_scrub());
  return Status::ok();
}

Task<void> Engine::run_scrub() {
  const Status status = co_await run_pass(/*anew=*/scrub_.state == ScrubState::kIdle, scrub_.rate);
  scrub_info_.outcome = status.code() == Code::kCancelled ? "" : status.message();
}

Task<Status> Engine::stop_scrub() {
  scrub_stop_wanted_ = true;
  if (scrub_cancel_ != nullptr) scrub_cancel_->cancel();
  while (scrub_runs_ || verifies_) co_await scrub_done_.wait();
  co_return Status::ok();
}

ScrubInfo Engine::scrub() const {
  ScrubInfo info = scrub_info_;
  if (!loaded_) {  // it is being opened again for a verify
    info.verify = verifies_;
    info.record.state = verifies_ ? ScrubState::kRunning : ScrubState::kStopped;
    return info;
  }
  info.record = scrub_;
  info.verify = verifies_ || info.verify;
  if (verifies_ || scrub_runs_) {
    info.record.state = ScrubState::kRunning;
  } else if (scrub_.state == ScrubState::kRunning) {
    info.record.state = ScrubState::kStopped;  // the disk has failed meanwhile
  }
  if (info.record.state == ScrubState::kIdle || map_ == nullptr) return info;
  const uint32_t end = std::min(map_->end_place(), map_->capacity());
  switch (scrub_.phase) {
    case ScrubPhase::kChunks:
      info.progress = end == 0 ? 0 : std::min(1.0, double{1} * scrub_.next_place / end);
      info.progress *= kJournalAt;
      break;
    case ScrubPhase::kJournal:
      info.progress = kJournalAt;
      break;
    case ScrubPhase::kTable:
      info.progress = kTableAt;
      break;
  }
  return info;
}

// One pass from where it is to its end, with its record. kCancelled if it was ended before.
Task<Status> Engine::run_pass(bool anew, uint64_t rate) {
  scrub_runs_ = true;
  scrub_cancel_ = std::make_unique<io::CancelToken>();
  if (scrub_stop_wanted_ || stopping_) scrub_cancel_->cancel();
  scrub_info_.verify = verifies_;
  scrub_info_.outcome.clear();
  if (anew) {
    scrub_.phase = ScrubPhase::kChunks;
    scrub_.next_place = 0;
    scrub_.bytes = scrub_.damaged = 0;
    scrub_.started = unix_time();
    scrub_info_.damage.clear();
    table_damaged_ = false;
  }
  scrub_.rate = rate;
  scrub_.state = ScrubState::kRunning;
  log::info("store", anew ? "a scrub begins" : "a scrub goes on",
            {{"path", path_}, {"place", scrub_.next_place}, {"rate", rate}});
  ScrubPass pass;
  CVOL_ASSERT(pass.memory != nullptr);
  pass.next_at = reactor_.now();
  Status status = co_await commit_scrub();
  pass.committed_at = reactor_.now();
  pass.committed_bytes = scrub_.bytes;
  if (status) status = co_await scrub_everything(pass);
  if (status) {
    scrub_.state = ScrubState::kIdle;
    scrub_.completed = unix_time();
    scrub_.completed_started = scrub_.started;
    scrub_.completed_bytes = scrub_.bytes;
    scrub_.completed_damaged = scrub_.damaged;
  } else if (status.code() != Code::kCancelled || scrub_stop_wanted_ || quarantined_) {
    scrub_.state = ScrubState::kStopped;  // else the disk is closed, and it goes on after that
    scrub_.stopped = unix_time();
  }
  log::info("store", status ? "a scrub has read everything" : "a scrub has stopped",
            {{"path", path_},
             {"bytes", scrub_.bytes},
             {"damaged", scrub_.damaged},
             {"why", status.message()}});
  if (status && options_.hooks.scrubbed) options_.hooks.scrubbed(scrub_);
  const Status committed = co_await commit_scrub();
  if (status) status = committed;
  scrub_cancel_.reset();
  scrub_runs_ = false;
  scrub_done_.wake_all();
  co_return status;
}

Task<Status> Engine::scrub_everything(ScrubPass& pass) {
  if (scrub_.phase == ScrubPhase::kChunks) {
    CVOL_CO_TRY(co_await scrub_chunks(pass));
    scrub_.phase = ScrubPhase::kJournal;
  }
  if (scrub_.phase == ScrubPhase::kJournal) {
    CVOL_CO_TRY(co_await scrub_journal(pass));
    scrub_.phase = ScrubPhase::kTable;
  }
  co_return co_await scrub_table();
}

// A failed disk keeps no record: nothing is written to it.
Task<Status> Engine::commit_scrub() {
  if (!failure_) co_return quarantined_ ? Status::ok() : failure_;
  TableBatch batch;
  batch.put(scrub_key(), encode_scrub_record(scrub_));
  co_return co_await commit(std::move(batch));
}

// After each piece: the record if it is time, the pace, and whether to go on.
Task<Status> Engine::after_piece(ScrubPass& pass, uint64_t bytes) {
  scrub_.bytes += bytes;
  scrub_info_.bytes_total += bytes;
  if (reactor_.now() - pass.committed_at >= options_.scrub_commit_after ||
      scrub_.bytes - pass.committed_bytes >= options_.scrub_commit_bytes) {
    CVOL_CO_TRY(co_await commit_scrub());
    pass.committed_at = reactor_.now();
    pass.committed_bytes = scrub_.bytes;
  }
  co_await pace(pass, bytes);
  if (scrub_cancel_->cancelled()) co_return Status(Code::kCancelled, "the scrub was stopped");
  if (!failure_ && !quarantined_) co_return failure_;
  co_return Status::ok();
}

// --- pace ---

bool Engine::foreground_busy(ScrubPass& pass) const {
  const bool busy = readers_[0] + readers_[1] + operations_ != 0 || appends_ != pass.appends;
  pass.appends = appends_;
  return busy;
}

uint64_t Engine::piece_bytes(ScrubPass& pass) const {
  if (scrub_.rate == 0) return kPieceBytes;
  const uint64_t most = foreground_busy(pass) ? kBusyPieceBytes : kPieceBytes;
  return std::clamp(scrub_.rate / kPiecesPerSecond, kChunkBytes, most);
}

Task<void> Engine::pace(ScrubPass& pass, uint64_t bytes) {
  if (scrub_.rate == 0) {
    co_await io::yield(reactor_);
    co_return;
  }
  const io::Nanoseconds now = reactor_.now();
  const auto gap = static_cast<io::Nanoseconds>(static_cast<double>(bytes) * 1e9 /
                                                static_cast<double>(scrub_.rate));
  // A little that was lost to waiting is caught up.
  pass.next_at = std::max(pass.next_at + gap, now - gap);
  if (pass.next_at > now) co_await reactor_.sleep_until(pass.next_at, scrub_cancel_.get());
  const io::Nanoseconds most = std::min(std::max(3 * gap, 4 * kQuietStep), kMostQuietWait);
  for (io::Nanoseconds waited = 0; waited < most && !scrub_cancel_->cancelled();
       waited += kQuietStep) {
    if (!foreground_busy(pass)) break;
    co_await reactor_.sleep(kQuietStep, scrub_cancel_.get());
  }
}

// --- reading ---

// Does the block still lie where it lay, as the newest?
bool Engine::lies_there(const ScrubBlock& block) const {
  const uint32_t bit = uint32_t{1} << block.block;
  const OverlayChunk* entry = overlay_.find(block.key);
  const bool in_journal = entry != nullptr && (entry->mask & bit) != 0;
  if (block.file == DamagedFile::kJournal) {
    return in_journal && entry->position[block.block] == block.at &&
           entry->checksum[block.block] == block.checksum;
  }
  const auto place = static_cast<uint32_t>(block.at / kBlocksPerChunk);
  if (in_journal || !map_->owned(place)) return false;
  const ChunkSlot& slot = map_->slot(place);
  return slot.chunk_key() == block.key && (slot.present & bit) != 0 &&
         slot.checksums[block.block] == block.checksum;
}

bool Engine::content_holds(const ScrubBlock& block, const std::byte* content) const {
  const Replica* replica = find_replica(block.key.replica());
  if (replica == nullptr) return true;
  const uint64_t number = block.key.chunk() * kBlocksPerChunk + block.block;
  return short_checksum(block_checksum(replica->salt, number, content)) == block.checksum;
}

// 0, or a negative errno.
Task<int64_t> Engine::read_blocks(const ScrubBlock& first, std::byte* into, uint64_t blocks) {
  const iovec iov{into, blocks * kBlockBytes};
  const uint64_t epoch = reader_enter();
  const int64_t got = first.file == DamagedFile::kJournal
                          ? co_await journal_->readv(&iov, 1, static_cast<uint32_t>(first.at))
                          : co_await chunks_.readv(&iov, 1, first.at * kBlockBytes);
  reader_leave(epoch);
  co_return got == static_cast<int64_t>(iov.iov_len) ? 0 : (got < 0 ? got : -EIO);
}

// Reads pass.blocks [first, first + count), whose places rise, in one piece, and checks them.
Task<void> Engine::scrub_piece(ScrubPass& pass, std::size_t first, std::size_t count) {
  const uint64_t start = pass.blocks[first].at;
  const uint64_t span = pass.blocks[first + count - 1].at - start + 1;
  CVOL_ASSERT(span <= kPieceBlocks);
  const int64_t result = co_await read_blocks(pass.blocks[first], pass.memory.get(), span);
  std::vector<ScrubBlock> doubtful;
  for (std::size_t i = first; i < first + count; ++i) {
    const ScrubBlock& block = pass.blocks[i];
    const std::byte* content = pass.memory.get() + (block.at - start) * kBlockBytes;
    if (result != 0 || !content_holds(block, content)) doubtful.push_back(block);
  }
  for (const ScrubBlock& block : doubtful) co_await confirm(pass, block);
}

// The block did not hold in its piece: alone, and more than once, before it counts as damaged.
Task<void> Engine::confirm(ScrubPass& pass, const ScrubBlock& block) {
  int64_t result = 0;
  for (int attempt = 0; attempt < kConfirmAttempts; ++attempt) {
    if (!lies_there(block)) co_return;
    result = co_await read_blocks(block, pass.memory.get(), 1);
    if (result == 0 && content_holds(block, pass.memory.get())) co_return;
  }
  if (!lies_there(block)) co_return;
  ++scrub_.damaged;
  ++scrub_info_.damaged_total;
  report_block(block.key, block.block, block.file, block.at, result != 0, "scrub");
}

// --- phases ---

// The blocks of a place that are the newest of theirs.
void Engine::add_place(ScrubPass& pass, uint32_t place) const {
  const ChunkSlot& slot = map_->slot(place);
  const OverlayChunk* entry = overlay_.find(slot.chunk_key());
  const uint32_t live = slot.present & ~(entry == nullptr ? 0u : entry->mask);
  for (uint32_t i = 0; i < kBlocksPerChunk; ++i) {
    if (((live >> i) & 1) == 0) continue;
    pass.blocks.push_back({slot.chunk_key(), i, slot.checksums[i], DamagedFile::kChunks,
                           uint64_t{place} * kBlocksPerChunk + i});
  }
}

Task<Status> Engine::scrub_chunks(ScrubPass& pass) {
  while (true) {
    const uint32_t end = std::min(map_->end_place(), map_->capacity());
    if (scrub_.next_place >= end) co_return Status::ok();
    const auto most = static_cast<uint32_t>(piece_bytes(pass) / kChunkBytes);
    uint32_t place = scrub_.next_place;
    const uint32_t look_end = std::min<uint32_t>(end, place + std::min(kSkipPlaces, end - place));
    while (place < look_end && !map_->owned(place)) ++place;
    pass.blocks.clear();
    for (uint32_t count = 0; count < most && place < end && map_->owned(place); ++count)
      add_place(pass, place++);
    uint64_t bytes = 0;
    if (!pass.blocks.empty()) {
      bytes = (pass.blocks.back().at - pass.blocks.front().at + 1) * kBlockBytes;
      co_await scrub_piece(pass, 0, pass.blocks.size());
    }
    scrub_.next_place = place;
    CVOL_CO_TRY(co_await after_piece(pass, bytes));
  }
}

Task<Status> Engine::scrub_journal(ScrubPass& pass) {
  for (std::size_t slab = 0; slab < overlay_.slabs(); ++slab) {
    std::vector<ScrubBlock> live;
    overlay_.for_each_of(slab, [&live](const OverlayChunk& entry) {
      for (uint32_t i = 0; i < kBlocksPerChunk; ++i) {
        if (((entry.mask >> i) & 1) == 0) continue;
        live.push_back({entry.key, i, entry.checksum[i], DamagedFile::kJournal, entry.position[i]});
      }
    });
    std::sort(live.begin(), live.end(), [](const auto& a, const auto& b) { return a.at < b.at; });
    for (std::size_t first = 0; first < live.size();) {
      const uint64_t most = piece_bytes(pass) / kBlockBytes;
      std::size_t count = 1;
      while (first + count < live.size() && live[first + count].at - live[first].at < most &&
             live[first + count].at - live[first + count - 1].at <= kGapBlocks) {
        ++count;
      }
      pass.blocks.assign(live.begin() + static_cast<int64_t>(first),
                         live.begin() + static_cast<int64_t>(first + count));
      first += count;
      // What went to the chunks meanwhile was checked on its way.
      std::erase_if(pass.blocks, [this](const ScrubBlock& block) { return !lies_there(block); });
      if (pass.blocks.empty()) continue;
      const uint64_t span = pass.blocks.back().at - pass.blocks.front().at + 1;
      co_await scrub_piece(pass, 0, pass.blocks.size());
      CVOL_CO_TRY(co_await after_piece(pass, span * kBlockBytes));
    }
  }
  co_return Status::ok();
}

Task<Status> Engine::scrub_table() {
  Status status = co_await reactor_.blocking([this] { return table_->verify(); });
  // While the file system is full, or descriptors have run out.
  while (status.code() == Code::kUnavailable || is_want_of_room(status.code())) {
    co_await reactor_.sleep(options_.retry_after, scrub_cancel_.get());
    if (scrub_cancel_->cancelled()) co_return Status(Code::kCancelled, "the scrub was stopped");
    status = co_await reactor_.blocking([this] { return table_->verify(); });
  }
  if (status) co_return status;
  table_damaged_ = true;
  ++scrub_.damaged;
  ++scrub_info_.damaged_total;
  metrics_.damaged_blocks.add(1);
  Damage damage;
  damage.file = DamagedFile::kTable;
  damage.found_by = "scrub";
  damage.why = status.message();
  if (scrub_info_.damage.size() < kMostDamageTold) scrub_info_.damage.push_back(damage);
  log::error("store", "the chunk table is damaged", {{"path", path_}, {"why", status.message()}});
  if (!table_damage_told_) report_damage(std::move(damage));
  table_damage_told_ = true;
  co_return Status::ok();
}

}  // namespace cvol::store
