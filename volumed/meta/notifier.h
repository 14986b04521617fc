// Notifier: the part of an embedded store that calls watchers and ends leases in time, on one
// thread, which is started with the first watch or lease.
//
// Threading: any thread.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <thread>

#include "volumed/meta/metadata_store.h"

namespace cvol::meta {

class Notifier {
 public:
  using Clock = std::chrono::steady_clock;

  // `end_lease` is called on the notifier's thread for each lease whose time is over.
  explicit Notifier(std::function<void(LeaseId)> end_lease);
  ~Notifier();

  std::unique_ptr<Watch> watch(std::string prefix, WatchCallback callback);
  // In the order in which the changes were made.
  void publish(std::vector<WatchEvent> events);

  LeaseId grant(std::chrono::milliseconds time);
  bool keep_alive(LeaseId lease);
  bool has_lease(LeaseId lease);
  // False if there is no such lease. Does not call end_lease.
  bool drop_lease(LeaseId lease);

 private:
  struct Watcher;
  class Handle;
  struct Lease {
    std::chrono::milliseconds time;
    Clock::time_point ends;
  };

  void run();
  void start_thread();
  void deliver(std::unique_lock<std::mutex>& lock);
  void end_due_leases(std::unique_lock<std::mutex>& lock);
  void remove(Watcher* watcher);

  std::function<void(LeaseId)> end_lease_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable delivered_;
  std::list<std::shared_ptr<Watcher>> watchers_;
  std::deque<std::vector<WatchEvent>> queue_;
  std::map<LeaseId, Lease> leases_;
  LeaseId last_lease_ = 0;
  Watcher* calling_ = nullptr;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace cvol::meta
