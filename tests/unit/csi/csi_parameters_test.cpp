#include <gtest/gtest.h>

#include "csi/condition.h"
#include "csi/parameters.h"
#include "volumed/base/units.h"

namespace cvol::csi {
namespace {

wire::CapacityRange range(int64_t required, int64_t limit) {
  wire::CapacityRange made;
  made.set_required_bytes(required);
  made.set_limit_bytes(limit);
  return made;
}

wire::Topology at(const std::string& key, const std::string& value) {
  wire::Topology topology;
  (*topology.mutable_segments())[key] = value;
  return topology;
}

const std::vector<Place> kPlaces = {
    {"a", "east", 30 * kGiB}, {"b", "west", 20 * kGiB}, {"c", "west", 10 * kGiB}};

TEST(CsiParameters, AreParsed) {
  auto parsed = parse_parameters({{"replicas", "3"},
                                  {"minInSync", "2"},
                                  {"fsType", "xfs"},
                                  {"mkfsOptions", " -b  size=4096 "},
                                  {"zoneSpread", "true"}},
                                 {});
  ASSERT_TRUE(parsed) << parsed.message();
  EXPECT_EQ(parsed->replicas, 3u);
  EXPECT_EQ(parsed->min_in_sync, 2u);
  EXPECT_EQ(parsed->fs, "xfs");
  EXPECT_EQ(parsed->mkfs_options, (std::vector<std::string>{"-b", "size=4096"}));
  EXPECT_TRUE(parsed->zone_spread);
}

TEST(CsiParameters, UnknownOnesAreRefusedByName) {
  auto parsed = parse_parameters({{"replicaz", "3"}}, {});
  EXPECT_EQ(parsed.code(), Code::kInvalidArgument);
  EXPECT_NE(parsed.message().find("replicaz"), std::string::npos);
  EXPECT_EQ(parse_parameters({}, {{"fsType", "xfs"}}).code(), Code::kInvalidArgument);
}

TEST(CsiParameters, ReservedKeysAreTheOrchestrators) {
  auto parsed = parse_parameters({{"csi.storage.k8s.io/fstype", "xfs"},
                                  {"csi.storage.k8s.io/pvc/name", "claim"},
                                  {"csi.storage.k8s.io/provisioner-secret-name", "s"},
                                  {"replicas", "2"}},
                                 {{"csi.storage.k8s.io/pv/name", "pv"}, {"minInSync", "2"}});
  ASSERT_TRUE(parsed) << parsed.message();
  EXPECT_EQ(parsed->fs, "xfs");
  EXPECT_EQ(parsed->replicas, 2u);
  EXPECT_EQ(parsed->min_in_sync, 2u);
  auto unsaid = parse_parameters({{"csi.storage.k8s.io/fstype", ""}}, {});
  ASSERT_TRUE(unsaid) << unsaid.message();
  EXPECT_EQ(unsaid->fs, "");
}

TEST(CsiParameters, BothWaysToNameAFileSystemAgree) {
  EXPECT_TRUE(parse_parameters({{"csi.storage.k8s.io/fstype", "xfs"}, {"fsType", "xfs"}}, {}));
  auto two = parse_parameters({{"csi.storage.k8s.io/fstype", "xfs"}, {"fsType", "ext4"}}, {});
  EXPECT_EQ(two.code(), Code::kInvalidArgument);
  auto unknown = parse_parameters({{"csi.storage.k8s.io/fstype", "btrfs"}}, {});
  EXPECT_EQ(unknown.code(), Code::kInvalidArgument);
  EXPECT_EQ(parse_parameters({{"csi.storage.k8s.io.evil", "x"}}, {}).code(),
            Code::kInvalidArgument);
}

TEST(CsiParameters, ValuesOutOfRangeAreRefused) {
  for (const char* bad : {"", "0", "9", "-1", "1.5", " 2", "10"})
    EXPECT_EQ(parse_parameters({{"replicas", bad}}, {}).code(), Code::kInvalidArgument) << bad;
  EXPECT_EQ(parse_parameters({{"minInSync", "2"}}, {}).code(), Code::kInvalidArgument);
  EXPECT_EQ(parse_parameters({{"zoneSpread", "1"}}, {}).code(), Code::kInvalidArgument);
}

TEST(CsiParameters, ChangeableOnesWin) {
  auto parsed = parse_parameters({{"replicas", "1"}}, {{"replicas", "3"}, {"minInSync", "2"}});
  ASSERT_TRUE(parsed);
  EXPECT_EQ(parsed->replicas, 3u);
  EXPECT_EQ(parsed->min_in_sync, 2u);
}

TEST(CsiParameters, SizesAreRoundedUpWithinTheLimit) {
  EXPECT_EQ(*choose_size(range(0, 0)), 0u);
  EXPECT_EQ(*choose_size(range(kMiB + 1, 0)), 2 * kMiB);
  EXPECT_EQ(*choose_size(range(5 * kMiB + 1, 5 * kMiB + 8192)), 5 * kMiB + 4096);
  EXPECT_EQ(*choose_size(range(0, 5 * kMiB + 5)), 5 * kMiB);
  EXPECT_EQ(*choose_size(range(0, kTiB)), 10 * kGiB);
  EXPECT_EQ(choose_size(range(5, 100)).code(), Code::kNoSpace);
  EXPECT_EQ(choose_size(range(INT64_MAX, 0)).code(), Code::kNoSpace);
  EXPECT_EQ(choose_size(range(-1, 0)).code(), Code::kInvalidArgument);
  EXPECT_EQ(choose_size(range(10, 5)).code(), Code::kInvalidArgument);
}

TEST(CsiParameters, NamesThatCannotBeOursAreMapped) {
  EXPECT_EQ(*volume_name("pvc-1234"), "pvc-1234");
  const std::string mapped = *volume_name("Zoë's volume");
  EXPECT_TRUE(mapped.starts_with("csi-"));
  EXPECT_TRUE(validate_name(mapped, "volume"));
  EXPECT_EQ(*volume_name("Zoë's volume"), mapped);
  EXPECT_NE(*volume_name("Zoë's volumes"), mapped);
  // An id of ours is no name of anybody's.
  EXPECT_TRUE(volume_name("00000000-0000-4000-8000-000000000001")->starts_with("csi-"));
  EXPECT_EQ(volume_name("").code(), Code::kInvalidArgument);
  EXPECT_EQ(volume_name(std::string(129, 'a')).code(), Code::kInvalidArgument);
  EXPECT_EQ(volume_name("a\x01").code(), Code::kInvalidArgument);
}

TEST(CsiTopology, PreferredNodesComeFirstThenTheRoomiest) {
  wire::TopologyRequirement wanted;
  *wanted.add_preferred() = at(kZoneTopology, "west");
  *wanted.add_requisite() = at(kNodeTopology, "c");
  EXPECT_EQ(*order_nodes(kPlaces, wanted), (std::vector<std::string>{"b", "c", "a"}));
  EXPECT_EQ(*order_nodes(kPlaces, {}), (std::vector<std::string>{"a", "b", "c"}));
}

TEST(CsiTopology, ARequirementThatNoNodeMeetsIsRefused) {
  wire::TopologyRequirement wanted;
  *wanted.add_requisite() = at(kZoneTopology, "north");
  EXPECT_EQ(order_nodes(kPlaces, wanted).code(), Code::kNoSpace);
  *wanted.add_requisite() = at(kZoneTopology, "east");
  EXPECT_EQ(order_nodes(kPlaces, wanted)->front(), "a");
  EXPECT_FALSE(is_at(kPlaces[0], at("topology.kubernetes.io/zone", "east")));
}

TEST(CsiTopology, CapacityCountsReplicasOnDifferentNodes) {
  EXPECT_EQ(capacity_of(kPlaces, 1, false).available, 60 * kGiB);
  EXPECT_EQ(capacity_of(kPlaces, 1, false).largest, 30 * kGiB);
  EXPECT_EQ(capacity_of(kPlaces, 2, false).available, 30 * kGiB);
  EXPECT_EQ(capacity_of(kPlaces, 2, false).largest, 20 * kGiB);
  EXPECT_EQ(capacity_of(kPlaces, 3, false).available, 10 * kGiB);
  EXPECT_EQ(capacity_of(kPlaces, 4, false).available, 0u);
  EXPECT_EQ(capacity_of(kPlaces, 2, true).largest, 20 * kGiB);
  EXPECT_EQ(capacity_of(kPlaces, 3, true).largest, 0u);
}

v1::Volume volume_of(uint32_t replicas, const std::vector<std::string>& states) {
  v1::Volume volume;
  volume.set_replicas(replicas);
  volume.set_min_in_sync(2);
  for (const std::string& state : states) {
    v1::Replica& copy = *volume.add_copies();
    copy.set_node("n" + std::to_string(volume.copies_size()));
    copy.set_state(state);
    copy.set_in_sync(state == "primary" || state == "in sync");
  }
  return volume;
}

TEST(CsiCondition, IsSaidInWords) {
  EXPECT_FALSE(condition_of(volume_of(3, {"primary", "in sync", "in sync"})).abnormal());
  auto degraded = condition_of(volume_of(3, {"primary", "in sync", "away"}));
  EXPECT_TRUE(degraded.abnormal());
  EXPECT_EQ(degraded.message(), "degraded: 2 of 3 replicas are in sync; away: n3");
  auto last = condition_of(volume_of(3, {"primary", "syncing", "away"}));
  EXPECT_NE(last.message().find("last copy"), std::string::npos) << last.message();
  EXPECT_NE(last.message().find("rebuilding"), std::string::npos);
  EXPECT_NE(last.message().find("writes wait until 2"), std::string::npos);
  v1::Volume damaged = volume_of(1, {"primary"});
  damaged.set_problem("its disk is gone");
  EXPECT_TRUE(condition_of(damaged).abnormal());
}

}  // namespace
}  // namespace cvol::csi
