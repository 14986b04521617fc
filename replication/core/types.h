// Words of the replication protocol as types: epochs, seqs, block ranges, and the volume's record
// as far as replication decides with it.
//
// Pure values; nothing here knows of disks, sockets or clocks.
#pragma once

#include <compare>
#include <cstdint>
#include <string>
#include <vector>

#include "volumed/base/uuid.h"

namespace cvol::replication {

using Nanoseconds = int64_t;
constexpr Nanoseconds kMillisecond = 1000000;
constexpr Nanoseconds kSecond = 1000 * kMillisecond;

using ReplicaId = Uuid;
using NodeId = Uuid;

// Raised with every change of primary, in-sync set, session or size. 0: none.
struct Epoch {
  uint64_t value = 0;
  auto operator<=>(const Epoch&) const = default;
  Epoch next() const { return {value + 1}; }
};

// Number of a write in its volume; rises across epochs, never reused. 0: none.
struct Seq {
  uint64_t value = 0;
  auto operator<=>(const Seq&) const = default;
  Seq next() const { return {value + 1}; }
};

// Blocks [begin, end) of a volume.
struct BlockRange {
  uint64_t begin = 0;
  uint64_t end = 0;
  auto operator<=>(const BlockRange&) const = default;
  bool empty() const { return begin >= end; }
  uint64_t blocks() const { return end - begin; }
  bool overlaps(const BlockRange& other) const { return begin < other.end && other.begin < end; }
};

struct InSync {
  ReplicaId replica;
  uint64_t incarnation = 0;
  bool operator==(const InSync&) const = default;
};

struct Member {
  ReplicaId replica;
  NodeId node;
  Uuid disk;  // of that node
  bool operator==(const Member&) const = default;
};

// Who may write: the attachment. `id` nil: nobody.
struct Session {
  Uuid id;
  NodeId node;
  uint64_t generation = 0;
  bool operator==(const Session&) const = default;
};

// The volume's record (PROTOCOL, State).
struct Record {
  Epoch epoch;
  ReplicaId primary;
  std::vector<InSync> in_sync;  // never empty in a record that was stored
  std::vector<Member> members;  // those out of sync included
  Session session;
  uint64_t lineage = 0;
  uint64_t size_bytes = 0;
  uint32_t min_in_sync = 1;
  uint64_t revision = 0;  // of the register, when this was read or written; 0: heard from a peer

  const InSync* find_in_sync(const ReplicaId& replica) const;
  const Member* find_member(const ReplicaId& replica) const;
};

// What a replica must not forget (PROTOCOL, State), besides its data and its commit point.
struct Durable {
  Epoch promised;           // the highest epoch whose primary it may no longer serve (R8)
  Record record;            // the last one it knew
  bool rebuilding = false;  // from the first to the last byte of a resync
  // An operator went on without this replica, and gave up what it alone had: below its commit
  // point, too, it may hold what is not to be. Until the end of a resync.
  bool given_up = false;
  uint64_t incarnation = 0;
};

std::string describe(const Record& record);

// Of members, and of the in-sync set: bounds what a primary keeps for each.
constexpr std::size_t kMostReplicas = 16;
// Empty if the record holds together; otherwise what is wrong with it. One that does not is never
// adopted, whoever tells it.
std::string problem_of(const Record& record);

}  // namespace cvol::replication
