#include "volumed/volume/mount_keeper.h"

#include <utility>

namespace cvol::volume {

using Clock = std::chrono::steady_clock;

MountKeeper::MountKeeper(Times times, std::function<bool(const std::string&)> finish,
                         std::function<void()> doubt)
    : times_(times), finish_(std::move(finish)), doubt_(std::move(doubt)) {}

MountKeeper::~MountKeeper() {
  stop();
}

void MountKeeper::start() {
  if (!stopping_ && !thread_.joinable()) thread_ = std::thread([this] { run(); });
}

void MountKeeper::look(const std::string& volume) {
  std::lock_guard lock(mutex_);
  unfinished_.insert(volume);
  start();
  wake_.notify_all();
}

void MountKeeper::watch() {
  std::lock_guard lock(mutex_);
  start();
}

void MountKeeper::stop() {
  std::thread ended;
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    wake_.notify_all();
    ended = std::move(thread_);
  }
  if (ended.joinable()) ended.join();
}

void MountKeeper::run() {
  auto doubt_at = Clock::now() + times_.doubt;
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    const bool busy = !unfinished_.empty();
    const auto until = busy ? std::min(doubt_at, Clock::now() + times_.finish) : doubt_at;
    // With nothing to finish, look() ends the wait; what it adds is tried a pause later.
    const bool woken =
        wake_.wait_until(lock, until, [&] { return stopping_ || (!busy && !unfinished_.empty()); });
    if (stopping_) return;
    if (woken) continue;
    lock.unlock();
    if (busy) try_all();
    if (Clock::now() >= doubt_at) {
      doubt_();
      doubt_at = Clock::now() + times_.doubt;
    }
    lock.lock();
  }
}

void MountKeeper::try_all() {
  std::set<std::string> volumes;
  {
    std::lock_guard lock(mutex_);
    volumes.swap(unfinished_);
  }
  for (const std::string& volume : volumes) {
    if (finish_(volume)) continue;
    std::lock_guard lock(mutex_);
    unfinished_.insert(volume);
  }
}

}  // namespace cvol::volume
