#include "volumed/volume/keyed_workers.h"

#include <pthread.h>

#include <utility>

#include "volumed/base/assert.h"

namespace cvol::volume {

bool KeyedWorkers::post(const std::string& key, Job job) {
  std::lock_guard lock(mutex_);
  if (stopping_) return false;
  const auto [queue, fresh] = queues_.try_emplace(key);
  queue->second.push_back(std::move(job));
  if (!fresh) return true;  // whoever runs this key goes on with it
  ready_.push_back(key);
  if (ready_.size() > idle_ && threads_.size() < most_threads_) {
    threads_.emplace_back([this] { run(); });
  } else {
    wake_.notify_one();
  }
  return true;
}

void KeyedWorkers::stop() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    wake_.notify_all();
  }
  for (std::thread& thread : threads_) {
    if (thread.joinable()) thread.join();
  }
}

void KeyedWorkers::run() {
  ::pthread_setname_np(::pthread_self(), "cvol-worker");  // a shard may have made it
  std::unique_lock lock(mutex_);
  while (true) {
    ++idle_;
    wake_.wait(lock, [this] { return stopping_ || !ready_.empty(); });
    --idle_;
    if (ready_.empty()) return;
    const std::string key = std::move(ready_.front());
    ready_.pop_front();
    const auto queue = queues_.find(key);
    CVOL_ASSERT(queue != queues_.end() && !queue->second.empty());
    Job job = std::move(queue->second.front());
    queue->second.pop_front();
    lock.unlock();
    job();
    job = nullptr;  // what it holds may post
    lock.lock();
    if (queue->second.empty()) {
      queues_.erase(queue);
    } else {
      ready_.push_back(key);  // taken by this thread, if by no other
    }
  }
}

}  // namespace cvol::volume
