// Op: one I/O operation that a coroutine awaits.
//
// `co_await file.read(...)` builds an Op in the awaiting coroutine's frame, hands its address to
// the reactor and resumes with its result: no allocation, no virtual call but one. The result is
// the count of bytes, or a negative errno, as the kernel gives it. A read of what is in memory
// already is done at once, and the coroutine goes on without having been suspended.
#pragma once

#include <sys/socket.h>
#include <sys/uio.h>

#include <coroutine>
#include <cstdint>

namespace cvol::io {

class Reactor;
class CancelToken;

// How a file's operations are best made; File knows, the operations carry it.
enum class Access : uint8_t {
  kQueued,    // through the queue of the reactor
  kCached,    // reads look into the page cache first
  kIfCached,  // reads end with -EAGAIN if the page cache has not all of it
  kMemory     // a file system in memory (tmpfs): there is nothing to wait for
};

enum class OpKind : uint8_t {
  kReadV,    // file: iov at offset
  kWriteV,   // file: iov at offset; `durable` = on stable storage before completion
  kSync,     // file: fdatasync
  kRecv,     // socket: iov[0..count)
  kSend,     // socket: iov[0..count), all of it or an error
  kAccept,   // listener: result is the new handle
  kConnect,  // socket: to the sockaddr at `context` of `offset` bytes; result 0
  kTimer,    // `offset` is the absolute time in ns; result 0 or -ECANCELED
  kBlocking  // `call(context)` on a helper thread; result is what it returns
};

struct Op {
  Op(Reactor* owner, OpKind op_kind) : reactor(owner), kind(op_kind) {}
  Op(Reactor* owner, OpKind op_kind, int op_handle, const iovec* vectors, uint32_t vector_count,
     uint64_t at, bool durable_write, Access how = Access::kQueued)
      : reactor(owner),
        kind(op_kind),
        access(how),
        durable(durable_write),
        handle(op_handle),
        iov(vectors),
        count(vector_count),
        offset(at) {}
  // One range of memory.
  Op(Reactor* owner, OpKind op_kind, int op_handle, void* data, std::size_t bytes)
      : reactor(owner), kind(op_kind), handle(op_handle), count(1) {
    own_iov.iov_base = data;
    own_iov.iov_len = bytes;
  }
  // A timer.
  Op(Reactor* owner, OpKind op_kind, uint64_t when_ns, CancelToken* cancel)
      : reactor(owner), kind(op_kind), offset(when_ns), token(cancel) {}
  Op(const Op&) = delete;
  Op& operator=(const Op&) = delete;

  bool await_ready() const noexcept { return false; }
  // False if it was done at once.
  bool await_suspend(std::coroutine_handle<> awaiting);
  int64_t await_resume() const noexcept { return result; }

  Reactor* reactor;
  OpKind kind;
  Access access = Access::kQueued;
  bool durable = false;
  int handle = -1;
  const iovec* iov = nullptr;
  uint32_t count = 0;
  uint64_t offset = 0;
  int64_t (*call)(void*) = nullptr;
  void* context = nullptr;
  int64_t result = 0;
  std::coroutine_handle<> waiter;

  // Cancellation: linked into the token while under way.
  CancelToken* token = nullptr;
  Op* previous = nullptr;
  Op* next = nullptr;

  // For the reactor's own use.
  iovec own_iov{};
  msghdr message{};
  int64_t when[2] = {0, 0};  // seconds, nanoseconds
};

// Ends the waiting of every operation that was started with it: they complete with -ECANCELED
// (or with their real result if that came first). Once cancelled it stays so: later operations
// complete at once. One thread.
class CancelToken {
 public:
  CancelToken() = default;
  CancelToken(const CancelToken&) = delete;
  CancelToken& operator=(const CancelToken&) = delete;
  ~CancelToken();

  void cancel();
  bool cancelled() const { return cancelled_; }

 private:
  friend class Reactor;
  void link(Op& op);
  void unlink(Op& op);

  Op* first_ = nullptr;
  bool cancelled_ = false;
};

}  // namespace cvol::io
