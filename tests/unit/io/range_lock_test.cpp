#include "volumed/io/range_lock.h"

#include <gtest/gtest.h>

#include <string>

#include "volumed/io/sim/sim_reactor.h"

namespace cvol::io {
namespace {

class RangeLockTest : public testing::Test {
 protected:
  // An operation that says when it began and ended.
  static Task<void> operation(io::SimReactor* reactor, RangeLock* lock, std::string* log, char name,
                              bool writes, uint64_t begin, uint64_t end) {
    if (writes) {
      RangeLock::Write guard(*lock, begin, end);
      co_await guard;
      *log += name;
      co_await reactor->sleep(io::kMillisecond + (name - 'a') * io::kMicrosecond);
      *log += static_cast<char>(name + ('A' - 'a'));
    } else {
      RangeLock::Read guard(*lock, begin, end);
      co_await guard;
      *log += name;
      co_await reactor->sleep(io::kMillisecond + (name - 'a') * io::kMicrosecond);
      *log += static_cast<char>(name + ('A' - 'a'));
    }
  }
  void start(char name, bool writes, uint64_t begin, uint64_t end) {
    reactor_.start(operation(&reactor_, &lock_, &log_, name, writes, begin, end));
  }
  std::string finish() {
    while (!reactor_.done() && world_.step()) {
    }
    EXPECT_TRUE(reactor_.done());
    EXPECT_EQ(lock_.claims(), 0u);
    return log_;
  }

  io::SimWorld world_{1};
  io::SimReactor reactor_{world_};
  RangeLock lock_;
  std::string log_;
};

TEST_F(RangeLockTest, LetsWritersOfDifferentBlocksRunTogether) {
  start('a', true, 0, 10);
  start('b', true, 10, 20);
  EXPECT_EQ(finish(), "abAB");
}

TEST_F(RangeLockTest, RunsOverlappingWritersInTheOrderOfTheirArrival) {
  start('a', true, 0, 10);
  start('b', true, 5, 15);
  start('c', true, 9, 20);
  EXPECT_EQ(finish(), "aAbBcC");
}

TEST_F(RangeLockTest, DoesNotLetALaterWriterOvertakeOneThatWaits) {
  start('a', true, 0, 10);
  start('b', true, 5, 15);   // waits for a
  start('c', true, 12, 20);  // waits for b though a does not touch it
  start('d', true, 30, 40);  // waits for nobody
  EXPECT_EQ(finish(), "adAbDBcC");
}

TEST_F(RangeLockTest, WaitsForAllBlockers) {
  start('a', true, 0, 10);
  start('b', true, 10, 20);
  start('c', true, 5, 15);
  EXPECT_EQ(finish(), "abABcC");
}

TEST_F(RangeLockTest, MakesAReaderWaitForEarlierWritersOnly) {
  start('a', true, 0, 10);
  start('r', false, 0, 5);  // after a
  start('b', true, 0, 10);  // after a, not after r
  EXPECT_EQ(finish().substr(0, 2), "aA");
  EXPECT_EQ(log_.find('r') < log_.find('R'), true);
}

TEST_F(RangeLockTest, LetsReadersRunTogetherAndWritersPassThem) {
  start('r', false, 0, 10);
  start('s', false, 0, 10);
  start('a', true, 0, 10);
  EXPECT_EQ(finish().substr(0, 3), "rsa");
}

}  // namespace
}  // namespace cvol::io
