#include "volumed/volume/disk_set.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <filesystem>
#include <thread>

#include "volumed/base/log.h"

namespace cvol::volume {
namespace {

constexpr uint64_t kBounceBytes = 64 * kMiB;  // for unaligned requests, per shard
constexpr std::size_t kMostShards = 256;
// A process that was killed is gone for its parent before the kernel has let go of its files.
constexpr auto kLastLifeTime = std::chrono::seconds(5);
constexpr auto kLastLifeTurn = std::chrono::milliseconds(50);
constexpr std::size_t kMostOpeners = 16;  // disks that are opened side by side
constexpr auto kTellEvery = std::chrono::seconds(5);

std::size_t wanted_shards() {
  return std::clamp<std::size_t>(std::thread::hardware_concurrency(), 1, kMostShards);
}

Task<bool> close_engine(store::DiskEngine* engine) {
  co_await engine->close();
  co_return true;
}

void close_on(io::Shard& shard, std::unique_ptr<store::DiskEngine>& engine) {
  shard.run<bool>([&] { return close_engine(engine.get()); });
  shard.invoke([&] { engine.reset(); });
}

// Is it the disk that is meant, and no older copy of it?
DiskSet::Admit only(const KnownDisk& known) {
  return [known](const Uuid& disk, std::optional<uint64_t> generation) -> Status {
    if (disk.to_string() != known.id)
      return Status(Code::kFailedPrecondition, known.path + " holds the disk " + disk.to_string() +
                                                   ", not " + known.id +
                                                   "; put the right disk there");
    if (generation && *generation < known.generation)
      return Status(Code::kFailedPrecondition,
                    known.path + " holds an older copy of this disk: it was opened " +
                        std::to_string(*generation) + " times, the disk itself " +
                        std::to_string(known.generation) +
                        " times, and what was written since is not in the copy. Put the disk "
                        "itself there. If it is lost: 'cvol disk move " +
                        known.id + " " + known.path + " --accept-data-loss' goes on with the copy");
    return Status::ok();
  };
}

}  // namespace

DiskMaker DiskMaker::real() {
  return {store::format_disk, store::open_disk, store::is_disk};
}

void Disk::set_path(std::string path) {
  paths_.push_back(std::move(path));
  path_.store(&paths_.back(), std::memory_order_release);
}

void Disk::set_problem(const std::string& problem) {
  std::lock_guard lock(problem_mutex_);
  problem_ = problem;
}

DiskSet::DiskSet(DiskMaker maker, store::EngineOptions options, MakeHooks hooks, Opened opened)
    : maker_(std::move(maker)),
      options_(std::move(options)),
      hooks_(std::move(hooks)),
      opened_(std::move(opened)) {
  homes_.reserve(kMostShards);
}

DiskSet::~DiskSet() {
  close_all();
}

Status DiskSet::start() {
  std::lock_guard adding(adding_);
  return home_for_next().status();
}

Result<DiskSet::Home*> DiskSet::home_for_next() {
  if (homes_.size() >= wanted_shards() || disks_.size() < homes_.size()) return &least_used_home();
  auto shard = io::Shard::start("cvol-shard-" + std::to_string(homes_.size()));
  if (!shard) return shard.status();
  std::lock_guard lock(mutex_);
  homes_.push_back({std::move(*shard), std::make_unique<BouncePool>(kBounceBytes)});
  return &homes_.back();
}

// The first of those with the fewest disks.
DiskSet::Home& DiskSet::least_used_home() {
  std::vector<std::size_t> used(homes_.size(), 0);
  for (const auto& disk : disks_) {
    if (disk->shard != nullptr) ++used[disk->shard_index];
  }
  return homes_[static_cast<std::size_t>(std::min_element(used.begin(), used.end()) -
                                         used.begin())];
}

Result<DiskSet::Engine> DiskSet::open_on(io::Shard& shard, const std::string& path,
                                         const std::string& failure, const Admit& admit) {
  io::Reactor& reactor = shard.reactor();
  store::EngineOptions options = options_;
  options.known_failure = failure;
  options.admit = admit;
  if (hooks_) options.hooks = hooks_(path);
  return shard.run<Result<Engine>>([&] { return maker_.open(reactor, path, options); });
}

// --- disks that are known ---

// With adding_ held: a disk that is not open, and its shard.
Disk& DiskSet::declare(KnownDisk known) {
  auto disk = std::make_unique<Disk>();
  disk->id = known.id;
  disk->set_path(known.path);
  disk->known_ = std::move(known);
  auto home = home_for_next();
  if (home) {
    disk->shard = (*home)->shard.get();
    disk->shard_index = static_cast<uint16_t>(*home - homes_.data());
    disk->bounce = (*home)->bounce.get();
  }
  disk->set_problem(home ? "it is being opened" : home.message());
  std::lock_guard lock(mutex_);
  disks_.push_back(std::move(disk));
  return *disks_.back();
}

void DiskSet::open_known(std::vector<KnownDisk> known, const std::function<void()>& waits) {
  std::lock_guard adding(adding_);
  std::vector<Disk*> disks;
  for (KnownDisk& one : known) disks.push_back(&declare(std::move(one)));
  std::atomic<std::size_t> next{0};
  std::mutex mutex;
  std::condition_variable done;
  std::size_t running = std::min(disks.size(), kMostOpeners);
  std::vector<std::thread> openers;
  for (std::size_t i = 0, count = running; i < count; ++i) {
    openers.emplace_back([&] {
      for (std::size_t at = next++; at < disks.size(); at = next++)
        (void)try_again(*disks[at]).is_ok();
      std::lock_guard lock(mutex);
      --running;
      done.notify_all();
    });
  }
  {
    std::unique_lock lock(mutex);
    while (!done.wait_for(lock, kTellEvery, [&] { return running == 0; })) {
      if (waits) waits();
    }
  }
  for (std::thread& opener : openers) opener.join();
}

Status DiskSet::try_again(Disk& disk) {
  std::lock_guard opening(disk.opening_);
  if (disk.engine != nullptr) return Status::ok();
  if (closing_ || disk.taken_out_ || disk.shard == nullptr)
    return Status(Code::kUnavailable, disk.problem());
  const Status opened = open_disk(disk, disk.known_);
  if (opened) return opened;
  if (disk.problem() != opened.message())
    log::error("volume", "a disk cannot be used; opening it is tried again",
               {{"disk", disk.path()}, {"problem", opened.message()}});
  disk.set_problem(opened.message());
  return opened;
}

Status DiskSet::move(Disk& disk, const std::string& path, uint64_t generation) {
  std::lock_guard opening(disk.opening_);
  if (disk.engine != nullptr)
    return Status(Code::kFailedPrecondition,
                  "disk " + disk.path() +
                      " is open: stop volumed, move or copy its directory, and "
                      "start volumed again; then 'cvol disk move' tells it "
                      "where the disk is now");
  if (closing_ || disk.taken_out_ || disk.shard == nullptr)
    return Status(Code::kUnavailable, "disk " + disk.path() + ": " + disk.problem());
  KnownDisk moved = disk.known_;
  moved.path = path;
  moved.generation = generation;
  CVOL_TRY(open_disk(disk, moved));
  disk.known_ = std::move(moved);
  return Status::ok();
}

Result<DiskSet::Engine> DiskSet::open_patiently(Disk& disk, const KnownDisk& known) {
  const auto until = std::chrono::steady_clock::now() + kLastLifeTime;
  auto engine = open_on(*disk.shard, known.path, known.failure, only(known));
  while (engine.code() == Code::kBusy && std::chrono::steady_clock::now() < until && !closing_) {
    std::this_thread::sleep_for(kLastLifeTurn);
    engine = open_on(*disk.shard, known.path, known.failure, only(known));
  }
  if (engine.code() == Code::kNotFound)
    return Status(Code::kNotFound,
                  "there is no cvol disk at " + known.path +
                      ". Mount its file system there: it is opened as soon as it is there. If it "
                      "has moved: 'cvol disk move " +
                      known.id + " NEWPATH'. If it is lost, its volumes need another copy");
  return engine;
}

// With disk.opening_ held.
Status DiskSet::open_disk(Disk& disk, const KnownDisk& known) {
  auto engine = open_patiently(disk, known);
  if (!engine) return engine.status();
  const store::DiskInfo info = disk.shard->invoke([&] { return (*engine)->info(); });
  // The disk's own count was raised first: a crash in between leaves it ahead of the record.
  Status noted = Status::ok();
  if (opened_ && !info.failed) noted = opened_(known.id, info.generation);
  if (!noted) {
    close_on(*disk.shard, *engine);
    return noted.with_context("note that disk " + known.path + " was opened");
  }
  if (known.path != disk.path()) disk.set_path(known.path);
  disk.set_problem("");
  disk.engine.set(std::move(*engine));
  return Status::ok();
}

// --- disks that come ---

Status DiskSet::refuse_known(const Uuid& id, const std::string& path) {
  const Disk* known = find(id.to_string());
  if (known == nullptr) return Status::ok();
  if (known->engine != nullptr)
    return Status(Code::kAlreadyExists, path + " holds a copy of disk " + known->id +
                                            ", which is in use at " + known->path() +
                                            ". Nothing was changed: give an empty folder instead");
  return Status(Code::kAlreadyExists, path + " holds the disk " + known->id +
                                          ", which belongs at " + known->path() +
                                          " and is not open. If it has moved: 'cvol disk move " +
                                          known->id + " " + path + "'");
}

Result<Disk*> DiskSet::add(const std::string& path, store::FormatOptions format,
                           const Admit& admit) {
  std::lock_guard adding(adding_);
  for (Disk* known : all()) {
    std::error_code ignored;
    if (known->path() == path || std::filesystem::equivalent(known->path(), path, ignored)) {
      if (known->gone)
        return Status(Code::kBusy, "disk " + path +
                                       " has left the pool and is being closed; try again when "
                                       "'cvol disk ls' does not show it any more");
      if (known->engine == nullptr)
        return Status(Code::kFailedPrecondition, "disk " + path + ": " + known->problem());
      return known;
    }
  }
  auto home = home_for_next();
  if (!home) return home.status();
  io::Shard& shard = *(*home)->shard;
  io::Reactor& reactor = shard.reactor();
  const bool formatted = shard.invoke([&] { return maker_.is_disk(reactor, path); });
  if (!formatted) {
    auto made = shard.run<Result<Uuid>>([&] { return maker_.format(reactor, path, format); });
    if (!made) return made.status();
  }
  // A disk that fails is opened again in place: it is in the set then.
  auto taken = std::make_shared<std::atomic<bool>>(false);
  auto engine = open_on(
      shard, path, "",
      [this, path, admit, taken](const Uuid& id, std::optional<uint64_t> generation) -> Status {
        if (*taken) return Status::ok();
        CVOL_TRY(refuse_known(id, path));
        return admit ? admit(id, generation) : Status::ok();
      });
  *taken = true;
  if (!engine) return engine.status();
  auto disk = std::make_unique<Disk>();
  const store::DiskInfo info = shard.invoke([&] { return (*engine)->info(); });
  disk->id = info.disk.to_string();
  disk->set_path(path);
  disk->shard = &shard;
  disk->shard_index = static_cast<uint16_t>(*home - homes_.data());
  disk->bounce = (*home)->bounce.get();
  disk->known_ = {disk->id, path, "", info.generation};
  disk->engine.set(std::move(*engine));
  std::lock_guard lock(mutex_);
  disks_.push_back(std::move(disk));
  return disks_.back().get();
}

// It is closed first: at its path there is a disk in use until then.
void DiskSet::take_out(Disk& disk) {
  {
    std::lock_guard opening(disk.opening_);
    if (disk.taken_out_) return;
    disk.taken_out_ = true;
    disk.set_problem("it is no part of the pool any more");
    if (disk.engine != nullptr)
      disk.shard->run<bool>([&] { return close_engine(disk.engine.get()); });
  }
  std::lock_guard adding(adding_);
  std::lock_guard lock(mutex_);
  const auto at = std::find_if(disks_.begin(), disks_.end(),
                               [&](const auto& one) { return one.get() == &disk; });
  CVOL_ASSERT(at != disks_.end());
  taken_out_.push_back(std::move(*at));
  disks_.erase(at);
}

std::vector<io::Shard*> DiskSet::shards() {
  std::lock_guard lock(mutex_);
  std::vector<io::Shard*> all;
  for (Home& home : homes_) all.push_back(home.shard.get());
  return all;
}

Disk* DiskSet::find(const std::string& id) {
  std::lock_guard lock(mutex_);
  for (const auto& disk : disks_) {
    if (disk->id == id) return disk.get();
  }
  return nullptr;
}

std::vector<Disk*> DiskSet::all() {
  std::lock_guard lock(mutex_);
  std::vector<Disk*> found;
  for (const auto& disk : disks_) found.push_back(disk.get());
  return found;
}

void DiskSet::close_all() {
  closing_ = true;
  std::lock_guard adding(adding_);
  for (Disk* disk : all()) {
    std::lock_guard opening(disk->opening_);
    if (disk->engine == nullptr) continue;
    disk->shard->run<bool>([&] { return close_engine(disk->engine.get()); });
    disk->shard->invoke([&] { disk->engine.reset(); });
  }
  for (const auto& disk : taken_out_) {
    if (disk->engine != nullptr) disk->shard->invoke([&] { disk->engine.reset(); });
  }
  std::vector<Home> gone;
  {
    std::lock_guard lock(mutex_);
    disks_.clear();
    taken_out_.clear();
    gone.swap(homes_);
  }
  for (Home& home : gone) home.shard->invoke([&] { home.bounce.reset(); });
}

}  // namespace cvol::volume
