// Volumes whose requests wait (their primary is away) leave memory to the others of the shard.
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <functional>
#include <thread>

#include "nbd/server/server.h"
#include "volumed/base/units.h"
#include "volumed/io/scope.h"
#include "volumed/io/shard.h"

namespace cvol::nbd {
namespace {

using namespace std::chrono_literals;

constexpr uint64_t kMemory = 16 * kMiB;

// Its requests wait until they are let go.
class StalledDevice final : public BlockDevice {
 public:
  uint64_t size() const override { return kGiB; }
  Task<Status> read(uint64_t, std::span<std::byte>) override {
    ++reads;
    co_await go_on.wait();
    co_return Status::ok();
  }
  Task<Status> write(uint64_t, std::span<const std::byte> data, bool) override {
    bytes += data.size();
    ++writes;
    co_await go_on.wait();
    co_return Status::ok();
  }
  Task<Status> flush() override { co_return Status::ok(); }
  Task<Status> write_zeroes(uint64_t, uint64_t, bool, bool) override { co_return Status::ok(); }
  Task<Status> trim(uint64_t, uint64_t, bool) override { co_return Status::ok(); }
  Task<Result<std::vector<Extent>>> block_status(uint64_t, uint64_t) override {
    co_return Status(Code::kUnsupported, "not needed");
  }

  std::atomic<int> reads = 0;
  std::atomic<int> writes = 0;
  std::atomic<uint64_t> bytes = 0;  // written
  io::Event go_on;
};

class NoExports final : public ExportDirectory {
 public:
  void open(std::string, std::function<void(Result<std::shared_ptr<Export>>)> done) override {
    done(Status(Code::kNotFound, "none"));
  }
  void list(std::function<void(std::vector<std::string>)> done) override { done({}); }
};

std::string request(char command, uint64_t bytes) {
  std::string header("\x25\x60\x95\x13\0\0\0", 7);
  header += command;
  header.append(16, '\0');  // cookie and offset
  for (int shift : {24, 16, 8, 0}) header += static_cast<char>(bytes >> shift);
  return header;
}

std::string write_request(uint64_t bytes) {
  return request(1, bytes) + std::string(bytes, 'x');
}

std::string times(int count, const std::string& text) {
  std::string all;
  for (int i = 0; i < count; ++i) all += text;
  return all;
}

bool wait_for(const std::function<bool()>& done) {
  for (int i = 0; i < 500 && !done(); ++i) std::this_thread::sleep_for(10ms);
  return done();
}

class SharedMemory : public testing::Test {
 protected:
  void SetUp() override {
    auto shard = io::Shard::start("test");
    ASSERT_TRUE(shard.is_ok()) << shard.message();
    shard_ = std::move(*shard);
    ServerOptions options;
    options.buffer_bytes = kMemory;
    server_ = shard_->invoke([&] { return Server::make(shard_->reactor(), exports_, options); });
  }
  void TearDown() override {
    for (int client : clients_) shutdown(client, SHUT_RDWR);
    for (const auto& device : devices_) let_go(*device);
    shard_->run<bool>([&]() -> Task<bool> { return stop(server_.get()); });
    shard_->invoke([&] { server_.reset(); });
    for (int client : clients_) close(client);
  }
  static Task<bool> stop(Server* server) {
    co_await server->stop();
    co_return true;
  }
  std::shared_ptr<StalledDevice> make_device() {
    devices_.push_back(std::make_shared<StalledDevice>());
    return devices_.back();
  }
  void let_go(StalledDevice& device) {
    shard_->invoke([&] { device.go_on.set(); });
  }
  int connect(const std::string& name, std::shared_ptr<StalledDevice> device) {
    int ends[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    server_->serve_connected(ends[1], std::make_shared<Export>(Export{
                                          name, device, &shard_->reactor(), false, nullptr}));
    clients_.push_back(ends[0]);
    return ends[0];
  }
  // Sends what the server takes, and stops when it has taken nothing for a while.
  static void send_while_taken(int client, const std::string& what, int patience = 20) {
    std::size_t sent = 0;
    for (int idle = 0; sent < what.size() && idle < patience;) {
      const ssize_t now =
          send(client, &what[sent], what.size() - sent, MSG_DONTWAIT | MSG_NOSIGNAL);
      if (now <= 0) {
        ++idle;
        std::this_thread::sleep_for(5ms);
        continue;
      }
      sent += static_cast<std::size_t>(now);
      idle = 0;
    }
  }
  // A write of each size on a new connection of a volume of its own reaches the device.
  void expect_healthy() {
    for (uint64_t bytes : {uint64_t{4096}, uint64_t{kMaxRequestBytes}}) {
      auto device = make_device();
      let_go(*device);
      const int client = connect("healthy", device);
      send_while_taken(client, write_request(bytes), 200);
      EXPECT_TRUE(wait_for([&] { return device->writes == 1; })) << bytes << " bytes wait";
    }
  }

  NoExports exports_;
  std::unique_ptr<io::Shard> shard_;
  std::unique_ptr<Server> server_;
  std::vector<std::shared_ptr<StalledDevice>> devices_;
  std::vector<int> clients_;
};

// The kernel hangs a connection up whose requests go unanswered, and sends them again on a new one.
TEST_F(SharedMemory, AStalledVolumeGainsNothingByReconnecting) {
  auto stalled = make_device();
  for (int round = 0; round < 10; ++round) {
    const int client = connect("stalled", stalled);
    send_while_taken(client, times(2, write_request(2 * kMiB)));
    shutdown(client, SHUT_RDWR);
  }
  EXPECT_LE(stalled->bytes, kMemory / 2);
  expect_healthy();
}

TEST_F(SharedMemory, OfAHundredStalledVolumesEachHasLittleAndTheLastOneIsServed) {
  std::vector<std::shared_ptr<StalledDevice>> stalled;
  for (int i = 0; i < 100; ++i) {
    stalled.push_back(make_device());
    const int client = connect("stalled" + std::to_string(i), stalled.back());
    send_while_taken(client, times(100, write_request(64 * kKiB)), 2);
  }
  uint64_t held = 0;
  for (const auto& device : stalled) {
    EXPECT_TRUE(wait_for([&] { return device->writes > 0; }));
    held += device->bytes;
  }
  EXPECT_LE(held, kMemory + 100 * kMemory / 256);
  expect_healthy();
}

TEST_F(SharedMemory, StalledVolumesWithTheLargestRequestsLeaveRoomForOneMore) {
  for (int i = 0; i < 4; ++i) {
    auto stalled = make_device();
    send_while_taken(connect("stalled" + std::to_string(i), stalled),
                     write_request(kMaxRequestBytes), 200);
    EXPECT_TRUE(wait_for([&] { return stalled->writes == 1; }));
  }
  expect_healthy();
}

TEST_F(SharedMemory, AVolumeAloneUsesAQuarterOnEachOfTwoConnections) {
  auto alone = make_device();
  for (int i = 0; i < 2; ++i)
    send_while_taken(connect("alone", alone), times(5, write_request(kMiB)));
  EXPECT_TRUE(wait_for([&] { return alone->bytes == kMemory / 2; })) << alone->bytes;
}

TEST_F(SharedMemory, WhoWaitsIsServedWhenMemoryComesBack) {
  auto device = make_device();
  for (int i = 0; i < 4; ++i)
    send_while_taken(connect("v", device), times(6, request(0, kMaxRequestBytes / 16)));
  EXPECT_TRUE(wait_for([&] { return device->reads == 4; }));
  let_go(*device);
  std::vector<std::thread> readers;
  for (int client : clients_) {
    readers.emplace_back([client] {
      std::string reply(16 + kMaxRequestBytes / 16, '\0');
      for (int i = 0; i < 6; ++i) {
        EXPECT_EQ(recv(client, reply.data(), reply.size(), MSG_WAITALL),
                  static_cast<ssize_t>(reply.size()));
      }
    });
  }
  for (std::thread& reader : readers) reader.join();
}

TEST_F(SharedMemory, ReadsThatWaitForMemoryEndWithTheirConnection) {
  auto device = make_device();
  for (int i = 0; i < 2; ++i) send_while_taken(connect("v", device), times(4, write_request(kMiB)));
  EXPECT_TRUE(wait_for([&] { return device->writes == 8; }));
  const int client = connect("v", device);
  send_while_taken(client, times(4, request(0, kMiB)));
  std::this_thread::sleep_for(50ms);
  shutdown(client, SHUT_RDWR);
  let_go(*device);
  EXPECT_TRUE(wait_for([&] { return server_->connections("v") == 2; }));
  EXPECT_EQ(device->reads, 0);
}

}  // namespace
}  // namespace cvol::nbd
