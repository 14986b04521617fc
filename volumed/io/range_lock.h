// RangeLock: orders overlapping operations on one volume.
//
// Writers of overlapping blocks go one after another, in the order in which they came; a reader
// waits for the writers of its blocks that came before it (rule R6). A later writer does not wait
// for readers: a block that is read while it is written is either the old or the new one.
//
// Threading: one thread. Guards live in coroutine frames and do not move. Nothing is allocated
// but the array of what is under way, which grows to the most that was ever under way at once.
#pragma once

#include <coroutine>
#include <cstdint>
#include <vector>

#include "volumed/base/assert.h"

namespace cvol::io {

class RangeLock {
 public:
  // One operation's claim on bytes [begin, end). co_await it once, then work; released when it is
  // destroyed.
  class Guard {
   public:
    Guard(const Guard&) = delete;
    Guard& operator=(const Guard&) = delete;
    ~Guard() {
      CVOL_ASSERT(blockers_ == 0);
      if (registered_) lock_.release(*this);
    }

    bool await_ready() const noexcept { return blockers_ == 0; }
    void await_suspend(std::coroutine_handle<> waiter) noexcept { waiter_ = waiter; }
    void await_resume() noexcept { CVOL_ASSERT(blockers_ == 0); }

   protected:
    Guard(RangeLock& lock, uint64_t begin, uint64_t end, bool writes)
        : lock_(lock), begin_(begin), end_(end), writes_(writes) {
      CVOL_ASSERT(begin < end);
      lock_.claim(*this);
    }

   private:
    friend class RangeLock;
    RangeLock& lock_;
    uint64_t begin_;
    uint64_t end_;
    uint64_t ticket_ = 0;
    uint32_t blockers_ = 0;  // earlier writers of these bytes that are not done
    uint32_t index_ = 0;     // in claims_, if registered
    bool writes_;
    bool registered_ = false;
    std::coroutine_handle<> waiter_;
  };

  class Write : public Guard {
   public:
    Write(RangeLock& lock, uint64_t begin, uint64_t end) : Guard(lock, begin, end, true) {}
  };
  class Read : public Guard {
   public:
    Read(RangeLock& lock, uint64_t begin, uint64_t end) : Guard(lock, begin, end, false) {}
  };

  RangeLock() = default;
  RangeLock(const RangeLock&) = delete;
  RangeLock& operator=(const RangeLock&) = delete;
  ~RangeLock() { CVOL_ASSERT(claims_.empty()); }

  // Writers under way or waiting, and readers that wait.
  std::size_t claims() const { return claims_.size(); }

 private:
  // Side by side in memory: the scan for overlaps touches nothing else.
  struct Claim {
    uint64_t begin;
    uint64_t end;
    Guard* guard;
    bool writes;
  };

  void claim(Guard& guard) {
    for (const Claim& other : claims_) {
      if (other.begin < guard.end_ && guard.begin_ < other.end && other.writes) ++guard.blockers_;
    }
    if (!guard.writes_ && guard.blockers_ == 0) return;  // free readers are not remembered
    if (guard.blockers_ > 0) ++waiting_;
    guard.ticket_ = ++tickets_;
    guard.index_ = static_cast<uint32_t>(claims_.size());
    guard.registered_ = true;
    claims_.push_back({guard.begin_, guard.end_, &guard, guard.writes_});
  }

  void release(Guard& guard) {
    CVOL_ASSERT(claims_[guard.index_].guard == &guard);
    claims_[guard.index_] = claims_.back();
    claims_[guard.index_].guard->index_ = guard.index_;
    claims_.pop_back();
    if (guard.writes_ && waiting_ > 0) wake_followers(guard);
  }

  void wake_followers(const Guard& gone);

  std::vector<Claim> claims_;
  uint64_t tickets_ = 0;
  uint64_t waiting_ = 0;  // claims with blockers
};

}  // namespace cvol::io
