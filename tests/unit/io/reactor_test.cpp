#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <thread>

#include "volumed/base/units.h"
#include "volumed/io/address.h"
#include "volumed/io/scope.h"
#include "volumed/io/shard.h"
#include "volumed/io/sim/sim_reactor.h"
#include "volumed/io/uring_reactor.h"

namespace cvol::io {
namespace {

// Runs the same body on the real and on the simulated reactor.
template <typename Body>
void on_both(Body body) {
  {
    Result<std::unique_ptr<UringReactor>> real = UringReactor::make({});
    ASSERT_TRUE(real) << real.message();
    (*real)->run_until_done(body(**real));
  }
  SimWorld world(1);
  SimReactor simulated(world);
  EXPECT_TRUE(simulated.run(body(simulated)));
}

Task<void> sleeps_in_order(Reactor& reactor) {
  const Nanoseconds before = reactor.now();
  const int64_t result = co_await reactor.sleep(2 * kMillisecond);
  EXPECT_EQ(result, 0);
  EXPECT_GE(reactor.now() - before, 2 * kMillisecond);
}

TEST(Reactor, timers_wait_at_least_as_long_as_asked) {
  on_both(sleeps_in_order);
}

Task<void> sleep_long(Reactor* reactor, CancelToken* token, int64_t* result) {
  *result = co_await reactor->sleep(3600 * kSecond, token);
}

Task<void> cancels(Reactor& reactor) {
  CancelToken token;
  Scope scope;
  int64_t first = 1;
  int64_t second = 1;
  scope.spawn(sleep_long(&reactor, &token, &first));
  token.cancel();
  co_await scope.join();
  scope.spawn(sleep_long(&reactor, &token, &second));  // cancelled before it began
  co_await scope.join();
  EXPECT_EQ(first, -ECANCELED);
  EXPECT_EQ(second, -ECANCELED);
}

TEST(Reactor, cancelled_operations_end_at_once) {
  on_both(cancels);
}

Task<void> echo(Reactor* reactor, Listener* listener) {
  const int64_t handle = co_await listener->accept();
  EXPECT_GE(handle, 0);
  Stream stream(reactor, static_cast<int>(handle));
  char buffer[64];
  while (true) {
    const int64_t got = co_await stream.recv(buffer, sizeof buffer);
    if (got <= 0) break;
    const iovec iov{buffer, static_cast<std::size_t>(got)};
    const int64_t sent = co_await stream.sendv(&iov, 1);
    EXPECT_EQ(sent, got);
  }
}

Task<void> talks(Reactor& reactor) {
  const std::string address = "unix:/tmp/cvol-reactor-test-" + std::to_string(getpid());
  Result<Listener> listener = reactor.listen(address, Watch::kPatiently);
  EXPECT_TRUE(listener) << listener.message();
  Scope scope;
  scope.spawn(echo(&reactor, &*listener));
  Result<Stream> stream = reactor.connect(address);
  EXPECT_TRUE(stream) << stream.message();
  char hello[] = "hello";
  const iovec iov{hello, 5};
  int64_t moved = co_await stream->sendv(&iov, 1);
  EXPECT_EQ(moved, 5);
  char back[6] = {};
  for (int64_t have = 0; have < 5; have += moved) {
    moved = co_await stream->recv(back + have, static_cast<std::size_t>(5 - have));
    EXPECT_GT(moved, 0);
    if (moved <= 0) break;
  }
  EXPECT_STREQ(back, "hello");
  stream->shutdown();
  co_await scope.join();
  stream->close();
  listener->close();
  (void)reactor.remove_all(address.substr(5));
}

TEST(Reactor, streams_carry_bytes_both_ways) {
  on_both(talks);
}

// An option of the socket of a connection that was accepted.
int accepted_option(Watch watch, int level, int name) {
  auto reactor = UringReactor::make({});
  EXPECT_TRUE(reactor) << reactor.message();
  auto listener = (*reactor)->listen("tcp:127.0.0.1:0", watch);
  EXPECT_TRUE(listener) << listener.message();
  sockaddr_in address{};
  socklen_t length = sizeof address;
  getsockname(listener->handle(), reinterpret_cast<sockaddr*>(&address), &length);
  auto dialed = (*reactor)->connect("tcp:127.0.0.1:" + std::to_string(ntohs(address.sin_port)));
  EXPECT_TRUE(dialed) << dialed.message();
  Stream accepted(reactor->get(), accept(listener->handle(), nullptr, nullptr));
  int value = -1;
  length = sizeof value;
  EXPECT_EQ(getsockopt(accepted.handle(), level, name, &value, &length), 0);
  return value;
}

// The end that was dialed says nothing of its own accord, and would wait for ever.
TEST(Reactor, the_other_end_of_an_accepted_connection_is_watched_too) {
  EXPECT_EQ(accepted_option(Watch::kClosely, SOL_SOCKET, SO_KEEPALIVE), 1);
  EXPECT_EQ(accepted_option(Watch::kClosely, IPPROTO_TCP, TCP_KEEPIDLE), 2);
  EXPECT_EQ(accepted_option(Watch::kClosely, IPPROTO_TCP, TCP_USER_TIMEOUT), 3000);
  EXPECT_EQ(accepted_option(Watch::kPatiently, SOL_SOCKET, SO_KEEPALIVE), 1);
  EXPECT_EQ(accepted_option(Watch::kPatiently, IPPROTO_TCP, TCP_KEEPIDLE), 30);
  EXPECT_EQ(accepted_option(Watch::kPatiently, IPPROTO_TCP, TCP_USER_TIMEOUT), 0);
}

Task<void> uses_files(Reactor& reactor) {
  const std::string path = "/var/tmp/cvol-reactor-test-" + std::to_string(getpid());
  OpenOptions options;
  options.create = true;
  options.exclusive = true;
  Result<File> file = reactor.open(path, options);
  EXPECT_TRUE(file) << file.message();
  auto* memory = static_cast<char*>(std::aligned_alloc(kBlockBytes, kBlockBytes));
  std::fill_n(memory, kBlockBytes, 'x');
  const iovec iov{memory, kBlockBytes};
  int64_t moved = co_await file->writev(&iov, 1, kBlockBytes, true);
  EXPECT_EQ(moved, static_cast<int64_t>(kBlockBytes));
  std::fill_n(memory, kBlockBytes, 'y');
  moved = co_await file->readv(&iov, 1, kBlockBytes);
  EXPECT_EQ(moved, static_cast<int64_t>(kBlockBytes));
  EXPECT_EQ(memory[17], 'x');
  moved = co_await file->readv(&iov, 1, 16 * kBlockBytes);
  EXPECT_EQ(moved, 0);  // beyond the end
  const int64_t synced = co_await file->sync();
  EXPECT_EQ(synced, 0);
  OpenOptions again;
  again.exclusive = true;
  EXPECT_EQ(reactor.open(path, again).code(), Code::kBusy);
  file->close();
  (void)reactor.remove_all(path);
  std::free(memory);
}

TEST(Reactor, files_are_written_read_and_locked) {
  on_both(uses_files);
}

TEST(Reactor, blocking_calls_do_not_stop_the_loop) {
  struct Body {
    static Task<void> slow(Reactor* reactor, bool* done) {
      const int answer = co_await reactor->blocking([] {
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        return 7;
      });
      EXPECT_EQ(answer, 7);
      *done = true;
    }
    static Task<void> run(Reactor* reactor) {
      bool done = false;
      Scope scope;
      scope.spawn(slow(reactor, &done));
      co_await reactor->sleep(kMillisecond);
      EXPECT_FALSE(done);
      co_await scope.join();
      EXPECT_TRUE(done);
    }
  };
  Result<std::unique_ptr<UringReactor>> real = UringReactor::make({});
  ASSERT_TRUE(real);
  (*real)->run_until_done(Body::run(real->get()));
}

TEST(Shard, runs_what_other_threads_give_it) {
  Result<std::unique_ptr<Shard>> shard = Shard::start("test");
  ASSERT_TRUE(shard) << shard.message();
  struct Body {
    static Task<int> add(Reactor* reactor, int value) {
      co_await reactor->sleep(kMicrosecond);
      co_return value + 1;
    }
  };
  std::atomic<int> sum{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 200; ++i) {
        sum += (*shard)->run<int>([&] { return Body::add(&(*shard)->reactor(), i); });
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(sum.load(), 4 * (200 * 199 / 2 + 200));
}

TEST(Address, only_the_three_forms_are_taken) {
  EXPECT_TRUE(parse_address("unix:/run/x.sock"));
  EXPECT_TRUE(parse_address("tcp:127.0.0.1:10809")->loopback);
  EXPECT_TRUE(parse_address("tcp:[::1]:1")->loopback);
  EXPECT_TRUE(parse_address("tcp:[127.0.0.1]:1")->loopback);
  EXPECT_FALSE(parse_address("tcp:[]:1"));
  EXPECT_FALSE(parse_address("tcp:[host]:1"));
  EXPECT_FALSE(parse_address("tcp:0.0.0.0:1")->loopback);
  for (const char* text : {"", "tcp:", "tcp:host:1", "tcp:1.2.3.4", "tcp:1.2.3.4:99999",
                           "unix:", "http://x", "tcp:1.2.3.4:1x"}) {
    EXPECT_FALSE(parse_address(text)) << text;
  }
  EXPECT_FALSE(parse_address("unix:" + std::string(200, 'x')));
}

}  // namespace
}  // namespace cvol::io
