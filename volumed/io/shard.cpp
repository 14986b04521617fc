#include "volumed/io/shard.h"

#include <pthread.h>

namespace cvol::io {

Result<std::unique_ptr<Shard>> Shard::start(std::string name, UringOptions options) {
  std::unique_ptr<Shard> shard(new Shard);
  std::promise<Status> started;
  shard->thread_ = std::thread([raw = shard.get(), name, options, &started] {
    pthread_setname_np(pthread_self(), name.substr(0, 15).c_str());
    Result<std::unique_ptr<UringReactor>> reactor = UringReactor::make(options);
    if (!reactor) {
      started.set_value(reactor.status());
      return;
    }
    raw->reactor_ = std::move(*reactor);
    UringReactor* running = raw->reactor_.get();
    started.set_value(Status::ok());
    running->run();
    raw->released_.get_future().wait();  // nobody is inside post() any more
    raw->reactor_.reset();               // on its own thread
  });
  if (Status status = started.get_future().get(); !status) {
    shard->thread_.join();
    return status;
  }
  return shard;
}

static Task<void> join_then_stop(Scope* scope, UringReactor* reactor) {
  co_await scope->join();
  reactor->stop();
}

Shard::~Shard() {
  if (!thread_.joinable() || reactor_ == nullptr) {
    if (thread_.joinable()) thread_.join();
    return;
  }
  reactor_->post([this] { ending_.spawn(join_then_stop(&scope_, reactor_.get())); });
  released_.set_value();
  thread_.join();
}

void Shard::spawn(std::function<Task<void>()> make) {
  reactor_->post([this, make = std::move(make)]() mutable { scope_.spawn(run_made(make)); });
}

Task<void> Shard::run_made(std::function<Task<void>()> make) {
  co_await make();
}

}  // namespace cvol::io
