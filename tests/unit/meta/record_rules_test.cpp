#include "volumed/meta/record_rules.h"

#include <gtest/gtest.h>

#include <functional>
#include <utility>
#include <vector>

namespace cvol::meta {
namespace {

constexpr const char* kId = "2b2ff4c3-9d4f-4a77-8f9d-0a40b2d9a6c1";
constexpr const char* kOther = "5d8b0c52-1f0e-4c39-9a55-7d1c1a5b9f10";
constexpr const char* kKey = "/cvol/v1/default/volumes/2b2ff4c3-9d4f-4a77-8f9d-0a40b2d9a6c1";

v1::VolumeRecord sound() {
  v1::VolumeRecord record;
  record.set_id(kId);
  record.set_name("pg");
  record.set_size_bytes(kGiB);
  record.set_replicas(1);
  record.set_min_in_sync(1);
  record.set_durability("durable");
  record.set_fs("ext4");
  record.set_epoch(3);
  record.set_state("ready");
  v1::MemberRecord& member = *record.add_members();
  member.set_replica_id(kOther);
  member.set_node_id(kId);
  member.set_disk_id(kId);
  member.set_wanted("present");
  record.add_in_sync()->set_replica_id(kOther);
  record.set_primary(kOther);
  record.mutable_session()->set_id(kId);
  record.mutable_session()->set_node_id(kId);
  record.mutable_mount()->add_caller_ids("docker:1");
  (*record.mutable_mount()->mutable_targets())["docker:1"] = "/srv/data";
  record.mutable_stage()->set_path("/var/lib/kubelet/plugins/x/globalmount");
  record.mutable_stage()->add_flags("noatime");
  (*record.mutable_stage()->mutable_targets())["/var/lib/kubelet/pods/p/mount"].set_use("u");
  return record;
}

TEST(RecordRules, ASoundRecordIsWrittenAndRead) {
  v1::VolumeRecord record = sound();
  auto text = write_volume(kKey, nullptr, record);
  ASSERT_TRUE(text.is_ok()) << text.message();
  auto read = read_volume(kKey, *text);
  ASSERT_TRUE(read.is_ok()) << read.message();
  EXPECT_EQ(encode_record(*read), *text);
}

TEST(RecordRules, NamesOfOneLetterAreReadThoughNoneIsMadeAnyMore) {
  v1::VolumeRecord record = sound();
  record.set_name("m");
  EXPECT_TRUE(read_volume(kKey, encode_record(record)).is_ok());
}

TEST(RecordRules, WhatBreaksARuleIsNeitherWrittenNorRead) {
  using Record = v1::VolumeRecord;
  const std::vector<std::pair<const char*, std::function<void(Record&)>>> faults = {
      {"id", [](Record& r) { r.set_id("x"); }},
      {"name", [](Record& r) { r.set_name("../etc"); }},
      {"no name", [](Record& r) { r.clear_name(); }},
      {"size", [](Record& r) { r.set_size_bytes(kMaxVolumeBytes + kBlockBytes); }},
      {"odd size", [](Record& r) { r.set_size_bytes(kGiB + 1); }},
      {"replicas", [](Record& r) { r.set_replicas(9); }},
      {"no replicas", [](Record& r) { r.set_replicas(0); }},
      {"file system", [](Record& r) { r.set_fs("ntfs"); }},
      {"durability", [](Record& r) { r.set_durability("perhaps"); }},
      {"epoch", [](Record& r) { r.set_epoch(0); }},
      {"state", [](Record& r) { r.set_state("gone"); }},
      {"no state", [](Record& r) { r.clear_state(); }},
      {"policy", [](Record& r) { r.set_on_full("panic"); }},
      {"primary", [](Record& r) { r.set_primary("first"); }},
      {"replica", [](Record& r) { r.mutable_members(0)->set_replica_id("r1"); }},
      {"node", [](Record& r) { r.mutable_members(0)->set_node_id(""); }},
      {"wanted", [](Record& r) { r.mutable_members(0)->set_wanted("maybe"); }},
      {"twice", [](Record& r) { *r.add_members() = r.members(0); }},
      {"in sync", [](Record& r) { r.add_in_sync()->set_replica_id("r1"); }},
      {"session", [](Record& r) { r.mutable_session()->set_id("s"); }},
      {"stage path", [](Record& r) { r.mutable_stage()->set_path("/etc"); }},
      {"root", [](Record& r) { r.mutable_stage()->set_path("//./"); }},
      {"system", [](Record& r) { r.mutable_stage()->set_path("/usr//"); }},
      {"below proc", [](Record& r) { r.mutable_stage()->set_path("/proc/1"); }},
      {"climbs", [](Record& r) { r.mutable_stage()->set_path("/var/lib/../../etc"); }},
      {"relative", [](Record& r) { r.mutable_stage()->set_path("var"); }},
      {"line", [](Record& r) { r.mutable_stage()->set_path("/a\nb"); }},
      {"long path", [](Record& r) { r.mutable_stage()->set_path("/" + std::string(4096, 'a')); }},
      {"target", [](Record& r) { (*r.mutable_stage()->mutable_targets())["/dev"]; }},
      {"mount target", [](Record& r) { (*r.mutable_mount()->mutable_targets())["c"] = "/"; }},
      {"flag", [](Record& r) { r.mutable_stage()->add_flags("ro,bind"); }},
      {"group", [](Record& r) { r.mutable_stage()->set_group("root"); }},
      {"label", [](Record& r) { (*r.mutable_labels())["k"] = std::string(1025, 'v'); }},
  };
  for (const auto& [what, spoil] : faults) {
    v1::VolumeRecord record = sound();
    spoil(record);
    EXPECT_EQ(write_volume(kKey, nullptr, record).code(), Code::kInvalidArgument) << what;
    const auto read = read_volume(kKey, encode_record(record));
    EXPECT_EQ(read.code(), Code::kDamaged) << what;
    EXPECT_NE(read.message().find(kKey), std::string::npos) << what << ": " << read.message();
  }
}

TEST(RecordRules, CountsAreBounded) {
  v1::VolumeRecord record = sound();
  for (int i = 0; i < kMostCallers; ++i)
    record.mutable_mount()->add_caller_ids("c" + std::to_string(i));
  EXPECT_FALSE(check_rules(record).is_ok());
  record = sound();
  for (int i = 0; i < kMostMembers + 1; ++i) record.add_in_sync()->set_replica_id(kOther);
  EXPECT_FALSE(check_rules(record).is_ok());
}

// What may be written can always be read: 4,096 users with the longest ids would be more than 1
// MiB.
TEST(RecordRules, UsersCannotMakeARecordTooLargeToBeRead) {
  v1::VolumeRecord record = sound();
  int taken = 1;
  for (; taken < 1800; ++taken)
    record.mutable_mount()->add_caller_ids(std::to_string(taken) + std::string(250, 'i'));
  v1::VolumeRecord before = record;
  while (true) {
    record.mutable_mount()->add_caller_ids(std::to_string(taken) + std::string(250, 'i'));
    auto text = write_volume(kKey, &before, record);
    if (!text) {
      EXPECT_EQ(text.code(), Code::kInvalidArgument);
      EXPECT_NE(text.message().find("512KiB"), std::string::npos) << text.message();
      break;
    }
    ASSERT_LE(text->size(), kMostWrittenBytes);
    before = record;
    ASSERT_LT(++taken, kMostCallers);
  }
  EXPECT_GT(taken, 1000);
  // What is large already can be made smaller, and its replicas go on.
  before = record;
  record.set_epoch(uint64_t{1} << 60);
  EXPECT_TRUE(write_volume(kKey, &before, record).is_ok());
  record.mutable_mount()->mutable_caller_ids()->RemoveLast();
  EXPECT_TRUE(write_volume(kKey, &before, record).is_ok());
}

TEST(RecordRules, NothingAboveOneMebibyteIsWritten) {
  v1::VolumeRecord record = sound();
  for (int i = 0; i < 100; ++i)
    record.mutable_mount()->add_caller_ids(std::to_string(i) + std::string(16000, 'i'));
  const auto refused = write_volume(kKey, &record, record);
  EXPECT_EQ(refused.code(), Code::kInvalidArgument);
  EXPECT_NE(refused.message().find("1MiB"), std::string::npos) << refused.message();
}

TEST(RecordRules, ARecordUnderTheKeyOfAnotherIsNotRead) {
  v1::VolumeRecord record = sound();
  const std::string text = encode_record(record);
  EXPECT_EQ(read_volume(std::string("/cvol/v1/default/volumes/") + kOther, text).code(),
            Code::kDamaged);
  EXPECT_FALSE(check_key(kId, kId).is_ok());
  EXPECT_FALSE(check_key("", kId).is_ok());
  EXPECT_TRUE(check_key(kKey, kId).is_ok());
}

TEST(RecordRules, OfNodesDisksAndClaims) {
  v1::NodeRecord node;
  node.set_id(kId);
  EXPECT_FALSE(check_rules(node).is_ok()) << "it has no name";
  node.set_name("n1");
  EXPECT_TRUE(check_rules(node).is_ok());
  node.set_name("n\x1b[2J");
  EXPECT_FALSE(check_rules(node).is_ok());

  v1::DiskRecord disk;
  disk.set_id(kId);
  disk.set_node_id(kOther);
  for (const char* path : {"disks/default", "/mnt/disk", "/mnt/a..b"}) {
    disk.set_path(path);
    EXPECT_TRUE(check_rules(disk).is_ok()) << path;
  }
  for (const char* path : {"", "..", "disks/../../etc", "/mnt/.."}) {
    disk.set_path(path);
    EXPECT_FALSE(check_rules(disk).is_ok()) << path;
  }

  // A replica that is not on its disk any more claims nothing.
  v1::ClaimRecord claim;
  claim.set_volume_id(kId);
  claim.set_replica_id(kOther);
  claim.set_node_id(kId);
  claim.set_primary("00000000-0000-0000-0000-000000000000");
  EXPECT_TRUE(check_rules(claim).is_ok()) << check_rules(claim).message();
  claim.set_size_bytes(kMaxVolumeBytes + 1);
  EXPECT_FALSE(check_rules(claim).is_ok());
}

}  // namespace
}  // namespace cvol::meta
