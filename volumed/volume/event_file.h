// EventFile: events on disk, so that they outlive volumed: FOLDER/events.log, one EventRecord in
// JSON a line, and FOLDER/events.log.1, which it becomes at 4 MiB. A line that cannot be read is
// left out; nothing is synced: what a crash of the host takes is told by nobody.
//
// Threading: one thread at a time.
#pragma once

#include <string>
#include <vector>

#include "volumed/base/result.h"
#include "volumed/volume/event_log.h"

namespace cvol::volume {

class EventFile {
 public:
  static constexpr uint64_t kMostBytes = 4 * 1024 * 1024;

  explicit EventFile(std::string folder) : path_(std::move(folder) + "/events.log") {}
  ~EventFile();
  EventFile(const EventFile&) = delete;
  EventFile& operator=(const EventFile&) = delete;

  // Opens the file, or makes it. The answer: the last `most` events of both files, oldest first.
  Result<std::vector<Event>> open(std::size_t most);
  Status append(const Event& event);

 private:
  Status open_for_appending();

  const std::string path_;
  int file_ = -1;
  uint64_t bytes_ = 0;
};

}  // namespace cvol::volume
