#include "nbd/protocol/protocol.h"

#include <gtest/gtest.h>

#include "volumed/base/bytes.h"
#include "volumed/base/units.h"

namespace cvol::nbd {
namespace {

std::vector<std::byte> bytes_of(const std::string& text) {
  const auto* at = reinterpret_cast<const std::byte*>(text.data());
  return {at, at + text.size()};
}

std::vector<std::byte> request_bytes(uint32_t magic, uint16_t flags, uint16_t type, uint64_t offset,
                                     uint32_t length) {
  std::vector<std::byte> bytes(kRequestBytes);
  store_be(&bytes[0], magic);
  store_be(&bytes[4], flags);
  store_be(&bytes[6], type);
  store_be(&bytes[8], uint64_t{77});
  store_be(&bytes[16], offset);
  store_be(&bytes[24], length);
  return bytes;
}

Request make(Command command, uint64_t offset, uint64_t length, uint16_t flags = 0) {
  return {flags, static_cast<uint16_t>(command), 77, offset, length};
}

TEST(Protocol, greeting_is_eighteen_bytes) {
  std::string out;
  append_greeting(out);
  EXPECT_EQ(out, std::string("NBDMAGICIHAVEOPT\0\3", 18));
}

TEST(Protocol, option_header_refuses_wrong_magic_and_length) {
  std::array<std::byte, kOptionHeaderBytes> bytes{};
  EXPECT_FALSE(parse_option_header(bytes));
  store_be(&bytes[0], kOptionMagic);
  store_be(&bytes[8], uint32_t{7});
  store_be(&bytes[12], uint32_t{kMaxOptionBytes + 1});
  EXPECT_FALSE(parse_option_header(bytes));
  store_be(&bytes[12], uint32_t{5});
  Result<OptionHeader> header = parse_option_header(bytes);
  ASSERT_TRUE(header);
  EXPECT_EQ(header->code, 7u);
  EXPECT_EQ(header->length, 5u);
}

TEST(Protocol, go_takes_name_and_infos) {
  const auto data = bytes_of(std::string("\0\0\0\2v1\0\1\0\3", 10));
  Result<GoRequest> request = parse_go(data);
  ASSERT_TRUE(request);
  EXPECT_EQ(request->name, "v1");
  EXPECT_EQ(request->infos, std::vector<uint16_t>{3});
}

TEST(Protocol, go_refuses_lengths_that_do_not_fit) {
  EXPECT_FALSE(parse_go({}));
  EXPECT_FALSE(parse_go(bytes_of(std::string("\0\0\0\3v1\0\0", 8))));
  EXPECT_FALSE(parse_go(bytes_of(std::string("\xff\xff\xff\xffv1\0\0", 8))));
  EXPECT_FALSE(parse_go(bytes_of(std::string("\0\0\0\2v1\0\2\0\3", 10))));
  EXPECT_FALSE(parse_go(bytes_of(std::string("\0\0\0\2v1\0\0x", 9))));
}

TEST(Protocol, meta_context_refuses_more_queries_than_bytes) {
  EXPECT_FALSE(parse_meta_context(bytes_of(std::string("\0\0\0\1v\xff\xff\xff\xff", 9))));
  Result<MetaContextRequest> request =
      parse_meta_context(bytes_of(std::string("\0\0\0\1v\0\0\0\1\0\0\0\5base:", 18)));
  ASSERT_TRUE(request);
  EXPECT_EQ(request->queries, std::vector<std::string>{"base:"});
}

TEST(Protocol, export_names_may_carry_a_session) {
  Result<ExportName> plain = parse_export_name("pg");
  ASSERT_TRUE(plain);
  EXPECT_EQ(plain->volume, "pg");
  EXPECT_TRUE(plain->session.empty());
  Result<ExportName> session = parse_export_name("pg@a1B2/17");
  ASSERT_TRUE(session);
  EXPECT_EQ(session->session, "a1B2");
  EXPECT_EQ(session->generation, 17u);
}

TEST(Protocol, export_names_refuse_malformed_sessions) {
  for (const char* text : {"", "@a/1", "pg@", "pg@a", "pg@/1", "pg@a/", "pg@a/x", "pg@a/1x",
                           "pg@a b/1", "../etc", "pg@a/99999999999999999999999"}) {
    EXPECT_FALSE(parse_export_name(text)) << text;
  }
}

TEST(Protocol, request_round_trip) {
  const auto bytes = request_bytes(kRequestMagic, kCommandFua, 1, 4096, 8192);
  Result<Request> request = parse_request(bytes, {});
  ASSERT_TRUE(request);
  EXPECT_EQ(request->command(), Command::kWrite);
  EXPECT_TRUE(request->has(kCommandFua));
  EXPECT_EQ(request->cookie, 77u);
  EXPECT_EQ(request->offset, 4096u);
  EXPECT_EQ(request->length, 8192u);
}

TEST(Protocol, request_with_wrong_magic_ends_the_connection) {
  EXPECT_EQ(parse_request(request_bytes(1, 0, 0, 0, 1), {}).code(), Code::kDamaged);
  Agreement extended{true, true, false};
  std::vector<std::byte> bytes(kExtendedRequestBytes);
  store_be(&bytes[0], kRequestMagic);
  EXPECT_FALSE(parse_request(bytes, extended));
  EXPECT_FALSE(parse_request({bytes.data(), 10}, {}));
}

TEST(Protocol, oversize_payload_ends_the_connection) {
  EXPECT_FALSE(payload_bytes(make(Command::kWrite, 0, kMaxRequestBytes + 1), {}));
  Result<uint64_t> most = payload_bytes(make(Command::kWrite, 0, kMaxRequestBytes), {});
  ASSERT_TRUE(most);
  EXPECT_EQ(*most, kMaxRequestBytes);
  const Agreement extended{true, true, false};
  EXPECT_FALSE(payload_bytes(make(Command::kWrite, 0, 4096), extended));  // no payload flag
  EXPECT_TRUE(payload_bytes(make(Command::kWrite, 0, 4096, kCommandPayloadLength), extended));
}

TEST(Protocol, requests_beyond_the_end_are_refused_with_the_error_of_their_kind) {
  const Agreement agreement{true, false, true};
  constexpr uint64_t size = kMiB;
  EXPECT_EQ(check_request(make(Command::kRead, size, 1), agreement, size, false),
            WireError::kInvalid);
  EXPECT_EQ(check_request(make(Command::kWrite, size - 1, 2), agreement, size, false),
            WireError::kNoSpace);
  EXPECT_EQ(check_request(make(Command::kWriteZeroes, UINT64_MAX, 2), agreement, size, false),
            WireError::kNoSpace);
  EXPECT_EQ(check_request(make(Command::kTrim, 4096, UINT32_MAX), agreement, size, false),
            WireError::kInvalid);
  EXPECT_EQ(check_request(make(Command::kRead, 0, size), agreement, size, false), WireError::kNone);
}

TEST(Protocol, unknown_commands_and_flags_are_refused) {
  Request unknown = make(Command::kRead, 0, 1);
  unknown.type = 99;
  EXPECT_EQ(check_request(unknown, {}, kMiB, false), WireError::kInvalid);
  EXPECT_EQ(check_request(make(Command::kRead, 0, 1, kCommandNoHole), {}, kMiB, false),
            WireError::kInvalid);
  EXPECT_EQ(check_request(make(Command::kBlockStatus, 0, 1), {}, kMiB, false),
            WireError::kInvalid);  // no context was agreed
  EXPECT_EQ(check_request(make(Command::kWrite, 0, 1), {}, kMiB, true), WireError::kPermission);
}

TEST(Protocol, replies_have_the_agreed_shape) {
  const Request read = make(Command::kRead, 4096, 512);
  EXPECT_EQ(encode_read(read, {}).size, 16u);
  EXPECT_EQ(encode_read(read, {true, false, false}).size, 28u);
  EXPECT_EQ(encode_read(read, {true, true, false}).size, 40u);
  EXPECT_EQ(encode_done(read, {true, false, false}, WireError::kIo).size, 26u);
  EXPECT_EQ(encode_done(make(Command::kWrite, 0, 1), {true, false, false}, WireError::kIo).size,
            16u);
  EXPECT_EQ(encode_done(make(Command::kWrite, 0, 1), {true, true, false}, WireError::kNone).size,
            32u);
}

TEST(Protocol, block_status_holds_to_one_extent_when_asked) {
  std::string payload;
  const std::vector<Extent> extents = {{4096, true, true}, {8192, false, false}};
  const Agreement agreement{true, false, true};
  encode_block_status(make(Command::kBlockStatus, 0, 12288), agreement, extents, payload);
  EXPECT_EQ(payload.size(), 4u + 2 * 8);
  encode_block_status(make(Command::kBlockStatus, 0, 12288, kCommandReqOne), agreement, extents,
                      payload);
  EXPECT_EQ(payload.size(), 4u + 8);
}

}  // namespace
}  // namespace cvol::nbd
