#include "nbd/client/connection.h"

#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

namespace cvol::nbd::client {
namespace {

constexpr int kMaxGoReplies = 64;            // a server that sends more never ends
constexpr int kSocketBufferBytes = 4 << 20;  // several of the largest requests

Status gone(const char* doing) {
  return Status(Code::kUnavailable, std::string(doing) + ": " + std::strerror(errno));
}

void set_timeout(int descriptor, int seconds) {
  timeval value{seconds, 0};
  setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &value, sizeof value);
  setsockopt(descriptor, SOL_SOCKET, SO_SNDTIMEO, &value, sizeof value);
}

Result<int> connect_unix(const std::string& path, int timeout_seconds) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) {
    return Status(Code::kInvalidArgument, "socket path " + path + " is longer than 107 bytes");
  }
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  int descriptor = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (descriptor < 0) return status_from_errno(errno, "make a socket");
  set_timeout(descriptor, timeout_seconds);
  // The FORCE variant passes the system's limit; it needs CAP_NET_ADMIN, and is only a help.
  int bytes = kSocketBufferBytes;
  if (setsockopt(descriptor, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof bytes) != 0) {
    setsockopt(descriptor, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
  }
  if (connect(descriptor, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
    Status status = gone(("connect to " + path).c_str());
    close(descriptor);
    return status;
  }
  return descriptor;
}

Result<ExportInfo> shake_hands(Connection& connection, const std::string& export_name) {
  std::array<std::byte, kGreetingBytes> greeting;
  CVOL_TRY(connection.receive(greeting));
  Result<uint32_t> flags = parse_greeting(greeting);
  if (!flags) return flags.status();
  CVOL_TRY(connection.send(encode_go(*flags, export_name), {}));
  ExportInfo info;
  for (int i = 0; i < kMaxGoReplies; ++i) {
    std::array<std::byte, kOptionReplyHeaderBytes> bytes;
    CVOL_TRY(connection.receive(bytes));
    Result<OptionReplyHeader> header = parse_option_reply_header(bytes);
    if (!header) return header.status();
    std::vector<std::byte> payload(header->length);
    CVOL_TRY(connection.receive(payload));
    Result<GoStep> step = apply_go_reply(*header, payload, info);
    if (!step) return step.status();
    if (*step == GoStep::kDone) return info;
  }
  return Status(Code::kIo, "the NBD server never ended its answer to NBD_OPT_GO");
}

}  // namespace

Connection::Connection(Connection&& other) noexcept
    : descriptor_(std::exchange(other.descriptor_, -1)), info_(other.info_) {}

Connection& Connection::operator=(Connection&& other) noexcept {
  if (this != &other) {
    if (descriptor_ >= 0) close(descriptor_);
    descriptor_ = std::exchange(other.descriptor_, -1);
    info_ = other.info_;
  }
  return *this;
}

Connection::~Connection() {
  if (descriptor_ >= 0) close(descriptor_);
}

Status Connection::send(std::span<const std::byte> header, std::span<const std::byte> payload) {
  std::array<iovec, 2> parts{iovec{const_cast<std::byte*>(header.data()), header.size()},
                             iovec{const_cast<std::byte*>(payload.data()), payload.size()}};
  std::size_t next = 0;
  while (next < parts.size()) {
    if (parts[next].iov_len == 0) {
      ++next;
      continue;
    }
    msghdr message{};
    message.msg_iov = &parts[next];
    message.msg_iovlen = parts.size() - next;
    ssize_t sent = sendmsg(descriptor_, &message, MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0) return gone("send to the NBD server");
    std::size_t left = static_cast<std::size_t>(sent);
    for (; next < parts.size() && left >= parts[next].iov_len; ++next) left -= parts[next].iov_len;
    if (next < parts.size()) {
      parts[next].iov_base = static_cast<std::byte*>(parts[next].iov_base) + left;
      parts[next].iov_len -= left;
    }
  }
  return Status::ok();
}

Status Connection::receive(std::span<std::byte> into) {
  while (!into.empty()) {
    ssize_t got = recv(descriptor_, into.data(), into.size(), MSG_WAITALL);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return gone("receive from the NBD server");
    if (got == 0) return Status(Code::kUnavailable, "the NBD server closed the connection");
    into = into.subspan(static_cast<std::size_t>(got));
  }
  return Status::ok();
}

void Connection::shut_down() {
  if (descriptor_ >= 0) shutdown(descriptor_, SHUT_RDWR);
}

Result<Connection> connect_export(const std::string& path, const std::string& export_name,
                                  int timeout_seconds) {
  if (export_name.size() > kMaxExportNameBytes) {
    return Status(Code::kInvalidArgument, "export name is longer than 4096 bytes");
  }
  Result<int> descriptor = connect_unix(path, timeout_seconds);
  if (!descriptor) return descriptor.status();
  Connection connection(*descriptor, {});
  Result<ExportInfo> info = shake_hands(connection, export_name);
  if (!info) return info.status().with_context("open export " + export_name + " at " + path);
  set_timeout(*descriptor, 0);
  connection.set_info(*info);
  return connection;
}

}  // namespace cvol::nbd::client
