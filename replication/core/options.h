// Times and bounds of replication; each with its reason.
#pragma once

#include <cstdint>
#include <string>

#include "replication/core/types.h"

namespace cvol::replication {

// The mutants of the protocol document, one broken rule each. They exist in test builds only
// (CVOL_MUTANTS): simulation must catch every one.
enum class Mutant : uint8_t {
  kNone = 0,
  kAcknowledgeBeforeRemoval = 1,   // R4
  kJoinerRequiredAfterCas = 2,     // R10
  kOutcomeByReading = 3,           // R5
  kNoGrace = 4,                    // R7
  kNoLeases = 5,                   // R6
  kReadInFlight = 6,               // R6
  kNoReconcile = 7,                // R9
  kAnyoneMayPromote = 8,           // R8
  kOneLeaseIsEnough = 9,           // R6
  kAcknowledgeBeforeDurable = 10,  // R2
  kNoEpochCheck = 11,              // R1
  kTailRolledBack = 12,            // R9 (the simulator's disk drops the tail at restart)
  kPromiseNotPersisted = 14,       // R8
  kJoinerLeaseNotNeeded = 15,      // R10
  kOldGenerationAdmitted = 19,     // R12
  kJoinWithoutOwnTail = 22,        // R10
  kReconcileOwnTailOnly = 23,      // R9
  kServeBeforeReconciled = 24,     // R9 (4)
  kCommitPointTooEarly = 25,       // R13
  kPiecesOutliveTheirJoin = 26,    // R10: a role begins while the disk has writes of the one before
  kJudgedByTheFirstAnswer = 27,    // R9: what was heard from others counts as what is held here
  kAcknowledgedForEver = 28,       // R3: what an earlier life of a peer acknowledged counts
  kProposeUnasked = 29,            // R8: a candidate asks nobody for a later epoch
  kStrictReadsUnconfirmed = 30,    // R6: strict reads wait for no confirmation
};

struct Options {
  Nanoseconds beacon = 250 * kMillisecond;            // how often leases are asked for
  Nanoseconds quiet_after = 5 * kSecond;              // without operations: half as often
  Nanoseconds lease = 1500 * kMillisecond;            // L: several beacons may be lost
  Nanoseconds grace = 2500 * kMillisecond;            // G >= L (1 + 2 error) + margin
  Nanoseconds replica_timeout = 1000 * kMillisecond;  // R4: silence that puts a member out
  Nanoseconds stuck_write = 8 * kSecond;              // R4: a write that a member does not finish
  Nanoseconds candidate_step = 200 * kMillisecond;    // by rank, so that candidates do not duel
  Nanoseconds ask_members = 400 * kMillisecond;       // a candidate waits so long for their answers
  Nanoseconds join_retry = 500 * kMillisecond;        // of an out-of-sync member's hello
  Nanoseconds propose_retry = 200 * kMillisecond;     // of a compare-and-swap without an answer
  Nanoseconds hand_over = 2 * kSecond;                // then the primary takes the volume back
  uint32_t clock_error_percent = 1;
  // R6: a read is answered when all that could take over have confirmed, after it came, that they
  // have not. Clocks decide nothing then, and each read costs a round trip (one for all that wait).
  bool strict_reads = false;
  uint32_t most_in_flight = 1024;          // writes; bounds tails (R13)
  uint64_t most_in_flight_blocks = 16384;  // 64 MiB
  Mutant mutant = Mutant::kNone;           // heeded in test builds only
};

// Empty if the times agree with each other; otherwise what contradicts what.
std::string check(const Options& options);

}  // namespace cvol::replication
