#include "volumed/api/http_server.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/beast/core/basic_stream.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>
#include <list>
#include <optional>
#include <thread>
#include <unordered_set>

#include "volumed/base/log.h"

namespace cvol::api {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using boost::system::error_code;

// What the connections of one server share. Everything but `handler` and `workers` is used on the
// thread of the io_context only.
struct Shared {
  Shared(HttpHandler call, HttpOptions bounds)
      : handler(std::move(call)), options(bounds), workers(bounds.threads) {}

  HttpHandler handler;
  HttpOptions options;
  asio::io_context io{1};
  asio::thread_pool workers;
};

HttpResponse call_handler(const HttpHandler& handler, const HttpRequest& request) {
  try {
    return handler(request);
  } catch (const std::exception& error) {
    log::error("api", "an HTTP handler failed",
               {{"target", request.target}, {"error", error.what()}});
    return {500, "text/plain; charset=utf-8", "internal error\n"};
  }
}

// One connection: read a request, run the handler on a worker, write the answer, again.
template <typename Protocol>
class Connection : public std::enable_shared_from_this<Connection<Protocol>> {
 public:
  using Socket = asio::basic_stream_socket<Protocol, asio::io_context::executor_type>;
  using Stream = beast::basic_stream<Protocol, asio::io_context::executor_type>;
  using Ended = std::function<void(Connection*)>;

  // `ended`: the connection is gone. `turned`: it is the client's turn again.
  Connection(Socket socket, Shared& shared, Ended ended, std::function<void()> turned)
      : stream_(std::move(socket)),
        shared_(shared),
        ended_(std::move(ended)),
        turned_(std::move(turned)) {}

  void start() { wait_for_request(shared_.options.first_time); }

  // It is the client's turn, and has been since then. Nothing while a handler runs.
  std::optional<std::chrono::steady_clock::time_point> waits_since() const {
    if (handling_) return std::nullopt;
    return turn_since_;
  }

  void close() {
    if (closed_) return;
    closed_ = true;
    error_code ignored;
    stream_.socket().shutdown(asio::socket_base::shutdown_both, ignored);
    stream_.close();
    ended_(this);
  }

 private:
  // Between requests only the idle limit counts; the request limit starts with the first byte.
  void wait_for_request(std::chrono::seconds time) {
    turn_since_ = std::chrono::steady_clock::now();
    if (buffer_.size() > 0) return read_header();
    limit(time);
    // One byte at most: Beast's timers cover reads, not waits for readiness.
    stream_.async_read_some(buffer_.prepare(4096),
                            [self = this->shared_from_this()](error_code error, std::size_t bytes) {
                              if (self->closed_) return;
                              if (error || bytes == 0) return self->close();
                              self->buffer_.commit(bytes);
                              self->read_header();
                            });
  }

  void read_header() {
    parser_.emplace();
    parser_->body_limit(shared_.options.body_bytes);
    parser_->header_limit(static_cast<uint32_t>(shared_.options.header_bytes));
    limit(shared_.options.header_time);
    http::async_read_header(stream_, buffer_, *parser_,
                            [self = this->shared_from_this()](error_code error, std::size_t) {
                              if (self->closed_) return;
                              error ? self->refuse(error) : self->read_body();
                            });
  }

  void read_body() {
    if (parser_->is_done()) return handle();
    limit(shared_.options.request_time);
    http::async_read(stream_, buffer_, *parser_,
                     [self = this->shared_from_this()](error_code error, std::size_t) {
                       if (self->closed_) return;
                       error ? self->refuse(error) : self->handle();
                     });
  }

  // Malformed or over a bound: say so where the client still listens, and end the connection.
  void refuse(error_code error) {
    if (error == http::error::body_limit) return last_words(413, "request body is too large\n");
    if (error == http::error::header_limit) return last_words(431, "request header is too large\n");
    if (error.category() == make_error_code(http::error::bad_method).category() &&
        error != http::error::end_of_stream && error != http::error::partial_message) {
      return last_words(400, "malformed HTTP request: " + error.message() + "\n");
    }
    close();
  }

  void last_words(unsigned status, std::string text) {
    keep_alive_ = false;
    answer({status, "text/plain; charset=utf-8", std::move(text)}, 11, false);
  }

  void handle() {
    handling_ = true;
    auto& message = parser_->get();
    keep_alive_ = message.keep_alive();
    HttpRequest request{std::string(message.method_string()), std::string(message.target()),
                        std::move(message.body())};
    const unsigned version = message.version();
    stream_.expires_never();
    asio::post(shared_.workers,
               [self = this->shared_from_this(), version, request = std::move(request)] {
                 HttpResponse response = call_handler(self->shared_.handler, request);
                 asio::post(self->shared_.io, [self, version, head = request.method == "HEAD",
                                               response = std::move(response)]() mutable {
                   if (!self->closed_) self->answer(std::move(response), version, head);
                 });
               });
  }

  void answer(HttpResponse response, unsigned version, bool head) {
    handling_ = false;
    turn_since_ = std::chrono::steady_clock::now();
    response_ = {};
    response_.version(version);
    response_.result(response.status);
    response_.set(http::field::content_type, response.content_type);
    response_.keep_alive(keep_alive_);
    response_.body() = std::move(response.body);
    response_.prepare_payload();
    if (head) response_.body().clear();
    turned_();
    limit(shared_.options.answer_time);
    http::async_write(stream_, response_,
                      [self = this->shared_from_this()](error_code error, std::size_t) {
                        if (self->closed_) return;
                        if (error || !self->keep_alive_) return self->close();
                        self->wait_for_request(self->shared_.options.idle_time);
                      });
  }

  void limit(std::chrono::seconds time) {
    if (time.count() > 0) {
      stream_.expires_after(time);
    } else {
      stream_.expires_never();
    }
  }

  Stream stream_;
  Shared& shared_;
  Ended ended_;
  std::function<void()> turned_;
  beast::flat_buffer buffer_;
  std::optional<http::request_parser<http::string_body>> parser_;
  http::response<http::string_body> response_;
  std::chrono::steady_clock::time_point turn_since_ = std::chrono::steady_clock::now();
  bool handling_ = false;  // it is our turn
  bool keep_alive_ = true;
  bool closed_ = false;
};

template <typename Protocol>
class Server final : public HttpServer {
 public:
  using Acceptor = asio::basic_socket_acceptor<Protocol, asio::io_context::executor_type>;
  using Socket = asio::basic_stream_socket<Protocol, asio::io_context::executor_type>;

  Server(HttpHandler handler, HttpOptions options)
      : shared_(std::move(handler), options),
        work_(shared_.io.get_executor()),
        acceptor_(shared_.io.get_executor()) {}

  ~Server() override {
    asio::post(shared_.io, [this] { end(); });
    if (thread_.joinable()) thread_.join();
    shared_.workers.join();
    shared_.io.restart();
    shared_.io.poll();  // answers of handlers that ended late: dropped
    if (!socket_path_.empty()) ::unlink(socket_path_.c_str());
  }

  Status listen(const typename Protocol::endpoint& endpoint, const std::string& address) {
    error_code error;
    acceptor_.open(endpoint.protocol(), error);
    if (!error) acceptor_.set_option(asio::socket_base::reuse_address(true), error);
    if (!error) acceptor_.bind(endpoint, error);
    if (error) return status_from_errno(error.value(), "listen on " + address);
    if constexpr (std::is_same_v<Protocol, asio::local::stream_protocol>) {
      socket_path_ = endpoint.path();
      if (::chmod(socket_path_.c_str(), shared_.options.unix_mode) != 0)
        return status_from_errno(errno, "chmod " + socket_path_);
    }
    acceptor_.listen(asio::socket_base::max_listen_connections, error);
    if (error) return status_from_errno(error.value(), "listen on " + address);
    return Status::ok();
  }

  void run() {
    accept();
    thread_ = std::thread([this] { shared_.io.run(); });
  }

  uint16_t port() const override {
    if constexpr (std::is_same_v<Protocol, asio::ip::tcp>) {
      error_code ignored;
      return acceptor_.local_endpoint(ignored).port();
    } else {
      return 0;
    }
  }

 private:
  using Live = Connection<Protocol>;

  void accept() {
    if (ended_ || !take_next()) return;
    if (accepting_ || (is_full() && longest_waiting() == nullptr)) return;
    accepting_ = true;
    acceptor_.async_accept([this](error_code error, Socket socket) {
      accepting_ = false;
      if (ended_) return;
      if (error) return pause_accepting();  // no descriptors or no memory
      next_.emplace(std::move(socket));
      accept();
    });
  }

  // False: handlers have all connections, and the newcomer waits for one of them to end.
  bool take_next() {
    if (!next_) return true;
    Live* waiting = is_full() ? longest_waiting() : nullptr;
    if (is_full() && waiting == nullptr) return false;
    Socket socket = std::move(*next_);
    next_.reset();
    if (waiting != nullptr) waiting->close();  // its end may call accept(), which finds no newcomer
    take(std::move(socket));
    return true;
  }

  bool is_full() const { return open_.size() >= shared_.options.connections; }

  // The connection whose client has had its turn for the longest time; null: there is none.
  Live* longest_waiting() const {
    Live* longest = nullptr;
    for (Live* connection : open_) {
      const auto since = connection->waits_since();
      if (!since) continue;
      if (longest == nullptr || *since < *longest->waits_since()) longest = connection;
    }
    return longest;
  }

  void take(Socket socket) {
    auto connection = std::make_shared<Live>(
        std::move(socket), shared_,
        [this](Live* gone) {
          open_.erase(gone);
          accept();
        },
        [this] { accept(); });
    open_.insert(connection.get());
    connection->start();
  }

  void pause_accepting() {
    auto timer = std::make_shared<asio::steady_timer>(shared_.io, std::chrono::milliseconds(100));
    timer->async_wait([this, timer](error_code) { accept(); });
  }

  void end() {
    ended_ = true;
    work_.reset();
    error_code ignored;
    acceptor_.close(ignored);
    next_.reset();
    for (Live* connection : std::list<Live*>(open_.begin(), open_.end())) connection->close();
  }

  Shared shared_;
  asio::executor_work_guard<asio::io_context::executor_type> work_;
  Acceptor acceptor_;
  std::thread thread_;
  std::unordered_set<Live*> open_;
  std::string socket_path_;
  bool accepting_ = false;
  std::optional<Socket> next_;  // accepted, and not taken yet
  bool ended_ = false;
};

Status bad_address(const std::string& address) {
  return Status(Code::kInvalidArgument,
                "'" + address + "' is no address; write it like tcp:127.0.0.1:9480 or unix:/path");
}

// Removes the socket file of a server that is gone.
Status clear_socket_file(const std::string& path) {
  struct stat info {};
  if (::lstat(path.c_str(), &info) != 0) return Status::ok();
  if (!S_ISSOCK(info.st_mode))
    return Status(Code::kFailedPrecondition, path + " exists and is no socket; move it away");
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  const int probe = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (probe < 0) return status_from_errno(errno, "socket");
  const int rc = ::connect(probe, reinterpret_cast<const sockaddr*>(&address), sizeof address);
  ::close(probe);
  if (rc == 0) return Status(Code::kBusy, "another process is listening on " + path);
  if (::unlink(path.c_str()) != 0 && errno != ENOENT)
    return status_from_errno(errno, "remove old socket " + path);
  return Status::ok();
}

Result<asio::ip::tcp::endpoint> parse_tcp(const std::string& address) {
  const std::string text = address.substr(4);
  const auto colon = text.rfind(':');
  if (colon == std::string::npos) return bad_address(address);
  std::string host = text.substr(0, colon);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']')
    host = host.substr(1, host.size() - 2);
  const std::string port = text.substr(colon + 1);
  if (port.empty() || port.size() > 5 || port.find_first_not_of("0123456789") != std::string::npos)
    return bad_address(address);
  const int number = std::stoi(port);
  error_code error;
  const auto ip = asio::ip::make_address(host, error);
  if (error || number > 65535) return bad_address(address);
  return asio::ip::tcp::endpoint(ip, static_cast<uint16_t>(number));
}

template <typename Protocol>
Result<std::unique_ptr<HttpServer>> start_on(const typename Protocol::endpoint& endpoint,
                                             const std::string& address, HttpHandler handler,
                                             HttpOptions options) {
  auto server = std::make_unique<Server<Protocol>>(std::move(handler), options);
  CVOL_TRY(server->listen(endpoint, address));
  server->run();
  return std::unique_ptr<HttpServer>(std::move(server));
}

}  // namespace

Result<std::unique_ptr<HttpServer>> HttpServer::start(const std::string& address,
                                                      HttpHandler handler, HttpOptions options) {
  if (address.starts_with("unix:")) {
    const std::string path = address.substr(5);
    if (path.empty() || path.size() >= sizeof(sockaddr_un::sun_path))
      return Status(Code::kInvalidArgument,
                    "socket path '" + path + "' is empty or longer than 107 characters");
    CVOL_TRY(clear_socket_file(path));
    return start_on<asio::local::stream_protocol>(path, address, std::move(handler), options);
  }
  if (!address.starts_with("tcp:")) return bad_address(address);
  auto endpoint = parse_tcp(address);
  if (!endpoint) return endpoint.status();
  return start_on<asio::ip::tcp>(*endpoint, address, std::move(handler), options);
}

}  // namespace cvol::api
