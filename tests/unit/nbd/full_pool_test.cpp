// Writes that find no space: of cvol's own devices they wait, without holding anything up.
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <functional>
#include <thread>

#include "nbd/server/server.h"
#include "volumed/base/units.h"
#include "volumed/io/shard.h"

namespace cvol::nbd {
namespace {

using namespace std::chrono_literals;

constexpr char kNoSpaceErrno = 28;

class FullDevice final : public BlockDevice {
 public:
  uint64_t size() const override { return kGiB; }
  Task<Status> read(uint64_t, std::span<std::byte>) override { co_return Status::ok(); }
  Task<Status> write(uint64_t, std::span<const std::byte>, bool) override {
    ++writes;
    if (full) co_return Status(Code::kNoSpace, "full");
    co_return Status::ok();
  }
  Task<Status> flush() override { co_return Status::ok(); }
  Task<Status> write_zeroes(uint64_t, uint64_t, bool, bool) override { co_return Status::ok(); }
  Task<Status> trim(uint64_t, uint64_t, bool) override { co_return Status::ok(); }
  Task<Result<std::vector<Extent>>> block_status(uint64_t, uint64_t) override {
    co_return Status(Code::kUnsupported, "not needed");
  }

  std::atomic<bool> full = true;
  std::atomic<int> writes = 0;
};

class NoExports final : public ExportDirectory {
 public:
  void open(std::string, std::function<void(Result<std::shared_ptr<Export>>)> done) override {
    done(Status(Code::kNotFound, "none"));
  }
  void list(std::function<void(std::vector<std::string>)> done) override { done({}); }
};

// `command`: 0 reads, 1 writes.
std::string request(char command, char cookie) {
  std::string header("\x25\x60\x95\x13\0\0\0", 7);
  header += command;
  header.append(7, '\0');
  header += cookie;
  header.append(8, '\0');  // offset
  header += std::string("\0\0\x10\0", 4);
  if (command == 1) header.append(4096, 'x');
  return header;
}

class FullPool : public testing::Test {
 protected:
  void SetUp() override {
    auto shard = io::Shard::start("test");
    ASSERT_TRUE(shard.is_ok()) << shard.message();
    shard_ = std::move(*shard);
    server_ = shard_->invoke([&] { return Server::make(shard_->reactor(), exports_, {}); });
    int ends[2];
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    client_ = ends[0];
    // As the kernel's nbd: a device of cvol's own.
    server_->serve_connected(ends[1], std::make_shared<Export>(Export{
                                          "v", device_, &shard_->reactor(), false, policy_}));
  }
  void TearDown() override {
    const auto before = std::chrono::steady_clock::now();
    shard_->run<bool>([&]() -> Task<bool> { return stop(server_.get()); });
    EXPECT_LT(std::chrono::steady_clock::now() - before, 5s) << "a write that waits was waited for";
    shard_->invoke([&] { server_.reset(); });
    close(client_);
  }
  static Task<bool> stop(Server* server) {
    co_await server->stop();
    co_return true;
  }
  void send_all(const std::string& text) {
    ASSERT_EQ(send(client_, text.data(), text.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(text.size()));
  }
  // The reply's cookie and error; nothing within the time: {0, -1}. The data of a read is skipped.
  std::pair<char, int> reply(int milliseconds, std::size_t data = 0) {
    pollfd wait{client_, POLLIN, 0};
    if (poll(&wait, 1, milliseconds) != 1) return {0, -1};
    std::string bytes(16 + data, '\0');
    if (recv(client_, bytes.data(), bytes.size(), MSG_WAITALL) !=
        static_cast<ssize_t>(bytes.size()))
      return {0, -1};
    return {bytes[15], bytes[7]};
  }

  std::unique_ptr<io::Shard> shard_;
  NoExports exports_;
  std::unique_ptr<Server> server_;
  std::shared_ptr<FullDevice> device_ = std::make_shared<FullDevice>();
  std::shared_ptr<std::atomic<OnFull>> policy_ =
      std::make_shared<std::atomic<OnFull>>(OnFull::kDevicesWait);
  int client_ = -1;
};

TEST_F(FullPool, AWriteOfADeviceWaitsForSpaceAndOthersGoOn) {
  send_all(request(1, 'w'));
  EXPECT_EQ(reply(300), (std::pair<char, int>{0, -1}));
  send_all(request(0, 'r'));
  EXPECT_EQ(reply(5000, 4096), (std::pair<char, int>{'r', 0}));
  device_->full = false;
  EXPECT_EQ(reply(5000), (std::pair<char, int>{'w', 0}));
  EXPECT_GE(device_->writes, 2);
}

TEST_F(FullPool, APolicyThatChangesReachesWritesThatWait) {
  send_all(request(1, 'w'));
  EXPECT_EQ(reply(300), (std::pair<char, int>{0, -1}));
  *policy_ = OnFull::kError;
  EXPECT_EQ(reply(5000), (std::pair<char, int>{'w', kNoSpaceErrno}));
}

TEST_F(FullPool, AWriteThatWaitsEndsWithItsConnection) {
  send_all(request(1, 'w'));
  EXPECT_EQ(reply(300), (std::pair<char, int>{0, -1}));
  shutdown(client_, SHUT_RDWR);
  const auto until = std::chrono::steady_clock::now() + 5s;
  while (server_->connections("v") != 0 && std::chrono::steady_clock::now() < until)
    std::this_thread::sleep_for(10ms);
  EXPECT_EQ(server_->connections("v"), 0u);
}

}  // namespace
}  // namespace cvol::nbd
