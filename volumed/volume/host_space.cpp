#include "volumed/volume/host_space.h"

#include <sys/stat.h>
#include <sys/statvfs.h>

#include <chrono>
#include <condition_variable>
#include <system_error>
#include <thread>

namespace cvol::volume {
namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kFresh = std::chrono::seconds(10);
constexpr auto kPatience = std::chrono::milliseconds(500);

}  // namespace

// Outlives the HostSpaces if a file system hangs.
struct HostSpaces::Sample {
  std::mutex mutex;
  std::condition_variable taken;
  std::optional<HostSpace> space;
  std::optional<Clock::time_point> when;
  bool running = false;
};

std::optional<HostSpace> read_host_space(const std::string& path) {
  struct statvfs info {};
  struct stat file {};
  if (::statvfs(path.c_str(), &info) != 0 || ::stat(path.c_str(), &file) != 0) return std::nullopt;
  return HostSpace{info.f_blocks * info.f_frsize, info.f_bavail * info.f_frsize, file.st_dev};
}

std::optional<HostSpace> HostSpaces::look(const std::string& path) {
  std::shared_ptr<Sample> sample;
  {
    std::lock_guard lock(mutex_);
    auto& known = samples_[path];
    if (!known) known = std::make_shared<Sample>();
    sample = known;
  }
  std::unique_lock lock(sample->mutex);
  if (sample->when && Clock::now() - *sample->when < kFresh) return sample->space;
  if (!sample->running) {
    sample->running = true;
    try {
      std::thread([sample, path, read = read_] {
        const std::optional<HostSpace> space = read(path);
        std::lock_guard done(sample->mutex);
        sample->space = space;
        sample->when = Clock::now();
        sample->running = false;
        sample->taken.notify_all();
      }).detach();
    } catch (const std::system_error&) {
      sample->running = false;  // no threads are to be had: the next look tries again
      return sample->space;
    }
  }
  sample->taken.wait_for(lock, kPatience, [&] { return !sample->running; });
  return sample->space;
}

}  // namespace cvol::volume
