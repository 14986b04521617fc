#include "volumed/daemon/host.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <thread>

#include "volumed/base/descriptors.h"
#include "volumed/base/log.h"

namespace cvol::daemon {
namespace {

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

constexpr auto kLockTurn = std::chrono::milliseconds(50);
constexpr int kLockTurns = 100;

int stop_event = -1;
volatile sig_atomic_t stop_signal = 0;

extern "C" void on_stop_signal(int number) {
  const int saved = errno;
  stop_signal = number;
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = ::write(stop_event, &one, sizeof one);
  errno = saved;
}

}  // namespace

FolderLock::FolderLock(FolderLock&& other) noexcept : file_(std::exchange(other.file_, -1)) {}

FolderLock::~FolderLock() {
  if (file_ >= 0) ::close(file_);
}

Result<FolderLock> FolderLock::take(const std::string& folder) {
  const std::string path = folder + "/volumed.lock";
  FolderLock lock;
  lock.file_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (lock.file_ < 0) return status_from_errno(errno, "open " + path);
  // A volumed that was killed is gone for whoever started it before the kernel has let go of its
  // files: its next life waits a moment.
  int locked = ::flock(lock.file_, LOCK_EX | LOCK_NB);
  for (int turn = 0; locked != 0 && errno == EWOULDBLOCK && turn < kLockTurns; ++turn) {
    std::this_thread::sleep_for(kLockTurn);
    locked = ::flock(lock.file_, LOCK_EX | LOCK_NB);
  }
  if (locked != 0) {
    if (errno != EWOULDBLOCK) return status_from_errno(errno, "lock " + path);
    char pid[16] = {};
    const ssize_t got = ::pread(lock.file_, pid, sizeof pid - 1, 0);
    std::string holder = got > 0 ? pid : "?";
    while (!holder.empty() && holder.back() == '\n') holder.pop_back();
    return Status(Code::kBusy, "another volumed (pid " + holder + ") uses " + folder +
                                   "; stop it, or give this one a folder of its own (--data-dir, "
                                   "--run-dir)");
  }
  // Over what is there: that needs no room on a full file system, and without room nobody needs it.
  const std::string pid = std::to_string(::getpid()) + "\n";
  const auto bytes = static_cast<ssize_t>(pid.size());
  const bool written = ::pwrite(lock.file_, pid.data(), pid.size(), 0) == bytes &&
                       ::ftruncate(lock.file_, bytes) == 0;
  if (!written && errno != ENOSPC && errno != EDQUOT)
    return status_from_errno(errno, "write " + path);
  return lock;
}

Status make_folder(const std::string& path, unsigned mode) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) return status_from_errno(error.value(), "create " + path);
  struct stat info {};
  if (::stat(path.c_str(), &info) == 0 && info.st_uid == ::geteuid()) ::chmod(path.c_str(), mode);
  return Status::ok();
}

void harden_process() {
  ::umask(0077);
  ::signal(SIGPIPE, SIG_IGN);
  log::info("daemon", "open files", {{"limit", raise_descriptor_limit()}});
  if (::geteuid() != 0) return;
  // Memory for our own writes must not wait for writes to our own devices.
  if (::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) != 0)
    log::debug("daemon", "PR_SET_IO_FLUSHER is refused", {{"errno", errno}});
  std::ofstream score("/proc/self/oom_score_adj");
  score << "-900" << std::flush;
  if (!score) log::debug("daemon", "oom_score_adj is refused");
}

void lock_memory() {
  if (::geteuid() != 0) return;
  // What is mapped now, as it is touched; not what comes: buffers have bounds of their own.
  if (::mlockall(MCL_CURRENT | MCL_ONFAULT) != 0)
    log::debug("daemon", "mlockall is refused", {{"errno", errno}});
}

Status catch_stop_signals() {
  stop_event = ::eventfd(0, EFD_CLOEXEC);
  if (stop_event < 0) return status_from_errno(errno, "eventfd");
  // A handler, not a mask: programs that we start get their signals.
  struct sigaction action {};
  action.sa_handler = on_stop_signal;
  action.sa_flags = SA_RESTART;
  if (::sigaction(SIGTERM, &action, nullptr) != 0 || ::sigaction(SIGINT, &action, nullptr) != 0)
    return status_from_errno(errno, "sigaction");
  return Status::ok();
}

int wait_for_stop(int milliseconds) {
  pollfd event{stop_event, POLLIN, 0};
  while (stop_signal == 0) {
    const int ready = ::poll(&event, 1, milliseconds);
    if (ready == 0 || (ready < 0 && errno != EINTR)) break;
  }
  return stop_signal;
}

void end_process_after(int milliseconds) {
  std::thread([milliseconds] {
    std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
    log::warning("daemon", "not everything ended in time; leaving. No data depends on it");
    ::_exit(0);
  }).detach();
}

void notify_systemd(const std::string& state) {
  ::sd_notify(0, state.c_str());
}

StartNotice::StartNotice()
    : thread_([this] {
        std::unique_lock lock(mutex_);
        while (!ended_.wait_for(lock, std::chrono::seconds(20), [this] { return over_; }))
          notify_systemd("EXTEND_TIMEOUT_USEC=60000000");
      }) {}

StartNotice::~StartNotice() {
  {
    std::lock_guard lock(mutex_);
    over_ = true;
    ended_.notify_all();
  }
  thread_.join();
}

std::string read_boot_id() {
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::string id;
  std::getline(file, id);
  return id;
}

}  // namespace cvol::daemon
