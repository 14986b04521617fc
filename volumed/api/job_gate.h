// JobGate: calls that may wait for as long as a volume does, kept from taking all threads.
//
// A job runs on a thread of its own; its caller waits for it, and leaves when it has a reason to
// (its client has hung up): the job goes on, and counts until it ends. Jobs of one key that take
// turns run one after the other, in no certain order.
//
// Threading: any thread. The destructor waits for the jobs.
// Errors of run(): kBusy: too much of it waits already, or its turn did not come in time; nothing
// was done. What `leave` gave: the job goes on.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "volumed/base/result.h"

namespace cvol::api {

class JobGate {
 public:
  struct Limits {
    uint64_t callers = 192;     // who wait here, from 1: each has a thread of the server's
    uint64_t jobs = 256;        // that run, from 1, those whose callers have left among them
    uint64_t jobs_per_key = 8;  // waiting for their turn or running, from 1
    std::chrono::milliseconds turn{10'000};  // how long a job waits for its turn
    std::chrono::milliseconds look{50};      // between two questions whether to leave
  };
  enum class Turns : uint8_t { kNone, kByKey };

  explicit JobGate(Limits limits) : limits_(limits) {}
  ~JobGate();

  // Runs `work` and returns ok when it is done. `leave` is asked now and then: an error ends the
  // waiting with it. `work` owns what it uses. `key` is what the job is about, as people call it.
  Status run(const std::string& key, Turns turns, std::function<void()> work,
             const std::function<Status()>& leave);

  uint64_t running() const;

 private:
  struct Key {
    uint64_t jobs = 0;  // waiting for their turn or running
    bool taken = false;
  };
  struct Job {
    bool done = false;  // guarded by the gate's mutex
  };

  Status enter(std::unique_lock<std::mutex>& lock, const std::string& key, Turns turns,
               const std::function<Status()>& leave);
  Status wait_for_turn(std::unique_lock<std::mutex>& lock, const std::string& key,
                       const std::function<Status()>& leave);
  void leave_key(const std::string& key, bool had_turn);
  bool start(const std::string& key, Turns turns, std::function<void()> work,
             const std::shared_ptr<Job>& job);

  const Limits limits_;
  mutable std::mutex mutex_;  // guards the rest
  std::condition_variable changed_;
  std::map<std::string, Key> keys_;
  uint64_t callers_ = 0;
  uint64_t running_ = 0;
};

}  // namespace cvol::api
