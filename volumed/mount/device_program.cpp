#include "volumed/mount/device_program.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <thread>

#include "volumed/base/log.h"
#include "volumed/mount/program.h"

namespace cvol::mount {
namespace {

constexpr char kProgram[] = "cvol-device";
constexpr Code kCodes[] = {Code::kInvalidArgument,
                           Code::kNotFound,
                           Code::kAlreadyExists,
                           Code::kFailedPrecondition,
                           Code::kBusy,
                           Code::kNoSpace,
                           Code::kDamaged,
                           Code::kUnsupported,
                           Code::kPermission,
                           Code::kIo,
                           Code::kUnavailable,
                           Code::kCancelled,
                           Code::kInternal};

std::string find_program() {
  std::error_code error;
  std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", error);
  std::string beside = self.parent_path() / kProgram;
  return access(beside.c_str(), X_OK) == 0 ? beside : kProgram;
}

bool is_locked(const std::string& path) {
  int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return false;
  bool locked = flock(file, LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK;
  close(file);
  return locked;
}

// Volumes with a step under way, "a, b"; "" if there is none.
std::string locked_volumes(const std::string& lock_dir) {
  std::string names;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(lock_dir, error)) {
    if (!is_locked(entry.path())) continue;
    names += (names.empty() ? "" : ", ") + entry.path().filename().string();
  }
  return names;
}

}  // namespace

DeviceProgram::DeviceProgram(std::string lock_dir)
    : lock_dir_(std::move(lock_dir)), program_(find_program()) {}

Result<std::string> DeviceProgram::run(const std::string& volume,
                                       const std::vector<std::string>& words) const {
  CVOL_ASSERT(!words.empty());
  std::error_code error;
  std::filesystem::create_directories(lock_dir_, error);
  if (error) return Status(Code::kIo, "create " + lock_dir_ + ": " + error.message());
  std::vector<std::string> command = {program_, volume.empty() ? "" : lock_dir_ + "/" + volume};
  command.insert(command.end(), words.begin(), words.end());
  Result<std::string> line = run_for_answer(command);
  if (!line) return line.status();
  return decode_answer(*line);
}

bool DeviceProgram::wait_for_earlier_steps(std::chrono::milliseconds most) const {
  auto end = std::chrono::steady_clock::now() + most;
  for (;;) {
    std::string volumes = locked_volumes(lock_dir_);
    if (volumes.empty()) return true;
    if (std::chrono::steady_clock::now() >= end) {
      log::warning("mount", "steps that an earlier volumed began are still under way",
                   {{"volumes", volumes}});
      return false;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
}

std::string encode_answer(const Result<std::string>& answer) {
  std::string line =
      answer ? "ok " + *answer : std::string(code_name(answer.code())) + " " + answer.message();
  std::replace(line.begin(), line.end(), '\n', ' ');
  return line + "\n";
}

Result<std::string> decode_answer(std::string_view line) {
  while (!line.empty() && (line.back() == '\n' || line.back() == ' ')) line.remove_suffix(1);
  std::size_t space = line.find(' ');
  std::string_view name = line.substr(0, space);
  std::string text(space == std::string_view::npos ? "" : line.substr(space + 1));
  if (name == code_name(Code::kOk)) return text;
  for (Code code : kCodes) {
    if (name == code_name(code)) return Status(code, text);
  }
  return Status(Code::kInternal, "cvol-device ended without an answer: " + std::string(line));
}

}  // namespace cvol::mount
