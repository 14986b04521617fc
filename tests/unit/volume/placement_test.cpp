// Placement: nodes are never used twice, zones as little as possible, then free space decides.
#include "volumed/volume/placement.h"

#include <gtest/gtest.h>

namespace cvol::volume {
namespace {

DiskChoice disk(const std::string& node, const std::string& zone, uint64_t free,
                const std::string& id = "") {
  return {node, node, zone, id.empty() ? node + "-disk" : id, free};
}

std::vector<std::string> nodes_of(const std::vector<DiskChoice>& chosen) {
  std::vector<std::string> nodes;
  for (const DiskChoice& choice : chosen) nodes.push_back(choice.node_id);
  return nodes;
}

using Names = std::vector<std::string>;

TEST(Placement, takes_the_nodes_with_most_space) {
  auto chosen =
      place_replicas({disk("a", "", 1), disk("b", "", 3), disk("c", "", 2)}, 2, {}, {}, false, {});
  ASSERT_TRUE(chosen.is_ok());
  EXPECT_EQ(nodes_of(*chosen), (Names{"b", "c"}));
}

TEST(Placement, puts_one_replica_on_a_node) {
  auto chosen = place_replicas({disk("a", "", 9, "1"), disk("a", "", 8, "2"), disk("b", "", 1)}, 2,
                               {}, {}, false, {});
  ASSERT_TRUE(chosen.is_ok());
  EXPECT_EQ(nodes_of(*chosen), (Names{"a", "b"}));
}

TEST(Placement, spreads_over_zones_before_it_looks_at_space) {
  auto chosen = place_replicas({disk("a", "east", 9), disk("b", "east", 8), disk("c", "west", 1)},
                               2, {}, {}, false, {});
  ASSERT_TRUE(chosen.is_ok());
  EXPECT_EQ(nodes_of(*chosen), (Names{"a", "c"}));
}

TEST(Placement, uses_a_zone_twice_unless_it_is_told_not_to) {
  const std::vector<DiskChoice> disks = {disk("a", "east", 9), disk("b", "east", 8)};
  EXPECT_TRUE(place_replicas(disks, 2, {}, {}, false, {}).is_ok());
  auto refused = place_replicas(disks, 2, {}, {}, true, {});
  ASSERT_FALSE(refused.is_ok());
  EXPECT_NE(refused.message().find("1 can be placed"), std::string::npos) << refused.message();
}

TEST(Placement, counts_what_the_volume_has_already) {
  auto chosen = place_replicas({disk("a", "east", 9), disk("b", "east", 8), disk("c", "west", 1)},
                               1, {"a"}, {"east"}, false, {});
  ASSERT_TRUE(chosen.is_ok());
  EXPECT_EQ(nodes_of(*chosen), Names{"c"});
}

TEST(Placement, refuses_what_the_nodes_cannot_hold) {
  auto refused =
      place_replicas({disk("a", "", 9), disk("b", "", 0)}, 2, {}, {}, false, "node3 is away");
  ASSERT_EQ(refused.code(), Code::kFailedPrecondition);
  EXPECT_NE(refused.message().find("a"), std::string::npos);
  EXPECT_NE(refused.message().find("(node3 is away)"), std::string::npos) << refused.message();
}

}  // namespace
}  // namespace cvol::volume
