// What this node has shown at which path, kept beside the record: a node that lost its attachment
// while it was down finds nothing of it in the record any more, and must still take away what is
// its own, and nothing else, when its orchestrator asks.
//
// DATA_DIR/shown/VOLUME_ID: a path per line. Written before a path is used.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "volumed/volume/hosted.h"

namespace cvol::volume {
namespace {

std::vector<std::string> read_lines(const std::string& path) {
  std::vector<std::string> lines;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (!line.empty()) lines.push_back(line);
  }
  return lines;
}

Status write_lines(const std::string& path, const std::vector<std::string>& lines) {
  if (lines.empty()) {
    ::unlink(path.c_str());
    return Status::ok();
  }
  std::string text;
  for (const std::string& line : lines) text += line + "\n";
  const std::string fresh = path + ".new";
  const int file = ::open(fresh.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (file < 0) return status_from_errno(errno, "create " + fresh);
  const bool written =
      ::write(file, text.data(), text.size()) == static_cast<ssize_t>(text.size()) &&
      ::fsync(file) == 0;
  const int error = errno;
  ::close(file);
  if (!written) return status_from_errno(error, "write " + fresh);
  if (::rename(fresh.c_str(), path.c_str()) != 0)
    return status_from_errno(errno, "rename " + fresh);
  return Status::ok();
}

}  // namespace

std::string VolumeManager::shown_file(const Hosted& hosted) const {
  return options_.data_dir + "/shown/" + hosted.id;
}

// The caller holds hosted.operation, as for the next ones.
Status VolumeManager::note_shown(const Hosted& hosted, const std::string& target) {
  if (target.find('\n') != std::string::npos)
    return Status(Code::kInvalidArgument, "a target has no line breaks");
  std::error_code error;
  std::filesystem::create_directories(options_.data_dir + "/shown", error);
  if (error) return status_from_errno(error.value(), "create " + options_.data_dir + "/shown");
  std::vector<std::string> lines = read_lines(shown_file(hosted));
  if (std::find(lines.begin(), lines.end(), target) != lines.end()) return Status::ok();
  lines.push_back(target);
  return write_lines(shown_file(hosted), lines);
}

bool VolumeManager::was_shown(const Hosted& hosted, const std::string& target) const {
  const std::vector<std::string> lines = read_lines(shown_file(hosted));
  return std::find(lines.begin(), lines.end(), target) != lines.end();
}

void VolumeManager::forget_shown(const Hosted& hosted, const std::string& target) {
  std::vector<std::string> lines = read_lines(shown_file(hosted));
  if (std::erase(lines, target) > 0) (void)write_lines(shown_file(hosted), lines).is_ok();
}

}  // namespace cvol::volume
