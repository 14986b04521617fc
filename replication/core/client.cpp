// Operations and their range locks: R2 (order of overlapping writes), R6 (reads), R12 (fencing).
#include <algorithm>

#include "replication/core/replica.h"
#include "volumed/base/assert.h"

namespace cvol::replication {
namespace {

bool writes(OpKind kind) {
  return kind == OpKind::kWrite || kind == OpKind::kRewrite || kind == OpKind::kRepair ||
         kind == OpKind::kUndo;
}

}  // namespace

Replica::Op& Replica::make_op(OpId id, OpKind kind, BlockRange range) {
  CVOL_ASSERT(!range.empty() || kind == OpKind::kBarrier);
  auto made = std::make_unique<Op>();
  made->id = id;
  made->kind = kind;
  made->range = range;
  made->order = ++next_order_;
  Op* op = made.get();
  const bool inserted = ops_.emplace(id, std::move(made)).second;
  CVOL_ASSERT(inserted);
  order_.push_back(op);
  ++waiting_;
  if (kind != OpKind::kCopy) last_op_ = now_;
  return *op;
}

Replica::Op* Replica::find_op(OpId id) {
  const auto at = ops_.find(id);
  return at == ops_.end() ? nullptr : at->second.get();
}

// --- admission (R12) ---

bool Replica::admit(OpId op, Caller caller) {
  if (role_ == Role::kFollower || role_ == Role::kHandedOver) {
    driver_.finish(op, Outcome::kNotPrimary);
    return false;
  }
  const bool old =
      caller.session < durable_.record.session.generation ||
      (caller.session == durable_.record.session.generation && caller.connection < connection_);
  if (old && !mutant(Mutant::kOldGenerationAdmitted)) {
    driver_.finish(op, Outcome::kFenced);
    return false;
  }
  // A newer session, or a connection that was not opened here: the front end begins anew.
  if (!old &&
      (caller.session != durable_.record.session.generation || caller.connection != connection_)) {
    driver_.finish(op, Outcome::kNotPrimary);
    return false;
  }
  return true;
}

void Replica::open_connection(Nanoseconds now, OpId barrier, Caller caller) {
  now_ = now;
  if (role_ == Role::kFollower || role_ == Role::kHandedOver)
    return driver_.finish(barrier, Outcome::kNotPrimary);
  const uint64_t session = durable_.record.session.generation;
  if (caller.session > session) return driver_.finish(barrier, Outcome::kNotPrimary);
  if (caller.session < session || caller.connection <= connection_)
    return driver_.finish(barrier, Outcome::kFenced);
  connection_ = caller.connection;
  fence_waiting_ops();
  Op& op = make_op(barrier, OpKind::kBarrier, {});
  op.client = true;
  op.session = caller.session;
  op.connection = caller.connection;
  if (may_start(op)) start(op);
}

// Requests that were not admitted and come from an older session or connection.
void Replica::fence_waiting_ops() {
  std::vector<OpId> fenced;
  for (const Op* op : order_) {
    if (!is_started(*op) && is_fenced(*op)) fenced.push_back(op->id);
  }
  // The end of one may let others start, but none of these (may_start); or let a planned move go
  // on, which ends them all.
  for (const OpId id : fenced) {
    if (find_op(id) != nullptr) end_op(id, Outcome::kFenced);
  }
}

bool Replica::is_fenced(const Op& op) const {
  if (!op.client || mutant(Mutant::kOldGenerationAdmitted)) return false;
  const uint64_t session = durable_.record.session.generation;
  return op.session < session || op.connection < connection_;
}

void Replica::read(Nanoseconds now, OpId id, Caller caller, BlockRange range) {
  now_ = now;
  if (!admit(id, caller)) return;
  Op& op = make_op(id, OpKind::kRead, range);
  op.client = true;
  op.session = caller.session;
  op.connection = caller.connection;
  if (may_start(op)) start(op);
}

void Replica::write(Nanoseconds now, OpId id, Caller caller, WriteKind kind, BlockRange range,
                    bool needs_payload) {
  now_ = now;
  if (!admit(id, caller)) return;
  Op& op = make_op(id, OpKind::kWrite, range);
  op.client = true;
  op.session = caller.session;
  op.connection = caller.connection;
  op.write_kind = kind;
  op.needs_payload = needs_payload;
  if (may_start(op)) start(op);
}

bool Replica::has_other_than_pieces() const {
  return std::any_of(order_.begin(), order_.end(),
                     [](const Op* op) { return op->kind != OpKind::kCopy; });
}

OpId Replica::repair(Nanoseconds now, BlockRange range) {
  now_ = now;
  if (role_ != Role::kActive) return 0;
  Op& op = make_op(next_internal_++, OpKind::kRepair, range);
  op.needs_payload = true;
  const OpId id = op.id;
  if (may_start(op)) start(op);
  return id;
}

// --- range locks ---

// Must `later` wait until `earlier` has ended?
bool Replica::blocks(const Op& earlier, const Op& later) const {
  if (later.kind == OpKind::kBarrier) return earlier.client;
  if (!earlier.range.overlaps(later.range)) return false;
  if (mutant(Mutant::kServeBeforeReconciled) && earlier.kind == OpKind::kRewrite) return false;
  if (later.kind == OpKind::kRead)  // R6: no write to the block in flight
    return writes(earlier.kind) && !mutant(Mutant::kReadInFlight);
  // While acknowledgements wait for min_in_sync, neither a write that every member has nor one
  // that has not begun holds up the copy by which the set refills.
  if (later.kind == OpKind::kCopy && acknowledgements_wait()) {
    const bool everywhere = earlier.state == Op::State::kInFlight && !earlier.failed &&
                            (required_ & ~earlier.acked) == 0;
    if (everywhere || !is_started(earlier)) return false;
  }
  return writes(earlier.kind) || earlier.kind == OpKind::kCopy;
}

bool Replica::may_start(const Op& op) const {
  if (handing_ || is_fenced(op)) return false;
  const bool internal = op.kind == OpKind::kRewrite;
  if (role_ != Role::kActive && !(internal && role_ == Role::kReconciling)) return false;
  if (writes(op.kind) &&
      (in_flight_.size() >= options_.most_in_flight ||
       (in_flight_blocks_ > 0 && in_flight_blocks_ + weight(op) > options_.most_in_flight_blocks)))
    return false;
  for (const Op* other : order_) {
    if (other->order < op.order) {
      if (blocks(*other, op)) return false;
    } else if (other->kind == OpKind::kCopy && is_started(*other) && writes(op.kind) &&
               other->range.overlaps(op.range)) {
      return false;  // it has overtaken this one (blocks())
    }
  }
  return true;
}

void Replica::start(Op& op) {
  CVOL_ASSERT(waiting_ > 0);
  --waiting_;
  op.since = now_;
  switch (op.kind) {
    case OpKind::kRead:
      op.state = Op::State::kReading;
      return driver_.read(op.id, op.range);
    case OpKind::kCopy:
      op.state = Op::State::kCopying;
      return driver_.copy(op.id, op.range);
    case OpKind::kBarrier:
      op.state = Op::State::kHeld;
      ++held_;
      return end_op(op.id, Outcome::kDone);
    case OpKind::kWrite:
    case OpKind::kRewrite:
    case OpKind::kRepair:
    case OpKind::kUndo:
      break;
  }
  if (!op.needs_payload) return begin_write(op);
  op.state = Op::State::kPayload;
  driver_.make_payload(op.id, op.kind, op.range);
}

void Replica::start_ready_ops() {
  if (waiting_ == 0) return;
  std::vector<OpId> ready;
  for (const Op* op : order_) {
    if (!is_started(*op)) ready.push_back(op->id);
  }
  for (const OpId id : ready) {
    Op* op = find_op(id);
    if (op != nullptr && !is_started(*op) && may_start(*op)) start(*op);
  }
}

void Replica::on_payload(Nanoseconds now, OpId id, PayloadResult result, WriteKind kind) {
  now_ = now;
  Op* op = find_op(id);
  if (op == nullptr || op->state != Op::State::kPayload) return;
  if (result != PayloadResult::kMade) {
    if (op->kind == OpKind::kRewrite && result == PayloadResult::kDamaged)
      return rewrite_around_damage(*op);
    // Nothing has been changed yet, but for a rewrite or an undo the replicas stay different: this
    // one cannot go on as the primary.
    if (op->kind == OpKind::kRewrite || op->kind == OpKind::kUndo) return on_disk_failed(now);
    end_op(id, Outcome::kFailed);
    return;
  }
  op->write_kind = kind;
  begin_write(*op);
}

// --- reads (R6) ---

void Replica::on_read(Nanoseconds now, OpId id, bool ok) {
  now_ = now;
  Op* op = find_op(id);
  if (op == nullptr || op->state != Op::State::kReading) return;
  if (!ok) return end_op(id, Outcome::kFailed);
  // Writes that were admitted while it read may be in the data: they have to be committed first.
  op->behind.clear();
  if (!mutant(Mutant::kReadInFlight)) {
    for (const Op* other : order_) {
      if (other->order > op->order && is_started(*other) && writes(other->kind) &&
          other->range.overlaps(op->range))
        op->behind.push_back(other->order);
    }
  }
  op->state = Op::State::kHeld;
  ++held_;
  try_answer_read(*op);
}

void Replica::try_answer_read(Op& op) {
  if (op.state != Op::State::kHeld || op.kind != OpKind::kRead || !op.behind.empty()) return;
  if (role_ != Role::kActive || !may_answer(op)) return;
  end_op(op.id, Outcome::kDone);
}

void Replica::answer_held_reads() {
  if (held_ == 0 || role_ != Role::kActive) return;
  std::vector<OpId> held;
  for (const Op* op : order_) {
    if (op->state == Op::State::kHeld) held.push_back(op->id);
  }
  for (const OpId id : held) {
    if (Op* op = find_op(id)) try_answer_read(*op);
  }
}

// --- the end ---

void Replica::end_op(OpId id, Outcome outcome) {
  const auto at = ops_.find(id);
  CVOL_ASSERT(at != ops_.end());
  const std::unique_ptr<Op> op = std::move(at->second);
  ops_.erase(at);
  std::erase(order_, op.get());
  if (op->state == Op::State::kWaiting) --waiting_;
  if (op->state == Op::State::kHeld) --held_;
  if (op->state == Op::State::kInFlight) {
    in_flight_[op->seq.value - first_in_flight_.value] = nullptr;
    in_flight_blocks_ -= weight(*op);
  }
  driver_.finish(id, outcome);
  if (held_ > 0 && writes(op->kind)) {
    std::vector<OpId> held;
    for (Op* other : order_) {
      if (other->state != Op::State::kHeld) continue;
      if (std::erase(other->behind, op->order) > 0 && other->behind.empty())
        held.push_back(other->id);
    }
    for (const OpId other : held) {
      if (Op* found = find_op(other)) try_answer_read(*found);
    }
  }
  start_ready_ops();
  go_on_handing_over();
}

void Replica::drop_all_ops() {
  std::vector<Op*> all;
  all.swap(order_);
  in_flight_.clear();
  in_flight_blocks_ = 0;
  waiting_ = 0;
  held_ = 0;
  rewriting_ = 0;
  for (const Op* op : all) {
    const OpId id = op->id;
    ops_.erase(id);
    driver_.finish(id, Outcome::kNotPrimary);
  }
}

void Replica::cancel_copies(Slot joiner, uint64_t join) {
  std::vector<OpId> all;
  for (const Op* op : order_) {
    if (op->kind == OpKind::kCopy && op->joiner == joiner && op->join == join)
      all.push_back(op->id);
  }
  for (const OpId id : all) {
    if (find_op(id) != nullptr) end_op(id, Outcome::kNotPrimary);
  }
}

}  // namespace cvol::replication
