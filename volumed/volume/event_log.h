// EventLog: what happened lately, in memory: a bounded ring with sequence numbers.
//
// Threading: any thread.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <mutex>
#include <string>
#include <vector>

namespace cvol::volume {

struct Event {
  uint64_t sequence = 0;  // from 1, rises by one
  std::chrono::system_clock::time_point time;
  std::string kind;     // "volume_created"
  std::string subject;  // name of the volume, path of the disk
  std::string message;
};

class EventLog {
 public:
  explicit EventLog(std::size_t most = 1024) : most_(most) {}

  // Also logged.
  void add(std::string kind, std::string subject, std::string message);
  // Those after `sequence` that are still kept, oldest first.
  std::vector<Event> after(uint64_t sequence) const;
  // Waits until there is one after `sequence`, close() was called, or `time` is over.
  void wait_after(uint64_t sequence, std::chrono::milliseconds time) const;
  // Ends all waiting, for good.
  void close();
  bool closed() const;

 private:
  std::size_t most_;
  mutable std::mutex mutex_;
  mutable std::condition_variable added_;
  std::deque<Event> events_;
  uint64_t last_ = 0;
  bool closed_ = false;
};

}  // namespace cvol::volume
