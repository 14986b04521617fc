// Replicas of a disk: making, growing, removing, and what is told about them.
#include <fmt/format.h>

#include <algorithm>

#include "volumed/base/assert.h"
#include "volumed/base/checksum.h"
#include "volumed/base/log.h"
#include "volumed/store/engine.h"
#include "volumed/store/patient_write.h"

namespace cvol::store {
namespace {

// Of a removal, between which others get their turn.
constexpr std::size_t kRemovalsPerCommit = 1024;
constexpr uint32_t kPlacesPerSlice = 1024;
constexpr std::size_t kSlabsPerSlice = 16;

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
  for (const auto& replica : replicas_)
    info.replicas += replica != nullptr && !replica->record.removing ? 1 : 0;
  info.failed = !failure_.is_ok();
  info.failure = failure_.message();
  info.generation = meta_.generation;
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
    if (!is_want_of_room(status.code()) || closing_ || !opened_) {
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
    notice((why.code() == Code::kBusy ? "descriptors or memory have run out"
                                      : "the file system is full") +
           std::string("; what is written waits until there is room (") + why.message() + ")");
  }
  co_await reactor_.sleep(options_.retry_after, cancel_.get());
  const Status resumed = co_await reactor_.blocking([this] { return table_->resume(); });
  co_return resumed.code() == Code::kDamaged ? resumed : Status::ok();
}

Patience Engine::patience(const char* file) {
  Patience made;
  made.reactor = &reactor_;
  made.retry_after = options_.retry_after;
  made.token = [this] { return cancel_.get(); };
  made.goes_on = [this] { return failure_.is_ok() && !closing_; };
  made.waits = [this, file](const Status& why) {
    if (waiting_writes_++ != 0) return;
    notice(std::string("a write to ") + file + " finds no room; writes wait until there is some (" +
           why.message() + ")");
  };
  made.ended = [this] {
    CVOL_ASSERT(waiting_writes_ > 0);
    if (--waiting_writes_ == 0 && failure_ && !closing_) notice("writes go on");
  };
  return made;
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

// Of replicas that an earlier life was removing: in the background, nobody waits for their space.
Task<void> Engine::finish_removals() {
  for (ReplicaNumber number = 0; number < replicas_.size(); ++number) {
    const Replica* replica = find_replica(number);
    if (replica == nullptr || !replica->record.removing) continue;
    const Status given = co_await give_back_chunks(number);
    if (closing_ || !failure_) co_return;
    if (!given)
      log::warning("store", "a removed replica still has its space; the next opening goes on",
                   {{"path", path_}, {"replica", number}, {"why", given.message()}});
  }
}

// The record says `removing`, durably: the chunks are nobody's, also after a crash from here on. In
// slices: others write and commit between them. What a crash or a close leaves is given back after
// the next open.
Task<Status> Engine::give_back_chunks(ReplicaNumber number) {
  co_await drop_removed_blocks(number);
  const uint64_t chunks = co_await retire_removed_places(number);
  // Chunks of a removal that a crash cut short are in the table but not in the map: by range.
  CVOL_CO_TRY(co_await remove_chunk_keys(number));
  replicas_[number].reset();
  log::info("store", "removed a replica",
            {{"path", path_}, {"replica", number}, {"chunks", chunks}});
  if (retired_.empty()) co_return Status::ok();
  co_return co_await destage_all();
}

// No operation of the replica is under way or can begin, so no entry comes behind the look.
Task<void> Engine::drop_removed_blocks(ReplicaNumber number) {
  std::vector<ChunkKey> keys;
  for (std::size_t slab = 0; slab < overlay_.slabs(); ++slab) {
    if (slab % kSlabsPerSlice == kSlabsPerSlice - 1) co_await io::yield(reactor_);
    overlay_.for_each_of(slab, [&](OverlayChunk& entry) {
      if (entry.key.replica() == number) keys.push_back(entry.key);
    });
  }
  for (std::size_t i = 0; i < keys.size(); ++i) {
    if (i % kPlacesPerSlice == kPlacesPerSlice - 1) co_await io::yield(reactor_);
    OverlayChunk* entry = overlay_.find(keys[i]);  // a destage may have dropped it meanwhile
    if (entry == nullptr) continue;
    entry->mask = 0;
    settle(keys[i]);
  }
}

// After drop_removed_blocks(): nothing gives the replica a place any more. Returns how many it had.
Task<uint64_t> Engine::retire_removed_places(ReplicaNumber number) {
  uint64_t chunks = 0;
  uint32_t looked = 0;
  for (uint32_t place = 0; place < std::min<uint32_t>(map_->end_place(), map_->capacity());
       ++place) {
    if (++looked % kPlacesPerSlice == 0) co_await io::yield(reactor_);
    if (!map_->owned(place)) continue;
    const ChunkKey key = map_->slot(place).chunk_key();
    if (key.replica() != number) continue;
    map_->erase(key);
    applying_lsn_ = journal_->durable_lsn();  // others' records were applied between the slices
    retire(place, key);
    ++chunks;
  }
  co_return chunks;
}

// Takes out the next keys after `*after`, with the turn. `*wrote`: the error is that of a commit.
Status Engine::remove_some_keys(ReplicaNumber number, std::string* after, bool* wrote) {
  TableBatch batch;
  const std::string from = *after;
  std::string last = from;
  *wrote = false;
  const Status stop(Code::kCancelled, "");
  const Status scanned = table_->scan_range(
      chunk_prefix(number), from, [&](std::string_view key, std::string_view) -> Status {
        batch.remove(std::string(key));
        last = key;
        return batch.changes.size() < kRemovalsPerCommit ? Status::ok() : stop;
      });
  const bool more = scanned.code() == Code::kCancelled;
  if (!scanned && !more) return scanned;
  if (!more) {  // the replica's own records last: until then a crash goes on with the removal
    batch.remove(replica_state_key(number));
    batch.remove(zeroed_ranges_key(number));
    batch.remove(replica_key(number));
  }
  *wrote = true;
  CVOL_TRY(table_->commit(batch));
  *after = more ? last : "";
  return more ? stop : Status::ok();
}

Task<Status> Engine::remove_chunk_keys(ReplicaNumber number) {
  std::string after;
  bool waited = false;
  while (true) {
    if (closing_) co_return Status(Code::kCancelled, "the disk is being closed");
    co_await commit_turn_.acquire();
    Status status = failure_;
    bool wrote = false;
    if (status) {
      status = co_await reactor_.blocking(
          [this, number, &after, &wrote] { return remove_some_keys(number, &after, &wrote); });
    }
    if (is_want_of_room(status.code()) && !closing_) {
      status = co_await wait_for_room(waited, status);
      waited = true;
      if (status) status = Status(Code::kCancelled, "");  // the same again
    }
    if (!status && status.code() != Code::kCancelled && wrote) fail(status);
    commit_turn_.release();
    if (status.code() != Code::kCancelled) co_return status;
    co_await io::yield(reactor_);
  }
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
