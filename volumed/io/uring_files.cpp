// Files and sockets of UringReactor: opening and the calls that block.
#include <fcntl.h>
#include <linux/magic.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "volumed/io/address.h"
#include "volumed/io/file_space.h"
#include "volumed/io/scope.h"
#include "volumed/io/uring_reactor.h"

namespace cvol::io {

Result<File> UringReactor::open(const std::string& path, const OpenOptions& options) {
  const bool direct = options.direct && !options.cached;
  int flags = O_CLOEXEC | (options.read_only ? O_RDONLY : O_RDWR);
  if (options.create) flags |= O_CREAT | O_EXCL;
  int handle = -1;
  if (direct) handle = ::open(path.c_str(), flags | O_DIRECT, 0600);
  if (handle < 0 && (!direct || errno == EINVAL)) {
    handle = ::open(path.c_str(), flags & ~O_EXCL, 0600);
  }
  if (handle < 0) return status_from_errno(errno, "open " + path);
  // Whoever reads a volume reads ahead by himself. Here it would be harmful: in a file of which a
  // part is cached, the kernel takes every miss for a stream, and reads megabytes for 4 KiB.
  if (options.cached) (void)posix_fadvise(handle, 0, 0, POSIX_FADV_RANDOM);
  struct statfs system {};
  const bool in_memory = fstatfs(handle, &system) == 0 && system.f_type == TMPFS_MAGIC;
  File file(this, handle,
            in_memory        ? Access::kMemory
            : options.cached ? Access::kCached
                             : Access::kQueued);
  if (options.exclusive && flock(handle, LOCK_EX | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK) {
      return Status(Code::kBusy, path + " is in use by another process; stop that volumed first");
    }
    return status_from_errno(errno, "lock " + path);
  }
  return file;
}

// Removes a socket file nobody listens on any more; kBusy if somebody does.
static Status remove_stale_socket(const SocketAddress& address) {
  const int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (probe < 0) return status_from_errno(errno, "make a socket");
  const int answer =
      ::connect(probe, reinterpret_cast<const sockaddr*>(&address.storage), address.length);
  const int error = answer == 0 ? 0 : errno;
  ::close(probe);
  if (error == 0 || error == EAGAIN) {
    return Status(Code::kBusy, "another process listens on " + address.path + "; stop it first");
  }
  if (error == ECONNREFUSED && ::unlink(address.path.c_str()) != 0) {
    return status_from_errno(errno, "remove the stale socket " + address.path);
  }
  return Status::ok();
}

namespace {

void watch_connection(int handle, Watch watch) {
  const bool closely = watch == Watch::kClosely;
  const int on = 1, idle = closely ? 2 : 30, interval = closely ? 1 : 10, count = 3;
  setsockopt(handle, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  setsockopt(handle, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
  setsockopt(handle, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
  setsockopt(handle, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof interval);
  setsockopt(handle, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof count);
  const unsigned timeout = 3000;
  if (closely) setsockopt(handle, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout, sizeof timeout);
}

}  // namespace

Result<Listener> UringReactor::listen(const std::string& text, Watch watch) {
  Result<SocketAddress> address = parse_address(text);
  if (!address) return address.status();
  if (address->family == AF_UNIX) CVOL_TRY(remove_stale_socket(*address));
  const int handle = socket(address->family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (handle < 0) return status_from_errno(errno, "make a socket for " + text);
  Listener listener(this, handle);
  if (address->family == AF_UNIX) {
    fchmod(handle, 0600);  // before bind: the socket file is never open to others
  } else {
    const int on = 1;
    setsockopt(handle, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    watch_connection(handle, watch);  // accepted sockets inherit it
  }
  if (::bind(handle, reinterpret_cast<const sockaddr*>(&address->storage), address->length) != 0 ||
      ::listen(handle, 1024) != 0) {
    return status_from_errno(errno, "listen on " + text);
  }
  return listener;
}

Result<Stream> UringReactor::connect(const std::string& text) {
  Result<SocketAddress> address = parse_address(text);
  if (!address) return address.status();
  const int handle = socket(address->family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (handle < 0) return status_from_errno(errno, "make a socket for " + text);
  Stream stream(this, handle);
  if (address->family != AF_UNIX) {
    const int on = 1;
    setsockopt(handle, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  }
  if (::connect(handle, reinterpret_cast<const sockaddr*>(&address->storage), address->length) != 0)
    return status_from_errno(errno, "connect to " + text);
  return stream;
}

namespace {

Task<void> cancel_later(Reactor* reactor, Nanoseconds timeout, CancelToken* timer,
                        CancelToken* what) {
  const int64_t ended = co_await reactor->sleep(timeout, timer);
  if (ended == 0) what->cancel();
}

}  // namespace

Task<Result<Stream>> UringReactor::dial(std::string text, Nanoseconds timeout) {
  Result<SocketAddress> address = parse_address(text);
  if (!address) co_return address.status();
  const int handle = socket(address->family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (handle < 0) co_return status_from_errno(errno, "make a socket for " + text);
  Stream stream(this, handle);
  if (address->family != AF_UNIX) watch_connection(handle, Watch::kClosely);
  CancelToken connecting, timer;
  Scope scope;
  scope.spawn(cancel_later(this, timeout, &timer, &connecting));
  Op op(this, OpKind::kConnect);
  op.handle = handle;
  op.context = &address->storage;
  op.offset = address->length;
  op.token = &connecting;
  const int64_t connected = co_await op;
  timer.cancel();
  co_await scope.join();
  if (connected == -ECANCELED)
    co_return Status(Code::kUnavailable, "connect to " + text + ": no answer");
  if (connected < 0)
    co_return status_from_errno(static_cast<int>(-connected), "connect to " + text);
  co_return stream;
}

Status UringReactor::make_directories(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) return status_from_errno(error.value(), "make directory " + path);
  return Status::ok();
}

Result<std::vector<std::string>> UringReactor::list_directory(const std::string& path) {
  std::error_code error;
  std::vector<std::string> names;
  for (std::filesystem::directory_iterator at(path, error), end; !error && at != end;
       at.increment(error)) {
    names.push_back(at->path().filename().string());
  }
  if (error) return status_from_errno(error.value(), "list directory " + path);
  return names;
}

Result<uint64_t> UringReactor::free_bytes(const std::string& path) {
  std::error_code error;
  const std::filesystem::space_info space = std::filesystem::space(path, error);
  if (error) return status_from_errno(error.value(), "read the free space of " + path);
  return space.available;
}

Status UringReactor::remove_all(const std::string& path) {
  std::error_code error;
  std::filesystem::remove_all(path, error);
  return error ? status_from_errno(error.value(), "remove " + path) : Status::ok();
}

Status UringReactor::sync_directory(const std::string& path) {
  const int handle = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (handle < 0) return status_from_errno(errno, "open directory " + path);
  const int error = fsync(handle) == 0 ? 0 : errno;
  ::close(handle);
  return error == 0 ? Status::ok() : status_from_errno(error, "sync directory " + path);
}

void UringReactor::close_handle(int handle) {
  ::close(handle);
}
void UringReactor::shutdown_handle(int handle) {
  ::shutdown(handle, SHUT_RDWR);
}

Result<uint64_t> UringReactor::file_size(int handle) {
  struct stat info {};
  if (fstat(handle, &info) != 0) return status_from_errno(errno, "read the size of a file");
  return static_cast<uint64_t>(info.st_size);
}

Status UringReactor::file_resize(int handle, uint64_t bytes) {
  if (ftruncate(handle, static_cast<off_t>(bytes)) != 0)
    return status_from_errno(errno, "resize a file");
  return Status::ok();
}

Status UringReactor::file_allocate(int handle, uint64_t bytes) {
  return reserve_space(handle, bytes);
}

Result<SpaceMap> UringReactor::file_map_space(int handle, FileRange range) {
  return map_space(handle, range);
}

Result<uint64_t> UringReactor::file_own(int handle, FileRange range) {
  return own_space(handle, range);
}

Status UringReactor::file_punch(int handle, FileRange range) {
  return punch_space(handle, range);
}

}  // namespace cvol::io
