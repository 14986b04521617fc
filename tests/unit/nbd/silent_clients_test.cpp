// Clients that connect and say nothing keep neither others nor this host's own devices out.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "nbd/server/server.h"
#include "volumed/io/shard.h"

namespace cvol::nbd {
namespace {

class NoExports final : public ExportDirectory {
 public:
  void open(std::string, std::function<void(Result<std::shared_ptr<Export>>)> done) override {
    done(Status(Code::kNotFound, "none"));
  }
  void list(std::function<void(std::vector<std::string>)> done) override { done({}); }
};

class Client {
 public:
  explicit Client(const std::string& path) : socket_(::socket(AF_UNIX, SOCK_STREAM, 0)) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof address.sun_path - 1);
    connect_to(reinterpret_cast<const sockaddr*>(&address), sizeof address);
  }
  explicit Client(uint16_t port) : socket_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connect_to(reinterpret_cast<const sockaddr*>(&address), sizeof address);
  }
  ~Client() { ::close(socket_); }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  // The server's first words.
  bool is_greeted() {
    char greeting[18];
    return ::recv(socket_, greeting, sizeof greeting, MSG_WAITALL) == sizeof greeting;
  }
  bool is_ended() {
    char byte;
    return ::recv(socket_, &byte, 1, 0) == 0;
  }

 private:
  void connect_to(const sockaddr* address, socklen_t length) {
    const timeval limit{5, 0};
    ::setsockopt(socket_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    EXPECT_EQ(::connect(socket_, address, length), 0);
  }
  int socket_;
};

uint16_t free_port() {
  const int probe = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  EXPECT_EQ(::bind(probe, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  EXPECT_EQ(::getsockname(probe, reinterpret_cast<sockaddr*>(&address), &length), 0);
  ::close(probe);
  return ntohs(address.sin_port);
}

class SilentClients : public testing::Test {
 protected:
  void start(ServerOptions options) {
    char folder[] = "/tmp/cvol-nbd-XXXXXX";
    ASSERT_NE(::mkdtemp(folder), nullptr);
    folder_ = folder;
    port_ = free_port();
    auto shard = io::Shard::start("test");
    ASSERT_TRUE(shard.is_ok()) << shard.message();
    shard_ = std::move(*shard);
    const Status listening = shard_->invoke([&] {
      server_ = Server::make(shard_->reactor(), exports_, options);
      const Status local = server_->listen("unix:" + path());
      return local ? server_->listen("tcp:127.0.0.1:" + std::to_string(port_)) : local;
    });
    ASSERT_TRUE(listening.is_ok()) << listening.message();
  }
  void TearDown() override {
    if (server_ != nullptr) {
      shard_->run<bool>([&]() -> Task<bool> { return stop(server_.get()); });
      shard_->invoke([&] { server_.reset(); });
    }
    std::filesystem::remove_all(folder_);
  }
  static Task<bool> stop(Server* server) {
    co_await server->stop();
    co_return true;
  }
  std::string path() const { return folder_ + "/nbd.sock"; }

  NoExports exports_;
  std::string folder_;
  uint16_t port_ = 0;
  std::unique_ptr<io::Shard> shard_;
  std::unique_ptr<Server> server_;
};

TEST_F(SilentClients, TheOldestMakesRoomForTheNext) {
  ServerOptions options;
  options.tcp_connections = 4;
  start(options);
  std::vector<std::unique_ptr<Client>> silent;
  for (int i = 0; i < 4; ++i) {
    silent.push_back(std::make_unique<Client>(port_));
    EXPECT_TRUE(silent.back()->is_greeted());
  }
  Client next(port_);
  EXPECT_TRUE(next.is_greeted());
  EXPECT_TRUE(silent.front()->is_ended());
}

TEST_F(SilentClients, ThoseOnTcpTakeNothingFromThisHostsDevices) {
  ServerOptions options;
  options.tcp_connections = 2;
  options.unix_connections = 2;
  start(options);
  std::vector<std::unique_ptr<Client>> silent;
  for (int i = 0; i < 8; ++i) silent.push_back(std::make_unique<Client>(port_));
  Client one(path());
  Client two(path());
  EXPECT_TRUE(one.is_greeted());
  EXPECT_TRUE(two.is_greeted());
}

TEST_F(SilentClients, SilenceEndsAHandshake) {
  ServerOptions options;
  options.silence = 200 * io::kMillisecond;
  start(options);
  Client client(path());
  EXPECT_TRUE(client.is_greeted());
  EXPECT_TRUE(client.is_ended());
}

}  // namespace
}  // namespace cvol::nbd
