#include "volumed/mount/program.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace cvol::mount {
namespace {

enum class Errors { kIntoOutput, kShared };

constexpr std::size_t kKeptBytes = 2000;          // of the end of what a system's program says
constexpr std::size_t kKeptOfAnswer = 64 * 1024;  // the answers of our own are shorter

std::string read_to_end(int descriptor, std::size_t kept) {
  std::string text;
  char buffer[4096];
  for (;;) {
    ssize_t got = read(descriptor, buffer, sizeof buffer);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    text.append(buffer, static_cast<std::size_t>(got));
    if (text.size() > 2 * kept) text.erase(0, text.size() - kept);
  }
  for (char& c : text) {
    if (c == '\n') c = ' ';
  }
  return text;
}

int spawn(const std::vector<std::string>& words, int output, Errors errors, pid_t& pid) {
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, output, 1);
  if (errors == Errors::kIntoOutput) posix_spawn_file_actions_adddup2(&actions, output, 2);
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

struct Ended {
  std::string output;
  int status = 0;  // as waitpid() has it
};

// An error: it could not be started, kNotFound if it is not there.
Result<Ended> run_to_end(const std::vector<std::string>& words, Errors errors) {
  CVOL_ASSERT(!words.empty());
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return status_from_errno(errno, "make a pipe");
  pid_t pid = -1;
  int error = spawn(words, ends[1], errors, pid);
  close(ends[1]);
  Ended ended;
  std::size_t kept = errors == Errors::kIntoOutput ? kKeptBytes : kKeptOfAnswer;
  if (error == 0) ended.output = read_to_end(ends[0], kept);
  close(ends[0]);
  if (error == ENOENT) return Status(Code::kNotFound, words[0] + " is not installed");
  if (error != 0) return status_from_errno(error, "start " + words[0]);
  while (waitpid(pid, &ended.status, 0) < 0 && errno == EINTR) {
  }
  return ended;
}

std::string describe_end(int status) {
  if (WIFSIGNALED(status)) return "signal " + std::to_string(WTERMSIG(status));
  return "exit code " + std::to_string(WEXITSTATUS(status));
}

}  // namespace

Status run_program(const std::vector<std::string>& words, const std::string& package) {
  Result<Ended> ended = run_to_end(words, Errors::kIntoOutput);
  if (ended.code() == Code::kNotFound) {
    return Status(Code::kUnsupported, ended.message() + ": install the package " + package);
  }
  if (!ended) return ended.status();
  if (WIFEXITED(ended->status) && WEXITSTATUS(ended->status) == 0) return Status::ok();
  return Status(Code::kIo, words[0] + " failed: " + ended->output);
}

Result<std::string> run_for_answer(const std::vector<std::string>& words) {
  Result<Ended> ended = run_to_end(words, Errors::kShared);
  if (ended.code() == Code::kNotFound) {
    return Status(Code::kUnsupported,
                  ended.message() + ": it belongs next to volumed, or in the PATH");
  }
  if (!ended) return ended.status();
  if (!ended->output.empty()) return std::move(ended->output);
  return Status(Code::kInternal,
                words[0] + " ended without an answer (" + describe_end(ended->status) + ")");
}

}  // namespace cvol::mount
