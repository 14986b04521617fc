// Writing: admission, journal entries, and what a durable record changes in memory.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "volumed/base/assert.h"
#include "volumed/base/bytes.h"
#include "volumed/base/checksum.h"
#include "volumed/base/log.h"
#include "volumed/store/engine.h"
#include "volumed/store/patient_write.h"

namespace cvol::store {
namespace {

constexpr uint64_t kMostZeroBytes = kGiB;
constexpr uint64_t kKeepPieceChunks = 1024;     // of one journal entry that allocates
constexpr uint32_t kGrowPlaces = 1024;          // file growth step: 64 MiB
constexpr uint32_t kGrowAheadBelow = 512;       // grow in the background below this many places
constexpr uint64_t kReserveBytes = 128 * kMiB;  // left to the file system when growing
constexpr uint32_t kMostSmallBlocks = 2 * kBlocksPerChunk;
constexpr uint16_t kWholeChunk = 0xffff;

uint16_t mask_of(uint64_t first, uint64_t count) {
  return static_cast<uint16_t>(((uint32_t{1} << count) - 1) << first);
}

// Calls visit(chunk, first block in it, blocks in it) for each chunk of a block range.
template <typename Visit>
void for_each_chunk(uint64_t first_block, uint64_t blocks, Visit visit) {
  const uint64_t end = first_block + blocks;
  for (uint64_t block = first_block; block < end;) {
    const uint64_t inside = block % kBlocksPerChunk;
    const uint64_t count = std::min(end - block, kBlocksPerChunk - inside);
    visit(block / kBlocksPerChunk, inside, count);
    block += count;
  }
}

}  // namespace

Result<Engine::Replica*> Engine::usable(ReplicaNumber number, uint64_t offset,
                                        uint64_t length) const {
  if (!failure_) return failure_;
  Replica* replica = find_replica(number);
  if (replica == nullptr || replica->record.removing) {
    return Status(Code::kNotFound, fmt::format("disk {} has no replica {}", path_, number));
  }
  CVOL_ASSERT(offset % kBlockBytes == 0 && length % kBlockBytes == 0);
  if (length == 0 || offset > replica->record.size_bytes ||
      length > replica->record.size_bytes - offset) {
    return Status(Code::kInvalidArgument,
                  fmt::format("{} bytes at {} reach beyond the end of the volume", length, offset));
  }
  return replica;
}

// --- admission ---

// Counts a writer in the chunk and makes sure that its block will find a place.
bool Engine::try_admit(ChunkKey key) {
  OverlayChunk& chunk = overlay_.find_or_make(key);
  if (!chunk.reserved && map_->find(key) == kNoPlace) {
    if (!places_->reserve(1)) {
      settle(key);
      return false;
    }
    chunk.reserved = true;
    find_replica(key.replica())->allocated.add(key.chunk());
  }
  ++chunk.writers;
  return true;
}

bool Engine::admit_all(ReplicaNumber number, uint64_t first_block, uint64_t blocks) {
  const uint64_t first = first_block / kBlocksPerChunk;
  const uint64_t end = (first_block + blocks - 1) / kBlocksPerChunk + 1;
  for (uint64_t chunk = first; chunk < end; ++chunk) {
    if (try_admit(ChunkKey(number, chunk))) continue;
    if (chunk > first) withdraw(number, first_block, chunk * kBlocksPerChunk);
    return false;
  }
  if (places_->available() < kGrowAheadBelow && !growing_ahead_ && places_->can_grow() &&
      !closing_) {
    growing_ahead_ = true;
    scope_.spawn(grow_ahead());
  }
  return true;
}

Task<Status> Engine::admit(ReplicaNumber number, uint64_t first_block, uint64_t blocks) {
  while (!admit_all(number, first_block, blocks)) {
    const uint64_t chunks = blocks / kBlocksPerChunk + 2;
    CVOL_CO_TRY(co_await make_room(static_cast<uint32_t>(chunks)));
    if (!failure_) co_return failure_;
  }
  co_return Status::ok();
}

// Undoes admissions of [first_block, end_block).
void Engine::withdraw(ReplicaNumber number, uint64_t first_block, uint64_t end_block) {
  for_each_chunk(first_block, end_block - first_block, [&](uint64_t chunk, uint64_t, uint64_t) {
    const ChunkKey key(number, chunk);
    OverlayChunk* entry = overlay_.find(key);
    CVOL_ASSERT(entry != nullptr && entry->writers > 0);
    --entry->writers;
    settle(key);
  });
}

// Returns ok when more places are available than at the call, or `wanted` are; whoever asks tries
// again. kNoSpace when nothing more can be had.
Task<Status> Engine::make_room(uint32_t wanted) {
  const uint32_t before = places_->available();
  const auto gained = [&] {
    return places_->available() > before || places_->available() >= wanted;
  };
  co_await grow_turn_.acquire();
  Status status = Status::ok();
  if (!gained() && places_->can_grow()) status = co_await grow(std::max(wanted, kGrowPlaces));
  grow_turn_.release();
  if (status.code() == Code::kBusy && !closing_) {  // memory or descriptors come back
    co_await reactor_.sleep(options_.retry_after);
    co_return Status::ok();
  }
  if (!status && status.code() != Code::kNoSpace) co_return status;
  // Freed places come back when destage has passed the records that freed them.
  if (!gained() && !retired_.empty()) CVOL_CO_TRY(co_await destage_all());
  if (gained()) co_return Status::ok();
  metrics_.no_space_errors.add(1);
  co_return Status(Code::kNoSpace,
                   fmt::format("disk {} is full ({} of chunks in use); free space with trim or by "
                               "removing volumes, or add a disk",
                               path_, format_size(uint64_t{places_->used()} * kChunkBytes)));
}

// With the turn. Gives bare places their space again; if there are none, extends file `chunks`.
Task<Status> Engine::grow(uint32_t wanted) {
  const uint64_t target =
      std::min<uint64_t>(uint64_t{places_->backed()} + wanted, places_->capacity());
  Result<uint64_t> free = reactor_.free_bytes(path_);
  if (!free) co_return free.status();
  const uint64_t places =
      places_->bare() != 0 ? std::min(places_->bare(), wanted) : target - places_->backed();
  const uint64_t more = places * kChunkBytes;
  if (*free < more + kReserveBytes) {
    co_return Status(Code::kNoSpace, fmt::format("the file system of {} is full", path_));
  }
  if (places_->bare() != 0) co_return co_await refill(wanted);
  CVOL_CO_TRY(co_await reactor_.blocking(
      [this, target] { return chunks_.allocate(target * kChunkBytes); }));
  // The new size must survive a crash before anything is promised on it.
  CVOL_CO_TRY(co_await sync_growth());
  places_->set_backed(static_cast<uint32_t>(target));
  co_return Status::ok();
}

// kBusy if that can be tried again: no data is at stake, and nothing was promised yet.
Task<Status> Engine::sync_growth() {
  const int64_t synced = co_await chunks_.sync();
  if (synced >= 0) co_return Status::ok();
  const Status status =
      status_from_errno(static_cast<int>(-synced), "sync file 'chunks' of " + path_);
  if (status.code() == Code::kBusy) co_return status;
  fail(status);
  co_return failure_;
}

Task<void> Engine::grow_ahead() {
  co_await grow_turn_.acquire();
  if (places_->available() < kGrowAheadBelow && places_->can_grow()) {
    const Status status = co_await grow(kGrowPlaces);
    if (!status && status.code() != Code::kNoSpace)
      log::warning("store", "cannot extend file 'chunks'", {{"why", status.message()}});
  }
  grow_turn_.release();
  growing_ahead_ = false;
}

// --- appending ---

Task<Status> Engine::append_entry(JournalEntry& entry) {
  const int error = co_await journal_->append(entry);
  if (error == 0) co_return Status::ok();
  co_return failure_.is_ok() ? status_from_errno(error, "write the journal") : failure_;
}

Task<Status> Engine::append_write(ReplicaNumber number, uint64_t epoch, uint64_t seq,
                                  uint64_t offset, std::span<const std::byte> data,
                                  std::span<const uint64_t> checksums) {
  const Operation operation(*this);
  Result<Replica*> replica = usable(number, offset, data.size());
  if (!replica) co_return replica.status();
  CVOL_ASSERT(checksums.empty() || checksums.size() == data.size() / kBlockBytes);
  if (reinterpret_cast<uintptr_t>(data.data()) % kBlockBytes != 0) {
    co_return Status(Code::kInvalidArgument, "the memory of a write is not aligned to 4 KiB");
  }
  const uint64_t first_whole = (offset + kChunkBytes - 1) / kChunkBytes;
  const uint64_t end_whole = (offset + data.size()) / kChunkBytes;
  if (end_whole <= first_whole) {
    co_return co_await write_small(**replica, number, epoch, seq, offset, data, checksums);
  }
  Status status = co_await write_large(**replica, number, epoch, seq, offset, data, checksums);
  if (status.code() != Code::kNoSpace) co_return status;
  // No room for new places: what has places already can be overwritten through the journal.
  co_return co_await write_pieces(**replica, number, epoch, seq, offset, data, checksums);
}

Task<Status> Engine::write_small(Replica& replica, ReplicaNumber number, uint64_t epoch,
                                 uint64_t seq, uint64_t offset, std::span<const std::byte> data,
                                 std::span<const uint64_t> checksums) {
  const uint64_t first = offset / kBlockBytes;
  const uint32_t blocks = static_cast<uint32_t>(data.size() / kBlockBytes);
  CVOL_ASSERT(blocks <= kMostSmallBlocks);
  std::array<uint64_t, kMostSmallBlocks> computed;
  if (checksums.empty()) {
    for (uint32_t i = 0; i < blocks; ++i) {
      computed[i] = block_checksum(replica.salt, first + i, data.data() + i * kBlockBytes);
    }
    checksums = {computed.data(), blocks};
  }
  if (!admit_all(number, first, blocks)) CVOL_CO_TRY(co_await admit(number, first, blocks));
  Record record{RecordType::kWrite, 0, number, epoch, seq, first, blocks, 0};
  const void* sums = checksums.data();
  const iovec payload{const_cast<std::byte*>(data.data()), data.size()};
  JournalEntry entry;
  entry.records = &record;
  entry.checksums = &sums;
  entry.record_count = 1;
  entry.payload = &payload;
  entry.payload_count = 1;
  entry.payload_blocks = blocks;
  entry.record_bytes = static_cast<uint32_t>(record_bytes(record));
  const int error = co_await journal_->append(entry);
  if (error == 0) co_return Status::ok();
  withdraw(number, first, first + blocks);
  co_return failure_.is_ok() ? status_from_errno(error, "write the journal") : failure_;
}

// Everything through the journal, in pieces of a chunk; all or nothing as to space.
Task<Status> Engine::write_pieces(Replica& replica, ReplicaNumber number, uint64_t epoch,
                                  uint64_t seq, uint64_t offset, std::span<const std::byte> data,
                                  std::span<const uint64_t> checksums) {
  const uint64_t first = offset / kBlockBytes;
  const uint64_t blocks = data.size() / kBlockBytes;
  CVOL_CO_TRY(co_await admit(number, first, blocks));  // the space is ours until withdrawn
  Status status = Status::ok();
  while (!data.empty() && status) {
    const uint64_t most = kChunkBytes - offset % kChunkBytes;
    const std::span<const std::byte> piece = data.first(std::min<uint64_t>(most, data.size()));
    const std::span<const uint64_t> sums =
        checksums.first(std::min(checksums.size(), piece.size() / kBlockBytes));
    status = co_await write_small(replica, number, epoch, seq, offset, piece, sums);
    data = data.subspan(piece.size());
    checksums = checksums.subspan(sums.size());
    offset += piece.size();
  }
  withdraw(number, first, first + blocks);
  co_return status;
}

// A write that covers whole chunks: those go straight to new places, and the journal gets their
// mapping; what is left at both ends goes through the journal.
struct Engine::LargeWrite {
  uint64_t first_chunk = 0;
  uint64_t chunks = 0;
  const std::byte* data = nullptr;  // of the whole chunks
  std::vector<PlaceAllocator::Run> runs;
  std::vector<uint32_t> checksums;  // kBlocksPerChunk a chunk
};

Task<void> Engine::write_run(const std::byte* data, uint32_t place, uint32_t chunks,
                             int64_t* result) {
  const iovec iov{const_cast<std::byte*>(data), uint64_t{chunks} * kChunkBytes};
  const uint64_t offset = uint64_t{place} * kChunkBytes;
  const int64_t wrote = co_await chunks_.writev(&iov, 1, offset, true);
  if (wrote == static_cast<int64_t>(iov.iov_len)) {
    *result = 0;
    co_return;
  }
  *result = wrote;
  if (!may_go_on(wrote)) co_return;
  const Patience waiting = patience("file 'chunks'");
  std::vector<iovec> whole(1, iov);
  *result = co_await write_patiently(chunks_, std::move(whole), offset, true, waiting);
}

// Allocates places and writes the chunks there, durably.
Task<Status> Engine::place_chunks(LargeWrite& write) {
  uint64_t missing = write.chunks;
  while (missing > 0) {
    const PlaceAllocator::Run run =
        places_->allocate(static_cast<uint32_t>(missing), /*from_reserved=*/false);
    if (run.count != 0) {
      write.runs.push_back(run);
      missing -= run.count;
      continue;
    }
    CVOL_CO_TRY(co_await make_room(static_cast<uint32_t>(missing)));
    if (!failure_) co_return failure_;
  }
  if (places_->available() < kGrowAheadBelow && !growing_ahead_ && !closing_ &&
      places_->can_grow()) {
    growing_ahead_ = true;
    scope_.spawn(grow_ahead());
  }
  std::vector<int64_t> results(write.runs.size(), 0);
  const std::byte* data = write.data;
  if (write.runs.size() == 1) {
    co_await write_run(data, write.runs[0].first, write.runs[0].count, &results[0]);
  } else {
    io::Scope scope;
    for (std::size_t i = 0; i < write.runs.size(); ++i) {
      scope.spawn(write_run(data, write.runs[i].first, write.runs[i].count, &results[i]));
      data += uint64_t{write.runs[i].count} * kChunkBytes;
    }
    co_await scope.join();
  }
  for (int64_t result : results) {
    if (result == 0) continue;
    fail(status_from_errno(static_cast<int>(-result), "write file 'chunks' of " + path_));
    co_return failure_;
  }
  co_return Status::ok();
}

Task<Status> Engine::write_large(Replica& replica, ReplicaNumber number, uint64_t epoch,
                                 uint64_t seq, uint64_t offset, std::span<const std::byte> data,
                                 std::span<const uint64_t> sums) {
  LargeWrite write;
  write.first_chunk = (offset + kChunkBytes - 1) / kChunkBytes;
  write.chunks = (offset + data.size()) / kChunkBytes - write.first_chunk;
  const uint64_t head_bytes = write.first_chunk * kChunkBytes - offset;
  const uint64_t tail_at = head_bytes + write.chunks * kChunkBytes;
  write.data = data.data() + head_bytes;

  const uint64_t first_block = offset / kBlockBytes;
  std::vector<uint64_t> computed;
  if (sums.empty()) {
    computed.resize(data.size() / kBlockBytes);
    for (uint64_t i = 0; i < computed.size(); ++i)
      computed[i] = block_checksum(replica.salt, first_block + i, data.data() + i * kBlockBytes);
    sums = computed;
  }
  const uint64_t head_blocks = head_bytes / kBlockBytes;
  const uint64_t tail_blocks = (data.size() - tail_at) / kBlockBytes;
  for (uint64_t i = 0; i < write.chunks * kBlocksPerChunk; ++i)
    write.checksums.push_back(short_checksum(sums[head_blocks + i]));

  // The ends first: they may have to wait for room, and a failure then leaves nothing behind.
  if (head_blocks != 0) CVOL_CO_TRY(co_await admit(number, first_block, head_blocks));
  const uint64_t tail_block = (offset + tail_at) / kBlockBytes;
  Status status = Status::ok();
  if (tail_blocks != 0) {
    status = co_await admit(number, tail_block, tail_blocks);
    if (!status) {
      if (head_blocks != 0) withdraw(number, first_block, first_block + head_blocks);
      co_return status;
    }
  }
  status = co_await place_chunks(write);
  if (status) {
    std::vector<Record> records;
    std::vector<const void*> pointers;
    std::vector<iovec> payload;
    auto add_end = [&](uint64_t block, uint64_t blocks, uint64_t at) {
      uint32_t before = 0;
      for (const iovec& part : payload) before += static_cast<uint32_t>(part.iov_len / kBlockBytes);
      records.push_back({RecordType::kWrite, 0, number, epoch, seq, block,
                         static_cast<uint32_t>(blocks), before});
      pointers.push_back(&sums[at / kBlockBytes]);
      payload.push_back({const_cast<std::byte*>(data.data() + at), blocks * kBlockBytes});
    };
    if (head_blocks != 0) add_end(first_block, head_blocks, 0);
    uint64_t chunk = write.first_chunk;
    const uint32_t* short_sums = write.checksums.data();
    for (const PlaceAllocator::Run& run : write.runs) {
      records.push_back({RecordType::kMap, 0, number, epoch, seq, chunk, run.count, run.first});
      pointers.push_back(short_sums);
      chunk += run.count;
      short_sums += uint64_t{run.count} * kBlocksPerChunk;
    }
    if (tail_blocks != 0) add_end(tail_block, tail_blocks, tail_at);
    JournalEntry entry;
    entry.records = records.data();
    entry.checksums = pointers.data();
    entry.record_count = static_cast<uint32_t>(records.size());
    entry.payload = payload.data();
    entry.payload_count = static_cast<uint32_t>(payload.size());
    entry.payload_blocks = static_cast<uint32_t>(head_blocks + tail_blocks);
    for (const Record& record : records)
      entry.record_bytes += static_cast<uint32_t>(record_bytes(record));
    status = co_await append_entry(entry);
    if (status) co_return status;
  }
  if (head_blocks != 0) withdraw(number, first_block, first_block + head_blocks);
  if (tail_blocks != 0) withdraw(number, tail_block, tail_block + tail_blocks);
  for (const PlaceAllocator::Run& run : write.runs) {
    for (uint32_t i = 0; i < run.count; ++i) places_->release(run.first + i);
  }
  co_return status;
}

Task<Status> Engine::append_zero(ReplicaNumber number, uint64_t epoch, uint64_t seq,
                                 uint64_t offset, uint64_t length, bool keep_allocated) {
  CVOL_ASSERT(length <= kMostZeroBytes);
  const Operation operation(*this);
  Result<Replica*> replica = usable(number, offset, length);
  if (!replica) co_return replica.status();
  const uint64_t first = offset / kBlockBytes;
  const uint64_t blocks = length / kBlockBytes;
  if (keep_allocated) {
    // In pieces, so that the records of one entry stay few.
    for (uint64_t done = 0; done < blocks;) {
      const uint64_t piece = std::min(blocks - done, kKeepPieceChunks * kBlocksPerChunk);
      CVOL_CO_TRY(co_await zero_keeping(**replica, number, epoch, seq, first + done, piece));
      done += piece;
    }
    co_return Status::ok();
  }
  // What reads as zeroes already needs no record, unless others may need to hear of it.
  bool anything = (*replica)->replicated;
  if (!anything && (*replica)->allocated.total() == 0) co_return Status::ok();
  for_each_chunk(first, blocks, [&](uint64_t chunk, uint64_t, uint64_t) {
    const ChunkKey key(number, chunk);
    anything = anything || map_->find(key) != kNoPlace || overlay_.find(key) != nullptr;
  });
  if (!anything) co_return Status::ok();
  Record record{RecordType::kZero, 0, number, epoch, seq, first, static_cast<uint32_t>(blocks), 0};
  const void* sums = nullptr;
  JournalEntry entry;
  entry.records = &record;
  entry.checksums = &sums;
  entry.record_count = 1;
  entry.record_bytes = static_cast<uint32_t>(record_bytes(record));
  co_return co_await append_entry(entry);
}

// Zeroes that keep their space: chunks that have none get an empty place.
Task<Status> Engine::zero_keeping(Replica&, ReplicaNumber number, uint64_t epoch, uint64_t seq,
                                  uint64_t first_block, uint64_t blocks) {
  std::vector<uint64_t> bare;
  for_each_chunk(first_block, blocks, [&](uint64_t chunk, uint64_t, uint64_t) {
    const ChunkKey key(number, chunk);
    if (map_->find(key) == kNoPlace && overlay_.find(key) == nullptr) bare.push_back(chunk);
  });
  std::vector<Record> records;
  Status status = Status::ok();
  for (std::size_t at = 0; at < bare.size() && status;) {
    std::size_t adjacent = 1;
    while (at + adjacent < bare.size() && bare[at + adjacent] == bare[at] + adjacent) ++adjacent;
    const PlaceAllocator::Run run = places_->allocate(static_cast<uint32_t>(adjacent), false);
    if (run.count == 0) {
      status = co_await make_room(static_cast<uint32_t>(bare.size() - at));
      continue;
    }
    records.push_back(
        {RecordType::kMap, kRecordEmpty, number, epoch, seq, bare[at], run.count, run.first});
    at += run.count;
  }
  records.push_back({RecordType::kZero, kRecordKeep, number, epoch, seq, first_block,
                     static_cast<uint32_t>(blocks), 0});
  if (status) {
    const std::vector<const void*> sums(records.size(), nullptr);
    JournalEntry entry;
    entry.records = records.data();
    entry.checksums = sums.data();
    entry.record_count = static_cast<uint32_t>(records.size());
    entry.record_bytes = static_cast<uint32_t>(records.size() * kRecordFixedBytes);
    status = co_await append_entry(entry);
  }
  if (!status) {
    for (const Record& record : records) {
      if (record.type != RecordType::kMap) continue;
      for (uint32_t i = 0; i < record.count; ++i) places_->release(record.payload + i);
    }
  }
  co_return status;
}

// --- effects ---

void Engine::apply(uint64_t lsn, const Record& record, const void* checksums, uint32_t position) {
  Replica* replica = find_replica(record.replica);
  if (replica == nullptr || replica->record.removing) return;
  if (record.type == RecordType::kCommitPoint) return apply_commit_point(record);
  applying_lsn_ = lsn;
  replica->record.last_seq = std::max(replica->record.last_seq, record.seq);
  switch (record.type) {
    case RecordType::kWrite:
      apply_write(record, static_cast<const uint64_t*>(checksums), position);
      break;
    case RecordType::kZero:
      apply_zero(record);
      break;
    case RecordType::kMap:
      apply_map(record, static_cast<const std::byte*>(checksums));
      break;
    case RecordType::kCommitPoint:
      break;
  }
}

void Engine::apply_write(const Record& record, const uint64_t* checksums, uint32_t position) {
  uint32_t at = 0;
  for_each_chunk(record.first, record.count, [&](uint64_t chunk, uint64_t first, uint64_t count) {
    const ChunkKey key(record.replica, chunk);
    OverlayChunk& entry = overlay_.find_or_make(key);
    if (opened_) {
      CVOL_ASSERT(entry.writers > 0);
      --entry.writers;
    }
    for (uint64_t i = 0; i < count; ++i) {
      uint64_t checksum = 0;
      std::memcpy(&checksum, checksums + at + i, sizeof checksum);  // unaligned in replay
      entry.position[first + i] = position + at + static_cast<uint32_t>(i);
      entry.checksum[first + i] = short_checksum(checksum);
    }
    entry.mask |= mask_of(first, count);
    entry.version = std::max(entry.version, record.seq);
    journal_->add_ref(
        {key, position + at, static_cast<uint8_t>(first), static_cast<uint8_t>(count)});
    at += static_cast<uint32_t>(count);
  });
}

void Engine::apply_zero(const Record& record) {
  Replica* replica = find_replica(record.replica);
  if (replica->replicated) {
    mark_dirty(record.replica, *replica);
    remember_zeroed(*replica, {record.first, record.count, record.seq});
  }
  const bool keep = (record.flags & kRecordKeep) != 0;
  for_each_chunk(record.first, record.count, [&](uint64_t chunk, uint64_t first, uint64_t count) {
    zero_in_chunk(ChunkKey(record.replica, chunk), mask_of(first, count), keep, record.seq);
  });
}

void Engine::zero_in_chunk(ChunkKey key, uint16_t mask, bool keep, uint64_t seq) {
  OverlayChunk* entry = overlay_.find(key);
  const uint32_t place = map_->find(key);
  if (entry == nullptr && place == kNoPlace) return;
  // Zeroes on zeroes that keep their place change nothing, and leave destage nothing to do.
  if (keep && entry == nullptr && (map_->slot(place).present & mask) == 0) return;
  uint64_t version = 0;  // before this
  if (entry != nullptr) {
    version = entry->version;
    entry->mask &= static_cast<uint16_t>(~mask);
    entry->version = std::max(version, seq);
  }
  bool gone = place == kNoPlace && entry->mask == 0;
  if (place != kNoPlace) {
    ChunkSlot& slot = map_->slot(place);
    version = std::max<uint64_t>(version, slot.version);
    slot.present &= static_cast<uint16_t>(~mask);
    slot.version = std::max(version, seq);
    if (!keep && slot.present == 0 && (entry == nullptr || overlay_.idle(*entry))) {
      map_->erase(key);
      find_replica(key.replica())->allocated.remove(key.chunk());
      retire(place, key);
      gone = true;
    }
  }
  // All of its blocks are zeroes now, also those that were touched later than what zeroed them.
  if (gone && (mask != kWholeChunk || version > seq)) forget_version(key, version);
  journal_->add_ref({key, 0, 0, 0});
  if (entry != nullptr && !(keep && entry->reserved)) settle(key);
}

void Engine::apply_map(const Record& record, const std::byte* checksums) {
  Replica* replica = find_replica(record.replica);
  for (uint32_t i = 0; i < record.count; ++i) {
    const ChunkKey key(record.replica, record.first + i);
    const uint32_t place = record.payload + i;
    const uint32_t old = map_->find(key);
    if (!opened_ && (place >= map_->capacity() || (old != place && map_->owned(place)))) {
      replay_error_ = Status(Code::kDamaged, fmt::format("the journal maps chunk {} to place {}, "
                                                         "which another chunk has",
                                                         key.chunk(), place));
      return;
    }
    OverlayChunk* entry = overlay_.find(key);
    // An empty chunk only gets a place: blocks of it may have been written while this record was on
    // its way, even a place may have been found.
    const bool empty = (record.flags & kRecordEmpty) != 0;
    if (empty && old != kNoPlace) {
      if (old != place) retire(place, key);
      continue;
    }
    uint64_t version = record.seq;
    if (entry != nullptr) version = std::max(version, entry->version);
    if (old != kNoPlace) version = std::max<uint64_t>(version, map_->slot(old).version);
    if (entry != nullptr && !empty) entry->mask = 0;
    if (old != place) {
      if (old != kNoPlace) {
        map_->erase(key);
        retire(old, key);
        replica->allocated.remove(key.chunk());
      }
      if (entry != nullptr && entry->reserved) {
        entry->reserved = false;
        places_->unreserve(1);
        replica->allocated.remove(key.chunk());
      }
      map_->insert(key, place);
      replica->allocated.add(key.chunk());
    }
    ChunkSlot& slot = map_->slot(place);
    slot.version = version;
    if (!empty) {
      slot.present = 0xffff;
      for (uint64_t block = 0; block < kBlocksPerChunk; ++block)
        slot.checksums[block] = load_le<uint32_t>(checksums + (i * kBlocksPerChunk + block) * 4);
    }
    journal_->add_ref({key, 0, 0, 0});
    if (entry != nullptr) settle(key);
  }
}

// Drops an overlay entry that nothing needs any more.
void Engine::settle(ChunkKey key) {
  OverlayChunk* entry = overlay_.find(key);
  if (entry == nullptr || !overlay_.idle(*entry)) return;
  if (entry->reserved) {
    entry->reserved = false;
    if (opened_) places_->unreserve(1);
    if (Replica* replica = find_replica(key.replica())) replica->allocated.remove(key.chunk());
  }
  overlay_.drop(key);
}

void Engine::retire(uint32_t place, ChunkKey owner) {
  retired_.push_back({applying_lsn_, place, owner});
}

}  // namespace cvol::store
