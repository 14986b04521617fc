// One frame of each kind, with every field set, for tests.
#pragma once

#include <string>
#include <vector>

#include "replication/wire/frame.h"

namespace cvol::replication {

inline Uuid sample_id(uint8_t first) {
  Uuid id;
  for (std::size_t i = 0; i < id.bytes.size(); ++i) id.bytes[i] = static_cast<uint8_t>(first + i);
  return id;
}

inline Record sample_record() {
  Record record;
  record.epoch = {7};
  record.primary = sample_id(0x10);
  record.in_sync = {{sample_id(0x10), 1}, {sample_id(0x20), 2}};
  record.members = {{sample_id(0x10), sample_id(0x11), sample_id(0x12)},
                    {sample_id(0x20), sample_id(0x21), sample_id(0x22)},
                    {sample_id(0x30), sample_id(0x31), sample_id(0x32)}};
  record.session = {sample_id(0x40), sample_id(0x41), 5};
  record.lineage = 3;
  record.size_bytes = 1 << 30;
  record.min_in_sync = 2;
  return record;
}

inline Message sample_message(MessageType type) {
  Message message;
  message.type = type;
  message.epoch = {7};
  message.seq = {1234};
  message.commit_point = {1200};
  message.join = 99;
  message.incarnation = 4;
  message.stamp = 123456789;
  message.range = {16, 18};
  message.kind = WriteKind::kData;
  message.refusal = type == MessageType::kRefuse ? Refusal::kEpoch : Refusal::kNone;
  message.about = {6};
  message.rebuilding = true;
  message.wants_tail = true;
  const bool has_record = type == MessageType::kReach || type == MessageType::kJoinAccept ||
                          type == MessageType::kRefuse;
  if (has_record) message.record = std::make_shared<Record>(sample_record());
  if (type == MessageType::kReached) {
    message.tail =
        std::make_shared<std::vector<BlockRange>>(std::vector<BlockRange>{{0, 16}, {64, 65}});
  }
  return message;
}

// A kind of body: sample, and what it becomes when it is decoded and encoded again.
struct BodySample {
  std::string name;
  uint8_t type = 0;
  std::vector<std::byte> body;
  // Empty: refused.
  std::vector<std::byte> (*again)(const wire::FrameHeader&, std::span<const std::byte>) = nullptr;
  // Not 0: the bytes of it that an older version sends, and that are taken by themselves.
  std::size_t older_bytes = 0;
};

std::vector<BodySample> body_samples();

inline wire::FrameHeader sample_header(const BodySample& sample) {
  wire::FrameHeader header;
  header.type = sample.type;
  header.flags = 0;
  header.body_bytes = static_cast<uint32_t>(sample.body.size());
  header.payload_bytes = 8192;
  header.volume = 0x1111111111111111;
  header.from = 0x2222222222222222;
  header.to = 0x3333333333333333;
  header.epoch = 7;
  header.seq = 1234;
  return header;
}

}  // namespace cvol::replication
