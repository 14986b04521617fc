#include "volumed/api/job_gate.h"

#include <system_error>
#include <thread>
#include <utility>

namespace cvol::api {
namespace {

Status too_much(const std::string& key) {
  return Status(Code::kBusy,
                "several operations on '" + key +
                    "' wait already; try again when they have ended ('cvol status' says what "
                    "they wait for)");
}

}  // namespace

JobGate::~JobGate() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return running_ == 0 && callers_ == 0; });
}

uint64_t JobGate::running() const {
  std::lock_guard lock(mutex_);
  return running_;
}

Status JobGate::run(const std::string& key, Turns turns, std::function<void()> work,
                    const std::function<Status()>& leave) {
  std::unique_lock lock(mutex_);
  CVOL_TRY(enter(lock, key, turns, leave));
  auto job = std::make_shared<Job>();
  Status status = Status::ok();
  if (start(key, turns, std::move(work), job)) {
    while (!job->done && status.is_ok()) {
      changed_.wait_for(lock, limits_.look, [&] { return job->done; });
      if (job->done) break;
      lock.unlock();
      status = leave();
      lock.lock();
    }
    if (job->done) status = Status::ok();
  } else {
    leave_key(key, turns == Turns::kByKey);
    status = Status(Code::kBusy, "no thread is to be had for the operation; try again");
  }
  --callers_;
  changed_.notify_all();
  return status;
}

// Counts a caller and a job of the key; with its turn, if it takes one.
Status JobGate::enter(std::unique_lock<std::mutex>& lock, const std::string& key, Turns turns,
                      const std::function<Status()>& leave) {
  if (callers_ >= limits_.callers || running_ >= limits_.jobs)
    return Status(Code::kBusy,
                  "too many operations of this volumed wait already; try again when some of them "
                  "have ended ('cvol status' says what they wait for)");
  Key& entry = keys_[key];
  if (entry.jobs >= limits_.jobs_per_key) return too_much(key);
  ++entry.jobs;
  ++callers_;
  if (turns == Turns::kNone) return Status::ok();
  const Status turn = wait_for_turn(lock, key, leave);
  if (turn.is_ok()) return turn;
  leave_key(key, false);
  --callers_;
  changed_.notify_all();
  return turn;
}

Status JobGate::wait_for_turn(std::unique_lock<std::mutex>& lock, const std::string& key,
                              const std::function<Status()>& leave) {
  const auto until = std::chrono::steady_clock::now() + limits_.turn;
  Key& entry = keys_[key];  // stays: this job is counted in it
  while (entry.taken) {
    changed_.wait_for(lock, limits_.look, [&] { return !entry.taken; });
    if (!entry.taken) break;
    if (std::chrono::steady_clock::now() >= until)
      return Status(Code::kBusy, "another operation on '" + key +
                                     "' is under way; try again when it has ended ('cvol status' "
                                     "says what it waits for)");
    lock.unlock();
    Status left = leave();
    lock.lock();
    if (!left) return left;
  }
  entry.taken = true;
  return Status::ok();
}

void JobGate::leave_key(const std::string& key, bool had_turn) {
  const auto at = keys_.find(key);
  if (had_turn) at->second.taken = false;
  if (--at->second.jobs == 0) keys_.erase(at);
}

// The caller holds mutex_. False: there are no threads.
bool JobGate::start(const std::string& key, Turns turns, std::function<void()> work,
                    const std::shared_ptr<Job>& job) {
  ++running_;
  try {
    std::thread([this, key, turns, work = std::move(work), job]() mutable {
      work();
      work = nullptr;  // what it holds goes before the gate may
      std::lock_guard lock(mutex_);
      job->done = true;
      leave_key(key, turns == Turns::kByKey);
      --running_;
      changed_.notify_all();
    }).detach();
  } catch (const std::system_error&) {
    --running_;
    return false;
  }
  return true;
}

}  // namespace cvol::api
