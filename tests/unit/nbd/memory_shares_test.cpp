// Which export may hold how much of a shard's payload memory.
#include "nbd/server/memory_shares.h"

#include <gtest/gtest.h>

#include <deque>
#include <vector>

#include "volumed/io/sim/sim_reactor.h"

namespace cvol::nbd {
namespace {

constexpr uint64_t kMost = 256 * kMiB;

class MemorySharesTest : public testing::Test {
 protected:
  // What a test takes for one export; given back at the end, or by give_back().
  struct Volume {
    std::string name;
    MemoryShares::Share* share = nullptr;
    std::deque<Buffer> buffers;
    std::vector<std::size_t> got;  // sizes, in the order in which they came
  };

  ~MemorySharesTest() override {
    for (Volume& one : volumes_) {
      while (!one.buffers.empty()) give_back(one);
    }
    for (const Volume& one : volumes_) memory_.leave(one.name);
    EXPECT_EQ(memory_.used_bytes(), 0u);
  }
  Volume& volume(const std::string& name) {
    volumes_.push_back({name, &memory_.join(name), {}, {}});
    return volumes_.back();
  }
  static Task<void> take(MemoryShares* memory, Volume* one, std::size_t bytes) {
    Buffer buffer = co_await memory->wait_and_take(*one->share, bytes);
    one->got.push_back(buffer.capacity());
    one->buffers.push_back(std::move(buffer));
  }
  // Takes, or stays waiting.
  void ask(Volume& one, std::size_t bytes) {
    reactor_.start(take(&memory_, &one, bytes));
    settle();
  }
  bool try_take(Volume& one, std::size_t bytes) {
    Buffer buffer = memory_.try_take(*one.share, bytes);
    if (buffer.empty()) return false;
    one.buffers.push_back(std::move(buffer));
    return true;
  }
  void take_all(Volume& one, std::size_t bytes) {
    while (try_take(one, bytes)) {
    }
  }
  static Task<void> return_first(MemoryShares* memory, Volume* one) {
    memory->give_back(*one->share, one->buffers.front());
    one->buffers.pop_front();
    co_return;
  }
  void give_back(Volume& one) {
    reactor_.start(return_first(&memory_, &one));
    settle();
  }
  void settle() {
    world_.run_until([] { return false; });
  }

  io::SimWorld world_{1};
  io::SimReactor reactor_{world_};
  MemoryShares memory_{kMost, 0};
  std::deque<Volume> volumes_;
};

TEST_F(MemorySharesTest, OneAloneMayHoldHalf) {
  Volume& alone = volume("alone");
  take_all(alone, kMiB);
  EXPECT_EQ(memory_.used_bytes(), kMost / 2);
}

TEST_F(MemorySharesTest, TheConnectionsOfOneExportCountTogether) {
  Volume& first = volume("v");
  Volume& second = volume("v");
  take_all(first, kMiB);
  EXPECT_FALSE(try_take(second, kMiB));
  EXPECT_EQ(memory_.used_bytes(), kMost / 2);
}

TEST_F(MemorySharesTest, HoweverManyHaveAllTheyMayTheNextGetsTheLargestRequestOrItsLittle) {
  for (int i = 0; i < 300; ++i) take_all(volume("stalled" + std::to_string(i)), 64 * kKiB);
  EXPECT_LE(memory_.used_bytes(), kMost + 300 * memory_.little_bytes());
  Volume& large = volume("large");
  EXPECT_TRUE(try_take(large, kMaxRequestBytes));
  EXPECT_FALSE(try_take(large, 4096));
  Volume& small = volume("small");
  take_all(small, 4096);
  EXPECT_EQ(small.share->held_bytes(), memory_.little_bytes());
}

TEST_F(MemorySharesTest, WhatTheOthersGiveBackLetsOneInThatWaits) {
  Volume& busy = volume("busy");
  Volume& waits = volume("waits");
  take_all(busy, 32 * kMiB);
  take_all(waits, 32 * kMiB);
  EXPECT_EQ(waits.share->held_bytes(), 64 * kMiB);
  ask(waits, 16 * kMiB);
  EXPECT_TRUE(waits.got.empty());
  give_back(busy);
  EXPECT_EQ(waits.got.size(), 1u);
}

TEST_F(MemorySharesTest, ALargeRequestIsNotOvertakenByItsExport) {
  Volume& stalled = volume("stalled");
  take_all(stalled, kMiB);
  for (int i = 0; i < 8; ++i) take_all(volume("other" + std::to_string(i)), kMiB);
  Volume& one = volume("one");
  ask(one, 4096);
  ask(one, kMaxRequestBytes);
  ask(one, 4096);
  EXPECT_FALSE(try_take(one, 4096));
  EXPECT_EQ(one.got, (std::vector<std::size_t>{4096}));
  give_back(one);
  EXPECT_EQ(one.got, (std::vector<std::size_t>{4096, kMaxRequestBytes}));
  give_back(one);
  EXPECT_EQ(one.got, (std::vector<std::size_t>{4096, kMaxRequestBytes, 4096}));
  EXPECT_FALSE(memory_.anyone_waits());
}

TEST_F(MemorySharesTest, ExportsThatWaitAreServedInTurn) {
  Volume& busy = volume("busy");
  Volume& left = volume("left");
  Volume& right = volume("right");
  take_all(busy, 4 * kMiB);
  for (int i = 0; i < 10; ++i) {
    take_all(left, 4 * kMiB);
    take_all(right, 4 * kMiB);
  }
  for (int i = 0; i < 4; ++i) {
    ask(left, 2 * kMiB);
    ask(right, 2 * kMiB);
  }
  while (memory_.anyone_waits()) {
    give_back(busy);
    EXPECT_LE(left.got.size(), right.got.size() + 4);
  }
  EXPECT_EQ(left.got.size(), 4u);
  EXPECT_EQ(right.got.size(), 4u);
}

}  // namespace
}  // namespace cvol::nbd
