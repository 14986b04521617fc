#include "tests/unit/replication/samples.h"

namespace cvol::replication {
namespace {

using Bytes = std::vector<std::byte>;
using Body = std::span<const std::byte>;
using wire::FrameHeader;
using wire::FrameType;

Bytes message_again(const FrameHeader& header, Body body) {
  auto decoded = wire::decode_message(header, body);
  return decoded ? wire::encode_message(decoded->message, decoded->checksums) : Bytes{};
}
Bytes hello_again(const FrameHeader&, Body body) {
  auto decoded = wire::decode_hello(body);
  return decoded ? wire::encode_hello(*decoded) : Bytes{};
}
Bytes death_again(const FrameHeader&, Body body) {
  auto decoded = wire::decode_death(body);
  return decoded ? wire::encode_death(*decoded) : Bytes{};
}
Bytes request_again(const FrameHeader&, Body body) {
  auto decoded = wire::decode_request(body);
  return decoded ? wire::encode_request(*decoded) : Bytes{};
}
Bytes answer_again(const FrameHeader&, Body body) {
  auto decoded = wire::decode_answer(body);
  return decoded ? wire::encode_answer(*decoded) : Bytes{};
}
Bytes copy_again(const FrameHeader&, Body body) {
  auto decoded = wire::decode_copy_request(body);
  return decoded ? wire::encode_copy_request(*decoded) : Bytes{};
}
Bytes listed_again(const FrameHeader&, Body body) {
  auto decoded = wire::decode_listed(body);
  return decoded ? wire::encode_listed(*decoded) : Bytes{};
}
Bytes digested_again(const FrameHeader&, Body body) {
  auto decoded = wire::decode_digested(body);
  return decoded ? wire::encode_digested(*decoded) : Bytes{};
}
Bytes record_again(const FrameHeader&, Body body) {
  auto decoded = wire::decode_record(body);
  return decoded ? wire::encode_record(*decoded) : Bytes{};
}

}  // namespace

std::vector<BodySample> body_samples() {
  std::vector<BodySample> all;
  const uint64_t checksums[] = {0xaaaaaaaaaaaaaaaa, 0xbbbbbbbbbbbbbbbb};
  for (uint8_t type = 1; type <= static_cast<uint8_t>(MessageType::kHandOver); ++type) {
    const Message message = sample_message(static_cast<MessageType>(type));
    const bool prepare = message.type == MessageType::kPrepare;
    Bytes body = wire::encode_message(
        message, prepare ? std::span<const uint64_t>(checksums) : std::span<const uint64_t>());
    all.push_back(
        {"message_" + std::string(name_of(message.type)), type, std::move(body), message_again, 0});
  }
  wire::Hello hello;
  hello.newest_version = 2;
  hello.cluster = sample_id(0x50);
  hello.node = sample_id(0x51);
  hello.shard = 3;
  hello.process = sample_id(0x52);
  hello.session = 17;
  hello.to_shard = 4;
  hello.refusal = "it belongs to another cluster";
  wire::Death death{sample_id(0x50), sample_id(0x51), sample_id(0x52)};
  wire::Request request;
  request.session = 5;
  request.connection = 6;
  request.offset = 4096;
  request.length = 8192;
  request.kind = WriteKind::kZeroKeep;
  request.to_replica = sample_id(0x20);
  request.payload_checksum = 0xcccccccccccccccc;
  wire::Answer answer;
  answer.outcome = 4;
  answer.code = static_cast<uint8_t>(Code::kDamaged);
  answer.connection = 9;
  answer.next = 65536;
  answer.text = "every copy is damaged";
  answer.payload_checksum = 0xdddddddddddddddd;
  answer.extents = {{4096, 3}, {8192, 0}};
  wire::CopyRequest copy;
  copy.join = 99;
  copy.range = {16, 18};
  copy.after = 1200;
  copy.version = 1234;
  copy.checksums = {1, 2};
  wire::Listed listed;
  listed.next = 77;
  listed.chunks = {{1, 100}, {5, 200}};
  wire::Digested digested;
  digested.checksums = {1, 2, 0};
  digested.state = {0, 1, 2};
  const auto add = [&](const char* name, FrameType type, Bytes body, auto again) {
    all.push_back({name, static_cast<uint8_t>(type), std::move(body), again, 0});
  };
  add("hello", FrameType::kHello, wire::encode_hello(hello), hello_again);
  const std::size_t older_bytes = wire::encode_hello(hello).size();
  hello.to_node = sample_id(0x53);
  add("hello_to_node", FrameType::kHello, wire::encode_hello(hello), hello_again);
  all.back().older_bytes = older_bytes;
  add("death", FrameType::kDead, wire::encode_death(death), death_again);
  add("request", FrameType::kWrite, wire::encode_request(request), request_again);
  add("answer", FrameType::kAnswer, wire::encode_answer(answer), answer_again);
  add("copy_request", FrameType::kCopy, wire::encode_copy_request(copy), copy_again);
  add("listed", FrameType::kListed, wire::encode_listed(listed), listed_again);
  add("digested", FrameType::kFetched, wire::encode_digested(digested), digested_again);
  add("record", static_cast<FrameType>(0), wire::encode_record(sample_record()), record_again);
  return all;
}

}  // namespace cvol::replication
