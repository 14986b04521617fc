// MountKeeper: finishes unmounts that found their device in use, and doubts users who were lost.
//
// Threading: look() and watch() on any thread; the callbacks run on the keeper's own thread, one at
// a time, and may block. It starts with the first call; a node that mounts nothing has no such
// thread. stop() waits for the callback that runs.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <set>
#include <string>
#include <thread>

namespace cvol::volume {

class MountKeeper {
 public:
  struct Times {
    std::chrono::milliseconds finish{2000};           // between two tries
    std::chrono::milliseconds doubt{10 * 60 * 1000};  // between two looks at all users
  };
  // `finish`: true if nothing is left to do for the volume. `doubt`: looks at all volumes.
  MountKeeper(Times times, std::function<bool(const std::string& volume)> finish,
              std::function<void()> doubt);
  ~MountKeeper();

  // Something of the volume's mount is unfinished.
  void look(const std::string& volume);
  // There are users that can be lost.
  void watch();
  void stop();

 private:
  void start();  // with mutex_
  void run();
  void try_all();

  const Times times_;
  const std::function<bool(const std::string&)> finish_;
  const std::function<void()> doubt_;
  std::mutex mutex_;  // guards all below
  std::condition_variable wake_;
  bool stopping_ = false;
  std::set<std::string> unfinished_;
  std::thread thread_;
};

}  // namespace cvol::volume
