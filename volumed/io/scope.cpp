#include "volumed/io/scope.h"

namespace cvol::io {

bool WaitList::wake_one() {
  if (waiting_.empty()) return false;
  Reactor::current()->schedule(waiting_.front());
  waiting_.pop_front();
  return true;
}

void WaitList::wake_all() {
  while (wake_one()) {
  }
}

// A coroutine that nobody awaits: it starts at once and frees itself.
struct Scope::Detached {
  struct promise_type {
    Detached get_return_object() noexcept { return {}; }
    std::suspend_never initial_suspend() noexcept { return {}; }
    std::suspend_never final_suspend() noexcept { return {}; }
    void return_void() noexcept {}
    void unhandled_exception() noexcept { std::terminate(); }
    static void* operator new(std::size_t size) { return frame_allocate(size); }
    static void operator delete(void* frame, std::size_t size) { frame_free(frame, size); }
  };
};

Scope::Detached Scope::run(Scope* scope, Task<void> task) {
  co_await std::move(task);
  if (--scope->running_ == 0) scope->done_.wake_all();
}

void Scope::spawn(Task<void> task) {
  ++running_;
  run(this, std::move(task));
}

Task<void> Scope::join() {
  while (running_ != 0) co_await done_.wait();
}

}  // namespace cvol::io
