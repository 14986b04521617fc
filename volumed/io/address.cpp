#include "volumed/io/address.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/un.h>

#include <charconv>
#include <cstring>

namespace cvol::io {
namespace {

Status bad_address(const std::string& text) {
  return Status(Code::kInvalidArgument, "'" + text.substr(0, 200) +
                                            "' is no address; write unix:/path, "
                                            "tcp:127.0.0.1:10809 or tcp:[::1]:10809");
}

Result<SocketAddress> parse_unix(const std::string& text, const std::string& path) {
  SocketAddress address;
  sockaddr_un un{};
  if (path.empty() || path.size() >= sizeof un.sun_path) {
    return Status(Code::kInvalidArgument,
                  "'" + text.substr(0, 200) + "': a socket's path has 1 to 107 characters");
  }
  un.sun_family = AF_UNIX;
  std::memcpy(un.sun_path, path.data(), path.size());
  std::memcpy(&address.storage, &un, sizeof un);
  address.length = sizeof un;
  address.family = AF_UNIX;
  address.path = path;
  address.loopback = true;
  return address;
}

Result<SocketAddress> parse_tcp(const std::string& text, const std::string& rest) {
  const auto colon = rest.rfind(':');
  if (colon == std::string::npos) return bad_address(text);
  uint16_t port = 0;
  const char* end = rest.data() + rest.size();
  const auto [stop, error] = std::from_chars(rest.data() + colon + 1, end, port);
  if (error != std::errc{} || stop != end) return bad_address(text);
  std::string host = rest.substr(0, colon);
  SocketAddress address;
  const bool bracketed = host.size() > 2 && host.front() == '[' && host.back() == ']';
  // Who writes brackets around an address of either family need not know which it is.
  if (bracketed && host.find(':') == std::string::npos) {
    host = host.substr(1, host.size() - 2);
  } else if (bracketed) {
    sockaddr_in6 in6{};
    in6.sin6_family = AF_INET6;
    in6.sin6_port = htons(port);
    const std::string inner = host.substr(1, host.size() - 2);
    if (inet_pton(AF_INET6, inner.c_str(), &in6.sin6_addr) != 1) return bad_address(text);
    std::memcpy(&address.storage, &in6, sizeof in6);
    address.length = sizeof in6;
    address.family = AF_INET6;
    address.loopback = IN6_IS_ADDR_LOOPBACK(&in6.sin6_addr);
    return address;
  }
  sockaddr_in in{};
  in.sin_family = AF_INET;
  in.sin_port = htons(port);
  if (inet_pton(AF_INET, host.c_str(), &in.sin_addr) != 1) return bad_address(text);
  std::memcpy(&address.storage, &in, sizeof in);
  address.length = sizeof in;
  address.family = AF_INET;
  address.loopback = (ntohl(in.sin_addr.s_addr) >> 24) == 127;
  return address;
}

}  // namespace

Result<SocketAddress> parse_address(const std::string& text) {
  if (text.rfind("unix:", 0) == 0) return parse_unix(text, text.substr(5));
  if (text.rfind("tcp:", 0) == 0) return parse_tcp(text, text.substr(4));
  return bad_address(text);
}

}  // namespace cvol::io
