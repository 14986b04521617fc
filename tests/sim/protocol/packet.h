// Packet: what travels through the simulated network, with its payload beside it.
//
// Of three kinds: messages of replication, what a front end and a primary say to each other, and
// what the copying of a joiner's difference says (R10). The last two are no part of
// replication/core; drivers make them.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "replication/core/message.h"
#include "tests/sim/protocol/disk.h"

namespace cvol::sim {

struct Packet {
  enum class Kind : uint8_t {
    kMessage,  // of replication; blocks: the payload of a PREPARE
    // front end to primary
    kOpen,     // number: the connection
    kRequest,  // number, operation, range; blocks: values of a write
    // primary to front end
    kOpened,
    kAnswer,  // number, outcome; blocks: what was read
    // primary to joiner
    kAsk,      // which ranges have you newer than `after`?
    kPiece,    // blocks with their versions
    kCompare,  // are these your blocks?
    // joiner to primary
    kNewer,     // ranges
    kPieceDone  // ok; of kPiece and kCompare
  };
  enum class Operation : uint8_t { kRead, kWrite, kPartialWrite, kZero, kZeroKeep };

  Kind kind = Kind::kMessage;
  replication::Message message;
  replication::ReplicaId from, to;  // copying
  uint64_t join = 0;
  uint64_t op = 0;
  Seq after;
  std::vector<BlockRange> ranges;
  bool ok = false;
  std::string differs;      // kPieceDone of kCompare: what does
  uint64_t session = 0;     // generation of the session
  uint64_t connection = 0;  // of the front end
  uint64_t number = 0;
  Operation operation = Operation::kRead;
  replication::Outcome outcome = replication::Outcome::kDone;
  BlockRange range;
  std::vector<Block> blocks;
};

using PacketPointer = std::shared_ptr<const Packet>;

}  // namespace cvol::sim
