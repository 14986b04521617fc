// Giving back: free places of file `chunks` return their space to the file system.
//
// A place is free only when destage has committed the table without it, every record that gave it
// up lies before the journal's tail, and every read that planned to touch it has ended
// (release_retired()). A free place with space is taken out of the allocator before its punch
// begins, and stays out as "bare": it is handed out again only after grow() has reserved its space
// and synced that. grow() and a punch exclude each other by the growth turn. So no punch meets a
// place that somebody references or has been promised, and no promise rests on a place without
// space, also after a crash at any moment: a punch that a power loss undid leaves a free place.
//
// The allocator is the only memory of what is to be given back. At open, own_chunks() asks the file
// system which free places are bare already; the others are given back by the same loop.
#include <algorithm>
#include <vector>

#include "volumed/base/assert.h"
#include "volumed/base/log.h"
#include "volumed/store/engine.h"
#include "volumed/store/patient_write.h"

namespace cvol::store {
namespace {

// One piece: bounded, since a punch keeps writes of the same file waiting while it lasts.
constexpr uint32_t kPiecePlaces = 512;
constexpr std::size_t kPieceRuns = 16;
// The foreground has the disk nine tenths of the time, and after each piece at least so long.
constexpr io::Nanoseconds kPauseFactor = 9;
constexpr io::Nanoseconds kLeastPause = 20 * io::kMillisecond;
constexpr io::Nanoseconds kMostPause = io::kSecond;

io::FileRange range_of(const PlaceAllocator::Run& run) {
  const uint64_t begin = uint64_t{run.first} * kChunkBytes;
  return {begin, begin + uint64_t{run.count} * kChunkBytes};
}

}  // namespace

// Places that the file keeps for the next writes.
uint32_t Engine::kept_places() const {
  return static_cast<uint32_t>(
      std::min<uint64_t>(options_.keep_free_bytes / kChunkBytes, places_->capacity()));
}

// With some slack: a few places that come and go are not worth it.
bool Engine::give_back_wanted() const {
  const uint32_t kept = kept_places();
  return may_give_back_ && places_->available() > kept + kept / 8;
}

Task<void> Engine::give_back_loop() {
  while (!closing_ && failure_) {
    co_await give_back_wake_.wait();
    give_back_wake_.reset();
    // Much of what is deleted is followed by more, and some of it by writes that need the space.
    co_await reactor_.sleep(options_.give_back_after, cancel_.get());
    if (!give_back_wanted()) continue;
    while (!closing_ && failure_ && may_give_back_ && places_->available() > kept_places()) {
      const io::Nanoseconds begun = reactor_.now();
      co_await give_back_piece();
      const io::Nanoseconds pause = (reactor_.now() - begun) * kPauseFactor;
      co_await reactor_.sleep(std::clamp(pause, kLeastPause, kMostPause), cancel_.get());
    }
  }
}

Task<void> Engine::give_back_piece() {
  co_await grow_turn_.acquire();
  std::vector<PlaceAllocator::Run> runs;
  uint32_t places = 0;
  while (!closing_ && failure_ && runs.size() < kPieceRuns && places < kPiecePlaces &&
         places_->available() > kept_places()) {
    const uint32_t most = std::min(places_->available() - kept_places(), kPiecePlaces - places);
    const PlaceAllocator::Run run = places_->strip(most);
    for (uint32_t i = 0; i < run.count; ++i) CVOL_ASSERT(!map_->owned(run.first + i));  // I12
    runs.push_back(run);
    places += run.count;
  }
  const Status punched = co_await reactor_.blocking([this, &runs]() -> Status {
    for (const PlaceAllocator::Run& run : runs) CVOL_TRY(chunks_.punch(range_of(run)));
    return Status::ok();
  });
  grow_turn_.release();
  // Those of a punch that failed stay bare: grow() looks what they have before it uses them.
  if (punched) {
    metrics_.given_back_bytes.add(uint64_t{places} * kChunkBytes);
  } else if (!is_want_of_room(punched.code())) {
    may_give_back_ = false;
    log::warning("store", "free space stays with file 'chunks' until the disk is opened again",
                 {{"path", path_}, {"why", punched.message()}});
  }
}

// With the growth turn. Gives bare places their space again, the lowest first.
Task<Status> Engine::refill(uint32_t wanted) {
  std::vector<PlaceAllocator::Run> runs;
  uint32_t places = 0;
  uint32_t from = 0;
  while (places < wanted && runs.size() < kPieceRuns) {
    const PlaceAllocator::Run run = places_->next_bare(from, wanted - places);
    if (run.count == 0) break;
    runs.push_back(run);
    places += run.count;
    from = run.first + run.count;
  }
  CVOL_CO_TRY(co_await reactor_.blocking([this, &runs]() -> Status {
    for (const PlaceAllocator::Run& run : runs) {
      Result<uint64_t> owned = chunks_.own(range_of(run));
      if (!owned) return owned.status();
    }
    return Status::ok();
  }));
  // What was reserved must survive a crash before anything is promised on it.
  CVOL_CO_TRY(co_await sync_growth());
  for (const PlaceAllocator::Run& run : runs) places_->fill(run);
  co_return Status::ok();
}

// On a helper thread, at open. Free places without space are bare; what has an owner or is promised
// gets the space that it lacks. How many bytes lacked it.
Result<uint64_t> Engine::own_chunks() {
  Result<io::SpaceMap> map = chunks_.map_space({0, uint64_t{places_->backed()} * kChunkBytes});
  if (!map) return map.status();
  may_give_back_ = map->told && options_.give_back;
  std::vector<uint32_t> lacking;
  for (const io::FileRange& hole : map->holes) {
    const uint32_t end = static_cast<uint32_t>((hole.end + kChunkBytes - 1) / kChunkBytes);
    for (uint32_t place = static_cast<uint32_t>(hole.begin / kChunkBytes); place < end; ++place) {
      if (!places_->is_bare(place) && !places_->strip_at(place)) lacking.push_back(place);
    }
  }
  for (const io::FileRange& shared : map->shared) {
    const uint32_t end = static_cast<uint32_t>((shared.end + kChunkBytes - 1) / kChunkBytes);
    for (uint32_t place = static_cast<uint32_t>(shared.begin / kChunkBytes); place < end; ++place) {
      if (!places_->is_bare(place)) lacking.push_back(place);
    }
  }
  std::sort(lacking.begin(), lacking.end());
  lacking.erase(std::unique(lacking.begin(), lacking.end()), lacking.end());
  uint64_t changed = 0;
  for (std::size_t at = 0; at < lacking.size();) {
    PlaceAllocator::Run run{lacking[at], 0};
    while (at < lacking.size() && lacking[at] == run.first + run.count) ++run.count, ++at;
    Result<uint64_t> owned = chunks_.own(range_of(run));
    if (!owned) return owned.status();
    changed += *owned;
  }
  return changed;
}

}  // namespace cvol::store
