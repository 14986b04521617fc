// What a replica has given to its disk for one role has ended before the next role begins (R10).
#include "tests/sim/node/blocks.h"

namespace cvol::sim {
namespace {

class EndOfARole : public BlockScenario {
 protected:
  // A piece of a resync, with 0x55 in chunk 4, is in the joiner's disk for 6 s. Its join ends, and
  // a client discards the chunk: for the next join nothing of it is to be done.
  void leave_a_piece_in_the_disk() {
    begin(two_replicas());
    put(0, 16, 0x11);
    wait_in_sync();
    cluster().run_for(3 * io::kSecond);
    crash_and_wait_until_out(joiner());
    put(kBlock, 16, 0x55);
    cluster().cut(cluster().primary(), joiner());
    cluster().start(joiner());
    wait([&] { return joiner().up(); }, 10 * io::kSecond, "it is up");
    slow_disk(joiner(), 6 * io::kSecond);
    cluster().heal();
    wait([&] { return joiner().host()->core().ready_join() != 0; }, 10 * io::kSecond, "it joins");
    cluster().run_for(500 * io::kMillisecond);
    discard(kBlock, 16);   // waits until the join has ended
    usual_disk(joiner());  // but for what it has in its hands
    wait_in_sync(60 * io::kSecond);
  }
  Node& joiner() {
    if (joiner_ == nullptr) joiner_ = &cluster().secondary();
    return *joiner_;
  }
  static constexpr uint64_t kBlock = 64;

 private:
  Node* joiner_ = nullptr;
};

TEST_F(EndOfARole, a_piece_of_a_join_that_is_over_lands_in_no_member) {
  leave_a_piece_in_the_disk();
  cluster().run_for(20 * io::kSecond);
  EXPECT_TRUE(cluster().all_in_sync());
  EXPECT_EQ(held_by(cluster().primary(), kBlock), 0);
  EXPECT_EQ(held_by(joiner(), kBlock), 0);
  cluster().crash(cluster().primary());
  wait([&] { return &cluster().primary() == &joiner() && cluster().serving(); }, 30 * io::kSecond,
       "the other one serves");
  EXPECT_EQ(client_sees(kBlock), 0);
}

// The writes of a primary take no lock that a piece could hold.
TEST_F(EndOfARole, a_piece_of_a_join_that_is_over_overwrites_nothing) {
  leave_a_piece_in_the_disk();
  Node& primary = cluster().primary();
  const Uuid process = primary.process();
  cluster().crash(primary);
  cluster().tell_death(primary, process);
  wait([&] { return &cluster().primary() == &joiner() && cluster().serving(); }, 30 * io::kSecond,
       "the other one serves");
  put(kBlock, 1, 0x66);
  EXPECT_EQ(client_sees(kBlock), 0x66);
  cluster().run_for(20 * io::kSecond);
  EXPECT_EQ(client_sees(kBlock), 0x66);
}

}  // namespace
}  // namespace cvol::sim
