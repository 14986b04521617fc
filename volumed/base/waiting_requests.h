// WaitingRequests: how many requests of a volume are under way, and since when the oldest of them.
//
// Threading: marks are made and unmade by any thread, usually one; the numbers are read by any.
// Cost: two short locks for each request, which nobody contends for.
#pragma once

#include <cstdint>
#include <mutex>

namespace cvol {

class WaitingRequests {
 public:
  // A request, for as long as the mark lives. It does not move, and the book outlives it.
  class Mark {
   public:
    // `now`: nanoseconds of CLOCK_BOOTTIME, or of the simulator's clock; from 1.
    Mark(WaitingRequests& book, int64_t now) : book_(book), since_(now) {
      std::lock_guard lock(book_.mutex_);
      previous_ = book_.newest_;
      (previous_ != nullptr ? previous_->next_ : book_.oldest_) = this;
      book_.newest_ = this;
      ++book_.count_;
    }
    ~Mark() {
      std::lock_guard lock(book_.mutex_);
      (previous_ != nullptr ? previous_->next_ : book_.oldest_) = next_;
      (next_ != nullptr ? next_->previous_ : book_.newest_) = previous_;
      --book_.count_;
    }
    Mark(const Mark&) = delete;
    Mark& operator=(const Mark&) = delete;

   private:
    friend class WaitingRequests;
    WaitingRequests& book_;
    const int64_t since_;
    Mark* previous_ = nullptr;
    Mark* next_ = nullptr;
  };

  struct Look {
    uint64_t count = 0;
    int64_t oldest_since = 0;  // 0: there is none
  };
  Look look() const {
    std::lock_guard lock(mutex_);
    return {count_, oldest_ == nullptr ? 0 : oldest_->since_};
  }

 private:
  mutable std::mutex mutex_;
  Mark* oldest_ = nullptr;
  Mark* newest_ = nullptr;
  uint64_t count_ = 0;
};

}  // namespace cvol
