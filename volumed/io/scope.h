// Scope: owns spawned tasks and waits for them. Every task that is not awaited in place belongs to
// one. Also Gate, Event, Semaphore: waiting inside one thread. Nothing here is thread-safe.
#pragma once

#include <coroutine>
#include <cstdint>
#include <deque>

#include "volumed/base/assert.h"
#include "volumed/base/task.h"
#include "volumed/io/reactor.h"

namespace cvol::io {

// A list of suspended coroutines, resumed through the reactor in the order of their arrival.
class WaitList {
 public:
  struct Awaiter {
    WaitList* list;
    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> handle) { list->waiting_.push_back(handle); }
    void await_resume() const noexcept {}
  };
  // Suspends until woken. Check the condition again afterwards: others may have run before.
  Awaiter wait() { return Awaiter{this}; }
  bool wake_one();
  void wake_all();
  bool empty() const { return waiting_.empty(); }
  ~WaitList() { CVOL_ASSERT(waiting_.empty()); }

 private:
  std::deque<std::coroutine_handle<>> waiting_;
};

// Lets everything else that is ready run first.
struct Yield {
  Reactor* reactor;
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> handle) const { reactor->schedule(handle); }
  void await_resume() const noexcept {}
};
inline Yield yield(Reactor& reactor) {
  return Yield{&reactor};
}

class Scope {
 public:
  Scope() = default;
  Scope(const Scope&) = delete;
  Scope& operator=(const Scope&) = delete;
  ~Scope() { CVOL_ASSERT(running_ == 0); }

  // Starts the task at once, on this thread; it runs until its first suspension.
  void spawn(Task<void> task);
  // Returns when every spawned task has ended.
  Task<void> join();
  uint64_t running() const { return running_; }

 private:
  struct Detached;
  static Detached run(Scope* scope, Task<void> task);

  uint64_t running_ = 0;
  WaitList done_;
};

// A flag that tasks wait for.
class Event {
 public:
  void set() {
    set_ = true;
    list_.wake_all();
  }
  void reset() { set_ = false; }
  bool is_set() const { return set_; }
  Task<void> wait() {
    while (!set_) co_await list_.wait();
  }

 private:
  bool set_ = false;
  WaitList list_;
};

// Counts free places; waiters are served in order.
class Semaphore {
 public:
  explicit Semaphore(uint64_t places) : free_(places) {}
  Task<void> acquire() {
    if (free_ > 0 && waiting_ == 0) {
      --free_;
      co_return;
    }
    ++waiting_;
    do {
      co_await list_.wait();
    } while (free_ == 0);
    --waiting_;
    --free_;
  }
  void release() {
    ++free_;
    list_.wake_one();
  }
  uint64_t free() const { return free_; }

 private:
  uint64_t free_;
  uint64_t waiting_ = 0;
  WaitList list_;
};

}  // namespace cvol::io
