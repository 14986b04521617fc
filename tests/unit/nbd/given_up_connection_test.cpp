// The kernel's nbd hangs a connection up and sends its requests again on another one.
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <functional>
#include <thread>

#include "nbd/server/server.h"
#include "volumed/io/scope.h"
#include "volumed/io/shard.h"

namespace cvol::nbd {
namespace {

using namespace std::chrono_literals;

// Its writes wait until they are let go.
class SlowDevice final : public BlockDevice {
 public:
  uint64_t size() const override { return 1 << 20; }
  Task<Status> read(uint64_t, std::span<std::byte>) override { co_return Status::ok(); }
  Task<Status> write(uint64_t, std::span<const std::byte>, bool) override {
    ++begun;
    co_await go_on.wait();
    co_return Status::ok();
  }
  Task<Status> flush() override { co_return Status::ok(); }
  Task<Status> write_zeroes(uint64_t, uint64_t, bool, bool) override { co_return Status::ok(); }
  Task<Status> trim(uint64_t, uint64_t, bool) override { co_return Status::ok(); }
  Task<Result<std::vector<Extent>>> block_status(uint64_t, uint64_t) override {
    co_return Status(Code::kUnsupported, "not needed");
  }

  std::atomic<int> begun = 0;
  io::Event go_on;
};

class NoExports final : public ExportDirectory {
 public:
  void open(std::string, std::function<void(Result<std::shared_ptr<Export>>)> done) override {
    done(Status(Code::kNotFound, "none"));
  }
  void list(std::function<void(std::vector<std::string>)> done) override { done({}); }
};

std::string write_request(char cookie, uint32_t offset) {
  std::string request("\x25\x60\x95\x13\0\0\0\1\0\0\0\0\0\0\0", 15);
  request += cookie;
  request.append(4, '\0');
  for (int shift : {24, 16, 8, 0}) request += static_cast<char>(offset >> shift);
  request.append("\0\0\x10\0", 4);
  return request + std::string(4096, 'x');
}

bool wait_for(const std::function<bool()>& done) {
  for (int i = 0; i < 500 && !done(); ++i) std::this_thread::sleep_for(10ms);
  return done();
}

class GivenUpConnection : public testing::Test {
 protected:
  void SetUp() override {
    auto shard = io::Shard::start("test");
    ASSERT_TRUE(shard.is_ok()) << shard.message();
    shard_ = std::move(*shard);
    device_ = std::make_shared<SlowDevice>();
    ServerOptions options;
    options.requests_per_connection = 1;  // the second request stays in the socket
    server_ = shard_->invoke([&] { return Server::make(shard_->reactor(), exports_, options); });
    auto shown = std::make_shared<Export>(Export{"v", device_, &shard_->reactor(), false, nullptr});
    int ends[2];
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    client_ = ends[0];
    server_->serve_connected(ends[1], std::move(shown));
    const std::string both = write_request(1, 0) + write_request(2, 4096);
    ASSERT_EQ(send(client_, both.data(), both.size(), 0), static_cast<ssize_t>(both.size()));
    ASSERT_TRUE(wait_for([&] { return device_->begun == 1; }));
  }
  void TearDown() override {
    close(client_);
    let_go();
    shard_->run<bool>([&]() -> Task<bool> { return stop(server_.get()); });
    shard_->invoke([&] { server_.reset(); });
  }
  static Task<bool> stop(Server* server) {
    co_await server->stop();
    co_return true;
  }
  void let_go() {
    shard_->invoke([&] { device_->go_on.set(); });
  }

  NoExports exports_;
  std::unique_ptr<io::Shard> shard_;
  std::shared_ptr<SlowDevice> device_;
  std::unique_ptr<Server> server_;
  int client_ = -1;
};

TEST_F(GivenUpConnection, WhatWasUnreadIsNotAdmitted) {
  shutdown(client_, SHUT_RDWR);
  let_go();
  EXPECT_TRUE(wait_for([&] { return server_->connections("v") == 0; }));
  EXPECT_EQ(device_->begun, 1);
}

TEST_F(GivenUpConnection, AStandingOneIsServedOn) {
  let_go();
  EXPECT_TRUE(wait_for([&] { return device_->begun == 2; }));
}

}  // namespace
}  // namespace cvol::nbd
