#include "volumed/api/http_server.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <thread>
#include <vector>

namespace cvol::api {
namespace {

class Client {
 public:
  explicit Client(uint16_t port) {
    fd_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connected_ = ::connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
    set_timeout();
  }
  explicit Client(const std::string& path) {
    fd_ = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof address.sun_path - 1);
    connected_ = ::connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
    set_timeout();
  }
  ~Client() { ::close(fd_); }

  bool connected() const { return connected_; }
  void send(const std::string& text) { ::send(fd_, text.data(), text.size(), MSG_NOSIGNAL); }
  // Reads until `marker` was seen or the connection ended.
  std::string read_until(const std::string& marker) {
    std::string text;
    char buffer[4096];
    while (text.find(marker) == std::string::npos) {
      const ssize_t got = ::recv(fd_, buffer, sizeof buffer, 0);
      if (got <= 0) break;
      text.append(buffer, static_cast<std::size_t>(got));
    }
    return text;
  }
  bool at_end() {
    char byte;
    return ::recv(fd_, &byte, 1, 0) <= 0;
  }

 private:
  void set_timeout() {
    timeval limit{5, 0};
    ::setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  }
  int fd_ = -1;
  bool connected_ = false;
};

HttpResponse echo(const HttpRequest& request) {
  if (request.target == "/throw") throw std::runtime_error("boom");
  return {200, "application/json",
          request.method + " " + request.target + " [" + request.body + "]"};
}

std::unique_ptr<HttpServer> start(HttpOptions options = {}) {
  auto server = HttpServer::start("tcp:127.0.0.1:0", echo, options);
  EXPECT_TRUE(server.is_ok()) << server.message();
  return std::move(*server);
}

TEST(HttpServer, AnswersSeveralRequestsOnOneConnectionWithAnEmptyHost) {
  auto server = start();
  Client client(server->port());
  for (int i = 0; i < 3; ++i) {
    client.send("POST /Plugin.Activate HTTP/1.1\r\nHost: \r\nContent-Length: 3\r\n\r\n{}\n");
    const std::string answer = client.read_until("[{}\n]");
    EXPECT_NE(answer.find("200 OK"), std::string::npos) << answer;
    EXPECT_NE(answer.find("application/json"), std::string::npos);
  }
}

TEST(HttpServer, AnswersPipelinedRequestsInOrder) {
  auto server = start();
  Client client(server->port());
  client.send("GET /a HTTP/1.1\r\nHost:\r\n\r\nGET /b HTTP/1.1\r\nHost:\r\n\r\n");
  const std::string both = client.read_until("/b []");
  EXPECT_LT(both.find("/a []"), both.find("/b []"));
}

TEST(HttpServer, ServesAUnixSocketThatOnlyTheOwnerMayUse) {
  char folder[] = "/tmp/cvol-http-XXXXXX";
  ASSERT_NE(::mkdtemp(folder), nullptr);
  const std::string path = std::string(folder) + "/s.sock";
  {
    auto server = HttpServer::start("unix:" + path, echo);
    ASSERT_TRUE(server.is_ok()) << server.message();
    struct stat info {};
    ASSERT_EQ(::stat(path.c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777, 0600u);
    auto second = HttpServer::start("unix:" + path, echo);
    EXPECT_EQ(second.code(), Code::kBusy);
    Client client(path);
    client.send("GET /x HTTP/1.1\r\n\r\n");
    EXPECT_NE(client.read_until("/x []").find("200 OK"), std::string::npos);
  }
  EXPECT_FALSE(std::filesystem::exists(path));
  std::filesystem::remove_all(folder);
}

TEST(HttpServer, RefusesABodyOverTheBound) {
  auto server = start();
  Client client(server->port());
  client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1048577\r\n\r\n");
  EXPECT_NE(client.read_until("too large").find("413"), std::string::npos);
  EXPECT_TRUE(client.at_end());
}

TEST(HttpServer, RefusesAHeaderOverTheBound) {
  auto server = start();
  Client client(server->port());
  client.send("GET / HTTP/1.1\r\nX: " + std::string(32 * 1024, 'x') + "\r\n\r\n");
  EXPECT_NE(client.read_until("too large").find("431"), std::string::npos);
}

TEST(HttpServer, RefusesWhatIsNoHttp) {
  auto server = start();
  Client client(server->port());
  client.send("NBDMAGIC\x01\x02\r\n\r\n");
  EXPECT_NE(client.read_until("malformed").find("400"), std::string::npos);
  EXPECT_TRUE(client.at_end());
}

TEST(HttpServer, AnswersAHandlerThatThrowsWith500) {
  auto server = start();
  Client client(server->port());
  client.send("GET /throw HTTP/1.1\r\nHost:\r\n\r\n");
  EXPECT_NE(client.read_until("internal error").find("500"), std::string::npos);
}

TEST(HttpServer, DisconnectsAClientThatIsTooSlow) {
  HttpOptions options;
  options.header_time = std::chrono::seconds(1);
  auto server = start(options);
  Client slow(server->port());
  slow.send("GET / HT");
  const auto began = std::chrono::steady_clock::now();
  EXPECT_TRUE(slow.at_end());
  EXPECT_LT(std::chrono::steady_clock::now() - began, std::chrono::seconds(4));
}

TEST(HttpServer, DisconnectsAClientWhoseBodyIsTooSlow) {
  HttpOptions options;
  options.request_time = std::chrono::seconds(1);
  auto server = start(options);
  Client slow(server->port());
  slow.send("POST / HTTP/1.1\r\nHost:\r\nContent-Length: 10\r\n\r\nhalf");
  const auto began = std::chrono::steady_clock::now();
  EXPECT_TRUE(slow.at_end());
  EXPECT_LT(std::chrono::steady_clock::now() - began, std::chrono::seconds(4));
}

// A probe of health must get through whoever else is connected.
TEST(HttpServer, SilentConnectionsKeepNobodyOut) {
  HttpOptions options;
  options.connections = 8;
  auto server = start(options);
  std::vector<std::unique_ptr<Client>> silent;
  for (int i = 0; i < 20; ++i) {
    silent.push_back(std::make_unique<Client>(server->port()));
    if (i % 2 == 0) silent.back()->send("GET /half HT");
  }
  Client probe(server->port());
  probe.send("GET /healthz HTTP/1.1\r\nHost:\r\n\r\n");
  EXPECT_NE(probe.read_until("/healthz []").find("200 OK"), std::string::npos);
  EXPECT_TRUE(silent.front()->at_end());  // the one that waited longest
}

TEST(HttpServer, ConnectionsWhoseRequestsRunAreKept) {
  std::atomic<int> running{0};
  std::atomic<bool> release{false};
  HttpOptions options;
  options.connections = 2;
  options.threads = 2;
  auto server = HttpServer::start(
      "tcp:127.0.0.1:0",
      [&](const HttpRequest& request) {
        ++running;
        while (request.target == "/hold" && !release)
          std::this_thread::sleep_for(std::chrono::milliseconds(5));
        return echo(request);
      },
      options);
  ASSERT_TRUE(server.is_ok()) << server.message();
  Client one((*server)->port());
  Client two((*server)->port());
  for (Client* client : {&one, &two}) client->send("GET /hold HTTP/1.1\r\nHost:\r\n\r\n");
  while (running < 2) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  Client third((*server)->port());
  third.send("GET /third HTTP/1.1\r\nHost:\r\n\r\n");
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  EXPECT_EQ(running, 2);
  release = true;
  EXPECT_NE(third.read_until("/third []").find("200 OK"), std::string::npos);
}

TEST(HttpServer, LeavesAnIdleConnectionOpen) {
  HttpOptions options;
  options.request_time = std::chrono::seconds(1);
  auto server = start(options);
  Client client(server->port());
  std::this_thread::sleep_for(std::chrono::milliseconds(1500));
  client.send("GET /late HTTP/1.1\r\nHost:\r\n\r\n");
  EXPECT_NE(client.read_until("/late []").find("200 OK"), std::string::npos);
}

TEST(HttpServer, StopsWithOpenConnections) {
  auto server = start();
  Client idle(server->port());
  Client half(server->port());
  half.send("GET /");
  idle.send("GET /x HTTP/1.1\r\nHost:\r\n\r\n");
  idle.read_until("/x []");
  server.reset();
  EXPECT_TRUE(idle.at_end());
}

TEST(HttpServer, RefusesBadAddresses) {
  for (const char* address : {"", "127.0.0.1:80", "tcp:", "tcp:localhost:80", "tcp:1.2.3.4:99999",
                              "unix:", "tcp:127.0.0.1:"}) {
    EXPECT_EQ(HttpServer::start(address, echo).code(), Code::kInvalidArgument) << address;
  }
}

}  // namespace
}  // namespace cvol::api
