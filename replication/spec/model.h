// The replication protocol (rules R1 to R16) as a finite model for checker.h; README.md says what
// is in it and what is abstracted away. Pure: no state outside the State values, one thread.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "replication/spec/checker.h"

namespace cvol::spec {

inline constexpr int kReplicas = 3;        // at most
inline constexpr int kEpochs = 6;          // at most
inline constexpr int kWritesPerEpoch = 3;  // reconciling writes included
inline constexpr int kProposals = 3;       // compare-and-swaps on their way at one time

// Each breaks one rule. The numbers up to 15 are those of the protocol document's list; the letters
// are further ones.
enum class Mutant : uint8_t {
  kNone = 0,
  kAcknowledgeBeforeRemoval = 1,     // R4
  kJoinerRequiredAfterCas = 2,       // R10
  kOutcomeByReading = 3,             // R5
  kNoGrace = 4,                      // R7
  kNoLeases = 5,                     // R6
  kReadInFlight = 6,                 // R6
  kNoReconcile = 7,                  // R9
  kAnyoneMayPromote = 8,             // R8
  kOneLeaseIsEnough = 9,             // R6
  kAcknowledgeBeforeDurable = 10,    // R2
  kNoEpochCheck = 11,                // R1
  kTailRolledBack = 12,              // R9
  kPromiseNotPersisted = 14,         // R8
  kJoinerLeaseNotNeeded = 15,        // R10
  kOneAcknowledgementIsEnough = 16,  // A, R3
  kRestartWithoutGrace = 17,         // B, R7
  kIncarnationIgnored = 18,          // C, R8
  kOldGenerationAdmitted = 19,       // D, R12
  kSessionNotChecked = 20,           // E, R2 and R12
  kOldPrimaryStaysInSet = 21,        // no violation: README.md, "Found"
  kJoinWithoutOwnTail = 22,          // F, R10: only what is newer at the primary is copied
  kReconcileOwnTailOnly = 23,        // G, R9: the other members' tails are not collected
  kServeBeforeReconciled = 24,       // H, R9 (4): active before all have acknowledged
  kCommitPointTooEarly = 25,         // I, R13: advanced before all of required have the write
  kRolledBackMemberGrants = 26,      // J, R1 and R7: README.md, "Found"
};

// What counts as a violation.
enum class Watch : uint8_t {
  kAll,     // every invariant
  kClient,  // only what a client can see: a read that breaks I1, I2, I9 or I11
};

struct Config {
  int replicas = 2;              // 2 or 3
  int epochs = 3;                // the register's epoch stops here (kEpochs at most)
  int writes = 2;                // the client's writes, 1 to 3
  int crashes = 1;               // clean and unclean together, 0 to 3
  int unclean = 0;               // crashes that roll the disk back to its first image, 0 or 1
  uint8_t in_sync = 0b11;        // at the start: a mask of replicas; replica 0 is the primary
  bool force_detach = false;     // an operator may move the attachment to a second session, once
  bool resend = true;            // the client may send an unanswered write again (R12)
  bool equal_is_served = false;  // R1 read as "at least promised" (README.md, "Found")
  Mutant mutant = Mutant::kNone;
  Watch watch = Watch::kAll;
};

struct Action {
  enum Kind : uint8_t {
    kSend,
    kAdmit,
    kAdmitOld,
    kDeliver,
    kAnswer,
    kRead,
    kHearCommit,
    kSyncDisk,
    kGrant,
    kExpire,
    kRemove,
    kSync,
    kJoin,
    kLand,
    kLearn,
    kReadRegister,
    kPromote,
    kReach,
    kReconcile,
    kCrash,
    kUnclean,
    kRestart,
    kDetach,
    kAttached,
  };
  Kind kind;
  uint8_t a = 0, b = 0, c = 0;
  bool operator==(const Action&) const = default;
};

class Model {
 public:
  using State = std::array<uint64_t, 7>;
  using Action = spec::Action;

  explicit Model(const Config& config) : config_(config) {}

  [[nodiscard]] State initial() const;
  void successors(const State& state, std::vector<Step<State, Action>>* out) const;
  [[nodiscard]] State canonical(const State& state) const;
  [[nodiscard]] const char* violation(const State& state) const;
  [[nodiscard]] std::string describe(const Action& action) const;

 private:
  Config config_;
};

}  // namespace cvol::spec
