// Events of other nodes, and names in place of ids.
#include <cvol/v1/nodes.pb.h>
#include <gtest/gtest.h>

#include "volumed/base/random.h"
#include "volumed/volume/cluster.h"
#include "volumed/volume/event_names.h"

namespace cvol::volume {
namespace {

using namespace std::chrono_literals;

TEST(ClusterEvents, AreToldAsTheyWereAndOnlyOnce) {
  EventLog log(1024);
  for (int i = 0; i < 10; ++i) log.add("kind" + std::to_string(i % 2), "subject", "text");
  v1::EventsQuestion question;
  question.set_kind("kind1");
  uint64_t last = 0;
  const std::vector<Event> told = read_events(answer_events(log, question), &last);
  ASSERT_EQ(told.size(), 5u);
  EXPECT_EQ(last, 10u);
  EXPECT_EQ(told.front().sequence, 2u);
  EXPECT_EQ(told.front().kind, "kind1");
  EXPECT_EQ(told.front().subject, "subject");
  EXPECT_EQ(told.front().message, "text");
  EXPECT_LT(std::chrono::system_clock::now() - told.front().time, 60s);
  question.set_after(last);
  EXPECT_TRUE(read_events(answer_events(log, question), &last).empty());
  EXPECT_EQ(last, 10u);
}

TEST(ClusterEvents, OnlyTheNewestThatFitAreTold) {
  EventLog log(1024);
  for (int i = 0; i < 1000; ++i) log.add("kind", "subject", std::string(8000, 'x'));
  const std::string answer = answer_events(log, {});
  EXPECT_LE(answer.size(), replication::wire::kMostToldBytes);
  uint64_t last = 0;
  const std::vector<Event> told = read_events(answer, &last);
  ASSERT_GT(told.size(), 10u);
  EXPECT_EQ(told.back().sequence, 1000u);
}

TEST(ClusterEvents, AnythingMayBeAnswered) {
  Random random(7);
  uint64_t last = 0;
  for (int i = 0; i < 20000; ++i) {
    std::string text(random.below(200), 0);
    for (char& c : text) c = static_cast<char>(random.below(256));
    (void)read_events(text, &last);
    v1::NodeQuestion question;
    (void)question.ParseFromString(text);
    (void)answer_events(EventLog(1), question.events());
  }
  v1::NodeAnswer far;
  far.mutable_events()->add_events()->set_microseconds(INT64_MAX);
  far.mutable_events()->add_events()->set_microseconds(INT64_MIN);
  EXPECT_EQ(read_events(far.SerializeAsString(), &last).size(), 2u);
}

TEST(EventNames, NodesStandInPlaceOfReplicas) {
  v1::VolumeRecord record;
  const auto add = [&](const std::string& replica, const std::string& node) {
    v1::MemberRecord& member = *record.add_members();
    member.set_replica_id(replica);
    member.set_node_id(node);
  };
  add("aa5e65b7-fa50-4693-9070-50d1ab61d7e7", "n-1");
  add("db07b841-1186-4b62-8828-d127a1369924", "n-2");
  const std::map<std::string, std::string> nodes = {{"n-1", "node1"}, {"n-2", "node2"}};
  EXPECT_EQ(with_node_names(record, nodes, "epoch 12 primary aa5e65b7 in sync [aa5e65b7 db07b841]"),
            "epoch 12 primary node1 in sync [node1 node2]");
  EXPECT_EQ(with_node_names(record, nodes,
                            "taking replica db07b841-1186-4b62-8828-d127a1369924 (its process)"),
            "taking the replica on node2 (its process)");
  EXPECT_EQ(with_node_names(record, nodes, "aa5e65b77 and 1aa5e65b7 are others"),
            "aa5e65b77 and 1aa5e65b7 are others");
}

}  // namespace
}  // namespace cvol::volume
