// The model's state with names: what world.cpp packs into the words that the checker stores.
// A version names a write: 4 * epoch + index (1 to 3) in that epoch; 0 is the first content.
// Versions are ordered as (epoch, seq) is. A replica is a small number, a set of replicas a mask.
#pragma once

#include <array>
#include <cstdint>

#include "replication/spec/model.h"

namespace cvol::spec {

// One state of the volume's record; the register's history is the list of them by epoch.
struct Record {
  uint8_t primary = 0, in_sync = 0, incarnations = 0, session = 0;
  bool operator==(const Record&) const = default;
};

// A write that got a version: its value, and the PREPAREs that may still arrive, any number of
// times: the highest epoch they were sent under, and to whom.
struct Write {
  uint8_t value = 0, message_epoch = 0, destinations = 0;
};

// A compare-and-swap on its way: expects the register's present epoch (with any other it can only
// fail).
struct Proposal {
  uint8_t present = 0;
  Record record;
};

enum Role : uint8_t { kFollower, kRecovering, kReconciling, kActive };

struct Replica {
  // Durable.
  uint8_t known = 0, promised = 0;  // epochs: the last record, the last promise (R8)
  uint8_t version = 0, commit = 0;  // of the block; the commit point it has heard
  uint8_t synced = 0;               // kAcknowledgeBeforeDurable: what a crash leaves
  uint8_t incarnation = 0;
  // Volatile.
  uint8_t alive = 0, fresh = 0;  // fresh: kRestartWithoutGrace
  uint8_t role = kFollower;
  uint8_t required = 0, leases = 0;  // masks; leases: whose unexpired leases it holds
  uint8_t reached = 0, tail = 0;     // R9 (1) and (2)
  uint8_t cas = 0;                   // a compare-and-swap outstanding
  uint8_t joiner = 0, joiner_ready = 0, joiner_incarnation = 0;  // joiner: replica + 1
  uint8_t flight = 0, flight_value = 0, flight_current = 0,
          acknowledged = 0;  // the write in flight
  uint8_t old_requests = 0;  // not yet admitted, of earlier generations: a mask of writes
};

struct World {
  uint8_t epoch = 1;                        // the register's
  std::array<Record, kEpochs + 1> records;  // [epoch]
  std::array<uint8_t, kEpochs + 1> write_count{};
  std::array<std::array<Write, kWritesPerEpoch>, kEpochs + 1> writes;
  std::array<Proposal, kProposals> proposals;
  std::array<Replica, kReplicas> replicas;
  // The client writes 1, 2, ... one after the other; it is idle if done == issued.
  uint8_t issued = 0, done = 0;
  uint8_t target = 0, queued = 0;  // its connection (replica + 1); not yet admitted
  uint8_t session = 0;             // of the client
  // What the invariants remember.
  uint8_t acknowledged = 0, seen = 0;  // highest write answered, highest value read
  uint8_t killed = 0;                  // writes that may never show: I11
  uint8_t broken = 0;                  // what the last step broke (Broken)
  uint8_t crashes = 0, unclean = 0;    // so far
};

enum Broken : uint8_t { kNothing, kLost, kGhost, kDetached, kPromoted, kTwoPrimaries };

// Brings the proposals into their one order: that of what is on its way has no meaning.
void sort_proposals(World& world);

[[nodiscard]] Model::State pack(const World& world);
[[nodiscard]] World unpack(const Model::State& state);

[[nodiscard]] inline uint8_t bit(int number) {
  return static_cast<uint8_t>(1U << number);
}
[[nodiscard]] inline uint8_t value_of(const World& world, int version) {
  return version == 0 ? 0 : world.writes[version / 4][version % 4 - 1].value;
}
[[nodiscard]] inline Write& write_of(World& world, int version) {
  return world.writes[version / 4][version % 4 - 1];
}

}  // namespace cvol::spec
