// SimReactor: one node of a SimWorld.
//
// die() is the crash: nothing that is under way has an effect any more, and every operation, old
// or new, ends with an error, so that the node's coroutines unwind. Take crash images of its files
// before the events go on.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "volumed/io/sim/sim_world.h"

namespace cvol::io {

class SimReactor final : public Reactor {
 public:
  explicit SimReactor(SimWorld& world) : world_(&world), random_(world.random().next()) {}
  ~SimReactor() override;

  void die();
  bool dead() const { return dead_; }
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
  Result<Listener> listen(const std::string& address) override;
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
  int add_handle(Handle handle);
  bool fails(uint64_t in_a_million) { return random_.chance(in_a_million, 1000000); }

  SimWorld* world_;
  Random random_;
  bool dead_ = false;
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
