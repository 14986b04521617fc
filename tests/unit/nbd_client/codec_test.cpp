#include "nbd/client/codec.h"

#include <gtest/gtest.h>

#include <cerrno>

namespace cvol::nbd::client {
namespace {

std::vector<std::byte> bytes_of(std::initializer_list<int> values) {
  std::vector<std::byte> bytes;
  for (int value : values) bytes.push_back(static_cast<std::byte>(value));
  return bytes;
}

std::vector<std::byte> greeting(uint8_t flags) {
  auto bytes =
      bytes_of({'N', 'B', 'D', 'M', 'A', 'G', 'I', 'C', 'I', 'H', 'A', 'V', 'E', 'O', 'P', 'T', 0});
  bytes.push_back(static_cast<std::byte>(flags));
  return bytes;
}

TEST(Codec, GreetingOfAFixedNewstyleServerIsTaken) {
  auto flags = parse_greeting(greeting(3));
  ASSERT_TRUE(flags.is_ok());
  EXPECT_EQ(*flags, 3u);
  EXPECT_EQ(*parse_greeting(greeting(1)), 1u);
}

TEST(Codec, OtherGreetingsAreRefused) {
  EXPECT_FALSE(parse_greeting(greeting(2)).is_ok());  // not fixed newstyle
  auto short_one = greeting(3);
  short_one.pop_back();
  EXPECT_FALSE(parse_greeting(short_one).is_ok());
  auto wrong = greeting(3);
  wrong[0] = std::byte{'X'};
  EXPECT_FALSE(parse_greeting(wrong).is_ok());
}

TEST(Codec, GoCarriesTheNameAndAsksForBlockSizes) {
  auto bytes = encode_go(3, "v1");
  auto expected = bytes_of({0, 0, 0, 3, 'I', 'H', 'A', 'V', 'E', 'O', 'P', 'T', 0, 0, 0,
                            7, 0, 0, 0, 10,  0,   0,   0,   2,   'v', '1', 0,   1, 0, 3});
  EXPECT_EQ(bytes, expected);
}

TEST(Codec, OptionRepliesAreBounded) {
  auto header =
      bytes_of({0, 3, 0xe8, 0x89, 4, 0x55, 0x65, 0xa9, 0, 0, 0, 7, 0, 0, 0, 1, 0, 0, 0, 0});
  ASSERT_TRUE(parse_option_reply_header(header).is_ok());
  header[16] = std::byte{1};  // 16 MiB
  EXPECT_FALSE(parse_option_reply_header(header).is_ok());
}

TEST(Codec, GoNeedsExportInformationBeforeItsEnd) {
  ExportInfo info;
  EXPECT_FALSE(apply_go_reply({7, 1, 0}, {}, info).is_ok());
  auto payload = bytes_of({0, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0x25});
  ASSERT_TRUE(apply_go_reply({7, 3, 12}, payload, info).is_ok());
  EXPECT_EQ(info.size_bytes, 0x100000u);
  EXPECT_EQ(info.flags, kFlagHasFlags | kFlagSendFlush | kFlagSendTrim);
  auto end = apply_go_reply({7, 1, 0}, {}, info);
  ASSERT_TRUE(end.is_ok());
  EXPECT_EQ(*end, GoStep::kDone);
}

TEST(Codec, UnknownInformationIsIgnoredAndWrongLengthsAreNot) {
  ExportInfo info;
  EXPECT_TRUE(apply_go_reply({7, 3, 3}, bytes_of({0, 9, 1}), info).is_ok());
  EXPECT_FALSE(apply_go_reply({7, 3, 3}, bytes_of({0, 0, 1}), info).is_ok());
  EXPECT_FALSE(apply_go_reply({7, 3, 1}, bytes_of({0}), info).is_ok());
}

TEST(Codec, AnUnknownExportIsNotFoundAndTheTextIsClean) {
  ExportInfo info;
  auto text = bytes_of({'n', 'o', '\n', 0x1b});
  auto result = apply_go_reply({7, 0x80000006, 4}, text, info);
  EXPECT_EQ(result.code(), Code::kNotFound);
  EXPECT_NE(result.message().find("no??"), std::string::npos);
}

TEST(Codec, RequestsHaveTheirFieldsInNetworkOrder) {
  auto bytes = encode_request({Command::kWriteZeroes, 2, 0x0102030405060708, 0x1000, 0x2000});
  auto expected = bytes_of({0x25, 0x60, 0x95, 0x13, 0, 2, 0, 6, 1,    2, 3, 4, 5,    6,
                            7,    8,    0,    0,    0, 0, 0, 0, 0x10, 0, 0, 0, 0x20, 0});
  EXPECT_TRUE(std::equal(bytes.begin(), bytes.end(), expected.begin(), expected.end()));
}

TEST(Codec, RepliesNeedTheirMagic) {
  auto bytes = bytes_of({0x67, 0x44, 0x66, 0x98, 0, 0, 0, 28, 0, 0, 0, 0, 0, 0, 0, 9});
  auto reply = parse_simple_reply(bytes);
  ASSERT_TRUE(reply.is_ok());
  EXPECT_EQ(reply->cookie, 9u);
  EXPECT_EQ(errno_of_nbd_error(reply->error), ENOSPC);
  bytes[3] = std::byte{0};
  EXPECT_FALSE(parse_simple_reply(bytes).is_ok());
}

TEST(Codec, OnlyShutdownAndMemoryAreTransient) {
  EXPECT_TRUE(is_transient_nbd_error(108));
  EXPECT_TRUE(is_transient_nbd_error(12));
  EXPECT_FALSE(is_transient_nbd_error(5));
  EXPECT_FALSE(is_transient_nbd_error(28));
}

}  // namespace
}  // namespace cvol::nbd::client
