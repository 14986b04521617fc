// The times of replication are checked together.
#include "replication/core/options.h"

#include <gtest/gtest.h>

namespace cvol::replication {
namespace {

TEST(ReplicationTimes, defaults_agree) {
  EXPECT_EQ(check(Options{}), "");
}

TEST(ReplicationTimes, a_grace_shorter_than_a_lease_is_refused) {
  Options options;
  options.grace = options.lease;
  EXPECT_NE(check(options).find("contradicts a lease"), std::string::npos);
}

TEST(ReplicationTimes, one_lost_beacon_must_not_end_a_lease) {
  Options options;
  options.beacon = options.lease / 2;
  EXPECT_NE(check(options).find("beacons"), std::string::npos);
}

TEST(ReplicationTimes, a_member_is_out_before_it_may_promote_itself) {
  Options options;
  options.replica_timeout = options.grace;
  EXPECT_NE(check(options).find("replica timeout"), std::string::npos);
}

}  // namespace
}  // namespace cvol::replication
