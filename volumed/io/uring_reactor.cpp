#include "volumed/io/uring_reactor.h"

#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <ctime>
#include <thread>

#include "volumed/base/assert.h"
#include "volumed/base/descriptors.h"
#include "volumed/base/log.h"

namespace cvol::io {
namespace {

// user_data of completions that belong to no Op.
constexpr uint64_t kIgnored = 0;
constexpr uint64_t kWakeup = 1;
// Rounds over what is ready before the kernel is asked again: what one completion sets off is
// mostly done by then, and its operations go to the kernel together.
constexpr int kMostRounds = 8;
// Operations done at once in one turn of the loop; more go to the end of the queue.
constexpr uint32_t kMostDoneNow = 64;

// Until operations on files that met a shortage are made again.
constexpr auto kShortagePause = std::chrono::milliseconds(10);

uint64_t bytes_of(const Op& op) {
  uint64_t bytes = 0;
  for (uint32_t i = 0; i < op.count; ++i) bytes += op.iov[i].iov_len;
  return bytes;
}

// A reply of 1 MiB goes into a unix socket in one piece, not in five with a wake-up of both sides
// for each. TCP finds its own size.
void widen(int handle) {
  int domain = 0;
  socklen_t length = sizeof domain;
  if (getsockopt(handle, SOL_SOCKET, SO_DOMAIN, &domain, &length) != 0 || domain != AF_UNIX) return;
  const int bytes = 1 << 20;
  if (setsockopt(handle, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof bytes) != 0)
    setsockopt(handle, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
}

}  // namespace

UringReactor::UringReactor(UringOptions options)
    : random_(Random::from_system()), helpers_(options.helper_threads) {}

Result<std::unique_ptr<UringReactor>> UringReactor::make(UringOptions options) {
  std::unique_ptr<UringReactor> reactor(new UringReactor(options));
  io_uring_params params{};
  params.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_CQSIZE |
                 IORING_SETUP_CLAMP;
  params.cq_entries = options.entries * 4;
  const int error = io_uring_queue_init_params(options.entries, &reactor->ring_, &params);
  if (error < 0) {
    return Status(
        Code::kUnsupported,
        status_from_errno(-error, "set up io_uring").message() +
            "; cvol needs Linux 6.1 or newer with io_uring allowed "
            "(sysctl kernel.io_uring_disabled=0, and in the container's seccomp profile)");
  }
  reactor->ring_made_ = true;
  io_uring_register_ring_fd(&reactor->ring_);  // spares a look-up at every entry; may fail
  reactor->wake_fd_ = eventfd(0, EFD_CLOEXEC);
  if (reactor->wake_fd_ < 0) return status_from_errno(errno, "make an eventfd");
  set_current(reactor.get());
  reactor->watch_wakeups();
  return reactor;
}

UringReactor::~UringReactor() {
  CVOL_ASSERT(under_way_ == 0 && ready_.empty());
  helpers_.join();  // a helper may still be inside post()
  if (ring_made_) io_uring_queue_exit(&ring_);
  if (wake_fd_ >= 0) ::close(wake_fd_);
  if (current() == this) set_current(nullptr);
}

Nanoseconds UringReactor::now() const {
  timespec ts{};
  clock_gettime(CLOCK_BOOTTIME, &ts);
  return ts.tv_sec * kSecond + ts.tv_nsec;
}

void UringReactor::run() {
  set_current(this);
  while (!stopping_) turn();
  CVOL_ASSERT(under_way_ == 0);
}

namespace {
Task<void> then_stop(Task<void> task, UringReactor* reactor) {
  co_await std::move(task);
  reactor->stop();
}
}  // namespace

void UringReactor::run_until_done(Task<void> task) {
  struct Root {
    struct promise_type {
      Root get_return_object() noexcept { return {}; }
      std::suspend_never initial_suspend() noexcept { return {}; }
      std::suspend_never final_suspend() noexcept { return {}; }
      void return_void() noexcept {}
      void unhandled_exception() noexcept { std::terminate(); }
    };
    static Root start(Task<void> inner) { co_await std::move(inner); }
  };
  set_current(this);
  stopping_ = false;
  Root::start(then_stop(std::move(task), this));
  run();
}

void UringReactor::stop() {
  post([this] { stopping_ = true; });
}

void UringReactor::post(std::function<void()> work) {
  {
    std::lock_guard lock(mutex_);
    posted_.push_back(std::move(work));
    has_posted_.store(true, std::memory_order_relaxed);
  }
  // Pairs with turn(): either the loop sees has_posted_, or this sees that it sleeps.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (sleeping_.load(std::memory_order_relaxed)) wake();
}

void UringReactor::wake() {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = ::write(wake_fd_, &one, sizeof one);
}

void UringReactor::watch_wakeups() {
  io_uring_sqe* sqe = next_sqe();
  io_uring_prep_read(sqe, wake_fd_, &wake_count_, sizeof wake_count_, 0);
  io_uring_sqe_set_data64(sqe, kWakeup);
}

void UringReactor::turn() {
  run_posted();
  done_now_ = 0;
  for (int round = 0; round < kMostRounds && !ready_.empty() && !stopping_; ++round) run_ready();
  if (stopping_) return;
  if (!ready_.empty()) {
    io_uring_submit_and_get_events(&ring_);
    reap();
    return;
  }
  sleeping_.store(true, std::memory_order_relaxed);
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (has_posted_.load(std::memory_order_relaxed)) {
    io_uring_submit_and_get_events(&ring_);
  } else {
    io_uring_submit_and_wait(&ring_, 1);
  }
  sleeping_.store(false, std::memory_order_relaxed);
  reap();
}

void UringReactor::run_posted() {
  if (!has_posted_.load(std::memory_order_relaxed)) return;
  std::vector<std::function<void()>> work;
  {
    std::lock_guard lock(mutex_);
    work.swap(posted_);
    has_posted_.store(false, std::memory_order_relaxed);
  }
  for (auto& call : work) call();
}

void UringReactor::run_ready() {
  // Only those that are ready now, so that completions get their turn.
  for (std::size_t left = ready_.size(); left > 0; --left) {
    std::coroutine_handle<> handle = ready_.front();
    ready_.pop_front();
    handle.resume();
  }
}

void UringReactor::reap() {
  io_uring_cqe* batch[64];
  unsigned count = 0;
  while ((count = io_uring_peek_batch_cqe(&ring_, batch, 64)) > 0) {
    for (unsigned i = 0; i < count; ++i) {
      const uint64_t data = io_uring_cqe_get_data64(batch[i]);
      const int64_t result = batch[i]->res;
      if (data == kWakeup) {
        watch_wakeups();
      } else if (data != kIgnored) {
        complete(*reinterpret_cast<Op*>(data), result);
      }
    }
    io_uring_cq_advance(&ring_, count);
  }
}

void UringReactor::complete(Op& op, int64_t result) {
  if (is_made_again(op, result)) return;
  --under_way_;
  if (op.kind == OpKind::kTimer && result == -ETIME) result = 0;
  if (op.kind == OpKind::kAccept && result >= 0) widen(static_cast<int>(result));
  op.result = result;
  finish(op);
  op.waiter.resume();
}

io_uring_sqe* UringReactor::next_sqe() {
  io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
  while (sqe == nullptr) {
    io_uring_submit(&ring_);
    sqe = io_uring_get_sqe(&ring_);
  }
  return sqe;
}

// Makes a file operation by a plain call, if that cannot wait for a device. False: it must go
// through the ring.
bool UringReactor::do_now(Op& op) {
  const int count = static_cast<int>(op.count);
  const auto offset = static_cast<off_t>(op.offset);
  ssize_t done = 0;
  if (op.kind == OpKind::kReadV) {
    if (op.access != Access::kMemory) {
      done = preadv2(op.handle, op.iov, count, offset, RWF_NOWAIT);
      const bool whole = done >= 0 && static_cast<uint64_t>(done) == bytes_of(op);
      if (!whole && op.access == Access::kCached) return false;
      op.result = whole ? done : -EAGAIN;
      return true;
    } else {
      done = preadv(op.handle, op.iov, count, offset);
    }
  } else if (op.access != Access::kMemory) {
    return false;
  } else if (op.kind == OpKind::kWriteV) {
    done = pwritev(op.handle, op.iov, count, offset);
  }  // a sync has nothing to do
  op.result = done < 0 ? -errno : done;
  return true;
}

bool UringReactor::submit(Op& op) {
  if (op.access != Access::kQueued && do_now(op)) {
    const bool go_on = op.kind == OpKind::kReadV && ++done_now_ < kMostDoneNow;
    if (!go_on) schedule(op.waiter);
    return !go_on;
  }
  ++under_way_;
  if (op.kind == OpKind::kBlocking) {
    helpers_.run([this, &op] {
      const int64_t result = op.call(op.context);
      post([this, &op, result] { complete(op, result); });
    });
    return true;
  }
  enqueue(op);
  return true;
}

void UringReactor::enqueue(Op& op) {
  io_uring_sqe* sqe = next_sqe();
  switch (op.kind) {
    case OpKind::kReadV:
      io_uring_prep_readv(sqe, op.handle, op.iov, op.count, op.offset);
      break;
    case OpKind::kWriteV:
      io_uring_prep_writev2(sqe, op.handle, op.iov, op.count, op.offset,
                            op.durable ? RWF_DSYNC : 0);
      break;
    case OpKind::kSync:
      io_uring_prep_fsync(sqe, op.handle, IORING_FSYNC_DATASYNC);
      break;
    case OpKind::kRecv:
      if (op.count == 1) {
        io_uring_prep_recv(sqe, op.handle, op.iov->iov_base, op.iov->iov_len, 0);
      } else {
        op.message.msg_iov = const_cast<iovec*>(op.iov);
        op.message.msg_iovlen = op.count;
        io_uring_prep_recvmsg(sqe, op.handle, &op.message, 0);
      }
      break;
    case OpKind::kSend:
      if (op.count == 1) {
        io_uring_prep_send(sqe, op.handle, op.iov->iov_base, op.iov->iov_len,
                           MSG_NOSIGNAL | MSG_WAITALL);
      } else {
        op.message.msg_iov = const_cast<iovec*>(op.iov);
        op.message.msg_iovlen = op.count;
        io_uring_prep_sendmsg(sqe, op.handle, &op.message, MSG_NOSIGNAL | MSG_WAITALL);
      }
      break;
    case OpKind::kAccept:
      io_uring_prep_accept(sqe, op.handle, nullptr, nullptr, SOCK_CLOEXEC);
      break;
    case OpKind::kConnect:
      io_uring_prep_connect(sqe, op.handle, static_cast<const sockaddr*>(op.context),
                            static_cast<socklen_t>(op.offset));
      break;
    case OpKind::kTimer: {
      op.when[0] = static_cast<int64_t>(op.offset) / kSecond;
      op.when[1] = static_cast<int64_t>(op.offset) % kSecond;
      static_assert(sizeof(__kernel_timespec) == sizeof op.when);
      io_uring_prep_timeout(sqe, reinterpret_cast<__kernel_timespec*>(op.when), 0,
                            IORING_TIMEOUT_ABS | IORING_TIMEOUT_BOOTTIME);
      break;
    }
    case OpKind::kBlocking:
      break;
  }
  io_uring_sqe_set_data64(sqe, reinterpret_cast<uint64_t>(&op));
}

// Memory of the kernel's, or descriptors, are short. That passes, and says nothing of the disk: the
// operation is made again (files take the same bytes at the same place once more).
bool UringReactor::is_made_again(Op& op, int64_t result) {
  const bool of_file =
      op.kind == OpKind::kReadV || op.kind == OpKind::kWriteV || op.kind == OpKind::kSync;
  if (!of_file || result >= 0 || !means_shortage(static_cast<int>(-result))) return false;
  again_.push_back(&op);
  if (again_.size() > 1) return true;  // the pause is under way
  helpers_.run([this] {
    std::this_thread::sleep_for(kShortagePause);
    post([this] {
      std::vector<Op*> ops;
      ops.swap(again_);
      for (Op* again : ops) enqueue(*again);
    });
  });
  return true;
}

void UringReactor::cancel(Op& op) {
  if (op.kind == OpKind::kBlocking) return;
  io_uring_sqe* sqe = next_sqe();
  if (op.kind == OpKind::kTimer) {
    io_uring_prep_timeout_remove(sqe, reinterpret_cast<uint64_t>(&op), 0);
  } else {
    io_uring_prep_cancel64(sqe, reinterpret_cast<uint64_t>(&op), 0);
  }
  io_uring_sqe_set_data64(sqe, kIgnored);
}

}  // namespace cvol::io
