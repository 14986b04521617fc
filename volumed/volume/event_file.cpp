#include "volumed/volume/event_file.h"

#include <cvol/v1/records.pb.h>
#include <fcntl.h>
#include <google/protobuf/util/time_util.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <fstream>

#include "volumed/meta/records.h"

namespace cvol::volume {
namespace {

using google::protobuf::util::TimeUtil;
constexpr std::size_t kMostLineBytes = 64 * 1024;

std::string to_line(const Event& event) {
  v1::EventRecord record;
  record.set_sequence(event.sequence);
  *record.mutable_time() = TimeUtil::NanosecondsToTimestamp(
      std::chrono::duration_cast<std::chrono::nanoseconds>(event.time.time_since_epoch()).count());
  record.set_kind(event.kind);
  record.set_subject(event.subject);
  record.set_message(event.message);
  record.set_node(event.node);
  return meta::encode_record(record) + "\n";
}

void read_events(const std::string& path, std::vector<Event>& events) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (line.empty() || line.size() > kMostLineBytes) continue;
    auto record = meta::parse_record<v1::EventRecord>(path, line);
    // Sequence numbers rise; a file that was put there by hand does not lead them astray.
    const uint64_t last = events.empty() ? 0 : events.back().sequence;
    if (!record || record->sequence() <= last || record->sequence() >> 62 != 0) continue;
    Event event;
    event.sequence = record->sequence();
    event.time = std::chrono::system_clock::time_point(
        std::chrono::duration_cast<std::chrono::system_clock::duration>(
            std::chrono::seconds(record->time().seconds()) +
            std::chrono::nanoseconds(record->time().nanos())));
    event.kind = record->kind();
    event.subject = record->subject();
    event.message = record->message();
    event.node = record->node();
    events.push_back(std::move(event));
  }
}

}  // namespace

EventFile::~EventFile() {
  if (file_ >= 0) ::close(file_);
}

Status EventFile::open_for_appending() {
  if (file_ >= 0) ::close(file_);
  file_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (file_ < 0) return status_from_errno(errno, "open " + path_);
  struct stat info {};
  if (::fstat(file_, &info) != 0) return status_from_errno(errno, "look at " + path_);
  bytes_ = static_cast<uint64_t>(info.st_size);
  return Status::ok();
}

Result<std::vector<Event>> EventFile::open(std::size_t most) {
  CVOL_TRY(open_for_appending());
  std::vector<Event> events;
  read_events(path_ + ".1", events);
  read_events(path_, events);
  if (events.size() > most)
    events.erase(events.begin(), events.end() - static_cast<std::ptrdiff_t>(most));
  // The last line may be cut short; what comes does not continue it.
  if (bytes_ > 0 && ::write(file_, "\n", 1) == 1) ++bytes_;
  return events;
}

Status EventFile::append(const Event& event) {
  if (bytes_ >= kMostBytes) {
    if (::rename(path_.c_str(), (path_ + ".1").c_str()) != 0)
      return status_from_errno(errno, "rename " + path_);
    CVOL_TRY(open_for_appending());
  }
  const std::string line = to_line(event);
  const ssize_t written = ::write(file_, line.data(), line.size());
  if (written < 0) return status_from_errno(errno, "write " + path_);
  bytes_ += static_cast<uint64_t>(written);
  if (static_cast<std::size_t>(written) != line.size())
    return Status(Code::kNoSpace, "write " + path_ + ": the file system is full");
  return Status::ok();
}

}  // namespace cvol::volume
