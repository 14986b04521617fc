#include "volumed/volume/conditions.h"

#include <algorithm>
#include <fstream>

#include "tests/unit/volume/manager_fixture.h"
#include "volumed/meta/store_health.h"
#include "volumed/volume/event_file.h"

namespace cvol::volume {
namespace {

using namespace std::chrono_literals;
using K = ConditionKind;

TEST(Conditions, EveryKindHasItsRowAndAName) {
  for (std::size_t i = 0; i < condition_table().size(); ++i) {
    const ConditionRow& row = condition_table()[i];
    EXPECT_EQ(static_cast<std::size_t>(row.kind), i);
    EXPECT_EQ(&row_of(row.kind), &row);
    EXPECT_FALSE(std::string(row.name).empty());
  }
}

TEST(Conditions, TheMostSevereComesFirstAndSinceIsRemembered) {
  ConditionBook book;
  const Condition::Time start = std::chrono::system_clock::now();
  auto told = book.settle({{K::kNodeAway, "b", "node b is away", {}}}, start);
  EXPECT_EQ(told[0].since, start);
  told = book.settle({{K::kNodeAway, "b", "node b is away", {}}, {K::kIoWaits, "v", "waits", {}}},
                     start + 60s);
  ASSERT_EQ(told.size(), 2u);
  EXPECT_EQ(told[0].kind, K::kIoWaits);
  EXPECT_EQ(told[1].since, start);
  (void)book.settle({}, start + 61s);
  told = book.settle({{K::kNodeAway, "b", "node b is away", {}}}, start + 90s);
  EXPECT_EQ(told[0].since, start + 90s);  // it was there in between
}

TEST(Conditions, FullnessIsToldFrom80Percent) {
  std::vector<Condition> found;
  const auto at = [&](uint64_t used) {
    found.clear();
    add_fullness(found, K::kPoolNearlyFull, K::kPoolFull, "/d", "disk /d", used, 100 * kGiB);
  };
  at(79 * kGiB);
  EXPECT_TRUE(found.empty());
  at(81 * kGiB);
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].kind, K::kPoolNearlyFull);
  EXPECT_NE(found[0].text.find("81 % full"), std::string::npos);
  at(120 * kGiB);
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].kind, K::kPoolFull);
}

TEST(StoreHealthTest, RemembersSinceWhenTheStoreIsAwayOrFull) {
  meta::StoreHealth health;
  const auto start = std::chrono::system_clock::now();
  EXPECT_FALSE(health.away());
  health.note(Status(Code::kUnavailable, "no answer"), start);
  health.note(Status(Code::kUnavailable, "no answer yet"), start + 5s);
  ASSERT_TRUE(health.away());
  EXPECT_EQ(health.away()->since, start);
  EXPECT_EQ(health.away()->error, "no answer yet");
  health.note_change(Status(Code::kNoSpace, "space exceeded"), start + 6s);
  EXPECT_FALSE(health.away());
  health.note(Status::ok(), start + 7s);  // reads are served
  ASSERT_TRUE(health.full());
  EXPECT_EQ(health.full()->since, start + 6s);
  health.note_change(Status::ok(), start + 8s);
  EXPECT_FALSE(health.full());
}

v1::AliveRecord alive_with(uint64_t allocated) {
  v1::AliveRecord record;
  record.set_node_id("n");
  v1::AliveDisk& disk = *record.add_disks();
  disk.set_id("d");
  disk.set_capacity_bytes(100 * kGiB);
  disk.set_allocated_bytes(allocated);
  return record;
}

TEST(AliveNews, AnAllocatingLoadWritesLittle) {
  const v1::AliveRecord last = alive_with(10 * kGiB);
  EXPECT_FALSE(is_news(last, alive_with(10 * kGiB + kMiB), 300s));
  EXPECT_FALSE(is_news(last, alive_with(20 * kGiB), 10s));
  EXPECT_TRUE(is_news(last, alive_with(20 * kGiB), 31s));
  EXPECT_TRUE(is_news(last, alive_with(5 * kGiB), 31s));
  EXPECT_TRUE(is_news(last, last, 601s));
  v1::AliveRecord failed = last;
  failed.mutable_disks(0)->set_failed(true);
  EXPECT_TRUE(is_news(last, failed, 1s));
}

class ConditionsOfANode : public VolumeManagerTest {
 protected:
  std::vector<K> kinds() {
    std::vector<K> all;
    for (const Condition& condition : manager_->conditions()) all.push_back(condition.kind);
    return all;
  }
};

TEST_F(ConditionsOfANode, AFullFileSystemOfTheHostIsTold) {
  EXPECT_TRUE(kinds().empty());
  host_space_.available_bytes = 2 * kGiB;
  manager_.reset();  // looks are remembered for a while
  start();
  EXPECT_EQ(kinds(), std::vector<K>{K::kHostFull});
  EXPECT_FALSE(manager_->problems().empty());
}

TEST_F(ConditionsOfANode, EventsOutliveARestart) {
  create("a");
  const uint64_t last = manager_->events().after(0).back().sequence;
  start();
  const std::vector<Event> kept = manager_->events().after(0);
  const auto found = std::find_if(kept.begin(), kept.end(), [](const Event& event) {
    return event.kind == "volume_created" && event.subject == "a";
  });
  ASSERT_NE(found, kept.end());
  EXPECT_EQ(found->node, "n1");
  create("b");
  EXPECT_GT(manager_->events().after(0).back().sequence, last);
}

TEST_F(ConditionsOfANode, ADamagedFileOfEventsHarmsNothing) {
  create("a");
  manager_.reset();
  std::ofstream file(folder_ + "/events.log", std::ios::app);
  file << "not json\n{\"format_version\":1,\"sequence\":\"18446744073709551615\"}\n{\"format_ver";
  file.close();
  start();
  create("b");
  start();
  int created = 0;
  for (const Event& event : manager_->events().after(0))
    created += event.kind == "volume_created" ? 1 : 0;
  EXPECT_EQ(created, 2);
}

TEST(EventFilterTest, TakesByKindSubjectAndTime) {
  Event event;
  event.kind = "volume_created";
  event.subject = "v";
  event.time = std::chrono::system_clock::now();
  EXPECT_TRUE(EventFilter{}.takes(event));
  EXPECT_TRUE((EventFilter{"volume_created", "v", event.time}.takes(event)));
  EXPECT_FALSE((EventFilter{"volume_removed", "", {}}.takes(event)));
  EXPECT_FALSE((EventFilter{"", "w", {}}.takes(event)));
  EXPECT_FALSE((EventFilter{"", "", event.time + 1s}.takes(event)));
}

}  // namespace
}  // namespace cvol::volume
