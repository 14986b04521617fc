// Frames: what nodes say to each other, as bytes. Pure functions.
//
// A frame is a header of 64 bytes, a body, and a payload of blocks or client bytes. All integers
// are little-endian. Header and body have a checksum; blocks of a payload have theirs in the body
// (the salted block checksums of the disk engine), other payloads one checksum (payload_checksum).
//
//   0  magic "CVRF"      4  version   5  type   6  flags (2)
//   8  body bytes (4)   12  payload bytes (4)
//  16  volume (8)       24  from (8)  32  to (8)      the first 8 bytes of their UUIDs
//  40  epoch (8)        48  seq (8)
//  56  checksum (8): XXH3-64 of bytes 0..56, plus 0x9e3779b97f4a7c15 times that of the body
//
// Decoders trust nothing: kDamaged for bytes that do not hold together, kUnsupported for a newer
// version; sizes are bounded before any memory is taken.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "replication/core/message.h"
#include "volumed/base/result.h"

namespace cvol::replication::wire {

constexpr std::size_t kHeaderBytes = 64;
constexpr uint8_t kFrameVersion = 1;
constexpr uint32_t kMostBodyBytes = 1 << 20;
constexpr uint32_t kMostPayloadBytes = 64 << 20;
constexpr uint32_t kMostAskBytes = 64 << 10;
constexpr uint32_t kMostToldBytes = 512 << 10;

enum class FrameType : uint8_t {
  // 1..63: MessageType of replication/core
  kHello = 64,     // first on a connection, from the one that dials: Hello
  kWelcome = 65,   // answer: Hello; `refusal` not empty: why the connection is closed
  kDead = 66,      // a process is known to be dead: Death
  kPing = 67,      // is anybody there? No body
  kPong = 68,      // yes; header.seq is the ping's
  kAsk = 70,       // a node asks another one, beside replication: the body is the asker's, at most
                   // kMostAskBytes; header.seq numbers it
  kTold = 71,      // its answer, at most kMostToldBytes; empty: the question is not understood
  kOpen = 80,      // gateway to primary: Request (open a connection, R12)
  kRead = 81,      // Request
  kWrite = 82,     // Request and payload
  kStatus = 83,    // Request: allocation state
  kAnswer = 84,    // Answer; payload of a read; extents of kStatus
  kConfirm = 85,   // Request: answer when the epoch of `number` runs with all members (R12)
  kMove = 86,      // Request: hand the volume over to replica `to_replica`
  kVerify = 87,    // Request: compare all replicas from `offset` on; answer: `next`, what differs
  kList = 96,      // Copy request: which chunks has the joiner?
  kListed = 97,    // Listed
  kDigest = 98,    // Copy request: checksums of the blocks of a range
  kDigested = 99,  // Digested
  kCopy = 100,     // Copy request with payload: these are the blocks
  kCopied = 101,   // Copy answer
  kFetch = 102,    // member, please read these blocks (R14)
  kFetched = 103,  // Digested with payload
  kMend = 104,     // Copy request: these blocks are damaged at the sender; write them again
  kSums = 105,     // Copy request: what is the content of these blocks to be, as far as you know?
  kSummed = 106,   // Digested: short checksums, from memory; nothing was read
  kSeek = 107,     // as kFetch, to one outside the in-sync set: who asks knows the checksum
};

// Of a gateway, answered by kAnswer.
constexpr bool is_request(FrameType type) {
  return type >= FrameType::kOpen && type <= FrameType::kVerify && type != FrameType::kAnswer;
}
// What answers a question of a replica to another; an empty body says that it could not be
// answered.
constexpr std::optional<FrameType> answer_of(FrameType type) {
  switch (type) {
    case FrameType::kList:
      return FrameType::kListed;
    case FrameType::kDigest:
      return FrameType::kDigested;
    case FrameType::kCopy:
      return FrameType::kCopied;
    case FrameType::kFetch:
    case FrameType::kSeek:
      return FrameType::kFetched;
    case FrameType::kSums:
      return FrameType::kSummed;
    default:
      return std::nullopt;
  }
}

struct FrameHeader {
  uint8_t type = 0;
  uint16_t flags = 0;
  uint32_t body_bytes = 0;
  uint32_t payload_bytes = 0;
  uint64_t volume = 0;
  uint64_t from = 0;
  uint64_t to = 0;
  uint64_t epoch = 0;
  uint64_t seq = 0;
  uint64_t checksum = 0;
};

// The short form of an id in a header.
uint64_t tag_of(const Uuid& id);

// Appends header and body to `out`; the payload, if any, has to follow.
void encode_frame(const FrameHeader& header, std::span<const std::byte> body,
                  std::vector<std::byte>& out);
// Looks at the first 64 bytes. The checksum is not verified yet.
Result<FrameHeader> decode_header(std::span<const std::byte> bytes);
// `bytes`: header and body.
Status verify_frame(const FrameHeader& header, std::span<const std::byte> bytes);

// --- bodies ---

// A message of replication/core. `checksums`: of the payload's blocks (kPrepare with data).
std::vector<std::byte> encode_message(const Message& message, std::span<const uint64_t> checksums);
struct DecodedMessage {
  Message message;  // from, to: not set; the header has their tags
  std::vector<uint64_t> checksums;
};
Result<DecodedMessage> decode_message(const FrameHeader& header, std::span<const std::byte> body);

std::vector<std::byte> encode_record(const Record& record);
Result<Record> decode_record(std::span<const std::byte> body);

struct Hello {
  uint16_t oldest_version = 1, newest_version = 1;  // of frames that are understood
  Uuid cluster, node;
  uint16_t shard = 0;
  Uuid process;           // made at every start
  uint64_t session = 0;   // rises with every connection of the pair
  uint16_t to_shard = 0;  // that is meant
  std::string refusal;
  Uuid to_node;  // that is meant; nil: not said, as by versions that did not know this field
};
std::vector<std::byte> encode_hello(const Hello& hello);
Result<Hello> decode_hello(std::span<const std::byte> body);

struct Death {
  Uuid cluster, node, process;
};
std::vector<std::byte> encode_death(const Death& death);
Result<Death> decode_death(std::span<const std::byte> body);

// Of a gateway. header.seq: number of the request in its gateway, which the answer carries.
struct Request {
  uint64_t session = 0, connection = 0;  // generations (R12)
  uint64_t offset = 0, length = 0;       // bytes
  WriteKind kind = WriteKind::kData;
  ReplicaId to_replica;           // kMove
  uint64_t payload_checksum = 0;  // plain_checksum of the payload
};
std::vector<std::byte> encode_request(const Request& request);
Result<Request> decode_request(std::span<const std::byte> body);

struct WireExtent {
  uint64_t length = 0;
  uint8_t flags = 0;  // 1: hole, 2: zero
};
struct Answer {
  uint8_t outcome = 0;      // replication::Outcome
  uint8_t code = 0;         // cvol::Code, for kFailed
  uint64_t connection = 0;  // of a fenced kOpen: the highest that was opened
  uint64_t next = 0;        // kVerify: offset to go on with; UINT64_MAX: that was all
  std::string text;
  uint64_t payload_checksum = 0;
  std::vector<WireExtent> extents;
};
std::vector<std::byte> encode_answer(const Answer& answer);
Result<Answer> decode_answer(std::span<const std::byte> body);

// Of a resync. header.seq: number of the request; kCopy: version of the blocks in `version`.
struct CopyRequest {
  uint64_t join = 0;
  BlockRange range;    // kList: only `begin` counts, in chunks
  uint64_t after = 0;  // kList: versions above it, and what exists at all
  uint64_t version = 0;
  WriteKind kind = WriteKind::kData;
  std::vector<uint64_t> checksums;
};
std::vector<std::byte> encode_copy_request(const CopyRequest& request);
Result<CopyRequest> decode_copy_request(std::span<const std::byte> body);

struct ChunkVersion {
  uint64_t chunk = 0;
  uint64_t version = 0;
  bool operator==(const ChunkVersion&) const = default;
};
struct Listed {
  uint64_t next = 0;  // chunk to go on with; UINT64_MAX: that is all
  std::vector<ChunkVersion> chunks;
};
constexpr std::size_t kMostListed = 32768;
std::vector<std::byte> encode_listed(const Listed& listed);
Result<Listed> decode_listed(std::span<const std::byte> body);

// Checksums of blocks; 0: reads as zeroes, or (with `damaged`) cannot be read.
struct Digested {
  bool ok = true;
  std::vector<uint64_t> checksums;
  std::vector<uint8_t> state;  // of each block: 0 data, 1 zero, 2 damaged
};
std::vector<std::byte> encode_digested(const Digested& digested);
Result<Digested> decode_digested(std::span<const std::byte> body);

}  // namespace cvol::replication::wire
