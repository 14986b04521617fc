// Shard: a thread with a UringReactor, and the way in from other threads.
//
// The control plane talks to a shard by run(): the callable makes a task, which runs on the
// shard's thread; the caller blocks until it is done. Never called from a shard's own thread.
#pragma once

#include <future>
#include <memory>
#include <thread>
#include <type_traits>

#include "volumed/io/scope.h"
#include "volumed/io/uring_reactor.h"

namespace cvol::io {

class Shard {
 public:
  // Starts the thread. kUnsupported if the kernel's io_uring cannot do what is needed.
  static Result<std::unique_ptr<Shard>> start(std::string name, UringOptions options = {});
  // Waits for tasks of run() and spawn(), then stops the thread.
  ~Shard();

  Reactor& reactor() { return *reactor_; }

  // make() runs on the shard and returns a Task<T>; run() returns its T, which must be movable.
  template <typename T>
  T run(std::function<Task<T>()> make) {
    std::promise<T> promise;
    std::future<T> answer = promise.get_future();
    reactor_->post([this, &make, &promise] { scope_.spawn(answer_with(&make, &promise)); });
    return answer.get();
  }

  // Runs a plain function on the shard and returns what it returns.
  template <typename Function>
  auto invoke(Function function) -> std::invoke_result_t<Function> {
    using T = std::invoke_result_t<Function>;
    std::promise<T> promise;
    std::future<T> answer = promise.get_future();
    reactor_->post([&function, &promise] {
      if constexpr (std::is_void_v<T>) {
        function();
        promise.set_value();
      } else {
        promise.set_value(function());
      }
    });
    return answer.get();
  }

  // Starts a task that belongs to the shard; it must end before the shard does (see ~Shard).
  void spawn(std::function<Task<void>()> make);

 private:
  Shard() = default;

  template <typename T>
  static Task<void> answer_with(std::function<Task<T>()>* make, std::promise<T>* promise) {
    T value = co_await (*make)();
    promise->set_value(std::move(value));
  }

  static Task<void> run_made(std::function<Task<void>()> make);

  std::unique_ptr<UringReactor> reactor_;
  Scope scope_;
  Scope ending_;
  std::promise<void> released_;  // by ~Shard: the reactor may go when it has stopped
  std::thread thread_;
};

}  // namespace cvol::io
