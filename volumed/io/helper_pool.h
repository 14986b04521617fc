// HelperPool: a few threads for calls that block (RocksDB, fallocate). Threads start with the
// first call and sleep on a condition variable when there is none.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace cvol::io {

class HelperPool {
 public:
  explicit HelperPool(uint32_t threads) : most_(threads) {}
  ~HelperPool() { join(); }
  HelperPool(const HelperPool&) = delete;
  HelperPool& operator=(const HelperPool&) = delete;

  // Finishes what was given and ends the threads; run() must not be called again.
  void join();
  // Any thread.
  void run(std::function<void()> work);

 private:
  void loop();

  uint32_t most_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> queue_;
  std::vector<std::thread> threads_;
  uint32_t idle_ = 0;
  bool stopping_ = false;
};

}  // namespace cvol::io
