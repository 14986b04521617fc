// Reactor: where coroutines run, and the only door to clocks, files, sockets, chance and threads.
//
// Two implementations: UringReactor (uring_reactor.h: io_uring, one per shard thread) and
// SimReactor (sim/sim_reactor.h: virtual time, in-memory disks and network, faults from a seed).
// Code above this header reads no clock, socket, file, random source or thread except through it.
//
// Threading: everything on the reactor's own thread, except post(), which any thread may call.
#pragma once

#include <coroutine>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "volumed/base/random.h"
#include "volumed/base/result.h"
#include "volumed/base/task.h"
#include "volumed/io/file_space.h"
#include "volumed/io/op.h"

namespace cvol::io {

using Nanoseconds = int64_t;
constexpr Nanoseconds kMicrosecond = 1000;
constexpr Nanoseconds kMillisecond = 1000 * kMicrosecond;
constexpr Nanoseconds kSecond = 1000 * kMillisecond;

struct OpenOptions {
  bool create = false;     // must not exist before
  bool direct = true;      // O_DIRECT where the file system has it
  bool exclusive = false;  // flock; kBusy if another process holds it
  bool read_only = false;
  bool cached = false;  // instead of `direct`: reads may be served from the page cache
};

class Reactor;

// An open file. Closed by the destructor; no operation may be under way then. Memory, offset and
// length of reads and writes are 4 KiB aligned (O_DIRECT).
class File {
 public:
  File() = default;
  File(Reactor* reactor, int handle, Access access = Access::kQueued)
      : reactor_(reactor), handle_(handle), access_(access) {}
  File(File&& other) noexcept;
  File& operator=(File&& other) noexcept;
  ~File() { close(); }

  bool is_open() const { return handle_ >= 0; }
  int handle() const { return handle_; }
  void close();

  // Vectors stay valid until completion. Results: bytes moved (short only at the end of file for
  // reads; short writes are reported as they are), or -errno.
  Op readv(const iovec* iov, uint32_t count, uint64_t offset) const;
  Op writev(const iovec* iov, uint32_t count, uint64_t offset, bool durable) const;
  // Of a file opened with `cached`: at once, or -EAGAIN if the page cache does not have all of it.
  Op readv_if_cached(const iovec* iov, uint32_t count, uint64_t offset) const;
  // fdatasync. After an error the file must not be trusted or synced again.
  Op sync() const;

  // Blocking, for set-up and for the helper pool; on a regular file only.
  Result<uint64_t> size() const;
  Status resize(uint64_t bytes) const;
  // Reserves space for [0, bytes) and makes the file at least that long. kNoSpace if it cannot.
  // kUnsupported if the file system cannot reserve.
  Status allocate(uint64_t bytes) const;
  // The space of a part of the file, see file_space.h: which of it is not the file's own, making it
  // so, giving it back. May take long.
  Result<SpaceMap> map_space(FileRange range) const;
  Result<uint64_t> own(FileRange range) const;
  Status punch(FileRange range) const;

 private:
  Reactor* reactor_ = nullptr;
  int handle_ = -1;
  Access access_ = Access::kQueued;
};

// A connected stream socket (TCP or unix).
class Stream {
 public:
  Stream() = default;
  Stream(Reactor* reactor, int handle) : reactor_(reactor), handle_(handle) {}
  Stream(Stream&& other) noexcept;
  Stream& operator=(Stream&& other) noexcept;
  ~Stream() { close(); }

  bool is_open() const { return handle_ >= 0; }
  int handle() const { return handle_; }
  // Gives the handle away, for another reactor.
  int release();
  void close();
  // Ends both directions: receives and sends under way complete.
  void shutdown() const;

  // Result: bytes received (0 = end of stream) or -errno.
  Op recv(void* into, std::size_t bytes) const;
  Op recvv(const iovec* iov, uint32_t count) const;
  // Sends everything, or fails. Result: bytes, or -errno.
  Op sendv(const iovec* iov, uint32_t count) const;

 private:
  Reactor* reactor_ = nullptr;
  int handle_ = -1;
};

// How soon a TCP connection ends whose other end is cut off, or lost its power, without a word
// being said. kPatiently: within a minute if nothing is being sent. kClosely: within about four
// seconds, also if the other end takes nothing of what is sent.
enum class Watch : uint8_t { kPatiently, kClosely };

// A listening socket.
class Listener {
 public:
  Listener() = default;
  Listener(Reactor* reactor, int handle) : reactor_(reactor), handle_(handle) {}
  Listener(Listener&& other) noexcept;
  Listener& operator=(Listener&& other) noexcept;
  ~Listener() { close(); }

  bool is_open() const { return handle_ >= 0; }
  int handle() const { return handle_; }
  void close();
  // Ends a waiting accept.
  void shutdown() const;
  // Result: handle of the new stream, or -errno.
  Op accept() const;

 private:
  Reactor* reactor_ = nullptr;
  int handle_ = -1;
};

class Reactor {
 public:
  virtual ~Reactor() = default;

  // CLOCK_BOOTTIME or virtual time, in ns.
  virtual Nanoseconds now() const = 0;
  virtual Random& random() = 0;

  // Runs `work` on the reactor's thread, soon. Any thread; never refused.
  virtual void post(std::function<void()> work) = 0;

  // Resumes `handle` from the reactor's loop, soon. Reactor's thread.
  virtual void schedule(std::coroutine_handle<> handle) = 0;

  // Starts an operation; called by co_await. False if it is done: op.result is set, and op.waiter
  // is not resumed. Reactor's thread.
  virtual bool submit(Op& op) = 0;

  // Blocking (milliseconds at most), for set-up.
  virtual Result<File> open(const std::string& path, const OpenOptions& options) = 0;
  // Address: "unix:/path", "tcp:127.0.0.1:10809" (port 0: any), "tcp:[::1]:10809".
  virtual Result<Listener> listen(const std::string& address, Watch watch) = 0;
  virtual Result<Stream> connect(const std::string& address) = 0;
  // Connects without blocking; Watch::kClosely. kUnavailable when nobody answers within `timeout`.
  virtual Task<Result<Stream>> dial(std::string address, Nanoseconds timeout) = 0;

  // The directory, made with its parents if absent; its entries; what its file system has free.
  virtual Status make_directories(const std::string& path) = 0;
  virtual Result<std::vector<std::string>> list_directory(const std::string& path) = 0;
  virtual Result<uint64_t> free_bytes(const std::string& path) = 0;
  // A file, or a directory with all in it; ok if there is none.
  virtual Status remove_all(const std::string& path) = 0;
  // The directory's entries are on stable storage on return.
  virtual Status sync_directory(const std::string& path) = 0;

  virtual void close_handle(int handle) = 0;
  virtual void shutdown_handle(int handle) = 0;
  virtual Result<uint64_t> file_size(int handle) = 0;
  virtual Status file_resize(int handle, uint64_t bytes) = 0;
  virtual Status file_allocate(int handle, uint64_t bytes) = 0;
  virtual Result<SpaceMap> file_map_space(int handle, FileRange range) = 0;
  virtual Result<uint64_t> file_own(int handle, FileRange range) = 0;
  virtual Status file_punch(int handle, FileRange range) = 0;

  // Waits. Result 0, or -ECANCELED.
  Op sleep_until(Nanoseconds when, CancelToken* token = nullptr);
  Op sleep(Nanoseconds duration, CancelToken* token = nullptr) {
    return sleep_until(now() + duration, token);
  }

  // Runs a callable on a helper thread (in the simulator: at a later virtual time on this one) and
  // resumes with its result. For RocksDB, fallocate and the like; never for long waits.
  template <typename Callable>
  auto blocking(Callable callable) -> Task<std::invoke_result_t<Callable>> {
    using Answer = std::invoke_result_t<Callable>;
    struct Frame {
      Callable* callable;
      std::optional<Answer> answer;
    } frame{&callable, std::nullopt};
    Op op(this, OpKind::kBlocking);
    op.context = &frame;
    op.call = [](void* context) -> int64_t {
      auto* inside = static_cast<Frame*>(context);
      inside->answer.emplace((*inside->callable)());
      return 0;
    };
    co_await op;
    co_return std::move(*frame.answer);
  }

  // The reactor whose loop runs on this thread; nullptr outside of one.
  static Reactor* current();

 protected:
  friend class CancelToken;
  friend struct Op;
  virtual void cancel(Op& op) = 0;
  static void set_current(Reactor* reactor);
  // Registers with op.token; false if it was cancelled already (result is set).
  static bool begin(Op& op);
  // Takes op out of its token. The caller then resumes op.waiter.
  static void finish(Op& op);
};

}  // namespace cvol::io
