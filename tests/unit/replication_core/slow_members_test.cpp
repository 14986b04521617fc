// R16: who is far slower than all others, for 30 seconds, and nobody else.
#include "replication/core/slow_members.h"

#include <gtest/gtest.h>

namespace cvol::replication {
namespace {

// `seconds` of acknowledgements, 20 a second: each member's time in milliseconds.
void run(SlowMembers& watch, Nanoseconds& now, int seconds, std::vector<int64_t> times) {
  for (int i = 0; i < seconds * 20; ++i) {
    now += kSecond / 20;
    for (uint32_t slot = 0; slot < times.size(); ++slot)
      watch.record(now, slot, times[slot] * kMillisecond);
  }
}

TEST(SlowMembers, names_the_one_that_is_slow_for_long) {
  SlowMembers watch;
  Nanoseconds now = 0;
  run(watch, now, 40, {2, 3, 900});
  EXPECT_EQ(watch.slow(now, 0b111), 2u);
}

TEST(SlowMembers, waits_until_it_was_slow_for_half_a_minute) {
  SlowMembers watch;
  Nanoseconds now = 0;
  run(watch, now, 40, {2, 3, 4});
  run(watch, now, 15, {2, 3, 900});
  EXPECT_EQ(watch.slow(now, 0b111), 0u);
}

TEST(SlowMembers, lets_everybody_be_slow_together) {
  SlowMembers watch;
  Nanoseconds now = 0;
  run(watch, now, 40, {500, 600, 900});
  EXPECT_EQ(watch.slow(now, 0b111), 0u);
}

TEST(SlowMembers, takes_little_for_nothing) {
  SlowMembers watch;
  Nanoseconds now = 0;
  run(watch, now, 40, {1, 1, 100});  // a hundred times slower, and below 200 ms
  EXPECT_EQ(watch.slow(now, 0b111), 0u);
}

TEST(SlowMembers, looks_at_members_of_the_set_only) {
  SlowMembers watch;
  Nanoseconds now = 0;
  run(watch, now, 40, {2, 3, 900});
  EXPECT_EQ(watch.slow(now, 0b011), 0u);
}

TEST(SlowMembers, forgets_what_is_long_ago) {
  SlowMembers watch;
  Nanoseconds now = 0;
  run(watch, now, 40, {2, 3, 900});
  now += 60 * kSecond;
  EXPECT_EQ(watch.slow(now, 0b111), 0u);
}

}  // namespace
}  // namespace cvol::replication
