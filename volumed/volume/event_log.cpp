#include "volumed/volume/event_log.h"

#include <iterator>

#include "volumed/base/log.h"
#include "volumed/volume/event_file.h"

namespace cvol::volume {
namespace {

// Waiting for the file; a disk that hangs must not gather them without end.
constexpr uint64_t kMostUnwritten = 4096;

}  // namespace

bool EventFilter::takes(const Event& event) const {
  return (kind.empty() || event.kind == kind) && (subject.empty() || event.subject == subject) &&
         event.time >= since;
}

EventLog::EventLog(std::size_t most) : most_(most) {}
EventLog::~EventLog() {
  writer_.reset();
}

Status EventLog::keep_in(const std::string& folder, std::string node) {
  std::lock_guard lock(mutex_);
  node_ = std::move(node);
  auto file = std::make_unique<EventFile>(folder);
  auto kept = file->open(most_);
  if (!kept) return kept.status();
  for (Event& event : events_) {  // told before
    event.sequence += kept->empty() ? 0 : kept->back().sequence;
    event.node = node_;
    kept->push_back(std::move(event));
  }
  events_.assign(std::make_move_iterator(kept->begin()), std::make_move_iterator(kept->end()));
  while (events_.size() > most_) events_.pop_front();
  if (!events_.empty()) last_ = events_.back().sequence;
  file_ = std::move(file);
  writer_ = std::make_unique<Worker>();
  return Status::ok();
}

void EventLog::add(std::string kind, std::string subject, std::string message) {
  log::info("volume", message, {{"event", kind}, {"subject", subject}});
  std::lock_guard lock(mutex_);
  events_.push_back({++last_, std::chrono::system_clock::now(), std::move(kind), std::move(subject),
                     std::move(message), node_});
  if (writer_ && unwritten_ < kMostUnwritten) {
    ++unwritten_;
    writer_->post([this, event = events_.back()] {
      const Status written = file_->append(event);
      --unwritten_;
      if (!written) log::warning("volume", "an event is not kept", {{"error", written.message()}});
    });
  }
  if (events_.size() > most_) events_.pop_front();
  added_.notify_all();
}

std::vector<Event> EventLog::after(uint64_t sequence) const {
  std::lock_guard lock(mutex_);
  std::vector<Event> found;
  for (const Event& event : events_) {
    if (event.sequence > sequence) found.push_back(event);
  }
  return found;
}

void EventLog::wait_after(uint64_t sequence, std::chrono::milliseconds time) const {
  std::unique_lock lock(mutex_);
  added_.wait_for(lock, time, [&] { return closed_ || last_ > sequence; });
}

void EventLog::close() {
  std::lock_guard lock(mutex_);
  closed_ = true;
  added_.notify_all();
}

bool EventLog::closed() const {
  std::lock_guard lock(mutex_);
  return closed_;
}

}  // namespace cvol::volume
