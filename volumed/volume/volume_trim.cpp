// Trims: what file systems do not use any more goes back to the pool, once an interval or when
// told.
//
// A trim goes piece by piece. Each is an operation on the volume, so that others wait for a piece
// at most; and each is made by a thread that stop() leaves alone: it may wait for I/O that only the
// next process answers.
#include <algorithm>
#include <ctime>
#include <future>

#include "volumed/base/log.h"
#include "volumed/base/units.h"
#include "volumed/volume/hosted.h"
#include "volumed/volume/trim_schedule.h"

namespace cvol::volume {
namespace {

using namespace std::chrono_literals;
constexpr uint64_t kPieceBytes = 16 * kGiB;
constexpr uint64_t kMostPieces = 256;
constexpr int kMostAttempts = 10;  // for a piece, while other operations are under way
constexpr auto kUpkeepTurn = 60s;

using Answer = std::promise<Result<uint64_t>>;

void trim_aside(std::shared_ptr<FileSystems> file_systems, std::string path, uint64_t offset,
                uint64_t length, std::shared_ptr<Answer> answer) {
  std::thread([file_systems = std::move(file_systems), path = std::move(path), offset, length,
               answer = std::move(answer)] {
    answer->set_value(file_systems->trim(path, offset, length));
  }).detach();
}

}  // namespace

Result<uint64_t> VolumeManager::trim_piece(Hosted& hosted, uint64_t offset, uint64_t length) {
  // An operation may wait for ever: stop() must not wait for this one behind it.
  std::unique_lock operation(hosted.operation, std::try_to_lock);
  if (!operation) return busy(hosted.name);
  const v1::VolumeRecord record = record_of(hosted);
  const bool ours = record.session().node_id() == node_.id;
  const std::string path = ours && find(hosted.name).get() == &hosted ? writable_mount(hosted) : "";
  if (path.empty())
    return Status(Code::kFailedPrecondition,
                  "volume '" + hosted.name +
                      "' is not mounted on this node for writing; a trim "
                      "asks its mounted file system");
  auto answer = std::make_shared<Answer>();
  auto trimmed = answer->get_future();
  trim_aside(file_systems_, path, offset, length, std::move(answer));
  while (trimmed.wait_for(100ms) != std::future_status::ready) {
    if (stopped_) return Status(Code::kCancelled, "volumed is stopping");
  }
  return trimmed.get();
}

Result<uint64_t> VolumeManager::trim_patiently(Hosted& hosted, uint64_t offset, uint64_t length) {
  for (int attempt = 0;; ++attempt) {
    auto trimmed = trim_piece(hosted, offset, length);
    if (trimmed.code() != Code::kBusy || attempt == kMostAttempts) return trimmed;
    if (!rest_upkeep(500ms)) return trimmed;
  }
}

// `paced`: as much time passes between two pieces as the first of them took.
Result<uint64_t> VolumeManager::trim_all(Hosted& hosted, bool paced) {
  const uint64_t size = record_of(hosted).size_bytes();
  const uint64_t piece = std::max(kPieceBytes, (size / kMostPieces + kMiB - 1) / kMiB * kMiB);
  uint64_t total = 0;
  for (uint64_t at = 0; at < size; at += piece) {
    const auto started = std::chrono::steady_clock::now();
    const Result<uint64_t> trimmed = trim_patiently(hosted, at, std::min(piece, size - at));
    if (!trimmed) return trimmed.status();
    total += *trimmed;
    const auto took = std::chrono::duration_cast<std::chrono::milliseconds>(
        std::chrono::steady_clock::now() - started);
    if (paced && at + piece < size && !rest_upkeep(took))
      return Status(Code::kCancelled, "volumed is stopping");
  }
  return total;
}

Result<uint64_t> VolumeManager::trim(const std::string& name) {
  auto hosted = require_ready(name);
  if (!hosted) return hosted.status();
  auto trimmed = trim_all(**hosted, /*paced=*/false);
  if (trimmed) events_.add("volume_trimmed", name, "gave back " + format_size(*trimmed));
  return trimmed;
}

// False when it is time to stop.
bool VolumeManager::rest_upkeep(std::chrono::milliseconds time) {
  std::unique_lock lock(keeper_mutex_);
  keeper_wake_.wait_for(lock, time, [this] { return keeper_stops_; });
  return !keeper_stops_;
}

// One after the other.
void VolumeManager::trim_what_is_due() {
  const auto interval = static_cast<uint64_t>(options_.trim_interval.count());
  if (interval == 0 || !attacher_is_there_ || !attacher_) return;
  std::vector<HostedPtr> all;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [name, hosted] : volumes_) {
      const v1::VolumeRecord& record = hosted->entry.record;
      if (record.session().node_id() == node_.id && !record.session().id().empty() &&
          (hosted->mounted || (record.has_stage() && !record.stage().block())))
        all.push_back(hosted);
    }
  }
  for (const HostedPtr& hosted : all) {
    const uint64_t slot =
        trim_slot(hosted->id, static_cast<uint64_t>(std::time(nullptr)), interval);
    const auto [known, is_new] = trim_slots_.emplace(hosted->id, slot);
    if (known->second == slot) continue;
    known->second = slot;
    const Result<uint64_t> trimmed = trim_all(*hosted, /*paced=*/true);
    if (trimmed) {
      log::info("volume", "trimmed a file system", {{"volume", hosted->name}, {"bytes", *trimmed}});
    } else if (trimmed.code() != Code::kFailedPrecondition) {
      log::warning("volume", "cannot trim a file system",
                   {{"volume", hosted->name}, {"error", trimmed.message()}});
    }
    if (!rest_upkeep(0ms)) return;
  }
}

void VolumeManager::keep_up() {
  do {
    watch_space();
    trim_what_is_due();
  } while (rest_upkeep(kUpkeepTurn));
}

}  // namespace cvol::volume
