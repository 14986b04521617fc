#include "nbd/attach/holder_watch.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <utility>
#include <vector>

#include "volumed/base/log.h"

namespace cvol::attach {

HolderWatch::HolderWatch(std::function<void(const std::string&)> on_end)
    : on_end_(std::move(on_end)), wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

HolderWatch::~HolderWatch() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake();
  if (thread_.joinable()) thread_.join();
}

void HolderWatch::wake() {
  const uint64_t one = 1;
  if (write(wake_.number(), &one, sizeof one) != sizeof one)
    log::debug("attach", "the watch of holders is awake already");
}

void HolderWatch::add(const std::string& volume, int64_t pid, uint64_t start_time) {
  Descriptor process(static_cast<int>(syscall(SYS_pidfd_open, static_cast<pid_t>(pid), 0)));
  // The number may have been given to another process before it was opened.
  if (!process.is_open() || process_start_time(pid) != start_time) {
    on_end_(volume);
    return;
  }
  fcntl(process.number(), F_SETFD, FD_CLOEXEC);
  std::lock_guard lock(mutex_);
  holders_[volume] = std::move(process);
  if (!thread_.joinable()) thread_ = std::thread([this] { run(); });
  wake();
}

void HolderWatch::remove(const std::string& volume) {
  std::lock_guard lock(mutex_);
  holders_.erase(volume);
  wake();
}

void HolderWatch::run() {
  for (;;) {
    std::vector<std::string> volumes;
    std::vector<pollfd> waits = {{wake_.number(), POLLIN, 0}};
    {
      std::lock_guard lock(mutex_);
      if (stopping_) return;
      for (const auto& [volume, process] : holders_) {
        volumes.push_back(volume);
        // A copy: remove() may close its own while this thread sleeps.
        waits.push_back({fcntl(process.number(), F_DUPFD_CLOEXEC, 0), POLLIN, 0});
      }
    }
    const int ready = poll(waits.data(), waits.size(), -1);
    uint64_t count = 0;
    while (read(wake_.number(), &count, sizeof count) == sizeof count) {
    }
    std::vector<std::string> ended;
    for (std::size_t i = 1; i < waits.size(); ++i) {
      if (ready > 0 && waits[i].revents != 0) ended.push_back(volumes[i - 1]);
      if (waits[i].fd >= 0) close(waits[i].fd);
    }
    for (const std::string& volume : ended) {
      {
        std::lock_guard lock(mutex_);
        if (holders_.erase(volume) == 0) continue;
      }
      on_end_(volume);
    }
  }
}

}  // namespace cvol::attach
