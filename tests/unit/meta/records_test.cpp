#include "volumed/meta/records.h"

#include <gtest/gtest.h>

namespace cvol::meta {
namespace {

v1::VolumeRecord sample() {
  v1::VolumeRecord record;
  record.set_id("2b2ff4c3-9d4f-4a77-8f9d-0a40b2d9a6c1");
  record.set_name("pg");
  record.set_size_bytes(uint64_t{1} << 50);
  record.set_epoch(3);
  record.add_in_sync()->set_replica_id("r1");
  record.mutable_mount()->add_caller_ids("a");
  record.set_format_state(v1::FORMAT_STATE_DONE);
  return record;
}

TEST(Records, DecodeWhatWasEncoded) {
  v1::VolumeRecord record = sample();
  const std::string text = encode_record(record);
  auto read = parse_record<v1::VolumeRecord>("k", text);
  ASSERT_TRUE(read.is_ok()) << read.message();
  EXPECT_EQ(encode_record(*read), text);
  EXPECT_EQ(read->size_bytes(), uint64_t{1} << 50);
}

TEST(Records, ReadTheStoredTextOfVersionOne) {
  auto read = parse_record<v1::VolumeRecord>(
      "k", R"({"format_version":1,"id":"x","name":"pg","size_bytes":"1048576","replicas":1})");
  ASSERT_TRUE(read.is_ok()) << read.message();
  EXPECT_EQ(read->size_bytes(), 1048576u);
}

TEST(Records, RefuseANewerVersionEvenWithUnknownFields) {
  auto read = parse_record<v1::VolumeRecord>("k", R"({"format_version":3,"novel":true})");
  EXPECT_EQ(read.code(), Code::kUnsupported);
  EXPECT_NE(read.message().find("newer volumed"), std::string::npos);
}

TEST(Records, RefuseUnknownFieldsOfAKnownVersion) {
  EXPECT_EQ(parse_record<v1::VolumeRecord>("k", R"({"format_version":1,"novel":true})").code(),
            Code::kDamaged);
}

// What a record holds is told to people: in plain text, and not all of it.
TEST(Records, ErrorsShowForeignTextInPrintableForm) {
  const std::string bad = "{\"format_version\":2,\"id\":\"\x1b[2J\xff" + std::string(5000, 'x');
  const auto read = parse_record<v1::VolumeRecord>("k\x07y", bad);
  EXPECT_EQ(read.code(), Code::kDamaged);
  EXPECT_LT(read.message().size(), 2000u);
  for (const char c : read.message()) EXPECT_TRUE(c >= 0x20 && c < 0x7f);
  EXPECT_EQ(printable("abc", 2), "ab...");
  EXPECT_EQ(printable("a\nb\x01", 9), "a b?");
}

TEST(Records, RefuseWhatIsNoRecord) {
  for (const char* text : {"", "{", "[]", "{}", "null", R"({"format_version":"x"})",
                           R"({"format_version":1,"size_bytes":"-1"})"}) {
    EXPECT_EQ(parse_record<v1::VolumeRecord>("k", text).code(), Code::kDamaged) << text;
  }
}

}  // namespace
}  // namespace cvol::meta
