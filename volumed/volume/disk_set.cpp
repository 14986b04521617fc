#include "volumed/volume/disk_set.h"

#include <algorithm>
#include <chrono>
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

std::size_t wanted_shards() {
  return std::clamp<std::size_t>(std::thread::hardware_concurrency(), 1, kMostShards);
}

Task<bool> close_engine(store::DiskEngine* engine) {
  co_await engine->close();
  co_return true;
}

}  // namespace

DiskMaker DiskMaker::real() {
  return {store::format_disk, store::open_disk, store::is_disk};
}

DiskSet::DiskSet(DiskMaker maker, store::EngineOptions options, MakeHooks hooks)
    : maker_(std::move(maker)), options_(std::move(options)), hooks_(std::move(hooks)) {
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
  const std::size_t index = disks_.size() % wanted_shards();
  if (index < homes_.size()) return &homes_[index];
  auto shard = io::Shard::start("cvol-shard-" + std::to_string(homes_.size()));
  if (!shard) return shard.status();
  std::lock_guard lock(mutex_);
  homes_.push_back({std::move(*shard), std::make_unique<BouncePool>(kBounceBytes)});
  return &homes_.back();
}

Result<std::unique_ptr<store::DiskEngine>> DiskSet::open_on(Home& home, const std::string& path,
                                                            const std::string& failure) {
  io::Reactor& reactor = home.shard->reactor();
  store::EngineOptions options = options_;
  options.known_failure = failure;
  if (hooks_) options.hooks = hooks_(path);
  return home.shard->run<Result<std::unique_ptr<store::DiskEngine>>>(
      [&] { return maker_.open(reactor, path, options); });
}

Disk& DiskSet::open_known(const std::string& id, const std::string& path,
                          const std::string& failure) {
  std::lock_guard adding(adding_);
  auto disk = std::make_unique<Disk>();
  disk->id = id;
  disk->path = path;
  if (auto home = home_for_next(); !home) {
    disk->problem = home.message();
  } else {
    disk->shard = (*home)->shard.get();
    disk->shard_index = static_cast<uint16_t>(*home - homes_.data());
    disk->bounce = (*home)->bounce.get();
    auto engine = open_on(**home, path, failure);
    const auto until = std::chrono::steady_clock::now() + kLastLifeTime;
    while (engine.code() == Code::kBusy && std::chrono::steady_clock::now() < until) {
      std::this_thread::sleep_for(kLastLifeTurn);
      engine = open_on(**home, path, failure);
    }
    if (!engine) {
      disk->problem = engine.message();
    } else {
      disk->engine = std::move(*engine);
      const std::string found = disk->invoke([](auto& e) { return e.info().disk.to_string(); });
      if (found != id) {
        disk->problem = path + " holds the disk " + found + ", not " + id +
                        "; put the right disk there and restart volumed";
        disk->shard->run<bool>([&] { return close_engine(disk->engine.get()); });
        disk->shard->invoke([&] { disk->engine.reset(); });
      }
    }
  }
  if (!disk->problem.empty())
    log::error("volume", "a disk cannot be used", {{"disk", path}, {"problem", disk->problem}});
  std::lock_guard lock(mutex_);
  disks_.push_back(std::move(disk));
  return *disks_.back();
}

Result<Disk*> DiskSet::add(const std::string& path, store::FormatOptions format) {
  std::lock_guard adding(adding_);
  for (Disk* known : all()) {
    std::error_code ignored;
    if (known->path == path || std::filesystem::equivalent(known->path, path, ignored)) {
      if (known->engine == nullptr)
        return Status(Code::kFailedPrecondition, "disk " + path + ": " + known->problem);
      return known;
    }
  }
  auto home = home_for_next();
  if (!home) return home.status();
  io::Reactor& reactor = (*home)->shard->reactor();
  const bool formatted = (*home)->shard->invoke([&] { return maker_.is_disk(reactor, path); });
  if (!formatted) {
    auto made =
        (*home)->shard->run<Result<Uuid>>([&] { return maker_.format(reactor, path, format); });
    if (!made) return made.status();
  }
  auto engine = open_on(**home, path, "");
  if (!engine) return engine.status();
  auto disk = std::make_unique<Disk>();
  disk->path = path;
  disk->shard = (*home)->shard.get();
  disk->shard_index = static_cast<uint16_t>(*home - homes_.data());
  disk->bounce = (*home)->bounce.get();
  disk->engine = std::move(*engine);
  disk->id = disk->invoke([](auto& e) { return e.info().disk.to_string(); });
  std::lock_guard lock(mutex_);
  disks_.push_back(std::move(disk));
  return disks_.back().get();
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
  std::lock_guard adding(adding_);
  for (Disk* disk : all()) {
    if (disk->engine == nullptr) continue;
    disk->shard->run<bool>([&] { return close_engine(disk->engine.get()); });
    disk->shard->invoke([&] { disk->engine.reset(); });
  }
  std::vector<Home> gone;
  {
    std::lock_guard lock(mutex_);
    disks_.clear();
    gone.swap(homes_);
  }
  for (Home& home : gone) home.shard->invoke([&] { home.bounce.reset(); });
}

}  // namespace cvol::volume
