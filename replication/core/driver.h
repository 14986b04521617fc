// Driver: what a replica's state machine asks of the world. Actions out.
//
// Every call returns at once; what it begins ends with a call of the Replica's on_... function that
// its comment names, later, never from within. The calls are made in an order that the driver must
// keep: messages to one peer leave in the order of send(); of appends, overlapping ones take effect
// in the order of append().
#pragma once

#include "replication/core/message.h"

namespace cvol::replication {

// One piece of work on a range of blocks. The driver made client operations and names them; core
// makes internal ones and names them from kFirstInternalOp on.
using OpId = uint64_t;
constexpr OpId kFirstInternalOp = uint64_t{1} << 63;

enum class OpKind : uint8_t {
  kRead,     // client: read
  kWrite,    // client: write or zero
  kRewrite,  // R9: this replica's own content, written to all again
  kRepair,   // R14: content of damaged blocks, got from a peer, written to all
  kUndo,     // a write found no space here: the old content again, then the client gets ENOSPC
  kCopy,     // R10: one piece of a joiner's difference
  kBarrier,  // ends when everything that was in flight when it was made has ended
};

enum class Outcome : uint8_t {
  kDone,        // answer the client: success
  kNotPrimary,  // not served here (any more): the gateway looks for the primary and sends it again
  kFenced,      // the session or its generation is not the one that may write
  kNoSpace,     // nothing was changed
  kFailed,      // read only: the block is damaged in every in-sync copy
};

enum class AppendResult : uint8_t { kDurable, kNoSpace, kFailed };
enum class PayloadResult : uint8_t {
  kMade,
  kDamaged,  // a block of it can be read in no in-sync replica
  kFailed
};
enum class CasResult : uint8_t {
  kApplied,   // `revision` is the record's now
  kConflict,  // certainly not applied, and never will be: the expected revision is gone
  kUnknown    // no answer: it may be applied, now or later (R5)
};

enum class Role : uint8_t { kFollower, kRecovering, kReconciling, kActive, kHandedOver };
std::string_view name_of(Role role);

class Driver {
 public:
  virtual ~Driver() = default;

  virtual void send(const Message& message) = 0;
  // on_persisted(ticket) when it is on stable storage. Later calls replace earlier ones.
  virtual void persist(const Durable& state, uint64_t ticket) = 0;

  // The payload of a client write that is not whole blocks, of kRewrite, kRepair and kUndo has to
  // be put together from what is stored; the range is locked. on_payload(op, result, kind).
  virtual void make_payload(OpId op, OpKind kind, BlockRange range) = 0;
  // Primary: op's payload to the local disk. on_appended(seq, result).
  virtual void append(OpId op, WriteKind kind, Epoch epoch, Seq seq, BlockRange range) = 0;
  // Member: a PREPARE's payload to the local disk. on_appended(seq, result).
  virtual void append_prepared(const Message& prepare) = 0;
  // The PREPARE is not needed: drop its payload.
  virtual void drop_prepared(const Message& prepare) = 0;
  // Client read: from the local disk. on_read(op, ok).
  virtual void read(OpId op, BlockRange range) = 0;
  // R10: send the piece to the joiner, from the local disk; its range is locked. on_copied(op).
  virtual void copy(OpId op, BlockRange range) = 0;
  // The operation is over and the id is free again; once for each operation but a kCopy that ended
  // with on_copied. May come from within the call that made it. What is still on its way for it (an
  // append, a read, a copy) ends as usual and is ignored.
  virtual void finish(OpId op, Outcome outcome) = 0;

  // Ranges that were written or zeroed here with a seq above `after`, durably, coarse ones are
  // allowed. on_tail(ticket, ranges).
  virtual void collect_tail(Seq after, uint64_t ticket) = 0;
  // Everything up to it is on every member; may be remembered lazily, but not later than a
  // persist() that follows.
  virtual void note_commit_point(Seq seq) = 0;

  // The register: compare-and-swap at next.revision (the expected one). on_proposed(ticket, ...).
  virtual void propose(const Record& next, uint64_t ticket) = 0;
  // A linearizable read of the record. on_fetched(), with the epoch that this replica knew when the
  // read began.
  virtual void fetch_record() = 0;
  // The register has gone back to a state before the record that this replica knows: it was
  // restored from a backup. Makes known what this replica knows (its claim), for whoever rebuilds
  // the record.
  virtual void claim(const Record& known) = 0;

  // R10, primary: find the difference (everything newer here than `joiner_commit_point`, everything
  // newer there, what exists on one side only), copy it piece by piece with Replica::copy_piece(),
  // compare checksums, then on_copy_done(join). stop_copy: the join is given up.
  virtual void start_copy(const ReplicaId& joiner, uint64_t join, Seq joiner_commit_point) = 0;
  virtual void stop_copy(const ReplicaId& joiner, uint64_t join) = 0;

  // For logs, events, gateways: role, record, readiness have changed.
  virtual void changed() = 0;
  virtual void event(const std::string& text) = 0;
};

}  // namespace cvol::replication
