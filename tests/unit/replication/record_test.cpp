// Records that do not hold together are told from those that do.
#include <gtest/gtest.h>

#include "replication/core/types.h"

namespace cvol::replication {
namespace {

Uuid id(uint8_t number) {
  Uuid made;
  made.bytes[0] = number;
  return made;
}

Record sound() {
  Record record;
  record.epoch = Epoch{3};
  record.primary = id(1);
  record.in_sync = {{id(1), 0}, {id(2), 4}};
  for (uint8_t number = 1; number <= 3; ++number) {
    Member member;
    member.replica = id(number);
    record.members.push_back(member);
  }
  return record;
}

TEST(ProblemOf, ASoundRecordHasNone) {
  EXPECT_EQ(problem_of(sound()), "");
  Record without = sound();
  without.primary = Uuid{};
  EXPECT_EQ(problem_of(without), "");
}

TEST(ProblemOf, TheSetMustHoldThePrimaryAndEachOnce) {
  Record record = sound();
  record.in_sync.clear();
  EXPECT_NE(problem_of(record), "");
  record = sound();
  record.primary = id(3);
  EXPECT_NE(problem_of(record), "");
  record = sound();
  record.in_sync.push_back({id(2), 5});
  EXPECT_NE(problem_of(record), "");
  record = sound();
  record.in_sync.push_back({Uuid{}, 0});
  EXPECT_NE(problem_of(record), "");
}

TEST(ProblemOf, MembersAreBoundedAndListedOnce) {
  Record record = sound();
  record.members.push_back(record.members.front());
  EXPECT_NE(problem_of(record), "");
  record = sound();
  for (uint8_t number = 4; record.members.size() <= kMostReplicas; ++number) {
    Member member;
    member.replica = id(number);
    record.members.push_back(member);
  }
  EXPECT_NE(problem_of(record), "");
}

}  // namespace
}  // namespace cvol::replication
