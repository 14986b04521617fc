// Members leave a record only as that record, and no earlier one, allows.
#include "volumed/volume/member_changes.h"

#include <gtest/gtest.h>

namespace cvol::volume {
namespace {

v1::VolumeRecord record_of(bool second_in_sync) {
  v1::VolumeRecord record;
  record.set_name("v");
  record.set_epoch(7);
  record.set_primary("r1");
  for (const char* number : {"1", "2"}) {
    v1::MemberRecord& member = *record.add_members();
    member.set_replica_id(std::string("r") + number);
    member.set_node_id(std::string("n") + number);
  }
  record.add_in_sync()->set_replica_id("r1");
  if (second_in_sync) record.add_in_sync()->set_replica_id("r2");
  return record;
}

TEST(LeaveOutNode, ItsReplicaLeavesTheMembersInANewEpoch) {
  v1::VolumeRecord record = record_of(false);
  ASSERT_TRUE(leave_out_node(record, "n2", "node2"));
  ASSERT_EQ(record.members_size(), 1);
  EXPECT_EQ(record.members(0).replica_id(), "r1");
  EXPECT_EQ(record.epoch(), 8u);
}

// It may have come into the set since somebody looked.
TEST(LeaveOutNode, AReplicaInTheSetStaysAndNothingChanges) {
  v1::VolumeRecord record = record_of(true);
  const Status refused = leave_out_node(record, "n2", "node2");
  EXPECT_EQ(refused.code(), Code::kFailedPrecondition);
  EXPECT_EQ(record.members_size(), 2);
  EXPECT_EQ(record.epoch(), 7u);
}

v1::MemberRecord successor_on(const std::string& node) {
  v1::MemberRecord member;
  member.set_replica_id("r9");
  member.set_node_id(node);
  return member;
}

TEST(TakePlace, TheSuccessorComesWithTheSameChange) {
  v1::VolumeRecord record = record_of(false);
  record.set_state("ready");
  record.set_replicas(2);
  bool added = false;
  ASSERT_TRUE(take_place(record, "n2", "node2", successor_on("n9"), added));
  EXPECT_TRUE(added);
  ASSERT_EQ(record.members_size(), 2);
  EXPECT_EQ(record.members(1).replica_id(), "r9");
  EXPECT_EQ(record.in_sync_size(), 1);
  EXPECT_EQ(record.epoch(), 8u);
}

TEST(TakePlace, AnInSyncReplicaIsNotReplacedAndNothingChanges) {
  v1::VolumeRecord record = record_of(true);
  record.set_state("ready");
  record.set_replicas(2);
  bool added = true;
  EXPECT_EQ(take_place(record, "n2", "node2", successor_on("n9"), added).code(),
            Code::kFailedPrecondition);
  EXPECT_FALSE(added);
  EXPECT_EQ(record.members_size(), 2);
  EXPECT_EQ(record.epoch(), 7u);
}

// The lost one goes all the same; another node is found by repair.
TEST(TakePlace, ANodeThatHasAReplicaOfItGetsNoSecondOne) {
  v1::VolumeRecord record = record_of(false);
  record.set_state("ready");
  record.set_replicas(2);
  bool added = true;
  ASSERT_TRUE(take_place(record, "n2", "node2", successor_on("n1"), added));
  EXPECT_FALSE(added);
  EXPECT_EQ(record.members_size(), 1);
}

TEST(TakePlace, VolumesThatAreRemovedOrHaveEnoughGetNoSuccessor) {
  v1::VolumeRecord record = record_of(false);
  record.set_state("removing");
  record.set_replicas(2);
  bool added = true;
  ASSERT_TRUE(take_place(record, "n2", "node2", successor_on("n9"), added));
  EXPECT_FALSE(added);
  record = record_of(false);
  record.set_state("ready");
  record.set_replicas(1);
  ASSERT_TRUE(take_place(record, "n2", "node2", successor_on("n9"), added));
  EXPECT_FALSE(added);
}

TEST(LeaveOutNode, ANodeWithoutAReplicaChangesNothing) {
  v1::VolumeRecord record = record_of(true);
  EXPECT_EQ(leave_out_node(record, "n3", "node3").code(), Code::kCancelled);
  EXPECT_EQ(record.epoch(), 7u);
}

}  // namespace
}  // namespace cvol::volume
