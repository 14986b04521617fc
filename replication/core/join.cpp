// R10 at the primary: a replica that is out of sync comes back.
#include <fmt/format.h>

#include <algorithm>

#include "replication/core/replica.h"
#include "volumed/base/assert.h"

namespace cvol::replication {

void Replica::on_join_hello(const Message& message) {
  const Slot slot = make_slot(message.from);
  Peer& peer = peers_[slot];
  peer.heard = now_;
  if (role_ == Role::kFollower || role_ == Role::kHandedOver) return;
  if (durable_.record.find_member(peer.id) == nullptr) return;
  if (message.epoch > durable_.record.epoch) return;  // the record comes from the register
  const Mask bit = Mask{1} << slot;
  if ((set_ & bit) != 0) {
    // In the set, but it says that it does not hold what the set promises; unless it is just late.
    const InSync* entry = durable_.record.find_in_sync(peer.id);
    if (message.epoch == durable_.record.epoch &&
        (message.rebuilding || entry->incarnation != message.incarnation)) {
      peer.failed = "it came back without its data";
      check_members();
    } else {
      reach(slot);
    }
    return;
  }
  if (role_ != Role::kActive || handing_) return;
  if (is_ahead_of_register()) return;  // the record could not take it in
  if (now_ < peer.join_refused_until) return;
  if (proposal_ && proposal_->joiner == slot) return;  // R5: not before that is decided
  if (message.given_up && message.commit_point > last_seq_)
    return begin_above(message.commit_point);
  if (peer.join != 0) end_join(slot, false);
  peer.failed.clear();
  peer.dead = false;
  peer.join = (durable_.record.epoch.value << 20) + ++next_join_;
  peer.state = Peer::JoinState::kAccepted;
  peer.incarnation = message.incarnation;
  peer.join_commit_point = message.given_up ? Seq{} : message.commit_point;
  peer.unacked.clear();
  Message accept = make(MessageType::kJoinAccept, slot);
  accept.join = peer.join;
  accept.record = std::make_shared<Record>(durable_.record);
  send(slot, accept);
}

// A joiner that was given up has heard a commit point of its own line. Writes below it that are
// made here now would be left out of its tails (R9) and of its resyncs. So this primary begins anew
// with seqs above it (begin_reconcile()), and takes the joiner in then.
void Replica::begin_above(Seq seq) {
  CVOL_ASSERT(role_ == Role::kActive && !handing_);
  if (proposal_) return;  // when it is decided; the joiner asks again
  driver_.event(fmt::format(
      "a replica returns whose writes up to seq {} were given up: this primary begins anew above "
      "them",
      seq.value));
  step_down();
  last_seq_ = std::max(last_seq_, seq);
  handed_to_me_ = true;  // it was the primary itself (R8)
  consider_promotion();
}

void Replica::on_join_ready(const Message& message) {
  const Slot slot = slot_of(message.from);
  if (slot > kMostPeers || role_ != Role::kActive) return;
  Peer& peer = peers_[slot];
  peer.heard = now_;
  if (peer.join == 0 || message.join != peer.join) return abort_join(slot, message.join);
  if (peer.state != Peer::JoinState::kAccepted) return;
  if (message.epoch != durable_.record.epoch) return end_join(slot, true);
  peer.state = Peer::JoinState::kCopying;
  peer.reached = message.epoch;
  forget_acknowledgements(slot);  // of a join before
  resend(slot);                   // what is in flight now may not be in the list that is copied
  driver_.event("resync of replica " + peer.id.to_string() + " begins");
  driver_.start_copy(peer.id, peer.join, peer.join_commit_point);
}

OpId Replica::copy_piece(Nanoseconds now, const ReplicaId& joiner, uint64_t join,
                         BlockRange range) {
  now_ = now;
  const Slot slot = slot_of(joiner);
  if (slot > kMostPeers || peers_[slot].join != join || join == 0 || role_ != Role::kActive)
    return 0;
  Op& op = make_op(next_internal_++, OpKind::kCopy, range);
  op.joiner = slot;
  op.join = join;
  const OpId id = op.id;
  if (may_start(op)) start(op);
  return id;
}

OpId Replica::hold(Nanoseconds now, BlockRange range) {
  now_ = now;
  if (role_ != Role::kActive) return 0;
  Op& op = make_op(next_internal_++, OpKind::kCopy, range);
  const OpId id = op.id;
  if (may_start(op)) start(op);
  return id;
}

void Replica::on_copied(Nanoseconds now, OpId id, bool ok) {
  now_ = now;
  Op* op = find_op(id);
  if (op == nullptr || op->kind != OpKind::kCopy) return;
  const Slot slot = op->joiner;
  const uint64_t join = op->join;
  if (op->state == Op::State::kWaiting) --waiting_;  // given up
  std::erase(order_, op);
  ops_.erase(id);
  if (!ok && join != 0 && peers_[slot].join == join) end_join(slot, true);
  start_ready_ops();
  go_on_handing_over();
}

void Replica::on_copy_done(Nanoseconds now, const ReplicaId& joiner, uint64_t join, bool ok) {
  now_ = now;
  const Slot slot = slot_of(joiner);
  if (slot > kMostPeers || peers_[slot].join != join || join == 0) return;
  if (peers_[slot].state != Peer::JoinState::kCopying) return;
  if (!ok) return end_join(slot, true);
  enter(slot);
}

// Nothing is left to copy: acknowledgements and leases wait for it from now on, and only when it
// has acknowledged all that came before, the record gets it.
void Replica::enter(Slot slot) {
  Peer& peer = peers_[slot];
  peer.state = Peer::JoinState::kEntered;
  peer.join_wait = last_seq_;
  peer.heard = now_;
  if (!mutant(Mutant::kJoinerRequiredAfterCas)) required_ |= Mask{1} << slot;
  advance_join(slot);
}

void Replica::advance_join(Slot slot) {
  Peer& peer = peers_[slot];
  if (role_ != Role::kActive) return;
  const bool decided = proposal_ && proposal_->joiner == slot;
  if (!decided) {
    // Told, even if it is silent: it may be slow only, and would wait for this join for ever.
    if (peer.dead || now_ - peer.heard > options_.replica_timeout) return end_join(slot, true);
    // An operator has taken it out of the members: the set must not hold it.
    if (durable_.record.find_member(peer.id) == nullptr) return end_join(slot, true);
    const bool stuck =
        !peer.unacked.empty() && now_ - peer.unacked.begin()->second.since > options_.stuck_write;
    // A piece locks its range: clients do not wait long for a joiner.
    const bool holds_up = std::any_of(order_.begin(), order_.end(), [&](const Op* op) {
      return op->state == Op::State::kCopying && op->joiner == slot &&
             now_ - op->since > 2 * options_.replica_timeout;
    });
    if (holds_up) return end_join(slot, true);
    if (stuck || peer.unacked.size() > 4 * options_.most_in_flight) return end_join(slot, true);
  }
  switch (peer.state) {
    case Peer::JoinState::kNone:
    case Peer::JoinState::kAccepted:
    case Peer::JoinState::kCopying:
      return;
    case Peer::JoinState::kEntered:
      if (!peer.unacked.empty() && Seq{peer.unacked.begin()->first} <= peer.join_wait) return;
      peer.state = Peer::JoinState::kCompleting;
      peer.reach_sent = 0;
      [[fallthrough]];
    case Peer::JoinState::kCompleting: {
      if (peer.reach_sent != 0 && now_ - peer.reach_sent < options_.join_retry) return;
      peer.reach_sent = now_;
      Message complete = make(MessageType::kJoinComplete, slot);
      complete.join = peer.join;
      complete.commit_point = commit_point_;
      complete.seq = peer.join_wait;
      send(slot, complete);
      return;
    }
    case Peer::JoinState::kComplete:
      break;
  }
  if (proposal_ || fetching_ || handing_ || is_ahead_of_register()) return;
  if (durable_.record.revision == 0) {
    fetching_ = true;
    fetch_sent_ = now_;
    driver_.fetch_record();
    return;
  }
  Record next = durable_.record;
  next.epoch = next.epoch.next();
  std::erase_if(next.in_sync, [&](const InSync& e) { return e.replica == peer.id; });
  next.in_sync.push_back({peer.id, peer.incarnation});
  driver_.event("taking into the in-sync set: replica " + peer.id.to_string());
  propose(std::move(next), /*promotes=*/false, slot);
}

void Replica::on_join_completed(const Message& message) {
  const Slot slot = slot_of(message.from);
  if (slot > kMostPeers || role_ != Role::kActive) return;
  Peer& peer = peers_[slot];
  peer.heard = now_;
  if (peer.join == 0 || message.join != peer.join) return abort_join(slot, message.join);
  if (message.incarnation != peer.incarnation) return;
  if (peer.state != Peer::JoinState::kCompleting) return;
  peer.state = Peer::JoinState::kComplete;
  advance_join(slot);
}

void Replica::abort_join(Slot slot, uint64_t join) {
  Message abort = make(MessageType::kJoinAbort, slot);
  abort.join = join;
  send(slot, abort);
}

void Replica::end_join(Slot slot, bool tell) {
  Peer& peer = peers_[slot];
  if (peer.join == 0) return;
  const Mask bit = Mask{1} << slot;
  const bool taken_in = (set_ & bit) != 0;
  if (!taken_in && proposal_ && proposal_->joiner == slot) {
    // R5: the record may take it in yet, so it stays in `required` until that is known.
    if (peer.failed.empty()) peer.failed = "its resync broke off";
    return;
  }
  const uint64_t join = peer.join;
  const bool copying = peer.state == Peer::JoinState::kCopying;
  if (tell) abort_join(slot, join);
  peer.join = 0;
  peer.state = Peer::JoinState::kNone;
  peer.unacked.clear();
  if (taken_in) {
    peer.join_backoff = 0;
    driver_.event("resync of replica " + peer.id.to_string() + " is complete");
  } else {
    required_ &= ~bit;
    peer.lease_until = 0;
    peer.failed.clear();
    peer.join_backoff =
        std::clamp<Nanoseconds>(peer.join_backoff * 2, options_.join_retry / 4, 10 * kSecond);
    peer.join_refused_until = now_ + peer.join_backoff;
  }
  if (copying) driver_.stop_copy(peer.id, join);
  cancel_copies(slot, join);
  if (!taken_in && role_ != Role::kFollower) settle_all();
}

}  // namespace cvol::replication
