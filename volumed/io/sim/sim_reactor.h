// SimReactor: one node of a SimWorld.
//
// die() is the crash: nothing that is under way has an effect any more, and every operation, old
// or new, ends with an error, so that the node's coroutines unwind. Take crash images of its files
// before the events go on. Its peers see its connections end, unless the machine itself is gone.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "volumed/io/sim/sim_world.h"

namespace cvol::io {

class SimReactor final : public Reactor {
 public:
  // `host`: the machine it runs on. `root`: its files, which share SimFaults::disk_bytes.
  explicit SimReactor(SimWorld& world, SimHost host = 0, std::string root = "")
      : world_(&world), random_(world.random().next()), host_(host), root_(std::move(root)) {}
  ~SimReactor() override;

  enum class Death { kProcess, kMachine };
  void die(Death death = Death::kProcess);
  bool dead() const { return dead_; }
  // It does not run until resume(); what it has begun goes on.
  void pause() { paused_ = true; }
  void resume();
  bool paused() const { return paused_; }
  // Its own faults, instead of the world's; nullptr: the world's.
  void set_faults(std::shared_ptr<const SimFaults> faults) { faults_ = std::move(faults); }
  // Starts a task; see done(). The world's events drive it.
  void start(Task<void> task);
  // True when every started task has ended.
  bool done() const { return running_ == 0; }
  // start() and run the world until it is done. False if the world has no more events first.
  bool run(Task<void> task);

  Nanoseconds now() const override { return world_->now(); }
  Random& random() override { return random_; }
  void post(std::function<void()> work) override;
  void schedule(std::coroutine_handle<> handle) override;
  bool submit(Op& op) override;
  Result<File> open(const std::string& path, const OpenOptions& options) override;
  Result<Listener> listen(const std::string& address, Watch watch) override;
  Result<Stream> connect(const std::string& address) override;
  Task<Result<Stream>> dial(std::string address, Nanoseconds timeout) override;
  Status make_directories(const std::string& path) override;
  Result<std::vector<std::string>> list_directory(const std::string& path) override;
  Result<uint64_t> free_bytes(const std::string& path) override;
  Status remove_all(const std::string& path) override;
  Status sync_directory(const std::string& path) override;
  void close_handle(int handle) override;
  void shutdown_handle(int handle) override;
  Result<uint64_t> file_size(int handle) override;
  Status file_resize(int handle, uint64_t bytes) override;
  Status file_allocate(int handle, uint64_t bytes) override;
  Result<SpaceMap> file_map_space(int handle, FileRange range) override;
  Result<uint64_t> file_own(int handle, FileRange range) override;
  Status file_punch(int handle, FileRange range) override;

 protected:
  void cancel(Op& op) override;

 private:
  struct Handle {
    std::shared_ptr<SimFile> file;
    bool holds_lock = false;
    std::shared_ptr<SimPipe> in, out;
    SimReactor* peer = nullptr;
    std::shared_ptr<SimWorld::ListenerState> listener;
  };

  // Completes `op` at `when` with what `effect` returns, unless it is cancelled or the node dies.
  void complete_at(Op& op, Nanoseconds when, std::function<int64_t()> effect);
  void finish_op(Op& op, int64_t result);
  void start(Op& op);
  void submit_file(Op& op);
  void submit_receive(Op& op);
  void submit_send(Op& op);
  void submit_accept(Op& op);
  void deliver(const std::shared_ptr<SimPipe>& pipe);
  std::function<void()> resume_event();
  const SimFaults& faults() const { return faults_ ? *faults_ : world_->faults; }
  int add_handle(Handle handle);
  bool fails(uint64_t in_a_million) { return random_.chance(in_a_million, 1000000); }

  friend class SimWorld;

  SimWorld* world_;
  Random random_;
  const SimHost host_;
  const std::string root_;
  std::shared_ptr<const SimFaults> faults_;
  bool dead_ = false;
  bool paused_ = false;
  std::vector<std::function<void()>> stopped_;  // what happened while it was paused
  uint64_t running_ = 0;
  int next_handle_ = 3;
  std::map<int, Handle> handles_;
  std::map<uint64_t, Op*> pending_;  // by number, so that die() ends them in a fixed order
  std::map<Op*, uint64_t> numbers_;
  uint64_t next_pending_ = 0;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);  // events outlive the node
  std::deque<std::coroutine_handle<>> ready_;
};

}  // namespace cvol::io
