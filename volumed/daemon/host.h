// What volumed asks of the host: locks, signals, memory, systemd.
#pragma once

#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>

#include "volumed/base/result.h"

namespace cvol::daemon {

// An exclusive lock on a folder, held while the object lives; the file in it holds our pid.
class FolderLock {
 public:
  FolderLock() = default;
  FolderLock(FolderLock&& other) noexcept;
  FolderLock& operator=(FolderLock&&) = delete;
  ~FolderLock();
  // kBusy, naming the pid, if another volumed holds it, and goes on doing so for 5 s.
  static Result<FolderLock> take(const std::string& folder);

 private:
  int file_ = -1;
};

Status make_folder(const std::string& path, unsigned mode);

// Makes the process fit to serve devices of its own host; what is refused is logged and left.
// Before any thread is started.
void harden_process();
// Keeps what is in memory now in memory. After start.
void lock_memory();

// SIGTERM and SIGINT from now on wait in wait_for_stop(), and wake it.
Status catch_stop_signals();
// Returns the signal's number, or 0 if none came within `milliseconds` (-1: for ever).
int wait_for_stop(int milliseconds = -1);

// Ends the process with code 0 after `milliseconds`, whatever hangs.
void end_process_after(int milliseconds);

void notify_systemd(const std::string& state);

// While it lives, systemd is told every 20 s that the start goes on: opening disks may take longer
// than systemd waits, and is not to be begun anew for ever.
class StartNotice {
 public:
  StartNotice();
  ~StartNotice();
  StartNotice(const StartNotice&) = delete;
  StartNotice& operator=(const StartNotice&) = delete;

 private:
  std::mutex mutex_;
  std::condition_variable ended_;
  bool over_ = false;
  std::thread thread_;  // the last one: it uses the others
};
std::string read_boot_id();

}  // namespace cvol::daemon
