// Reading: plan where every block lies, read, verify, and plan again if it moved meanwhile.
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "volumed/base/assert.h"
#include "volumed/base/checksum.h"
#include "volumed/base/log.h"
#include "volumed/store/engine.h"

namespace cvol::store {
namespace {

constexpr int kMostAttempts = 1000;
constexpr int kMostWaits = 30;                      // of a read that finds no memory
constexpr uint64_t kMostCachedBytes = kChunkBytes;  // longer reads do not fill the page cache
constexpr uint64_t kMostStatusChunks = 16384;       // that one block_status() looks at: 1 GiB

enum class Source : uint8_t { kZero, kJournal, kChunks };

struct BlockPlace {
  Source source = Source::kZero;
  uint32_t checksum = 0;
  uint64_t at = 0;  // ring block, or block of file `chunks`

  bool operator==(const BlockPlace&) const = default;
};

// Contiguous in memory and on disk.
struct Segment {
  Source source;
  uint64_t at;  // in blocks
  uint32_t first;
  uint32_t blocks;
  int64_t result = 0;
  uint32_t bad = 0;  // if there is an error: the first block that cannot be read
};

}  // namespace

struct Engine::ReadPlan {
  ReplicaNumber number = 0;
  uint64_t salt = 0;
  uint64_t first_block = 0;
  std::byte* memory = nullptr;
  uint32_t blocks = 0;
  // Small requests need no allocation.
  static constexpr std::size_t kInline = 16;
  BlockPlace inline_places[kInline];
  std::vector<BlockPlace> more_places;
  std::vector<Segment> segments;
  Segment only{};  // when there is just one
  uint32_t segment_count = 0;
  bool direct = false;  // past the page cache

  BlockPlace* places() { return blocks <= kInline ? inline_places : more_places.data(); }
  const BlockPlace* places() const {
    return blocks <= kInline ? inline_places : more_places.data();
  }
  Segment& segment(std::size_t index) { return segment_count == 1 ? only : segments[index]; }
};

namespace {

DamagedFile file_of(Source source) {
  return source == Source::kJournal ? DamagedFile::kJournal : DamagedFile::kChunks;
}

// Where blocks [first, first + count) of one chunk lie.
void locate(const OverlayChunk* entry, const ChunkSlot* slot, uint32_t place, uint32_t first,
            uint32_t count, BlockPlace* into) {
  for (uint32_t i = 0; i < count; ++i) {
    const uint32_t block = first + i;
    const uint16_t bit = static_cast<uint16_t>(1u << block);
    if (entry != nullptr && (entry->mask & bit) != 0) {
      into[i] = {Source::kJournal, entry->checksum[block], entry->position[block]};
    } else if (slot != nullptr && (slot->present & bit) != 0) {
      into[i] = {Source::kChunks, slot->checksums[block],
                 uint64_t{place} * kBlocksPerChunk + block};
    } else {
      into[i] = BlockPlace{};
    }
  }
}

}  // namespace

void Engine::plan_read(const Replica& replica, ReplicaNumber number, uint64_t offset,
                       std::span<std::byte> into, ReadPlan& plan) const {
  plan.number = number;
  plan.salt = replica.salt;
  plan.first_block = offset / kBlockBytes;
  plan.memory = into.data();
  plan.blocks = static_cast<uint32_t>(into.size() / kBlockBytes);
  if (plan.blocks > ReadPlan::kInline) plan.more_places.resize(plan.blocks);
  BlockPlace* places = plan.places();
  for (uint32_t done = 0; done < plan.blocks;) {
    const uint64_t block = plan.first_block + done;
    const uint32_t inside = static_cast<uint32_t>(block % kBlocksPerChunk);
    const uint32_t count =
        std::min<uint32_t>(plan.blocks - done, static_cast<uint32_t>(kBlocksPerChunk) - inside);
    const ChunkKey key(number, block / kBlocksPerChunk);
    const uint32_t place = map_->find(key);
    locate(overlay_.find(key), place == kNoPlace ? nullptr : &map_->slot(place), place, inside,
           count, places + done);
    done += count;
  }
  plan.segments.clear();
  plan.segment_count = 0;
  for (uint32_t i = 0; i < plan.blocks;) {
    uint32_t count = 1;
    while (i + count < plan.blocks && places[i + count].source == places[i].source &&
           (places[i].source == Source::kZero || places[i + count].at == places[i].at + count)) {
      ++count;
    }
    const Segment made{places[i].source, places[i].at, i, count, 0, 0};
    if (i == 0 && count == plan.blocks) {
      plan.only = made;
    } else {
      plan.segments.push_back(made);
    }
    ++plan.segment_count;
    i += count;
  }
}

Task<void> Engine::read_segment(ReadPlan& plan, std::size_t index) {
  Segment& segment = plan.segment(index);
  std::byte* memory = plan.memory + uint64_t{segment.first} * kBlockBytes;
  const std::size_t bytes = segment.blocks * kBlockBytes;
  if (segment.source == Source::kZero) {
    std::memset(memory, 0, bytes);
    co_return;
  }
  const iovec iov{memory, bytes};
  int64_t got = -EAGAIN;
  if (segment.source == Source::kJournal) {
    got = co_await journal_->readv(&iov, 1, static_cast<uint32_t>(segment.at));
  } else if (cached_chunks_.is_open() && !plan.direct) {
    // Long reads take what is cached, but leave nothing there.
    if (bytes <= kMostCachedBytes) {
      got = co_await cached_chunks_.readv(&iov, 1, segment.at * kBlockBytes);
    } else {
      got = co_await cached_chunks_.readv_if_cached(&iov, 1, segment.at * kBlockBytes);
    }
  }
  if (got == -EAGAIN) got = co_await chunks_.readv(&iov, 1, segment.at * kBlockBytes);
  segment.result = got == static_cast<int64_t>(bytes) ? 0 : (got < 0 ? got : -EIO);
  if (segment.result != 0 && segment.blocks > 1) co_await read_one_by_one(plan, index);
}

// The disk did not read several blocks at once: finds the first that it cannot read.
Task<void> Engine::read_one_by_one(ReadPlan& plan, std::size_t index) {
  Segment& segment = plan.segment(index);
  std::byte* memory = plan.memory + uint64_t{segment.first} * kBlockBytes;
  for (uint32_t i = 0; i < segment.blocks; ++i) {
    const iovec iov{memory + uint64_t{i} * kBlockBytes, kBlockBytes};
    int64_t got = 0;
    if (segment.source == Source::kJournal) {
      got = co_await journal_->readv(&iov, 1, static_cast<uint32_t>(segment.at + i));
    } else {
      got = co_await chunks_.readv(&iov, 1, (segment.at + i) * kBlockBytes);
    }
    segment.bad = i;
    segment.result = got == static_cast<int64_t>(kBlockBytes) ? 0 : (got < 0 ? got : -EIO);
    if (segment.result != 0) co_return;
  }
}

Task<Status> Engine::execute(ReadPlan& plan) {
  if (plan.segment_count == 1) {
    co_await read_segment(plan, 0);
  } else {
    io::Scope scope;
    for (std::size_t i = 0; i < plan.segment_count; ++i) scope.spawn(read_segment(plan, i));
    co_await scope.join();
  }
  for (std::size_t i = 0; i < plan.segment_count; ++i) {
    const int64_t result = plan.segment(i).result;
    if (result != 0) co_return status_from_errno(static_cast<int>(-result), "read disk " + path_);
  }
  co_return Status::ok();
}

// Does block `index` of the plan still lie where it lay?
bool Engine::still_current(ReplicaNumber number, const ReadPlan& plan, std::size_t index) const {
  const uint64_t block = plan.first_block + index;
  const ChunkKey key(number, block / kBlocksPerChunk);
  const uint32_t place = map_->find(key);
  BlockPlace now;
  locate(overlay_.find(key), place == kNoPlace ? nullptr : &map_->slot(place), place,
         static_cast<uint32_t>(block % kBlocksPerChunk), 1, &now);
  return now == plan.places()[index];
}

std::optional<uint32_t> Engine::expected_checksum(ReplicaNumber number, uint64_t block) const {
  const ChunkKey key(number, block / kBlocksPerChunk);
  const uint32_t place = map_->find(key);
  BlockPlace now;
  locate(overlay_.find(key), place == kNoPlace ? nullptr : &map_->slot(place), place,
         static_cast<uint32_t>(block % kBlocksPerChunk), 1, &now);
  if (now.source == Source::kZero) return std::nullopt;
  return now.checksum;
}

Task<Status> Engine::read(ReplicaNumber number, uint64_t offset, std::span<std::byte> into) {
  ReadPlan plan;
  int waits = 0;
  for (int attempt = 0; attempt < kMostAttempts; ++attempt) {
    Result<Replica*> replica = usable(number, offset, into.size());
    if (!replica) co_return replica.status();
    plan_read(**replica, number, offset, into, plan);
    const uint64_t epoch = reader_enter();
    Status status = co_await execute(plan);
    reader_leave(epoch);
    if (is_want_of_room(status.code()) && waits < kMostWaits) {  // of memory: it says nothing
      ++waits;
      --attempt;
      co_await reactor_.sleep(options_.retry_after);
      continue;
    }
    if (!status) {
      report_unread(plan);
      co_return status;
    }
    bool moved = false;
    const BlockPlace* places = plan.places();
    for (uint32_t i = 0; i < plan.blocks && !moved; ++i) {
      if (places[i].source == Source::kZero) continue;
      const uint64_t sum =
          block_checksum(plan.salt, plan.first_block + i, plan.memory + uint64_t{i} * kBlockBytes);
      if (short_checksum(sum) == places[i].checksum) continue;
      moved = !still_current(number, plan, i);
      if (moved) break;
      // A cache may be wrong where the disk is right: the kernel does not promise that what is
      // written past its page cache leaves nothing old there.
      if (!plan.direct && places[i].source == Source::kChunks && cached_chunks_.is_open()) {
        plan.direct = moved = true;
        break;
      }
      report_block(ChunkKey(number, (plan.first_block + i) / kBlocksPerChunk),
                   static_cast<uint32_t>((plan.first_block + i) % kBlocksPerChunk),
                   file_of(places[i].source), places[i].at, /*unreadable=*/false, "read");
      const std::string where = fmt::format(
          "block {} (offset {}) of volume {} on disk {} is damaged: its checksum does "
          "not hold in file '{}' at block {}",
          plan.first_block + i, (plan.first_block + i) * kBlockBytes,
          (*replica)->record.volume.to_string(), path_, file_name(file_of(places[i].source)),
          places[i].at);
      co_return Status(Code::kDamaged, where);
    }
    if (!moved) co_return Status::ok();
  }
  co_return Status(Code::kInternal, "a block moved all the time while it was read");
}

// The first block of what the disk did not read.
void Engine::report_unread(ReadPlan& plan) {
  for (std::size_t i = 0; i < plan.segment_count; ++i) {
    const Segment& segment = plan.segment(i);
    if (segment.result == 0) continue;
    const uint64_t block = plan.first_block + segment.first + segment.bad;
    report_block(ChunkKey(plan.number, block / kBlocksPerChunk),
                 static_cast<uint32_t>(block % kBlocksPerChunk), file_of(segment.source),
                 segment.at + segment.bad, /*unreadable=*/true, "read");
    return;
  }
}

std::vector<Extent> Engine::block_status(ReplicaNumber number, uint64_t offset,
                                         uint64_t length) const {
  std::vector<Extent> extents;
  if (!failure_) return extents;  // what is in memory may not be what is stored
  auto add = [&extents](uint64_t bytes, bool hole, bool zero) {
    if (!extents.empty() && extents.back().hole == hole && extents.back().zero == zero) {
      extents.back().length += bytes;
    } else {
      extents.push_back({bytes, hole, zero});
    }
  };
  const Replica* replica = find_replica(number);
  if (replica == nullptr) return extents;
  const uint64_t end = offset + length;
  uint64_t looked_at = 0;
  for (uint64_t at = offset; at < end && looked_at < kMostStatusChunks; ++looked_at) {
    const uint64_t chunk = at / kChunkBytes;
    // Over parts without a chunk in one step.
    if (const uint64_t next = replica->allocated.next_candidate(chunk); next != chunk) {
      const uint64_t hole_end = next > end / kChunkBytes ? end : next * kChunkBytes;
      add(hole_end - at, true, true);
      at = hole_end;
      continue;
    }
    const uint64_t chunk_end = std::min(end, (chunk + 1) * kChunkBytes);
    const ChunkKey key(number, chunk);
    const uint32_t place = map_->find(key);
    const OverlayChunk* entry = overlay_.find(key);
    if (place == kNoPlace && (entry == nullptr || entry->mask == 0)) {
      add(chunk_end - at, true, true);
      at = chunk_end;
      continue;
    }
    const uint16_t data = static_cast<uint16_t>(
        (place == kNoPlace ? 0 : map_->slot(place).present) | (entry == nullptr ? 0 : entry->mask));
    while (at < chunk_end) {
      const uint64_t block = at / kBlockBytes % kBlocksPerChunk;
      const uint64_t block_end = std::min(chunk_end, (at / kBlockBytes + 1) * kBlockBytes);
      add(block_end - at, false, ((data >> block) & 1) == 0);
      at = block_end;
    }
  }
  return extents;
}

// Every read that has entered before the call has left. Two generations of readers suffice, since
// only one caller waits at a time.
Task<void> Engine::wait_for_readers() {
  co_await reader_turn_.acquire();
  const uint64_t old = reader_epoch_++ & 1;
  while (readers_[old] != 0) co_await reader_gone_.wait();
  reader_turn_.release();
}

}  // namespace cvol::store
