#include "replication/wire/frame.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "replication/wire/bytes.h"
#include "volumed/base/checksum.h"

namespace cvol::replication::wire {
namespace {

constexpr uint32_t kMagic = 0x46525643;  // "CVRF"
constexpr std::size_t kMessageBytes = 72;

Status damaged(const std::string& what) {
  return Status(Code::kDamaged, "a frame of another node: " + what);
}

// Of the header but the checksum itself, and of the body.
uint64_t frame_checksum(std::span<const std::byte> bytes) {
  const uint64_t head = plain_checksum(bytes.first(kHeaderBytes - 8));
  return head + 0x9e3779b97f4a7c15ULL * plain_checksum(bytes.subspan(kHeaderBytes));
}

void put_record(Writer& out, const Record& record) {
  out.u64(record.epoch.value);
  out.uuid(record.primary);
  out.uuid(record.session.id);
  out.uuid(record.session.node);
  out.u64(record.session.generation);
  out.u64(record.lineage);
  out.u64(record.size_bytes);
  out.u32(record.min_in_sync);
  out.u32(static_cast<uint32_t>(record.in_sync.size()));
  out.u32(static_cast<uint32_t>(record.members.size()));
  for (const InSync& entry : record.in_sync) {
    out.uuid(entry.replica);
    out.u64(entry.incarnation);
  }
  for (const Member& member : record.members) {
    out.uuid(member.replica);
    out.uuid(member.node);
    out.uuid(member.disk);
  }
}

bool take_record(Reader& in, Record& record) {
  record.epoch.value = in.u64();
  record.primary = in.uuid();
  record.session.id = in.uuid();
  record.session.node = in.uuid();
  record.session.generation = in.u64();
  record.lineage = in.u64();
  record.size_bytes = in.u64();
  record.min_in_sync = in.u32();
  const uint32_t in_sync = in.u32();
  const uint32_t members = in.u32();
  if (in_sync > kMostReplicas || members > kMostReplicas || !in.ok()) return false;
  for (uint32_t i = 0; i < in_sync && in.ok(); ++i) {
    InSync entry;
    entry.replica = in.uuid();
    entry.incarnation = in.u64();
    record.in_sync.push_back(entry);
  }
  for (uint32_t i = 0; i < members && in.ok(); ++i) {
    Member member;
    member.replica = in.uuid();
    member.node = in.uuid();
    member.disk = in.uuid();
    record.members.push_back(member);
  }
  return in.ok();
}

}  // namespace

uint64_t tag_of(const Uuid& id) {
  uint64_t tag = 0;
  std::memcpy(&tag, id.bytes.data(), sizeof tag);
  return tag;
}

void encode_frame(const FrameHeader& header, std::span<const std::byte> body,
                  std::vector<std::byte>& out) {
  const std::size_t at = out.size();
  Writer writer(out);
  writer.u32(kMagic);
  writer.u8(kFrameVersion);
  writer.u8(header.type);
  writer.u16(header.flags);
  writer.u32(static_cast<uint32_t>(body.size()));
  writer.u32(header.payload_bytes);
  writer.u64(header.volume);
  writer.u64(header.from);
  writer.u64(header.to);
  writer.u64(header.epoch);
  writer.u64(header.seq);
  writer.u64(0);
  out.insert(out.end(), body.begin(), body.end());
  const uint64_t sum = frame_checksum(std::span(out).subspan(at));
  std::memcpy(out.data() + at + 56, &sum, sizeof sum);
}

Result<FrameHeader> decode_header(std::span<const std::byte> bytes) {
  if (bytes.size() < kHeaderBytes) return damaged("too short");
  Reader in(bytes.first(kHeaderBytes));
  if (in.u32() != kMagic) return damaged("it does not begin as one");
  const uint8_t version = in.u8();
  if (version != kFrameVersion)
    return Status(Code::kUnsupported, fmt::format("a frame of version {}", version));
  FrameHeader header;
  header.type = in.u8();
  header.flags = in.u16();
  header.body_bytes = in.u32();
  header.payload_bytes = in.u32();
  header.volume = in.u64();
  header.from = in.u64();
  header.to = in.u64();
  header.epoch = in.u64();
  header.seq = in.u64();
  header.checksum = in.u64();
  if (header.body_bytes > kMostBodyBytes || header.payload_bytes > kMostPayloadBytes)
    return damaged("it is too large");
  return header;
}

Status verify_frame(const FrameHeader& header, std::span<const std::byte> bytes) {
  if (bytes.size() != kHeaderBytes + header.body_bytes) return damaged("its length is wrong");
  if (frame_checksum(bytes) != header.checksum) return damaged("its checksum does not hold");
  return Status::ok();
}

std::vector<std::byte> encode_message(const Message& message, std::span<const uint64_t> checksums) {
  std::vector<std::byte> body;
  body.reserve(kMessageBytes + checksums.size() * 8);
  Writer out(body);
  out.u64(message.commit_point.value);
  out.u64(message.join);
  out.u64(message.incarnation);
  out.u64(static_cast<uint64_t>(message.stamp));
  out.u64(message.range.begin);
  out.u64(message.range.end);
  out.u64(message.about.value);
  out.u8(static_cast<uint8_t>(message.kind));
  out.u8(static_cast<uint8_t>(message.refusal));
  out.u8(static_cast<uint8_t>((message.rebuilding ? 1 : 0) | (message.wants_tail ? 2 : 0) |
                              (message.given_up ? 4 : 0)));
  out.u8(message.record != nullptr ? 1 : 0);
  out.u32(message.tail != nullptr ? static_cast<uint32_t>(message.tail->size()) : 0);
  out.u32(static_cast<uint32_t>(checksums.size()));
  out.u32(0);
  for (const uint64_t checksum : checksums) out.u64(checksum);
  if (message.tail != nullptr) {
    for (const BlockRange& range : *message.tail) {
      out.u64(range.begin);
      out.u64(range.end);
    }
  }
  if (message.record != nullptr) put_record(out, *message.record);
  return body;
}

Result<DecodedMessage> decode_message(const FrameHeader& header, std::span<const std::byte> body) {
  DecodedMessage decoded;
  Message& message = decoded.message;
  if (header.type < static_cast<uint8_t>(MessageType::kReach) ||
      header.type > static_cast<uint8_t>(MessageType::kKnown))
    return damaged("its type is unknown");
  message.type = static_cast<MessageType>(header.type);
  message.epoch = Epoch{header.epoch};
  message.seq = Seq{header.seq};
  Reader in(body);
  message.commit_point = Seq{in.u64()};
  message.join = in.u64();
  message.incarnation = in.u64();
  message.stamp = static_cast<Nanoseconds>(in.u64());
  message.range.begin = in.u64();
  message.range.end = in.u64();
  message.about = Epoch{in.u64()};
  const uint8_t kind = in.u8();
  const uint8_t refusal = in.u8();
  const uint8_t flags = in.u8();
  const bool has_record = in.u8() != 0;
  const uint32_t tail = in.u32();
  const uint32_t checksums = in.u32();
  in.u32();
  if (!in.ok() || kind > 2 || refusal > static_cast<uint8_t>(Refusal::kUntrusted))
    return damaged("a message is cut short");
  message.kind = static_cast<WriteKind>(kind);
  message.refusal = static_cast<Refusal>(refusal);
  message.rebuilding = (flags & 1) != 0;
  message.wants_tail = (flags & 2) != 0;
  message.given_up = (flags & 4) != 0;
  if (!in.has(uint64_t{checksums} * 8)) return damaged("a message is cut short");
  decoded.checksums.resize(checksums);
  for (uint64_t& checksum : decoded.checksums) checksum = in.u64();
  if (!in.has(uint64_t{tail} * 16)) return damaged("a message is cut short");
  if (message.type == MessageType::kReached) {
    auto ranges = std::make_shared<std::vector<BlockRange>>();
    for (uint32_t i = 0; i < tail; ++i) {
      BlockRange range;
      range.begin = in.u64();
      range.end = in.u64();
      if (range.empty()) return damaged("a range of a tail is empty");
      ranges->push_back(range);
    }
    message.tail = std::move(ranges);
  } else if (tail != 0) {
    return damaged("a tail where none belongs");
  }
  if (has_record) {
    auto record = std::make_shared<Record>();
    if (!take_record(in, *record)) return damaged("a record is cut short");
    message.record = std::move(record);
  }
  const bool wants_record = message.type == MessageType::kReach ||
                            message.type == MessageType::kJoinAccept ||
                            message.type == MessageType::kKnown;
  if (wants_record && message.record == nullptr) return damaged("a record is missing");
  if (message.type == MessageType::kPrepare && message.range.empty())
    return damaged("the range of a write is empty");
  if (!in.ok() || !in.at_end()) return damaged("a message has the wrong length");
  return decoded;
}

std::vector<std::byte> encode_hello(const Hello& hello) {
  std::vector<std::byte> body;
  Writer out(body);
  out.u16(hello.oldest_version);
  out.u16(hello.newest_version);
  out.uuid(hello.cluster);
  out.uuid(hello.node);
  out.u16(hello.shard);
  out.u16(hello.to_shard);
  out.uuid(hello.process);
  out.u64(hello.session);
  out.text(hello.refusal);
  if (!hello.to_node.is_nil()) out.uuid(hello.to_node);
  return body;
}

std::vector<std::byte> encode_record(const Record& record) {
  std::vector<std::byte> body;
  Writer out(body);
  put_record(out, record);
  return body;
}

Result<Record> decode_record(std::span<const std::byte> body) {
  Reader in(body);
  Record record;
  if (!take_record(in, record) || !in.at_end()) return damaged("a record is cut short");
  return record;
}

Result<Hello> decode_hello(std::span<const std::byte> body) {
  Reader in(body);
  Hello hello;
  hello.oldest_version = in.u16();
  hello.newest_version = in.u16();
  hello.cluster = in.uuid();
  hello.node = in.uuid();
  hello.shard = in.u16();
  hello.to_shard = in.u16();
  hello.process = in.uuid();
  hello.session = in.u64();
  hello.refusal = in.text();
  if (in.ok() && !in.at_end()) hello.to_node = in.uuid();
  // A newer version may have more behind it.
  if (!in.ok()) return damaged("a greeting is cut short");
  return hello;
}

std::vector<std::byte> encode_death(const Death& death) {
  std::vector<std::byte> body;
  Writer out(body);
  out.uuid(death.cluster);
  out.uuid(death.node);
  out.uuid(death.process);
  return body;
}

Result<Death> decode_death(std::span<const std::byte> body) {
  Reader in(body);
  Death death;
  death.cluster = in.uuid();
  death.node = in.uuid();
  death.process = in.uuid();
  if (!in.ok()) return damaged("news of a death is cut short");
  return death;
}

std::vector<std::byte> encode_request(const Request& request) {
  std::vector<std::byte> body;
  Writer out(body);
  out.u64(request.session);
  out.u64(request.connection);
  out.u64(request.offset);
  out.u64(request.length);
  out.u64(request.payload_checksum);
  out.uuid(request.to_replica);
  out.u8(static_cast<uint8_t>(request.kind));
  return body;
}

Result<Request> decode_request(std::span<const std::byte> body) {
  Reader in(body);
  Request request;
  request.session = in.u64();
  request.connection = in.u64();
  request.offset = in.u64();
  request.length = in.u64();
  request.payload_checksum = in.u64();
  request.to_replica = in.uuid();
  const uint8_t kind = in.u8();
  if (!in.ok() || kind > 2) return damaged("a request is cut short");
  request.kind = static_cast<WriteKind>(kind);
  return request;
}

std::vector<std::byte> encode_answer(const Answer& answer) {
  std::vector<std::byte> body;
  Writer out(body);
  out.u8(answer.outcome);
  out.u8(answer.code);
  out.u64(answer.connection);
  out.u64(answer.next);
  out.u64(answer.payload_checksum);
  out.text(answer.text);
  out.u32(static_cast<uint32_t>(answer.extents.size()));
  for (const WireExtent& extent : answer.extents) {
    out.u64(extent.length);
    out.u8(extent.flags);
  }
  return body;
}

Result<Answer> decode_answer(std::span<const std::byte> body) {
  Reader in(body);
  Answer answer;
  answer.outcome = in.u8();
  answer.code = in.u8();
  answer.connection = in.u64();
  answer.next = in.u64();
  answer.payload_checksum = in.u64();
  answer.text = in.text();
  const uint32_t extents = in.u32();
  if (!in.has(uint64_t{extents} * 9)) return damaged("an answer is cut short");
  for (uint32_t i = 0; i < extents; ++i) {
    WireExtent extent;
    extent.length = in.u64();
    extent.flags = in.u8();
    answer.extents.push_back(extent);
  }
  if (!in.ok()) return damaged("an answer is cut short");
  return answer;
}

std::vector<std::byte> encode_copy_request(const CopyRequest& request) {
  std::vector<std::byte> body;
  Writer out(body);
  out.u64(request.join);
  out.u64(request.range.begin);
  out.u64(request.range.end);
  out.u64(request.after);
  out.u64(request.version);
  out.u8(static_cast<uint8_t>(request.kind));
  out.u32(static_cast<uint32_t>(request.checksums.size()));
  for (const uint64_t checksum : request.checksums) out.u64(checksum);
  return body;
}

Result<CopyRequest> decode_copy_request(std::span<const std::byte> body) {
  Reader in(body);
  CopyRequest request;
  request.join = in.u64();
  request.range.begin = in.u64();
  request.range.end = in.u64();
  request.after = in.u64();
  request.version = in.u64();
  const uint8_t kind = in.u8();
  const uint32_t checksums = in.u32();
  if (!in.ok() || kind > 2 || !in.has(uint64_t{checksums} * 8))
    return damaged("a copy is cut short");
  request.kind = static_cast<WriteKind>(kind);
  request.checksums.resize(checksums);
  for (uint64_t& checksum : request.checksums) checksum = in.u64();
  return request;
}

std::vector<std::byte> encode_listed(const Listed& listed) {
  std::vector<std::byte> body;
  Writer out(body);
  out.u64(listed.next);
  out.u32(static_cast<uint32_t>(listed.chunks.size()));
  for (const ChunkVersion& chunk : listed.chunks) {
    out.u64(chunk.chunk);
    out.u64(chunk.version);
  }
  return body;
}

Result<Listed> decode_listed(std::span<const std::byte> body) {
  Reader in(body);
  Listed listed;
  listed.next = in.u64();
  const uint32_t count = in.u32();
  if (!in.has(uint64_t{count} * 16) || count > kMostListed) return damaged("a list is cut short");
  listed.chunks.resize(count);
  for (ChunkVersion& chunk : listed.chunks) {
    chunk.chunk = in.u64();
    chunk.version = in.u64();
  }
  if (!in.ok() || !in.at_end()) return damaged("a list has the wrong length");
  return listed;
}

std::vector<std::byte> encode_digested(const Digested& digested) {
  std::vector<std::byte> body;
  Writer out(body);
  out.u8(digested.ok ? 1 : 0);
  out.u32(static_cast<uint32_t>(digested.checksums.size()));
  for (const uint64_t checksum : digested.checksums) out.u64(checksum);
  for (const uint8_t state : digested.state) out.u8(state);
  return body;
}

Result<Digested> decode_digested(std::span<const std::byte> body) {
  Reader in(body);
  Digested digested;
  digested.ok = in.u8() != 0;
  const uint32_t count = in.u32();
  if (!in.has(uint64_t{count} * 9)) return damaged("checksums are cut short");
  digested.checksums.resize(count);
  for (uint64_t& checksum : digested.checksums) checksum = in.u64();
  digested.state.resize(count);
  for (uint8_t& state : digested.state) state = in.u8();
  if (!in.ok() || !in.at_end()) return damaged("checksums have the wrong length");
  return digested;
}

}  // namespace cvol::replication::wire
