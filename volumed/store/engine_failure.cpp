// Damage and failure: what is told of damaged blocks, the mark of a failed disk, and its way back.
//
// A disk that has failed is opened as such: everything is read, nothing is written, every operation
// answers why. A verify reads all there is; if that is sound and writes work, the disk goes into
// service (enter_service), under the same DiskEngine: who holds it need not know. A disk that fails
// while it is open is first opened again in place, since nothing in memory can be relied on.
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "volumed/base/assert.h"
#include "volumed/base/log.h"
#include "volumed/store/aligned.h"
#include "volumed/store/engine.h"
#include "volumed/store/patient_write.h"

namespace cvol::store {
namespace {

// Writes `bytes` of memory, durably, and reads them back.
Task<Status> write_and_compare(const io::File& file, std::byte* memory, std::size_t bytes,
                               uint64_t offset, std::string what) {
  const iovec out{memory, bytes};
  const int64_t wrote = co_await file.writev(&out, 1, offset, true);
  if (wrote != static_cast<int64_t>(bytes)) {
    co_return status_from_errno(wrote < 0 ? static_cast<int>(-wrote) : EIO,
                                "write a probe to " + what);
  }
  const AlignedBytes again = aligned_zeroes(bytes);
  const iovec in{again.get(), bytes};
  const int64_t got = co_await file.readv(&in, 1, offset);
  if (got != static_cast<int64_t>(bytes)) {
    co_return status_from_errno(got < 0 ? static_cast<int>(-got) : EIO,
                                "read a probe back from " + what);
  }
  if (std::memcmp(again.get(), memory, bytes) != 0)
    co_return Status(Code::kDamaged, "a probe that was written to " + what + " reads otherwise");
  co_return Status::ok();
}

Task<Status> sync_file(const io::File& file, std::string what) {
  const int64_t synced = co_await file.sync();
  co_return synced < 0 ? status_from_errno(static_cast<int>(-synced), "sync " + what)
                       : Status::ok();
}

}  // namespace

const char* file_name(DamagedFile file) {
  switch (file) {
    case DamagedFile::kChunks:
      return "chunks";
    case DamagedFile::kJournal:
      return "journal";
    case DamagedFile::kTable:
      return "table";
  }
  return "";
}

uint64_t Engine::unix_time() const {
  return options_.wall_clock ? options_.wall_clock()
                             : static_cast<uint64_t>(reactor_.now() / io::kSecond);
}

// --- damage ---

void Engine::report_block(ChunkKey key, uint32_t block, DamagedFile file, uint64_t file_block,
                          bool unreadable, const char* found_by) {
  metrics_.damaged_blocks.add(1);
  const Replica* replica = find_replica(key.replica());
  if (replica == nullptr) return;
  Damage damage;
  damage.file = file;
  damage.volume = replica->record.volume;
  damage.block = key.chunk() * kBlocksPerChunk + block;
  damage.file_block = file_block;
  damage.unreadable = unreadable;
  damage.found_by = found_by;
  if (scrub_runs_ && std::string_view(found_by) == "scrub" &&
      scrub_info_.damage.size() < kMostDamageTold) {
    scrub_info_.damage.push_back(damage);
  }
  if (told_.size() > kMostDamageTold || !told_.insert({key.word, block}).second) return;
  log::error("store", unreadable ? "a block cannot be read" : "a block is damaged",
             {{"path", path_},
              {"volume", damage.volume.to_string()},
              {"block", damage.block},
              {"file", file_name(file)},
              {"file_block", file_block},
              {"found_by", found_by}});
  if (told_.size() > kMostDamageTold) {
    damage = Damage{};
    damage.more = kMostDamageTold;
  }
  report_damage(std::move(damage));
}

void Engine::report_damage(Damage damage) {
  if (options_.hooks.damaged) options_.hooks.damaged(damage);
}

// --- the mark ---

std::string Engine::failure_text(const std::string& why) const {
  return fmt::format(
      "disk {0} has failed: {1}. Its data stays as it is, and nothing is served from it until "
      "'cvol disk verify {0}' has found it sound",
      path_, why);
}

void Engine::fail(const Status& why) {
  if (!failure_) return;
  failure_ = Status(Code::kIo, failure_text(why.message()));
  log::error("store", "the disk has failed", {{"path", path_}, {"why", why.message()}});
  journal_->fail();
  kick_destage();
  // Others have filled the file system, and the owner stops while the table waits for room.
  if (closing_ && is_want_of_room(why.code())) return;
  state_ = {label_.disk, true, unix_time(), why.message()};
  state_written_ = false;
  if (options_.hooks.failed) options_.hooks.failed(label_.disk, why.message());
  scope_.spawn(persist_failure());
}

// As well as a failed disk can; the owner keeps a mark of its own.
Task<void> Engine::persist_failure() {
  const Status written = co_await write_state(state_);
  state_written_ = written.is_ok();
  if (!written) {
    log::warning("store", "the disk's mark that it has failed could not be written to it",
                 {{"path", path_}, {"why", written.message()}});
  }
}

Task<Status> Engine::write_state(DiskState state) {
  const AlignedBytes block = aligned_zeroes(kBlockBytes);
  encode_disk_state(state, std::span<std::byte, kBlockBytes>(block.get(), kBlockBytes));
  co_await state_turn_.acquire();
  const Status written = co_await write_and_compare(label_file_, block.get(), kBlockBytes,
                                                    kStateBlockOffset, "the state block");
  state_turn_.release();
  co_return written;
}

// Sets `failure_` if the disk is known to have failed.
Task<Status> Engine::read_state() {
  const AlignedBytes block = aligned_zeroes(kBlockBytes);
  const iovec iov{block.get(), kBlockBytes};
  const int64_t got = co_await label_file_.readv(&iov, 1, kStateBlockOffset);
  Result<DiskState> state =
      got < 0 ? Result<DiskState>(status_from_errno(static_cast<int>(-got), "read the state block"))
              : decode_disk_state({block.get(), static_cast<size_t>(got)});
  // A want of memory says nothing of the disk: it is opened again later.
  if (state.code() == Code::kUnsupported || is_want_of_room(state.code())) co_return state.status();
  state_ = DiskState{};
  state_.disk = label_.disk;
  if (!state) {
    state_.failed = true;
    state_.reason = state.message() + ", so it may have failed before";
  } else if (state->failed) {
    state_ = *state;
  } else if (!options_.known_failure.empty()) {
    state_.failed = true;
    state_.reason = options_.known_failure;
  }
  quarantined_ = state_.failed;
  if (quarantined_) failure_ = Status(Code::kIo, failure_text(state_.reason));
  co_return Status::ok();
}

// --- into service ---

// A copy of the disk may have holes where the original had reserved space, or share its extents
// with it: overwrites would need room then. Where there is none for it now, writes wait for it
// later.
Task<Status> Engine::own_files() {
  uint64_t changed = 0;
  const Status owned = co_await reactor_.blocking([this, &changed]() -> Status {
    Result<uint64_t> journal = journal_->file().own({0, label_.journal_bytes});
    if (!journal) return journal.status();
    Result<uint64_t> chunks = own_chunks();
    if (!chunks) return chunks.status();
    changed = *journal + *chunks;
    return Status::ok();
  });
  if (is_want_of_room(owned.code())) {
    notice(
        "not all of the disk's space is its own (a sparse copy, or one that shares its extents), "
        "and the file system has no room for it: writes may have to wait (" +
        owned.message() + ")");
  } else if (!owned) {
    co_return owned;
  }
  if (owned && changed == 0) co_return Status::ok();
  CVOL_CO_TRY(co_await sync_file(journal_->file(), "the journal"));
  co_return co_await sync_file(chunks_, "file 'chunks'");
}

// Everything is read. From here on batches carry a generation that no batch on the disk has.
Task<Status> Engine::enter_service() {
  if (quarantined_) CVOL_CO_TRY(co_await sync_file(journal_->file(), "the journal"));
  CVOL_CO_TRY(co_await own_files());
  meta_.generation += 1;
  TableBatch batch;
  batch.put(meta_key(), encode_table_meta(meta_));
  const Status committed = co_await commit_patiently(batch);
  if (!committed) {
    if (!is_want_of_room(committed.code())) fail(committed);
    co_return committed;
  }
  journal_->start(meta_.generation);
  opened_ = true;
  quarantined_ = false;
  failure_ = Status::ok();
  scope_.spawn(destage_loop());
  scope_.spawn(give_back_loop());
  if (give_back_wanted()) give_back_wake_.set();
  scope_.spawn(finish_removals());
  on_durable();  // what was replayed is destaged when idle
  metrics_.capacity_bytes.set(label_.capacity_chunks * kChunkBytes);
  metrics_.journal_size_bytes.set(label_.journal_bytes);
  co_return Status::ok();
}

// A failed disk is closed and opened as failed, under its owner's hands.
Task<Status> Engine::reopen_as_failed() {
  CVOL_ASSERT(!failure_);
  co_await end_tasks();
  while (operations_ != 0) co_await operations_gone_.wait();
  co_await wait_for_readers();
  if (loaded_) {
    last_info_ = info();
    last_replicas_ = replicas();
  }
  loaded_ = false;
  if (!state_written_) co_await persist_failure();
  if (!state_.reason.empty()) options_.known_failure = state_.reason;
  co_await close_files();
  map_ = std::make_unique<ChunkMap>(static_cast<uint32_t>(label_.capacity_chunks));
  places_ = std::make_unique<PlaceAllocator>(static_cast<uint32_t>(label_.capacity_chunks));
  overlay_ = Overlay();
  replicas_.clear();
  retired_.clear();
  dirty_.clear();
  carry_wanted_.clear();
  meta_ = TableMeta{};
  replay_error_ = Status::ok();
  growing_ahead_ = idle_timer_runs_ = destaging_ = drain_ = idle_drain_ = opened_ = false;
  drain_lsn_ = 0;
  rate_since_ = 0;
  rate_head_ = 0;
  rate_ = 0;
  destage_wake_.reset();
  give_back_wake_.reset();
  may_give_back_ = false;
  cancel_ = std::make_unique<io::CancelToken>();
  closing_ = stopping_;
  const Status opened = co_await open(opener_);
  if (!opened) failure_ = Status(Code::kIo, failure_text(opened.message()));
  co_return opened;
}

// Do writes and syncs work?
Task<Status> Engine::probe() {
  const AlignedBytes memory = aligned_zeroes(kChunkBytes);
  for (std::size_t at = 0; at < kChunkBytes; at += 8) {
    const uint64_t word = reactor_.random().next();
    std::memcpy(memory.get() + at, &word, sizeof word);
  }
  CVOL_CO_TRY(co_await write_and_compare(label_file_, memory.get(), kBlockBytes, kProbeBlockOffset,
                                         "file 'label'"));
  const PlaceAllocator::Run free = places_->allocate(1, /*from_reserved=*/false);
  if (free.count != 0) {
    const Status tried = co_await write_and_compare(
        chunks_, memory.get(), kChunkBytes, uint64_t{free.first} * kChunkBytes, "file 'chunks'");
    places_->release(free.first);
    CVOL_CO_TRY(tried);
  }
  CVOL_CO_TRY(co_await sync_file(label_file_, "file 'label'"));
  CVOL_CO_TRY(co_await sync_file(chunks_, "file 'chunks'"));
  co_return co_await sync_file(journal_->file(), "the journal");
}

// --- verify ---

Status Engine::start_verify(bool accept_damage) {
  if (stopping_) return Status(Code::kUnavailable, "disk " + path_ + " is being closed");
  if (verifies_) return Status(Code::kBusy, "disk " + path_ + " is being verified already");
  if (scrub_cancel_ != nullptr) scrub_cancel_->cancel();  // the verify reads everything anyway
  verifies_ = true;
  scrub_scope_.spawn(run_verify(accept_damage));
  return Status::ok();
}

Task<void> Engine::run_verify(bool accept_damage) {
  while (scrub_runs_) co_await scrub_done_.wait();
  scrub_stop_wanted_ = false;
  Status status = Status::ok();
  // One that could not be read whole the last time is read again.
  if (!failure_ && (!quarantined_ || !loaded_)) status = co_await reopen_as_failed();
  const bool was_failed = !failure_.is_ok();
  if (stopping_) status = Status(Code::kCancelled, "the disk is being closed");
  if (status) status = co_await run_pass(/*anew=*/true, /*rate=*/0);
  if (status && was_failed) {  // a pass that read everything, and nothing less
    status = co_await leave_quarantine(accept_damage);
    if (status) status = co_await commit_scrub();
  }
  scrub_info_.outcome = status.code() == Code::kCancelled ? "it was stopped" : status.message();
  log::info("store", "verified a disk",
            {{"path", path_}, {"damaged", scrub_.damaged}, {"outcome", scrub_info_.outcome}});
  verifies_ = false;
  scrub_done_.wake_all();
}

Task<Status> Engine::leave_quarantine(bool accept_damage) {
  CVOL_ASSERT(loaded_);
  if (table_damaged_)
    co_return Status(Code::kDamaged, "the chunk table is damaged; the disk stays failed");
  if (scrub_.damaged != 0 && !accept_damage) {
    co_return Status(Code::kDamaged,
                     fmt::format("{} damaged blocks were found; the disk stays failed. 'cvol disk "
                                 "verify {} --accept-damage' takes it into service without them",
                                 scrub_.damaged, path_));
  }
  CVOL_CO_TRY(co_await probe());
  // The mark goes before the first write is served: one that fails after it leaves its own mark,
  // and nothing here takes that back.
  const DiskState healthy{label_.disk, false, unix_time(), ""};
  CVOL_CO_TRY(co_await write_state(healthy));
  state_ = healthy;
  state_written_ = true;
  CVOL_CO_TRY(co_await enter_service());
  if (!failure_) co_return failure_;
  options_.known_failure.clear();
  log::info("store", "a disk that had failed is in service again", {{"path", path_}});
  if (options_.hooks.mended) options_.hooks.mended(label_.disk);
  co_return Status::ok();
}

// --- the end ---

Task<void> Engine::end_tasks() {
  closing_ = true;
  cancel_->cancel();
  kick_destage();
  give_back_wake_.set();
  destage_done_.wake_all();
  co_await scope_.join();
}

Task<void> Engine::close_files() {
  if (journal_ != nullptr) co_await journal_->drain();
  co_await reactor_.blocking([this] {
    table_.reset();
    return 0;
  });
  journal_.reset();
  cached_chunks_.close();
  chunks_.close();
  label_file_.close();
}

Task<void> Engine::close() {
  stopping_ = closing_ = true;
  cancel_->cancel();
  if (scrub_cancel_ != nullptr) scrub_cancel_->cancel();
  co_await scrub_scope_.join();
  co_await end_tasks();
  // Calls that are under way, a removal between two slices for one, use the files.
  while (operations_ != 0) co_await operations_gone_.wait();
  co_await wait_for_readers();
  if (!state_written_ && label_file_.is_open()) co_await persist_failure();
  // As while it is opened again: who still knows the engine is told so, and touches no file.
  if (loaded_) {
    last_info_ = info();
    last_replicas_ = replicas();
  }
  loaded_ = false;
  if (failure_) failure_ = Status(Code::kUnavailable, "disk " + path_ + " is closed");
  co_await close_files();
}

}  // namespace cvol::store
