// Connections whose other end does not do its part.
#include "replication/node/mesh.h"

#include <gtest/gtest.h>

#include "volumed/base/log.h"
#include "volumed/io/sim/sim_reactor.h"

namespace cvol::sim {
namespace {

using replication::Endpoint;
using replication::Mesh;

class Handler final : public replication::MeshHandler {
 public:
  void on_frame(const Endpoint&, replication::Frame) override {}
  void on_up(const Endpoint&, const Uuid&) override { ++ups; }
  void on_down(const Endpoint&) override {}
  int ups = 0;
};

Endpoint endpoint_of(uint8_t number) {
  Endpoint endpoint;
  endpoint.node.bytes[0] = number;
  return endpoint;
}

Mesh::Options options_of(uint8_t number) {
  Mesh::Options options;
  options.self = endpoint_of(number);
  options.cluster.bytes[0] = 0xcc;
  options.process.bytes[0] = number;
  return options;
}

class MeshScenario : public ::testing::Test {
 protected:
  // A process with a mesh, on the machine of that number.
  struct Process {
    Process(io::SimWorld& world, uint8_t number)
        : reactor(world, number), mesh(reactor, handler, options(number)) {}
    static Mesh::Options options(uint8_t number) { return options_of(number); }
    static Endpoint endpoint(uint8_t number) { return endpoint_of(number); }
    io::SimReactor reactor;
    Handler handler;
    Mesh mesh;
  };

  MeshScenario() { log::set_level(std::getenv("CVOL_SIM_LOG") != nullptr ? "debug" : "off"); }

  bool run_until(const std::function<bool()>& done, io::Nanoseconds bound) {
    const io::Nanoseconds until = world_.now() + bound;
    world_.at(until, [] {});
    while (!done() && world_.now() < until && world_.step()) {
    }
    return done();
  }
  void close(Process& process) {
    process.reactor.start(process.mesh.close());
    ASSERT_TRUE(run_until([&] { return process.reactor.done(); }, 10 * io::kSecond));
  }

  io::SimWorld world_{1};
};

// Waits for bytes that do not come, until the connection ends.
Task<void> say(io::SimReactor* reactor, std::string address, std::vector<std::byte> what,
               io::Nanoseconds* ended) {
  auto stream = co_await reactor->dial(address, io::kSecond);
  CVOL_ASSERT(stream);
  if (!what.empty()) {
    const iovec iov{what.data(), what.size()};
    const int64_t sent = co_await stream->sendv(&iov, 1);
    CVOL_ASSERT(sent > 0);
  }
  std::byte byte;
  const int64_t got = co_await stream->recv(&byte, 1);
  EXPECT_LE(got, 0);
  *ended = reactor->now();
}

// Takes one connection, reads and says nothing: a stopped process.
Task<void> take_one(io::Listener* listener, io::Stream* stream, io::SimReactor* reactor) {
  const int64_t handle = co_await listener->accept();
  CVOL_ASSERT(handle >= 0);
  *stream = io::Stream(reactor, static_cast<int>(handle));
}

TEST_F(MeshScenario, a_connection_that_never_greets_is_ended) {
  Process one(world_, 1);
  ASSERT_TRUE(one.mesh.listen("node1"));
  io::SimReactor stranger(world_, 3);
  const io::Nanoseconds began = world_.now();
  io::Nanoseconds ended = 0;
  stranger.start(say(&stranger, "node1", {}, &ended));
  ASSERT_TRUE(run_until([&] { return stranger.done(); }, 60 * io::kSecond));
  EXPECT_GT(ended - began, io::kSecond);
  EXPECT_LT(ended - began, 5 * io::kSecond);
  EXPECT_EQ(one.handler.ups, 0);
  close(one);
}

// A gateway may be on another shard than the replica that is the primary, of the same process. (Two
// processes with one node's id are a mistake.)
TEST_F(MeshScenario, shards_of_one_process_are_peers) {
  for (const bool same : {true, false}) {
    Process one(world_, 1);
    Mesh::Options options = Process::options(1);
    options.self.shard = 1;
    if (!same) options.process.bytes[0] = 9;
    io::SimReactor reactor(world_, 2);
    Handler handler;
    Mesh other(reactor, handler, options);
    ASSERT_TRUE(other.listen("shard1"));
    one.mesh.set_address(options.self, "shard1");
    one.mesh.want(options.self);
    EXPECT_EQ(run_until([&] { return one.handler.ups == 1 && handler.ups == 1; }, 10 * io::kSecond),
              same);
    close(one);
    reactor.start(other.close());
    ASSERT_TRUE(run_until([&] { return reactor.done(); }, 10 * io::kSecond));
  }
}

// Node 3 was installed anew where node 2 was, which is still dialed there.
TEST_F(MeshScenario, a_node_in_the_place_of_another_one_keeps_its_connections) {
  Process one(world_, 1), three(world_, 3);
  ASSERT_TRUE(one.mesh.listen("node1"));
  ASSERT_TRUE(three.mesh.listen("node2"));
  one.mesh.set_address(Process::endpoint(2), "node2");
  one.mesh.want(Process::endpoint(2));
  one.mesh.set_address(Process::endpoint(3), "node2");
  one.mesh.want(Process::endpoint(3));
  three.mesh.set_address(Process::endpoint(1), "node1");
  three.mesh.want(Process::endpoint(1));
  ASSERT_TRUE(run_until(
      [&] {
        return one.mesh.is_up(Process::endpoint(3)) && three.mesh.is_up(Process::endpoint(1));
      },
      10 * io::kSecond));
  run_until([] { return false; }, io::kSecond);  // of two that were dialed at once one goes
  const int ups = one.handler.ups + three.handler.ups;
  const uint64_t dials = one.mesh.dials();
  run_until([] { return false; }, 600 * io::kSecond);
  EXPECT_EQ(one.handler.ups + three.handler.ups, ups);
  EXPECT_TRUE(three.mesh.is_up(Process::endpoint(1)));
  EXPECT_FALSE(one.mesh.is_up(Process::endpoint(2)));
  EXPECT_LT(one.mesh.dials() - dials, 30u);  // seldom
  run_until([] { return false; }, 13 * io::kSecond);
  // Node 2 is back elsewhere, and its record says so: nobody waits for the next attempt.
  Process two(world_, 2);
  ASSERT_TRUE(two.mesh.listen("elsewhere"));
  one.mesh.set_address(Process::endpoint(2), "elsewhere");
  EXPECT_TRUE(run_until([&] { return one.mesh.is_up(Process::endpoint(2)); }, io::kSecond));
  close(one);
  close(two);
  close(three);
}

// The address of a node that was removed may be one's own by now.
TEST_F(MeshScenario, a_node_in_the_place_of_another_one_is_no_peer_of_itself) {
  Process one(world_, 1);
  ASSERT_TRUE(one.mesh.listen("node1"));
  one.mesh.set_address(Process::endpoint(2), "node1");
  one.mesh.want(Process::endpoint(2));
  run_until([] { return false; }, 60 * io::kSecond);
  EXPECT_EQ(one.handler.ups, 0);
  EXPECT_GT(one.mesh.dials(), 1u);
  close(one);
}

TEST_F(MeshScenario, a_node_that_is_away_is_dialed_seldom_and_at_once_when_it_is_back) {
  Process one(world_, 1);
  one.mesh.set_address(Process::endpoint(2), "node2");
  one.mesh.want(Process::endpoint(2));
  run_until([] { return false; }, 60 * io::kSecond);
  const uint64_t while_known = one.mesh.dials();
  EXPECT_GT(while_known, 30u);
  one.mesh.set_away(Process::endpoint(2));
  run_until([] { return false; }, 613 * io::kSecond);  // between two attempts
  const uint64_t while_away = one.mesh.dials() - while_known;
  EXPECT_GT(while_away, 10u);
  EXPECT_LT(while_away, 30u);
  Process two(world_, 2);
  ASSERT_TRUE(two.mesh.listen("node2"));
  one.mesh.set_address(Process::endpoint(2), "node2");  // the same
  EXPECT_TRUE(run_until([&] { return one.mesh.is_up(Process::endpoint(2)); }, io::kSecond));
  close(one);
  close(two);
}

TEST_F(MeshScenario, a_node_that_was_removed_is_not_dialed_until_it_is_known_again) {
  Process one(world_, 1), two(world_, 2);
  ASSERT_TRUE(two.mesh.listen("node2"));
  one.mesh.set_address(Process::endpoint(2), "node2");
  one.mesh.want(Process::endpoint(2));
  ASSERT_TRUE(run_until([&] { return one.mesh.is_up(Process::endpoint(2)); }, io::kSecond));
  one.mesh.forget(Process::endpoint(2));
  EXPECT_TRUE(one.mesh.is_up(Process::endpoint(2)));
  one.mesh.reset(Process::endpoint(2));
  run_until([] { return false; }, io::kSecond);
  const uint64_t dials = one.mesh.dials();
  run_until([] { return false; }, 600 * io::kSecond);
  EXPECT_EQ(one.mesh.dials(), dials);
  EXPECT_EQ(one.mesh.open_connections(), 0u);
  one.mesh.set_address(Process::endpoint(2), "node2");
  one.mesh.want(Process::endpoint(2));
  EXPECT_TRUE(run_until([&] { return one.mesh.is_up(Process::endpoint(2)); }, io::kSecond));
  close(one);
  close(two);
}

TEST_F(MeshScenario, half_a_greeting_is_none) {
  Process one(world_, 1);
  ASSERT_TRUE(one.mesh.listen("node1"));
  io::SimReactor stranger(world_, 3);
  const io::Nanoseconds began = world_.now();
  io::Nanoseconds ended = 0;
  stranger.start(say(&stranger, "node1", std::vector<std::byte>(7), &ended));
  ASSERT_TRUE(run_until([&] { return stranger.done(); }, 60 * io::kSecond));
  EXPECT_LT(ended - began, 5 * io::kSecond);
  close(one);
}

// It is dialed by the one whose connections win; while that waits, those of the other one are
// refused.
TEST_F(MeshScenario, a_peer_that_did_not_greet_is_dialed_again) {
  Process one(world_, 1);
  ASSERT_TRUE(one.mesh.listen("node1"));
  auto silent = std::make_unique<io::SimReactor>(world_, 2);
  auto listener = silent->listen("node2", io::Watch::kClosely);
  ASSERT_TRUE(listener);
  io::Stream stream;
  silent->start(take_one(&*listener, &stream, silent.get()));
  one.mesh.set_address(Process::endpoint(2), "node2");
  one.mesh.want(Process::endpoint(2));
  ASSERT_TRUE(run_until([&] { return stream.is_open(); }, io::kSecond));
  listener->close();  // the next process listens there; the connection stays
  Process two(world_, 2);
  ASSERT_TRUE(two.mesh.listen("node2"));
  two.mesh.set_address(Process::endpoint(1), "node1");
  two.mesh.want(Process::endpoint(1));
  EXPECT_TRUE(run_until(
      [&] { return one.mesh.is_up(Process::endpoint(2)) && two.mesh.is_up(Process::endpoint(1)); },
      10 * io::kSecond));
  // It stays up after that: the time-out was the greeting's only.
  const int ups = one.handler.ups;
  run_until([] { return false; }, 10 * io::kSecond);
  EXPECT_TRUE(one.mesh.is_up(Process::endpoint(2)));
  EXPECT_EQ(one.handler.ups, ups);
  stream.close();
  close(one);
  close(two);
}

TEST_F(MeshScenario, closing_does_not_wait_for_greetings) {
  Process one(world_, 1);
  ASSERT_TRUE(one.mesh.listen("node1"));
  io::SimReactor stranger(world_, 3);
  io::Nanoseconds ended = 0;
  stranger.start(say(&stranger, "node1", {}, &ended));
  run_until([] { return false; }, 100 * io::kMillisecond);
  const io::Nanoseconds began = world_.now();
  close(one);
  EXPECT_LT(world_.now() - began, io::kSecond);
  ASSERT_TRUE(run_until([&] { return stranger.done(); }, io::kSecond));
}

std::vector<std::byte> hello_of(uint8_t node) {
  const Mesh::Options options = options_of(node);
  replication::wire::Hello hello;
  hello.cluster = options.cluster;
  hello.node = options.self.node;
  hello.process = options.process;
  replication::wire::FrameHeader header;
  header.type = static_cast<uint8_t>(replication::wire::FrameType::kHello);
  std::vector<std::byte> frame;
  replication::wire::encode_frame(header, replication::wire::encode_hello(hello), frame);
  return frame;
}

// The header of a frame with a payload that does not come.
std::vector<std::byte> announcement(uint32_t payload_bytes) {
  replication::wire::FrameHeader header;
  header.type = static_cast<uint8_t>(replication::wire::FrameType::kWrite);
  header.payload_bytes = payload_bytes;
  std::vector<std::byte> frame;
  replication::wire::encode_frame(header, {}, frame);
  return frame;
}

// Says who it is and announces a payload; then says nothing, until the connection ends.
Task<void> greet_and_announce(io::SimReactor* reactor, uint8_t node, io::Nanoseconds* ended) {
  auto stream = co_await reactor->dial("node1", io::kSecond);
  CVOL_ASSERT(stream);
  std::vector<std::byte> said = hello_of(node);
  const std::vector<std::byte> more = announcement(64 << 20);
  said.insert(said.end(), more.begin(), more.end());
  const iovec iov{said.data(), said.size()};
  const int64_t sent = co_await stream->sendv(&iov, 1);
  CVOL_ASSERT(sent > 0);
  std::byte bytes[512];
  int64_t got = 1;
  while (got > 0) got = co_await stream->recv(bytes, sizeof bytes);
  *ended = reactor->now();
}

TEST_F(MeshScenario, a_node_that_nobody_knows_gets_no_memory_for_payloads) {
  Process one(world_, 1);
  ASSERT_TRUE(one.mesh.listen("node1"));
  io::SimReactor stranger(world_, 3);
  io::Nanoseconds ended = 0;
  stranger.start(greet_and_announce(&stranger, 3, &ended));
  ASSERT_TRUE(run_until(
      [&] {
        EXPECT_EQ(one.mesh.buffered_bytes(), 0u);
        return stranger.done();
      },
      5 * io::kSecond));
  EXPECT_EQ(one.mesh.open_connections(), 0u);
  close(one);
}

TEST_F(MeshScenario, a_frame_that_stands_still_gives_its_memory_back) {
  Process one(world_, 1);
  ASSERT_TRUE(one.mesh.listen("node1"));
  one.mesh.set_address(Process::endpoint(3), "node3");  // it is known, but not dialed
  io::SimReactor peer(world_, 3);
  const io::Nanoseconds began = world_.now();
  io::Nanoseconds ended = 0;
  peer.start(greet_and_announce(&peer, 3, &ended));
  ASSERT_TRUE(run_until([&] { return one.mesh.buffered_bytes() > 0; }, 5 * io::kSecond));
  ASSERT_TRUE(run_until([&] { return peer.done(); }, 60 * io::kSecond));
  EXPECT_GE(ended - began, 10 * io::kSecond);
  EXPECT_LT(ended - began, 16 * io::kSecond);
  // The other end hears of it a moment before this one has let go.
  EXPECT_TRUE(run_until([&] { return one.mesh.buffered_bytes() == 0; }, io::kSecond));
  close(one);
}

TEST_F(MeshScenario, announcing_much_in_a_greeting_ends_it) {
  Process one(world_, 1);
  ASSERT_TRUE(one.mesh.listen("node1"));
  replication::wire::FrameHeader header;
  header.type = static_cast<uint8_t>(replication::wire::FrameType::kHello);
  std::vector<std::byte> frame;
  replication::wire::encode_frame(header, std::vector<std::byte>(1 << 20), frame);
  frame.resize(replication::wire::kHeaderBytes);
  io::SimReactor stranger(world_, 3);
  const io::Nanoseconds began = world_.now();
  io::Nanoseconds ended = 0;
  stranger.start(say(&stranger, "node1", frame, &ended));
  ASSERT_TRUE(run_until([&] { return stranger.done(); }, 60 * io::kSecond));
  EXPECT_LT(ended - began, io::kSecond);
  close(one);
}

TEST_F(MeshScenario, strangers_make_room_for_each_other_and_for_peers) {
  Process one(world_, 1);
  ASSERT_TRUE(one.mesh.listen("node1"));
  std::vector<std::unique_ptr<io::SimReactor>> strangers;
  std::vector<io::Nanoseconds> ended(80, 0);
  for (std::size_t i = 0; i < ended.size(); ++i) {
    strangers.push_back(std::make_unique<io::SimReactor>(world_, 3));
    strangers.back()->start(say(strangers.back().get(), "node1", {}, &ended[i]));
  }
  run_until([] { return false; }, 100 * io::kMillisecond);
  EXPECT_LE(one.mesh.open_connections(), 65u);
  Process two(world_, 2);
  two.mesh.set_address(Process::endpoint(1), "node1");
  two.mesh.want(Process::endpoint(1));
  EXPECT_TRUE(run_until([&] { return two.mesh.is_up(Process::endpoint(1)); }, io::kSecond));
  for (auto& stranger : strangers)
    ASSERT_TRUE(run_until([&] { return stranger->done(); }, 10 * io::kSecond));
  close(one);
  close(two);
}

}  // namespace
}  // namespace cvol::sim
