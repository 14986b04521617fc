// UringReactor: the reactor of a shard's thread, on one io_uring.
//
// Made, run and destroyed on one thread (SINGLE_ISSUER, DEFER_TASKRUN). Submissions are gathered
// and go to the kernel once per turn of the loop; a loop with nothing to do sleeps in the kernel.
#pragma once

#include <liburing.h>

#include <atomic>
#include <deque>
#include <memory>
#include <mutex>
#include <vector>

#include "volumed/io/helper_pool.h"
#include "volumed/io/reactor.h"

namespace cvol::io {

struct UringOptions {
  uint32_t entries = 1024;  // submission queue, 64..32768; the completion queue is four times it
  uint32_t helper_threads = 2;  // for blocking(), 1..16
};

class UringReactor final : public Reactor {
 public:
  // kUnsupported, with what to do, if the kernel lacks what is needed (Linux 6.1 or newer).
  static Result<std::unique_ptr<UringReactor>> make(UringOptions options);
  ~UringReactor() override;

  // Runs until stop(). No operation may be under way when it returns.
  void run();
  // Any thread.
  void stop();
  // Runs the loop until `task` is done; for tests and small programs.
  void run_until_done(Task<void> task);

  Nanoseconds now() const override;
  Random& random() override { return random_; }
  void post(std::function<void()> work) override;
  void schedule(std::coroutine_handle<> handle) override { ready_.push_back(handle); }
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
  explicit UringReactor(UringOptions options);
  io_uring_sqe* next_sqe();
  bool do_now(Op& op);
  void turn();
  void run_posted();
  void run_ready();
  void reap();
  void enqueue(Op& op);
  bool is_made_again(Op& op, int64_t result);
  void complete(Op& op, int64_t result);
  void watch_wakeups();
  void wake();

  io_uring ring_{};
  bool ring_made_ = false;
  int wake_fd_ = -1;
  uint64_t wake_count_ = 0;  // where the kernel writes the eventfd's value
  bool stopping_ = false;
  uint64_t under_way_ = 0;
  uint32_t done_now_ = 0;  // operations done at once since the loop last turned
  std::deque<std::coroutine_handle<>> ready_;
  std::vector<Op*> again_;  // that met a shortage, until they are made again
  Random random_;

  std::mutex mutex_;
  std::vector<std::function<void()>> posted_;  // guarded by mutex_
  std::atomic<bool> has_posted_{false};
  std::atomic<bool> sleeping_{false};
  HelperPool helpers_;
};

}  // namespace cvol::io
