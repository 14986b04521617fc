// DiskSet: the shards of this node and the disks that they own.
//
// Each disk belongs to one shard; there are as many shards as disks, up to the count of cores.
// Threading: the control plane's threads; never a shard's own. Calls block. A Disk* stays valid
// until close_all(), also that of a disk that was taken out of the set: its engine answers errors.
#pragma once

#include <atomic>
#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
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

// The engine of a disk that is open. It comes once, from any thread, and goes when all are closed.
class EngineSlot {
 public:
  EngineSlot() = default;
  EngineSlot(const EngineSlot&) = delete;
  EngineSlot& operator=(const EngineSlot&) = delete;
  ~EngineSlot() { reset(); }
  store::DiskEngine* get() const { return engine_.load(std::memory_order_acquire); }
  store::DiskEngine* operator->() const { return get(); }
  store::DiskEngine& operator*() const { return *get(); }
  bool operator==(std::nullptr_t) const { return get() == nullptr; }
  void set(std::unique_ptr<store::DiskEngine> engine) {
    CVOL_ASSERT(get() == nullptr);
    engine_.store(engine.release(), std::memory_order_release);
  }
  void reset() { delete engine_.exchange(nullptr); }

 private:
  std::atomic<store::DiskEngine*> engine_{nullptr};
};

// What the records say of a disk.
struct KnownDisk {
  std::string id;
  std::string path;
  std::string failure;      // not empty: it is known to have failed
  uint64_t generation = 0;  // one that was opened less often is an older copy
};

struct Disk {
  std::string id;  // UUID
  io::Shard* shard = nullptr;
  uint16_t shard_index = 0;
  BouncePool* bounce = nullptr;
  EngineSlot engine;  // null: not open, see problem()
  // It is being taken out of the pool (volume_disk_removal.cpp), as its record says; `gone`: it has
  // been, and nothing is placed or looked for on it any more; it is closed soon (take_out).
  std::atomic<bool> leaving{false};
  std::atomic<bool> in_place{false};
  std::atomic<bool> gone{false};

  // Where it is; the text stays valid as long as the disk.
  const std::string& path() const { return *path_.load(std::memory_order_acquire); }
  std::string problem() const {
    std::lock_guard lock(problem_mutex_);
    return problem_;
  }

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

 private:
  friend class DiskSet;
  void set_path(std::string path);
  void set_problem(const std::string& problem);

  std::mutex opening_;  // of the next three, and of opening and closing the disk
  bool taken_out_ = false;
  KnownDisk known_;
  std::deque<std::string> paths_;  // all that it ever had
  std::atomic<const std::string*> path_{nullptr};
  mutable std::mutex problem_mutex_;
  std::string problem_;
};

class DiskSet {
 public:
  // What the engine of the disk at `path` calls, on its shard.
  using MakeHooks = std::function<store::EngineHooks(const std::string& path)>;
  // A known disk has been opened and may be written from now on; asked before anybody sees it. An
  // error closes it again.
  using Opened = std::function<Status(const std::string& id, uint64_t generation)>;
  // May the disk at a path be served? As EngineOptions::admit.
  using Admit = std::function<Status(const Uuid& disk, std::optional<uint64_t> generation)>;

  DiskSet(DiskMaker maker, store::EngineOptions options, MakeHooks hooks = {}, Opened opened = {});
  ~DiskSet();

  // Starts the first shard, which also serves NBD.
  Status start();
  io::Shard& first_shard() { return *homes_.front().shard; }
  // The shards that there are now, by index. More come with more disks.
  std::vector<io::Shard*> shards();

  // Opens disks that are known, side by side; what goes wrong is kept as their problem. `waits` is
  // called every few seconds until all have been tried.
  void open_known(std::vector<KnownDisk> known, const std::function<void()>& waits = {});
  // Tries once more to open a disk that is not. Ok: it is open.
  Status try_again(Disk& disk);
  // Makes a disk that is not open that of another place, and opens it there. `generation`: the
  // least that is taken. What goes wrong changes nothing.
  Status move(Disk& disk, const std::string& path, uint64_t generation);
  // Opens the disk at `path`, formatting it first if it is empty. Idempotent. A disk that is in the
  // set at another path, open or not, is refused.
  Result<Disk*> add(const std::string& path, store::FormatOptions format, const Admit& admit = {});

  // Closes a disk on which nothing is used, after which its file system can be unmounted, and it or
  // another one can be added at its path. The set does not know it any more.
  void take_out(Disk& disk);

  Disk* find(const std::string& id);
  std::vector<Disk*> all();
  // Closes all engines and stops the shards. No operation may be under way.
  void close_all();

 private:
  struct Home {
    std::unique_ptr<io::Shard> shard;
    std::unique_ptr<BouncePool> bounce;
  };
  using Engine = std::unique_ptr<store::DiskEngine>;
  Result<Home*> home_for_next();
  Home& least_used_home();
  Disk& declare(KnownDisk known);
  Result<Engine> open_on(io::Shard& shard, const std::string& path, const std::string& failure,
                         const Admit& admit);
  Result<Engine> open_patiently(Disk& disk, const KnownDisk& known);
  Status open_disk(Disk& disk, const KnownDisk& known);
  Status refuse_known(const Uuid& disk, const std::string& path);

  DiskMaker maker_;
  store::EngineOptions options_;
  MakeHooks hooks_;
  Opened opened_;
  std::mutex adding_;  // one at a time; held while a new disk is opened, which may hang
  std::mutex mutex_;   // guards the next three, which change under adding_ too
  std::vector<std::unique_ptr<Disk>> disks_;
  std::vector<std::unique_ptr<Disk>> taken_out_;  // somebody may still have a pointer
  std::vector<Home> homes_;                       // reserved, so that elements do not move
  std::atomic<bool> closing_{false};
};

}  // namespace cvol::volume
