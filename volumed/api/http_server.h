// HttpServer: a small HTTP/1.1 server for local use: metrics, health, the Docker volume plugin.
//
// Threading: start() and the destructor on any thread (not on a handler's). Handlers run on a small
// pool of threads, several at once, and may block. Connections are served by one further thread.
// Bounds: header and body sizes, connections, and the time a client may take to send a request or
// to take an answer; who breaks them is answered 4xx where that is possible, and disconnected.
// A further connection beyond the bound ends the one that has kept its client's turn longest
// (nothing asked, half a request, an answer not taken): silent clients keep nobody out.
// Keep-alive is on; pipelined requests are answered one after another. `Host:` may be empty.
// Idle: no timers and no wake-ups while no connection is open.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "volumed/base/result.h"

namespace cvol::api {

struct HttpRequest {
  std::string method;  // "GET", "POST", as sent
  std::string target;  // "/metrics", with the query if there is one
  std::string body;
};

struct HttpResponse {
  unsigned status = 200;
  std::string content_type = "text/plain; charset=utf-8";
  std::string body;
};

// What a handler throws is logged and answered with 500.
using HttpHandler = std::function<HttpResponse(const HttpRequest&)>;

struct HttpOptions {
  std::size_t body_bytes = 1024 * 1024;   // largest request body
  std::size_t header_bytes = 16 * 1024;   // largest request header
  std::size_t connections = 256;          // open at once, from 1; see above
  unsigned threads = 4;                   // that run handlers, 1..64
  std::chrono::seconds first_time{30};    // from the connection to its first byte; 0: no limit
  std::chrono::seconds header_time{5};    // from the first byte of a request to its header's end
  std::chrono::seconds request_time{30};  // from the header's end to the request's
  std::chrono::seconds answer_time{30};   // for the client to take an answer
  std::chrono::seconds idle_time{0};      // between requests; 0: no limit
  unsigned unix_mode = 0600;              // of the socket file
};

class HttpServer {
 public:
  // Address: "tcp:127.0.0.1:9480", "tcp:[::1]:0" (port 0: any), "unix:/path". The socket file of a
  // server that is gone is replaced; kBusy if one is listening there.
  static Result<std::unique_ptr<HttpServer>> start(const std::string& address, HttpHandler handler,
                                                   HttpOptions options = {});
  // Stops listening, ends the connections, waits for handlers that run, removes the socket file.
  virtual ~HttpServer() = default;

  // The TCP port that is listened on; 0 on a unix socket.
  virtual uint16_t port() const = 0;
};

}  // namespace cvol::api
