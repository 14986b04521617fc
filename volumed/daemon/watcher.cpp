#include "volumed/daemon/watcher.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "volumed/base/log.h"

extern char** environ;

namespace cvol::daemon {

Watcher::~Watcher() {
  if (pipe_ >= 0) ::close(pipe_);
}

// Its standard input is a pipe from us, descriptor 3 our own process.
bool Watcher::start() {
  int ends[2];
  const int self = static_cast<int>(::syscall(SYS_pidfd_open, ::getpid(), 0));
  if (self < 0) return false;
  if (::pipe2(ends, O_CLOEXEC) != 0) {
    ::close(self);
    return false;
  }
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, ends[0], 0);
  posix_spawn_file_actions_adddup2(&actions, self, 3);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK);
  sigset_t none;
  sigemptyset(&none);
  posix_spawnattr_setsigmask(&attributes, &none);
  char* const arguments[] = {const_cast<char*>(program_.c_str()), nullptr};
  pid_t child = 0;
  const int error =
      ::posix_spawn(&child, program_.c_str(), &actions, &attributes, arguments, environ);
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  ::close(self);
  ::close(ends[0]);
  if (error != 0) {
    ::close(ends[1]);
    log::warning("daemon", "no watcher: other nodes will wait for their grace if this one dies",
                 {{"program", program_}, {"error", std::strerror(error)}});
    return false;
  }
  pipe_ = ends[1];
  return true;
}

bool Watcher::write_all(const std::string& text) {
  std::size_t done = 0;
  while (done < text.size()) {
    const ssize_t wrote = ::write(pipe_, text.data() + done, text.size() - done);
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote <= 0) return false;
    done += static_cast<std::size_t>(wrote);
  }
  return true;
}

void Watcher::tell(const Identity& identity, const std::vector<std::string>& addresses) {
  std::lock_guard lock(mutex_);
  if (failed_) return;
  if (pipe_ < 0 && !start()) {
    failed_ = true;
    return;
  }
  std::string text = "self " + identity.cluster.to_string() + " " + identity.node.to_string() +
                     " " + identity.process.to_string() + "\n";
  for (const std::string& address : addresses) text += "peer " + address + "\n";
  text += "done\n";
  if (write_all(text)) return;
  ::close(pipe_);  // it died: another one
  pipe_ = -1;
  if (!start() || !write_all(text)) failed_ = true;
}

}  // namespace cvol::daemon
