// EventLog: what happened lately: a bounded ring in memory with sequence numbers, which go on after
// a restart where a file keeps them.
//
// Threading: any thread.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "volumed/base/result.h"
#include "volumed/volume/worker.h"

namespace cvol::volume {

class EventFile;

struct Event {
  uint64_t sequence = 0;  // from 1, rises by one
  std::chrono::system_clock::time_point time;
  std::string kind;     // "volume_created"
  std::string subject;  // name of the volume, path of the disk
  std::string message;
  std::string node;  // name of the node that tells it
};

// Which events are asked for; what is not set does not matter.
struct EventFilter {
  std::string kind;
  std::string subject;
  std::chrono::system_clock::time_point since{};
  bool takes(const Event& event) const;
};

class EventLog {
 public:
  explicit EventLog(std::size_t most = 1024);
  ~EventLog();

  // From now on events bear the node's name and are kept in `folder` (event_file.h), by a thread of
  // their own: add() never waits for a disk. Those that the file has come first. Once, before
  // anybody else uses the log. An error: events are kept in memory only.
  Status keep_in(const std::string& folder, std::string node);

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
  std::string node_;
  std::atomic<uint64_t> unwritten_{0};
  std::unique_ptr<EventFile> file_;  // used on writer_ once it is open
  std::unique_ptr<Worker> writer_;   // null: nothing is kept; ends before file_
};

}  // namespace cvol::volume
