// Replicas of a disk: making, growing, removing, and what is told about them.
#include <fmt/format.h>

#include <algorithm>

#include "volumed/base/assert.h"
#include "volumed/base/checksum.h"
#include "volumed/base/log.h"
#include "volumed/store/engine.h"

namespace cvol::store {
namespace {

constexpr std::size_t kRemovalsPerCommit = 4096;

}  // namespace

DiskInfo Engine::info() const {
  DiskInfo info;
  if (!loaded_) {  // a helper thread may be loading: nothing of it is looked at
    info = last_info_;
    info.failed = !failure_.is_ok();
    info.failure = failure_.message();
    return info;
  }
  info.disk = label_.disk;
  info.path = path_;
  info.capacity_bytes = label_.capacity_chunks * kChunkBytes;
  info.allocated_bytes = uint64_t{places_->used() + places_->reserved()} * kChunkBytes;
  info.journal_bytes = label_.journal_bytes;
  info.journal_used_bytes = journal_->used_blocks() * kBlockBytes;
  for (const auto& replica : replicas_) info.replicas += replica != nullptr ? 1 : 0;
  info.failed = !failure_.is_ok();
  info.failure = failure_.message();
  return info;
}

ReplicaInfo Engine::info_of(ReplicaNumber number, const Replica& replica) const {
  return {number,
          replica.record.volume,
          replica.record.replica,
          replica.record.size_bytes,
          replica.allocated.total() * kChunkBytes,
          replica.record.last_seq,
          replica.record.commit_point};
}

std::vector<ReplicaInfo> Engine::replicas() const {
  if (!loaded_) return last_replicas_;
  std::vector<ReplicaInfo> all;
  for (ReplicaNumber number = 0; number < replicas_.size(); ++number) {
    const Replica* replica = find_replica(number);
    if (replica != nullptr && !replica->record.removing) all.push_back(info_of(number, *replica));
  }
  return all;
}

Result<ReplicaInfo> Engine::replica(ReplicaNumber number) const {
  if (!loaded_) {
    for (const ReplicaInfo& last : last_replicas_) {
      if (last.number == number) return last;
    }
  }
  const Replica* found = loaded_ ? find_replica(number) : nullptr;
  if (found == nullptr || found->record.removing)
    return Status(Code::kNotFound, fmt::format("disk {} has no replica {}", path_, number));
  return info_of(number, *found);
}

// One commit at a time. The meta record goes along, as it is when the turn has come: a tail that
// is not committed yet never gets into another commit, nor an old one over a newer. An error leaves
// nothing known: the disk has failed.
Task<Status> Engine::commit(TableBatch batch) {
  co_await commit_turn_.acquire();
  const Status status = co_await commit_in_turn(std::move(batch), nullptr);
  commit_turn_.release();
  co_return status;
}

Task<Status> Engine::commit_in_turn(TableBatch batch, const Journal::Region* destaged) {
  Status status = failure_;
  if (status) {
    if (destaged != nullptr) {
      meta_.tail_lsn = destaged->end_lsn;
      meta_.tail_position = destaged->end_position;
      meta_.tail_generation = destaged->generation;
    }
    batch.put(meta_key(), encode_table_meta(meta_));
    status = co_await commit_patiently(batch);
    if (!status) {
      fail(status);
      status = failure_;
    }
  }
  co_return status;
}

// Others can fill the file system under a disk. That is no failure of the disk: it waits until
// there is room, and what needs the table waits with it.
Task<Status> Engine::commit_patiently(const TableBatch& batch) {
  bool waited = false;
  while (true) {
    const Status status =
        co_await reactor_.blocking([this, &batch] { return table_->commit(batch); });
    // Who opens a disk is not kept waiting.
    if (status.code() != Code::kNoSpace || closing_ || !opened_) {
      if (status && waited) notice("the chunk table is written again");
      co_return status;
    }
    CVOL_CO_TRY(co_await wait_for_room(waited, status));
    waited = true;
  }
}

// An error: the table cannot be had back.
Task<Status> Engine::wait_for_room(bool told, const Status& why) {
  if (!told) {
    notice("the file system is full; what is written waits until there is room (" + why.message() +
           ")");
  }
  co_await reactor_.sleep(options_.retry_after, cancel_.get());
  const Status resumed = co_await reactor_.blocking([this] { return table_->resume(); });
  co_return resumed.code() == Code::kDamaged ? resumed : Status::ok();
}

void Engine::notice(const std::string& what) {
  log::warning("store", what, {{"path", path_}});
  if (options_.hooks.notice) options_.hooks.notice(what);
}

Task<Result<ReplicaInfo>> Engine::create_replica(Uuid volume, Uuid replica_id, uint64_t size) {
  const Operation operation(*this);
  if (!failure_) co_return failure_;
  CVOL_CO_TRY(validate_volume_size(size));
  for (const auto& replica : replicas_) {
    if (replica != nullptr && !replica->record.removing && replica->record.volume == volume) {
      co_return Status(Code::kAlreadyExists, fmt::format("disk {} has a replica of volume {}",
                                                         path_, volume.to_string()));
    }
  }
  const ReplicaNumber number = meta_.next_replica;
  if (number > kMaxReplicaNumber)
    co_return Status(Code::kNoSpace, "the disk has given out all replica numbers");
  ++meta_.next_replica;
  auto made = std::make_unique<Replica>();
  made->record.volume = volume;
  made->record.replica = replica_id;
  made->record.size_bytes = size;
  made->salt = checksum_salt(volume);
  TableBatch batch;
  batch.put(replica_key(number), encode_replica_record(made->record));
  CVOL_CO_TRY(co_await commit(std::move(batch)));
  if (replicas_.size() <= number) replicas_.resize(number + 1);
  replicas_[number] = std::move(made);
  co_return info_of(number, *replicas_[number]);
}

Task<Status> Engine::resize_replica(ReplicaNumber number, uint64_t size) {
  const Operation operation(*this);
  if (!failure_) co_return failure_;
  Replica* replica = find_replica(number);
  if (replica == nullptr || replica->record.removing)
    co_return Status(Code::kNotFound, fmt::format("disk {} has no replica {}", path_, number));
  CVOL_CO_TRY(validate_volume_size(size));
  if (size < replica->record.size_bytes)
    co_return Status(Code::kInvalidArgument, "a volume cannot shrink");
  // In memory first: a destage that commits after this one writes the record as it is here. If the
  // commit fails, so has the disk.
  replica->record.size_bytes = size;
  TableBatch batch;
  batch.put(replica_key(number), encode_replica_record(replica->record));
  co_return co_await commit(std::move(batch));
}

Task<Status> Engine::remove_replica(ReplicaNumber number) {
  const Operation operation(*this);
  if (!failure_) co_return failure_;
  Replica* replica = find_replica(number);
  if (replica == nullptr || replica->record.removing)
    co_return Status(Code::kNotFound, fmt::format("disk {} has no replica {}", path_, number));
  replica->record.removing = true;
  TableBatch batch;
  batch.put(replica_key(number), encode_replica_record(replica->record));
  CVOL_CO_TRY(co_await commit(std::move(batch)));
  co_return co_await give_back_chunks(number);
}

// The record says `removing`, durably: the chunks are nobody's, also after a crash from here on.
Task<Status> Engine::give_back_chunks(ReplicaNumber number) {
  std::vector<ChunkKey> keys;
  overlay_.for_each([&](OverlayChunk& entry) {
    if (entry.key.replica() == number) keys.push_back(entry.key);
  });
  for (const ChunkKey key : keys) {
    overlay_.find(key)->mask = 0;
    settle(key);
  }
  keys.clear();
  applying_lsn_ = journal_->durable_lsn();
  const uint32_t end = std::min<uint32_t>(map_->end_place(), map_->capacity());
  for (uint32_t place = 0; place < end; ++place) {
    if (!map_->owned(place)) continue;
    const ChunkKey key = map_->slot(place).chunk_key();
    if (key.replica() != number) continue;
    keys.push_back(key);
    map_->erase(key);
    retire(place, key);
  }
  // Chunks of a removal that a crash cut short are in the table but not in the map: by range.
  Status status = co_await remove_chunk_keys(number);
  if (!status) co_return status;
  replicas_[number].reset();
  log::info("store", "removed a replica",
            {{"path", path_}, {"replica", number}, {"chunks", keys.size()}});
  if (!retired_.empty()) status = co_await destage_all();
  co_return status;
}

Task<Status> Engine::remove_chunk_keys(ReplicaNumber number) {
  co_await commit_turn_.acquire();
  Status status = failure_;
  bool wrote = false;  // the error is that of a commit
  for (bool waited = false; status; waited = true) {
    status = co_await reactor_.blocking([this, number, &wrote]() -> Status {
      TableBatch batch;
      wrote = false;
      CVOL_TRY(table_->scan_prefix(chunk_prefix(number),
                                   [&](std::string_view key, std::string_view) -> Status {
                                     batch.remove(std::string(key));
                                     if (batch.changes.size() < kRemovalsPerCommit)
                                       return Status::ok();
                                     wrote = true;
                                     const Status committed = table_->commit(batch);
                                     if (!committed) return committed;
                                     wrote = false;
                                     batch.changes.clear();
                                     return Status::ok();
                                   }));
      batch.remove(replica_state_key(number));
      batch.remove(zeroed_ranges_key(number));
      batch.remove(replica_key(number));
      wrote = true;
      return table_->commit(batch);
    });
    if (status.code() != Code::kNoSpace || closing_) break;
    status = co_await wait_for_room(waited, status);
    if (!status) break;
    status = failure_;
  }
  if (!status && wrote) fail(status);
  commit_turn_.release();
  co_return status;
}

void Engine::check_invariants() const {
  uint64_t owned = 0;
  for (uint32_t place = 0; place < std::min(map_->end_place(), map_->capacity()); ++place) {
    owned += map_->owned(place) ? 1 : 0;
  }
  CVOL_ASSERT(owned == map_->size());
  CVOL_ASSERT(owned + retired_.size() == places_->used());  // I12: none leaked, none owned twice
  uint64_t reserved = 0;
  const_cast<Overlay&>(overlay_).for_each([&](OverlayChunk& entry) {
    reserved += entry.reserved ? 1 : 0;
    CVOL_ASSERT(!(entry.reserved && map_->find(entry.key) != kNoPlace));
    CVOL_ASSERT(entry.mask == 0 || entry.reserved || map_->find(entry.key) != kNoPlace);
  });
  CVOL_ASSERT(reserved == places_->reserved());
}

}  // namespace cvol::store
