// DiskSet: the shards of this node and the disks that they own.
//
// Each disk belongs to one shard; there are as many shards as disks, up to the count of cores.
// Threading: the control plane's threads; never a shard's own. Calls block. Disks are added, and
// closed all together, but never taken out: a Disk* stays valid until close_all().
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "volumed/io/shard.h"
#include "volumed/store/disk_engine.h"
#include "volumed/volume/bounce_pool.h"

namespace cvol::volume {

// Where disks come from: the store, or a fake one in tests.
struct DiskMaker {
  std::function<Task<Result<Uuid>>(io::Reactor&, std::string, store::FormatOptions)> format;
  std::function<Task<Result<std::unique_ptr<store::DiskEngine>>>(io::Reactor&, std::string,
                                                                 store::EngineOptions)>
      open;
  std::function<bool(io::Reactor&, const std::string&)> is_disk;

  static DiskMaker real();
};

struct Disk {
  std::string id;  // UUID
  std::string path;
  io::Shard* shard = nullptr;
  uint16_t shard_index = 0;
  BouncePool* bounce = nullptr;
  std::unique_ptr<store::DiskEngine> engine;  // null: not open, see problem
  std::string problem;
  // It is being taken out of the pool (volume_disk_removal.cpp), as its record says; `gone`: it has
  // been, and nothing is placed or looked for on it any more until the next start forgets it.
  std::atomic<bool> leaving{false};
  std::atomic<bool> in_place{false};
  std::atomic<bool> gone{false};

  // Runs `call(engine)`, which returns a Task<T>, on the disk's shard. The engine must be open.
  template <typename T, typename Call>
  T run(Call call) {
    CVOL_ASSERT(engine != nullptr);
    return shard->run<T>([this, &call] { return call(*engine); });
  }
  // The same for a plain function.
  template <typename Call>
  auto invoke(Call call) {
    CVOL_ASSERT(engine != nullptr);
    return shard->invoke([this, &call] { return call(*engine); });
  }
};

class DiskSet {
 public:
  // What the engine of the disk at `path` calls, on its shard.
  using MakeHooks = std::function<store::EngineHooks(const std::string& path)>;
  DiskSet(DiskMaker maker, store::EngineOptions options, MakeHooks hooks = {});
  ~DiskSet();

  // Starts the first shard, which also serves NBD.
  Status start();
  io::Shard& first_shard() { return *homes_.front().shard; }
  // The shards that there are now, by index. More come with more disks.
  std::vector<io::Shard*> shards();

  // Opens a disk that is known by this id; what goes wrong is kept as its problem. `failure`: not
  // empty if it is known to have failed.
  Disk& open_known(const std::string& id, const std::string& path, const std::string& failure);
  // Opens the disk at `path`, formatting it first if it is empty. Idempotent.
  Result<Disk*> add(const std::string& path, store::FormatOptions format);

  Disk* find(const std::string& id);
  std::vector<Disk*> all();
  // Closes all engines and stops the shards. No operation may be under way.
  void close_all();

 private:
  struct Home {
    std::unique_ptr<io::Shard> shard;
    std::unique_ptr<BouncePool> bounce;
  };
  Result<Home*> home_for_next();
  Result<std::unique_ptr<store::DiskEngine>> open_on(Home& home, const std::string& path,
                                                     const std::string& failure);

  DiskMaker maker_;
  store::EngineOptions options_;
  MakeHooks hooks_;
  std::mutex adding_;  // one at a time; held while a disk is opened, which may hang
  std::mutex mutex_;   // guards disks_ and homes_, which change under adding_ too
  std::vector<std::unique_ptr<Disk>> disks_;
  std::vector<Home> homes_;  // reserved, so that elements do not move
};

}  // namespace cvol::volume
