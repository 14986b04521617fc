#include "volumed/mount/program.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace cvol::mount {
namespace {

constexpr std::size_t kKeptBytes = 2000;  // of the end of the output

std::string read_to_end(int descriptor) {
  std::string text;
  char buffer[4096];
  for (;;) {
    ssize_t got = read(descriptor, buffer, sizeof buffer);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    text.append(buffer, static_cast<std::size_t>(got));
    if (text.size() > 2 * kKeptBytes) text.erase(0, text.size() - kKeptBytes);
  }
  for (char& c : text) {
    if (c == '\n') c = ' ';
  }
  return text;
}

int spawn(const std::vector<std::string>& words, int output, pid_t& pid) {
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, output, 1);
  posix_spawn_file_actions_adddup2(&actions, output, 2);
  posix_spawn_file_actions_addclosefrom_np(&actions, 3);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t none;
  sigemptyset(&none);  // the caller's threads may block signals
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
  std::vector<char*> arguments;
  for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  char* environment[] = {const_cast<char*>("PATH=/usr/sbin:/usr/bin:/sbin:/bin"),
                         const_cast<char*>("LC_ALL=C"), nullptr};
  int error =
      posix_spawnp(&pid, arguments[0], &actions, &attributes, arguments.data(), environment);
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  return error;
}

}  // namespace

Status run_program(const std::vector<std::string>& words, const std::string& package) {
  CVOL_ASSERT(!words.empty());
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return status_from_errno(errno, "make a pipe");
  pid_t pid = -1;
  int error = spawn(words, ends[1], pid);
  close(ends[1]);
  if (error != 0) {
    close(ends[0]);
    if (error != ENOENT) return status_from_errno(error, "start " + words[0]);
    return Status(Code::kUnsupported,
                  words[0] + " is not installed: install the package " + package);
  }
  std::string output = read_to_end(ends[0]);
  close(ends[0]);
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return Status::ok();
  return Status(Code::kIo, words[0] + " failed: " + output);
}

}  // namespace cvol::mount
