// Socket addresses in text: "unix:/path", "tcp:127.0.0.1:10809", "tcp:[::1]:10809".
#pragma once

#include <sys/socket.h>

#include <string>

#include "volumed/base/result.h"

namespace cvol::io {

struct SocketAddress {
  sockaddr_storage storage{};
  socklen_t length = 0;
  int family = AF_UNSPEC;
  std::string path;       // unix only
  bool loopback = false;  // unix, 127.0.0.0/8, ::1
};

// kInvalidArgument says which form is expected. Numeric addresses only.
Result<SocketAddress> parse_address(const std::string& text);

}  // namespace cvol::io
