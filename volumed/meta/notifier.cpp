#include "volumed/meta/notifier.h"

#include <algorithm>

namespace cvol::meta {

struct Notifier::Watcher {
  std::string prefix;
  WatchCallback callback;
};

class Notifier::Handle final : public Watch {
 public:
  Handle(Notifier& notifier, std::shared_ptr<Watcher> watcher)
      : notifier_(notifier), watcher_(std::move(watcher)) {}
  ~Handle() override { notifier_.remove(watcher_.get()); }

 private:
  Notifier& notifier_;
  std::shared_ptr<Watcher> watcher_;
};

Notifier::Notifier(std::function<void(LeaseId)> end_lease) : end_lease_(std::move(end_lease)) {}

Notifier::~Notifier() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    wake_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
}

void Notifier::start_thread() {
  if (!thread_.joinable()) thread_ = std::thread([this] { run(); });
}

std::unique_ptr<Watch> Notifier::watch(std::string prefix, WatchCallback callback) {
  auto watcher = std::make_shared<Watcher>(Watcher{std::move(prefix), std::move(callback)});
  std::lock_guard lock(mutex_);
  watchers_.push_back(watcher);
  start_thread();
  return std::make_unique<Handle>(*this, std::move(watcher));
}

void Notifier::remove(Watcher* watcher) {
  std::unique_lock lock(mutex_);
  watchers_.remove_if([&](const auto& entry) { return entry.get() == watcher; });
  delivered_.wait(lock, [&] { return calling_ != watcher; });
}

void Notifier::publish(std::vector<WatchEvent> events) {
  std::lock_guard lock(mutex_);
  if (watchers_.empty()) return;
  queue_.push_back(std::move(events));
  wake_.notify_one();
}

LeaseId Notifier::grant(std::chrono::milliseconds time) {
  std::lock_guard lock(mutex_);
  leases_[++last_lease_] = Lease{time, Clock::now() + time};
  start_thread();
  wake_.notify_one();
  return last_lease_;
}

bool Notifier::keep_alive(LeaseId lease) {
  std::lock_guard lock(mutex_);
  const auto found = leases_.find(lease);
  if (found == leases_.end()) return false;
  found->second.ends = Clock::now() + found->second.time;
  return true;
}

bool Notifier::has_lease(LeaseId lease) {
  std::lock_guard lock(mutex_);
  return leases_.contains(lease);
}

bool Notifier::drop_lease(LeaseId lease) {
  std::lock_guard lock(mutex_);
  return leases_.erase(lease) > 0;
}

void Notifier::run() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    if (!queue_.empty()) {
      deliver(lock);
      continue;
    }
    end_due_leases(lock);
    if (stopping_ || !queue_.empty()) continue;
    const auto soonest = std::min_element(
        leases_.begin(), leases_.end(),
        [](const auto& a, const auto& b) { return a.second.ends < b.second.ends; });
    if (soonest == leases_.end()) {
      wake_.wait(lock);
    } else {
      const Clock::time_point until = soonest->second.ends;
      wake_.wait_until(lock, until);
    }
  }
}

void Notifier::deliver(std::unique_lock<std::mutex>& lock) {
  const std::vector<WatchEvent> events = std::move(queue_.front());
  queue_.pop_front();
  const std::vector<std::shared_ptr<Watcher>> watchers(watchers_.begin(), watchers_.end());
  for (const auto& watcher : watchers) {
    if (std::find(watchers_.begin(), watchers_.end(), watcher) == watchers_.end()) continue;
    std::vector<WatchEvent> matching;
    for (const WatchEvent& event : events) {
      if (event.key.starts_with(watcher->prefix)) matching.push_back(event);
    }
    if (matching.empty()) continue;
    calling_ = watcher.get();
    lock.unlock();
    watcher->callback(matching);
    lock.lock();
    calling_ = nullptr;
    delivered_.notify_all();
  }
}

void Notifier::end_due_leases(std::unique_lock<std::mutex>& lock) {
  const Clock::time_point now = Clock::now();
  std::vector<LeaseId> due;
  for (const auto& [id, lease] : leases_) {
    if (lease.ends <= now) due.push_back(id);
  }
  for (LeaseId id : due) leases_.erase(id);
  lock.unlock();
  for (LeaseId id : due) end_lease_(id);
  lock.lock();
}

}  // namespace cvol::meta
