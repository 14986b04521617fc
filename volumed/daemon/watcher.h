// Watcher: the small process beside volumed that sees it end, however it ends, and tells the other
// nodes (PROTOCOL: a process that is known dead need not be waited for). It outlives volumed by the
// moment that this takes.
//
// Threading: any thread. Without the program, or if it dies, other nodes wait for their grace.
#pragma once

#include <mutex>
#include <string>
#include <vector>

#include "volumed/base/uuid.h"

namespace cvol::daemon {

class Watcher {
 public:
  explicit Watcher(std::string program) : program_(std::move(program)) {}
  ~Watcher();
  Watcher(const Watcher&) = delete;
  Watcher& operator=(const Watcher&) = delete;

  struct Identity {
    Uuid cluster, node, process;
  };
  // Starts it, if it does not run, and tells it who we are and where our end has to be told.
  void tell(const Identity& identity, const std::vector<std::string>& addresses);

 private:
  bool start();
  bool write_all(const std::string& text);

  const std::string program_;
  std::mutex mutex_;
  int pipe_ = -1;
  bool failed_ = false;
};

}  // namespace cvol::daemon
