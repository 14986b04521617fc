// HolderWatch: notices that a holder has ended without being asked to. The kernel tells (pidfd): no
// polling, and no thread before the first holder.
//
// Threading: any thread. `on_end` runs on the watch's own thread, holding no lock; it may block.
// The destructor waits for it.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <thread>

#include "nbd/attach/host.h"

namespace cvol::attach {

class HolderWatch {
 public:
  explicit HolderWatch(std::function<void(const std::string& volume)> on_end);
  ~HolderWatch();

  // From now on. One that has ended already is told of at once.
  void add(const std::string& volume, int64_t pid, uint64_t start_time);
  // It is about to end, and nobody is told. Idempotent.
  void remove(const std::string& volume);

 private:
  void run();
  void wake();

  const std::function<void(const std::string&)> on_end_;
  std::mutex mutex_;                           // guards all below
  std::map<std::string, Descriptor> holders_;  // volume -> pidfd
  bool stopping_ = false;
  Descriptor wake_;
  std::thread thread_;
};

}  // namespace cvol::attach
