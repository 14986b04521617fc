// Frames between nodes: round trips, every truncation, changed bytes, sizes that lie; and golden
// bytes that must never change for their version.
#include "replication/wire/frame.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>

#include "tests/unit/replication/samples.h"

namespace cvol::replication {
namespace {

using Bytes = std::vector<std::byte>;

// Compares with tests/golden/NAME; CVOL_WRITE_GOLDEN=1 writes it (for a new format version only).
void expect_golden(const std::string& name, const Bytes& bytes) {
  const std::string path = std::string(CVOL_GOLDEN_DIR) + "/" + name;
  const std::string text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (std::getenv("CVOL_WRITE_GOLDEN") != nullptr) std::ofstream(path, std::ios::binary) << text;
  std::ifstream file(path, std::ios::binary);
  ASSERT_TRUE(file) << path;
  const std::string golden((std::istreambuf_iterator<char>(file)), {});
  EXPECT_EQ(golden, text) << name << ": the bytes of a released format have changed";
}

Bytes frame_of(const BodySample& sample) {
  Bytes bytes;
  wire::encode_frame(sample_header(sample), sample.body, bytes);
  return bytes;
}

// Accepted as a whole: header, checksum and body.
bool accepted(const BodySample& sample, const Bytes& bytes) {
  auto header = wire::decode_header(bytes);
  if (!header || !wire::verify_frame(*header, bytes)) return false;
  return !sample.again(*header, std::span(bytes).subspan(wire::kHeaderBytes)).empty();
}

TEST(Frame, headers_come_back_as_they_were) {
  const BodySample sample = body_samples().front();
  const wire::FrameHeader header = sample_header(sample);
  auto decoded = wire::decode_header(frame_of(sample));
  ASSERT_TRUE(decoded);
  EXPECT_EQ(decoded->type, header.type);
  EXPECT_EQ(decoded->body_bytes, sample.body.size());
  EXPECT_EQ(decoded->payload_bytes, header.payload_bytes);
  EXPECT_EQ(decoded->volume, header.volume);
  EXPECT_EQ(decoded->from, header.from);
  EXPECT_EQ(decoded->to, header.to);
  EXPECT_EQ(decoded->epoch, header.epoch);
  EXPECT_EQ(decoded->seq, header.seq);
}

TEST(Frame, an_answer_to_a_candidate_has_a_record) {
  Message known = sample_message(MessageType::kReach);
  known.type = MessageType::kKnown;
  wire::FrameHeader header;
  header.type = static_cast<uint8_t>(known.type);
  auto decoded = wire::decode_message(header, wire::encode_message(known, {}));
  ASSERT_TRUE(decoded) << decoded.message();
  ASSERT_NE(decoded->message.record, nullptr);
  EXPECT_EQ(decoded->message.record->epoch, known.record->epoch);
  known.record.reset();
  EXPECT_FALSE(wire::decode_message(header, wire::encode_message(known, {})));
}

TEST(Frame, bodies_come_back_as_they_were) {
  for (const BodySample& sample : body_samples())
    EXPECT_EQ(sample.again(sample_header(sample), sample.body), sample.body) << sample.name;
}

TEST(Frame, each_flag_of_a_message_is_kept_by_itself) {
  for (int flags = 0; flags < 8; ++flags) {
    Message message;
    message.type = MessageType::kJoinHello;
    message.rebuilding = (flags & 1) != 0;
    message.wants_tail = (flags & 2) != 0;
    message.given_up = (flags & 4) != 0;
    wire::FrameHeader header;
    header.type = static_cast<uint8_t>(message.type);
    auto decoded = wire::decode_message(header, wire::encode_message(message, {}));
    ASSERT_TRUE(decoded) << decoded.message();
    EXPECT_EQ(decoded->message.rebuilding, message.rebuilding);
    EXPECT_EQ(decoded->message.wants_tail, message.wants_tail);
    EXPECT_EQ(decoded->message.given_up, message.given_up);
  }
}

TEST(Frame, golden_bytes_of_each_kind) {
  for (const BodySample& sample : body_samples())
    expect_golden("frame_" + sample.name + ".v1", frame_of(sample));
}

TEST(Frame, a_greeting_says_which_node_is_meant_and_older_ones_do_not) {
  wire::Hello hello;
  hello.node = sample_id(0x51);
  hello.refusal = "no";
  auto older = wire::decode_hello(wire::encode_hello(hello));
  ASSERT_TRUE(older);
  EXPECT_TRUE(older->to_node.is_nil());
  hello.to_node = sample_id(0x53);
  Bytes body = wire::encode_hello(hello);
  auto decoded = wire::decode_hello(body);
  ASSERT_TRUE(decoded);
  EXPECT_EQ(decoded->to_node, sample_id(0x53));
  EXPECT_EQ(decoded->refusal, "no");
  body.resize(body.size() + 5);  // of a newer version
  decoded = wire::decode_hello(body);
  ASSERT_TRUE(decoded);
  EXPECT_EQ(decoded->to_node, sample_id(0x53));
}

TEST(Frame, every_truncation_is_refused) {
  for (const BodySample& sample : body_samples()) {
    for (std::size_t size = 0; size < sample.body.size(); ++size) {
      if (size != 0 && size == sample.older_bytes) continue;
      EXPECT_TRUE(sample.again(sample_header(sample), std::span(sample.body).first(size)).empty())
          << sample.name << " cut to " << size;
    }
    const Bytes whole = frame_of(sample);
    for (std::size_t size = 0; size < whole.size(); ++size)
      EXPECT_FALSE(accepted(sample, Bytes(whole.begin(), whole.begin() + int64_t(size))))
          << sample.name << " cut to " << size;
  }
}

TEST(Frame, every_changed_byte_is_noticed) {
  for (const BodySample& sample : body_samples()) {
    const Bytes whole = frame_of(sample);
    for (std::size_t at = 0; at < whole.size(); ++at) {
      for (const int bits : {1, 128, 255}) {
        Bytes changed = whole;
        changed[at] ^= static_cast<std::byte>(bits);
        EXPECT_FALSE(accepted(sample, changed)) << sample.name << " changed at " << at;
      }
    }
  }
}

// Even where the checksum holds: whoever sends it may be of another mind.
TEST(Frame, bodies_of_a_liar_are_decoded_or_refused) {
  for (const BodySample& sample : body_samples()) {
    for (std::size_t at = 0; at < sample.body.size(); ++at) {
      for (const int value : {0, 1, 127, 128, 255}) {
        Bytes changed = sample.body;
        changed[at] = static_cast<std::byte>(value);
        const Bytes again = sample.again(sample_header(sample), changed);
        // Less is possible: a newer version may have more behind it.
        EXPECT_LE(again.size(), changed.size()) << sample.name << " " << at;
      }
    }
  }
}

TEST(Frame, counts_that_lie_take_no_memory) {
  for (const BodySample& sample : body_samples()) {
    for (std::size_t at = 0; at + 4 <= sample.body.size(); ++at) {
      Bytes changed = sample.body;
      for (std::size_t i = 0; i < 4; ++i) changed[at + i] = std::byte{0xff};
      const Bytes again = sample.again(sample_header(sample), changed);
      EXPECT_LE(again.size(), changed.size()) << sample.name << " " << at;
    }
  }
}

TEST(Frame, other_versions_and_sizes_are_refused) {
  const BodySample sample = body_samples().front();
  Bytes bytes = frame_of(sample);
  bytes[4] = std::byte{wire::kFrameVersion + 1};
  EXPECT_EQ(wire::decode_header(bytes).code(), Code::kUnsupported);
  bytes = frame_of(sample);
  bytes[0] = std::byte{0};
  EXPECT_EQ(wire::decode_header(bytes).code(), Code::kDamaged);
  bytes = frame_of(sample);
  bytes[11] = std::byte{0x7f};  // the body's size
  EXPECT_EQ(wire::decode_header(bytes).code(), Code::kDamaged);
  bytes = frame_of(sample);
  bytes[15] = std::byte{0x7f};  // the payload's
  EXPECT_EQ(wire::decode_header(bytes).code(), Code::kDamaged);
}

TEST(Frame, messages_that_make_no_sense_are_refused) {
  wire::FrameHeader header;
  const Bytes body = wire::encode_message(sample_message(MessageType::kAck), {});
  for (const int type : {0, 17, 63}) {
    header.type = static_cast<uint8_t>(type);
    EXPECT_EQ(wire::decode_message(header, body).code(), Code::kDamaged) << type;
  }
  // A record is missing; the range is empty; a tail where none belongs.
  header.type = static_cast<uint8_t>(MessageType::kReach);
  EXPECT_FALSE(wire::decode_message(header, body));
  Message empty = sample_message(MessageType::kPrepare);
  empty.range = {5, 5};
  header.type = static_cast<uint8_t>(MessageType::kPrepare);
  EXPECT_FALSE(wire::decode_message(header, wire::encode_message(empty, {})));
  Message tail = sample_message(MessageType::kAck);
  tail.tail = sample_message(MessageType::kReached).tail;
  header.type = static_cast<uint8_t>(MessageType::kAck);
  EXPECT_FALSE(wire::decode_message(header, wire::encode_message(tail, {})));
}

TEST(Frame, records_with_more_replicas_than_core_can_hold_are_refused) {
  Record record = sample_record();
  while (record.members.size() < 17)
    record.members.push_back({sample_id(static_cast<uint8_t>(record.members.size())), {}, {}});
  EXPECT_FALSE(wire::decode_record(wire::encode_record(record)));
  record.members.pop_back();
  EXPECT_TRUE(wire::decode_record(wire::encode_record(record)));
}

}  // namespace
}  // namespace cvol::replication
