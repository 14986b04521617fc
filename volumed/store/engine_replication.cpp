// What the engine keeps for replication: state, commit point, versions and zeroed ranges.
//
// The state is a pair of the table of its own. The rest is a matter of destage: commit point and
// zeroed ranges are those of memory, and go into the table with every commit that moves the tail,
// since what the journal says of them is gone then. A commit that takes a chunk out of the table
// has the range that says so, and the highest seq that the chunk had seen.
#include <fmt/format.h>

#include <algorithm>

#include "volumed/base/assert.h"
#include "volumed/store/engine.h"

namespace cvol::store {
namespace {

constexpr uint64_t kCarryAfterSeqs = 256;
constexpr io::Nanoseconds kCarryAfter = 100 * io::kMillisecond;
constexpr std::size_t kSlabsAtOnce = 16;     // of the overlay: 4096 chunks
constexpr uint32_t kPlacesAtOnce = 1 << 14;  // about 1.3 MiB of the chunk map

}  // namespace

// --- state ---

Task<Status> Engine::put_replica_state(ReplicaNumber number, std::string state) {
  const Operation operation(*this);
  if (!failure_) co_return failure_;
  Replica* replica = find_replica(number);
  if (replica == nullptr || replica->record.removing)
    co_return Status(Code::kNotFound, fmt::format("disk {} has no replica {}", path_, number));
  if (state.size() > kMaxReplicaStateBytes) {
    co_return Status(Code::kInvalidArgument,
                     fmt::format("{} bytes are too many for the state of a replica; {} is the most",
                                 state.size(), kMaxReplicaStateBytes));
  }
  if (!state.empty()) replica->replicated = true;
  co_await commit_turn_.acquire();
  CVOL_ASSERT(find_replica(number) == replica);  // it is not removed under an operation
  TableBatch batch;
  // With its commit point: batches may have it, and the state may be about to go.
  batch.put(replica_key(number), encode_replica_record(replica->record));
  if (!state.empty()) {
    batch.put(replica_state_key(number), encode_replica_state(state));
  } else {
    batch.remove(replica_state_key(number));
    batch.remove(zeroed_ranges_key(number));
  }
  const Status status = co_await commit_in_turn(std::move(batch), nullptr);
  if (status) {
    replica->replicated = !state.empty();
    replica->state = std::move(state);
    if (!replica->replicated) {
      replica->zeroed = ZeroedRanges();
      replica->zeroed_changed = replica->zeroed_stored = false;
    }
  }
  commit_turn_.release();
  co_return status;
}

Result<std::string> Engine::replica_state(ReplicaNumber number) const {
  if (!failure_) return failure_;
  const Replica* replica = find_replica(number);
  if (replica == nullptr || replica->record.removing)
    return Status(Code::kNotFound, fmt::format("disk {} has no replica {}", path_, number));
  return replica->state;
}

// Whether a replica is a replicated one must be known before the journal is replayed.
Status Engine::load_replica_state(ReplicaNumber number, std::string_view value) {
  Replica* replica = find_replica(number);
  if (replica == nullptr || replica->record.removing) return Status::ok();  // being given back
  Result<std::string> state = decode_replica_state(value);
  if (!state) return state.status();
  replica->state = std::move(*state);
  replica->replicated = true;
  return Status::ok();
}

// --- the table ---

void Engine::mark_dirty(ReplicaNumber number, Replica& replica) {
  if (replica.dirty) return;
  replica.dirty = true;
  dirty_.push_back(number);
}

// For a commit that moves the tail. A replica that is being removed is removed by this commit
// already: its chunks were not brought up to date.
void Engine::add_dirty_replicas(TableBatch& batch) {
  for (const ReplicaNumber number : dirty_) {
    Replica* replica = find_replica(number);
    if (replica == nullptr) continue;
    replica->dirty = false;
    batch.put(replica_key(number), encode_replica_record(replica->record));
    if (!replica->zeroed_changed) continue;
    replica->zeroed_changed = false;
    if (!replica->zeroed.empty()) {
      batch.put(zeroed_ranges_key(number), encode_zeroed_ranges(replica->zeroed.all()));
    } else if (replica->zeroed_stored) {
      batch.remove(zeroed_ranges_key(number));
    }
    replica->zeroed_stored = !replica->zeroed.empty();
  }
  dirty_.clear();
}

// --- commit point ---

void Engine::note_commit_point(ReplicaNumber number, uint64_t seq) {
  Replica* replica = failure_ ? find_replica(number) : nullptr;
  if (replica == nullptr || seq <= replica->record.commit_point) return;
  replica->record.commit_point = seq;
  if (replica->zeroed.forget(seq)) replica->zeroed_changed = true;
  mark_dirty(number, *replica);
  // An older volumed refuses the state in the table, so it never comes to read such a batch.
  if (!replica->state.empty()) want_carried(number, *replica);
}

// Found by replay.
void Engine::apply_commit_point(const Record& record) {
  CVOL_ASSERT(!opened_);
  Replica* replica = find_replica(record.replica);
  if (record.seq <= replica->record.commit_point) return;
  replica->record.commit_point = replica->carried = record.seq;
  if (replica->zeroed.forget(record.seq)) replica->zeroed_changed = true;
  mark_dirty(record.replica, *replica);
}

// A batch that is formed anyway takes the commit point along.
void Engine::want_carried(ReplicaNumber number, Replica& replica) {
  const bool many = replica.record.commit_point - replica.carried >= kCarryAfterSeqs;
  const io::Nanoseconds due = replica.carried == 0 || many ? 0 : replica.carried_at + kCarryAfter;
  carry_due_ = carry_wanted_.empty() ? due : std::min(carry_due_, due);
  if (replica.carry_wanted) return;
  replica.carry_wanted = true;
  carry_wanted_.push_back(number);
  journal_->want_riders(true);
}

void Engine::carry_commit_points(BatchEncoder& encoder) {
  const io::Nanoseconds now = reactor_.now();
  if (now < carry_due_) return;
  std::vector<ReplicaNumber> wanted;
  wanted.swap(carry_wanted_);
  for (const ReplicaNumber number : wanted) {
    Replica* replica = find_replica(number);
    if (replica == nullptr) continue;
    replica->carry_wanted = false;
    if (replica->record.removing || replica->state.empty()) continue;
    Record record;
    record.type = RecordType::kCommitPoint;
    record.replica = number;
    record.seq = replica->record.commit_point;
    const bool many = record.seq - replica->carried >= kCarryAfterSeqs;
    const bool due = replica->carried == 0 || many || now >= replica->carried_at + kCarryAfter;
    if (!due || !encoder.fits(record_bytes(record))) {
      want_carried(number, *replica);
      continue;
    }
    encoder.add(record, nullptr);
    replica->carried = record.seq;
    replica->carried_at = now;
  }
  journal_->want_riders(!carry_wanted_.empty());
}

// --- versions and zeroed ranges ---

void Engine::remember_zeroed(Replica& replica, const ZeroedRange& range) {
  if (!replica.replicated || range.seq <= replica.record.commit_point) return;
  replica.zeroed.add(range);
  replica.zeroed_changed = true;
}

// The chunk is gone, and with it its version, which may be higher than the seqs of what zeroed it.
void Engine::forget_version(ChunkKey key, uint64_t version) {
  remember_zeroed(*find_replica(key.replica()),
                  {key.chunk() * kBlocksPerChunk, kBlocksPerChunk, version});
}

Status Engine::load_zeroed(ReplicaNumber number, std::string_view value) {
  Replica* replica = find_replica(number);
  if (replica == nullptr || replica->record.removing) return Status::ok();  // being given back
  Result<std::vector<ZeroedRange>> ranges = decode_zeroed_ranges(value);
  if (!ranges) return ranges.status();
  for (const ZeroedRange& range : *ranges)
    replica->record.last_seq = std::max(replica->record.last_seq, range.seq);
  replica->zeroed = ZeroedRanges(std::move(*ranges));
  replica->zeroed_stored = true;
  replica->zeroed_changed = replica->zeroed.forget(replica->record.commit_point);
  return Status::ok();
}

std::vector<ZeroedRange> Engine::zeroed_after(ReplicaNumber number, uint64_t after_seq) const {
  const Replica* replica = failure_ ? find_replica(number) : nullptr;
  if (replica == nullptr || replica->record.removing) return {};
  std::vector<ZeroedRange> found = replica->zeroed.after(after_seq);
  const uint64_t end = replica->record.size_bytes / kBlockBytes;
  while (!found.empty() && found.back().first_block >= end) found.pop_back();
  for (ZeroedRange& range : found) range.blocks = std::min(range.blocks, end - range.first_block);
  return found;
}

// The overlay first: meanwhile a chunk may move from there to the map, but never back, nor does a
// chunk that nobody writes move within the map.
Task<Result<std::vector<ChunkVersion>>> Engine::changed_chunks(ReplicaNumber number,
                                                               uint64_t after_seq) {
  const Operation operation(*this);
  if (!failure_) co_return failure_;
  const Replica* replica = find_replica(number);
  if (replica == nullptr || replica->record.removing)
    co_return Status(Code::kNotFound, fmt::format("disk {} has no replica {}", path_, number));
  std::vector<ChunkVersion> found;
  const auto look = [&](ChunkKey key, uint64_t version) {
    if (key.replica() == number && version > after_seq) found.push_back({key.chunk(), version});
  };
  for (std::size_t slab = 0; slab < overlay_.slabs(); ++slab) {
    if (slab % kSlabsAtOnce == kSlabsAtOnce - 1) co_await io::yield(reactor_);
    if (!failure_) co_return failure_;
    overlay_.for_each_of(slab, [&](const OverlayChunk& chunk) {
      if (chunk.mask != 0) look(chunk.key, chunk.version);
    });
  }
  for (uint32_t place = 0; place < std::min(map_->end_place(), map_->capacity()); ++place) {
    if (place % kPlacesAtOnce == kPlacesAtOnce - 1) co_await io::yield(reactor_);
    if (!failure_) co_return failure_;
    if (map_->owned(place)) look(map_->slot(place).chunk_key(), map_->slot(place).version);
  }
  co_await reactor_.blocking([&found] {
    std::sort(found.begin(), found.end(), [](const ChunkVersion& a, const ChunkVersion& b) {
      return a.chunk != b.chunk ? a.chunk < b.chunk : a.version > b.version;
    });
    const auto same = [](const ChunkVersion& a, const ChunkVersion& b) {
      return a.chunk == b.chunk;
    };
    found.erase(std::unique(found.begin(), found.end(), same), found.end());
    return 0;
  });
  co_return found;
}

}  // namespace cvol::store
