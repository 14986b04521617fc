// Messages between the replicas of one volume. README.md has the table of who sends which, when.
//
// The payload of kPrepare and kCopy travels beside the message: the driver attaches it by `op` and
// hands it over with the message at the other end.
#pragma once

#include <memory>
#include <string_view>

#include "replication/core/types.h"

namespace cvol::replication {

enum class MessageType : uint8_t {
  kReach = 1,      // P to member: this is the record, I am its primary (R9, and at every new epoch)
  kReached = 2,    // answer: adopted; my commit point, my highest seq, my tail
  kPrepare = 3,    // P to required and joiner: a write (R2)
  kAck = 4,        // durable here
  kRefuse = 5,     // R1: I know a higher epoch, or may not serve this one; or the write failed
  kBeacon = 6,     // P to member: lease request and commit point (R7, R13)
  kGrant = 7,      // answer: until G after I got it I accept no other primary
  kJoinHello = 8,  // out-of-sync member to P: let me in (R10)
  kJoinAccept = 9,      // P: begin; writes come from now on
  kJoinReady = 10,      // member: `rebuilding` is durable, copy
  kJoinAbort = 11,      // P: this join is over, begin anew
  kJoinComplete = 12,   // P: you have everything; from now on acknowledgements wait for you
  kJoinCompleted = 13,  // member: `rebuilding` is gone, durably; the record may take me in
  kHandOver = 14,       // P to member: I serve no more in this epoch; take over (planned move)
  kAsk = 15,            // candidate to member: which record do you know?
  kKnown = 16,          // answer: this one
};
std::string_view name_of(MessageType type);

enum class WriteKind : uint8_t { kData = 0, kZero = 1, kZeroKeep = 2 };

enum class Refusal : uint8_t {
  kNone = 0,
  kEpoch = 1,     // a higher epoch is known or promised; `epoch` says which is known
  kNoRecord = 2,  // the epoch is not known here yet: send kReach first
  kNoSpace = 3,   // the write found no space
  kFailed = 4,    // the disk failed
  kUntrusted = 5  // the record does not list this replica as it is now (incarnation, rebuilding)
};

struct Message {
  MessageType type = MessageType::kReach;
  ReplicaId from;
  ReplicaId to;
  Epoch epoch;
  Seq seq;            // kPrepare, kAck, kRefuse of a write; kReached: highest seq here;
                      // kJoinComplete: highest seq that the joiner has now
  Seq commit_point;   // kPrepare, kBeacon: of the primary (R13); kReached, kJoinHello: heard here
  uint64_t join = 0;  // join number; kPrepare to a joiner, kJoin*; 0: as a member
  uint64_t incarnation = 0;           // kReached, kGrant, kJoinHello, kJoinReady, kAck
  Nanoseconds stamp = 0;              // kBeacon: the sender's clock; kGrant: that of the beacon
  BlockRange range;                   // kPrepare
  WriteKind kind = WriteKind::kData;  // kPrepare
  Refusal refusal = Refusal::kNone;
  Epoch about;              // kRefuse: the epoch of what is refused
  bool rebuilding = false;  // kJoinHello
  bool given_up = false;    // kJoinHello: compare everything
  bool wants_tail = false;  // kReach: of a primary that is recovering (R9)
  uint64_t op = 0;          // kPrepare: names the payload at the sender; not on the wire
  uint64_t ticket = 0;      // kPrepare at the receiver: names the payload there; not on the wire
  std::shared_ptr<const Record> record;                 // kReach, kJoinAccept, kRefuse, kKnown
  std::shared_ptr<const std::vector<BlockRange>> tail;  // kReached
};

}  // namespace cvol::replication
