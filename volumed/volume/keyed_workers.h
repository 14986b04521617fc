// KeyedWorkers: jobs that may block, in order for each key (a volume, a disk), side by side for
// different keys: what one waits for does not hold up the others.
//
// Threading: any thread. Threads are made when there is work for them, up to a bound; as many keys
// as that may be blocked at once before others wait.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace cvol::volume {

class KeyedWorkers {
 public:
  using Job = std::function<void()>;

  explicit KeyedWorkers(std::size_t most_threads) : most_threads_(most_threads) {}
  ~KeyedWorkers() { stop(); }
  KeyedWorkers(const KeyedWorkers&) = delete;
  KeyedWorkers& operator=(const KeyedWorkers&) = delete;

  // False after stop(): the job is not run.
  bool post(const std::string& key, Job job);
  // Runs what is queued, then ends the threads. Idempotent; not from a job.
  void stop();

 private:
  void run();

  const std::size_t most_threads_;
  std::mutex mutex_;  // guards all that follows
  std::condition_variable wake_;
  std::map<std::string, std::deque<Job>> queues_;  // of keys that have jobs, or one that runs
  std::deque<std::string> ready_;                  // keys with jobs of which none runs
  std::size_t idle_ = 0;                           // threads that wait, or were woken just now
  bool stopping_ = false;
  std::vector<std::thread> threads_;  // changed until stopping_
};

}  // namespace cvol::volume
