#include "volumed/volume/event_log.h"

#include "volumed/base/log.h"

namespace cvol::volume {

void EventLog::add(std::string kind, std::string subject, std::string message) {
  log::info("volume", message, {{"event", kind}, {"subject", subject}});
  std::lock_guard lock(mutex_);
  events_.push_back({++last_, std::chrono::system_clock::now(), std::move(kind), std::move(subject),
                     std::move(message)});
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
