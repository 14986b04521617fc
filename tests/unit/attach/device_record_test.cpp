#include "nbd/attach/device_record.h"
#include "nbd/attach/holders.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

namespace cvol::attach {
namespace {

DeviceRecord sample() {
  return {"v1", "fuse", "/dev/loop3", 1 << 30, "boot", 42, 4711, 0, "node-1"};
}

TEST(DeviceRecord, SurvivesEncodingAndDecoding) {
  auto record = decode_record(encode_record(sample()));
  ASSERT_TRUE(record.is_ok()) << record.message();
  EXPECT_EQ(encode_record(*record), encode_record(sample()));
}

TEST(DeviceRecord, GoldenTextIsStillRead) {
  auto record = decode_record(
      R"({"format":1,"volume":"db","method":"kernel","device":"/dev/nbd0","size_bytes":4096,)"
      R"("boot_id":"b","connections":2})");
  ASSERT_TRUE(record.is_ok());
  EXPECT_EQ(record->device, "/dev/nbd0");
  EXPECT_EQ(record->connections, 2u);
}

TEST(DeviceRecord, ANewerFormatIsRefused) {
  EXPECT_EQ(decode_record(R"({"format":2,"volume":"v","method":"fuse"})").code(),
            Code::kUnsupported);
}

TEST(DeviceRecord, WhatIsNotARecordIsDamaged) {
  for (const char* text : {"", "{", "[]", "7", "{}", R"({"format":0})", R"({"format":"1"})",
                           R"({"format":1,"volume":5,"method":"fuse"})",
                           R"({"format":1,"volume":"v","method":"magic"})",
                           R"({"format":1,"volume":"v","method":"fuse","size_bytes":-1})"}) {
    EXPECT_EQ(decode_record(text).code(), Code::kDamaged) << text;
  }
  EXPECT_EQ(decode_record(std::string(kMaxRecordBytes + 1, ' ')).code(), Code::kDamaged);
}

TEST(DeviceRecord, NamesCannotLeaveTheDirectory) {
  EXPECT_FALSE(decode_record(R"({"format":1,"volume":"../x","method":"fuse"})").is_ok());
}

TEST(DeviceRecord, FilesAreWrittenReadAndRemoved) {
  std::string directory = testing::TempDir() + "records-" + std::to_string(::getpid());
  std::filesystem::create_directories(directory);
  ASSERT_TRUE(write_record(directory, sample()).is_ok());
  std::ofstream(directory + "/broken.json") << "{";
  std::ofstream(directory + "/other.json") << encode_record(sample());  // name does not agree
  std::vector<std::string> unreadable;
  auto records = read_records(directory, &unreadable);
  ASSERT_TRUE(records.is_ok());
  ASSERT_EQ(records->size(), 1u);
  EXPECT_EQ(unreadable.size(), 2u);
  EXPECT_EQ((*records)[0].volume, "v1");
  EXPECT_TRUE(remove_record(directory, "v1").is_ok());
  EXPECT_TRUE(remove_record(directory, "v1").is_ok());
  std::filesystem::remove_all(directory);
}

TEST(Holders, AreKnownByTheirArguments) {
  Holder holder;
  ASSERT_TRUE(parse_holder({"@cvol-holder", "--volume", "v", "--mount", "/run/cvol/attach/attach/v",
                            "--socket", "/s", "--instance", "node-1"},
                           holder));
  EXPECT_EQ(holder.volume, "v");
  EXPECT_EQ(holder.mount, "/run/cvol/attach/attach/v");
  EXPECT_EQ(holder.instance, "node-1");
  for (const std::vector<std::string>& words :
       std::vector<std::vector<std::string>>{{},
                                             {"@cvol-holder"},
                                             {"cvol-holder", "--volume", "v", "--mount", "/m"},
                                             {"@cvol-holder", "--volume", "v", "--mount"}}) {
    Holder none;
    EXPECT_FALSE(parse_holder(words, none));
  }
}

}  // namespace
}  // namespace cvol::attach
