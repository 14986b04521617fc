// The primary's side of writes: R2 to R6, R11, R13.
#include <fmt/format.h>

#include <algorithm>
#include <bit>

#include "replication/core/replica.h"
#include "volumed/base/assert.h"

namespace cvol::replication {

// --- the epoch, told ---

void Replica::reach(Slot slot) {
  Peer& peer = peers_[slot];
  peer.reach_sent = now_;
  Message message = make(MessageType::kReach, slot);
  message.record = std::make_shared<Record>(durable_.record);
  message.wants_tail = role_ == Role::kRecovering;
  send(slot, message);
}

void Replica::reach_all() {
  for (Slot slot = 1; slot < peers_.size(); ++slot) {
    if ((required_ >> slot & 1) == 0 && peers_[slot].join == 0) continue;
    reach(slot);
    resend(slot);
  }
}

void Replica::on_reached(const Message& message) {
  const Slot slot = slot_of(message.from);
  if (slot > kMostPeers || role_ == Role::kFollower || message.epoch != durable_.record.epoch)
    return;
  Peer& peer = peers_[slot];
  peer.heard = now_;
  peer.incarnation = message.incarnation;
  const InSync* entry = durable_.record.find_in_sync(peer.id);
  if (entry != nullptr && entry->incarnation != message.incarnation) {
    peer.failed = "it came back without its data";
    return check_members();
  }
  // A member of the set knows that this replica, one of them too, once had more.
  if (role_ == Role::kRecovering && entry != nullptr && lacks(message.commit_point))
    return distrust_itself(message.commit_point);
  peer.reached = message.epoch;
  if (role_ == Role::kRecovering) {
    last_seq_ = std::max(last_seq_, message.seq);
    if (message.tail != nullptr && !mutant(Mutant::kReconcileOwnTailOnly))
      tail_.insert(tail_.end(), message.tail->begin(), message.tail->end());
    recover();
  }
}

// Acknowledgements are of one life of a peer. The next one may hold less (its disk was taken back,
// it left a resync half done): whatever nobody was told of yet is asked for again.
void Replica::forget_acknowledgements(Slot slot) {
  if (mutant(Mutant::kAcknowledgedForEver)) return;
  const Mask bit = Mask{1} << slot;
  peers_[slot].asked_again = now_;
  for (Op* op : in_flight_) {
    if (op == nullptr || (op->acked & bit) == 0) continue;
    if (op->kind == OpKind::kUndo && (op->undo_to & bit) == 0) continue;  // it never had the write
    op->acked &= ~bit;
    op->again |= bit;
  }
}

// Everything that the peer has not acknowledged, in order, under the epoch of now.
void Replica::resend(Slot slot) {
  const Mask bit = Mask{1} << slot;
  if ((required_ & bit) == 0 && !is_active_joiner(slot)) return;
  for (Op* op : in_flight_) {
    if (op != nullptr && (op->acked & bit) == 0) send_prepare(*op, slot);
  }
}

bool Replica::is_active_joiner(Slot slot) const {
  const Peer& peer = peers_[slot];
  return peer.join != 0 && peer.state != Peer::JoinState::kNone &&
         peer.state != Peer::JoinState::kAccepted;
}

// --- writes ---

Replica::Op* Replica::in_flight(Seq seq) const {
  if (in_flight_.empty() || seq < first_in_flight_) return nullptr;
  const uint64_t index = seq.value - first_in_flight_.value;
  return index < in_flight_.size() ? in_flight_[index] : nullptr;
}

// R2. The range is locked, the payload is there.
void Replica::begin_write(Op& op) {
  CVOL_ASSERT(role_ == Role::kActive || role_ == Role::kReconciling);
  last_seq_ = last_seq_.next();
  op.seq = last_seq_;
  op.epoch = durable_.record.epoch;
  op.state = Op::State::kInFlight;
  op.since = now_;
  op.sent = op.acked = op.refused = op.again = 0;
  if (in_flight_.empty()) first_in_flight_ = op.seq;
  CVOL_ASSERT(op.seq.value == first_in_flight_.value + in_flight_.size());
  in_flight_.push_back(&op);
  in_flight_blocks_ += weight(op);
  if (op.kind == OpKind::kUndo) {  // only those who have the write; here it never was
    op.acked = ~op.undo_to;
  } else {
    ++appending_;
    driver_.append(op.id, op.write_kind, op.epoch, op.seq, op.range);
  }
  for (Slot slot = 1; slot < peers_.size(); ++slot) {
    const bool wanted = (required_ >> slot & 1) != 0 || is_active_joiner(slot);
    if (wanted && (op.acked >> slot & 1) == 0) send_prepare(op, slot);
  }
  if (op.kind == OpKind::kUndo) settle(op);  // those who have the write may be gone by now
}

void Replica::send_prepare(Op& op, Slot slot) {
  Peer& peer = peers_[slot];
  const Mask bit = Mask{1} << slot;
  op.sent |= bit;
  op.refused &= ~bit;  // sent again, it may find space now
  Message message = make(MessageType::kPrepare, slot);
  message.seq = op.seq;
  message.commit_point = commit_point_;
  message.range = op.range;
  message.kind = op.write_kind;
  message.op = op.id;
  if ((set_ & bit) == 0) {
    message.join = peer.join;
    peer.unacked.emplace(op.seq.value, Peer::Unacked{now_, op.range});
    if (op.instead_of.value != 0 && op.joiner == slot && op.join == peer.join)
      peer.unacked.erase(op.instead_of.value);
  }
  send(slot, message);
}

void Replica::on_appended(Nanoseconds now, Seq seq, AppendResult result) {
  now_ = now;
  CVOL_ASSERT(appending_ > 0);
  --appending_;
  if (result == AppendResult::kDurable) held_seq_ = std::max(held_seq_, seq);
  if (prepares_.contains(seq.value)) {
    member_appended(seq, result);
  } else if (Op* op = in_flight(seq)) {
    if (result == AppendResult::kDurable) {
      op->acked |= 1;
      slow_members_.record(now_, kSelf, now_ - op->since);
      settle(*op);
    } else if (result == AppendResult::kNoSpace) {
      op->failed = true;
      op->refused |= 1;
      settle(*op);
    } else {
      on_disk_failed(now);
    }
  } else if (result == AppendResult::kFailed) {
    on_disk_failed(now);
  }
  // R9: a tail is complete when nothing of before is on its way any more.
  answer_reach();
  begin_joining();
  if (role_ == Role::kRecovering) recover();
}

void Replica::on_ack(const Message& message) {
  const Slot slot = slot_of(message.from);
  if (slot > kMostPeers || role_ == Role::kFollower || message.epoch > durable_.record.epoch)
    return;
  Peer& peer = peers_[slot];
  peer.heard = now_;
  const Mask bit = Mask{1} << slot;
  if ((set_ & bit) != 0) {
    const InSync* entry = durable_.record.find_in_sync(peer.id);
    if (entry->incarnation != message.incarnation) {
      peer.failed = "it came back without its data";
      return check_members();
    }
  } else if (peer.join == 0 || message.join != peer.join) {
    return;
  }
  peer.unacked.erase(message.seq.value);
  if (Op* op = in_flight(message.seq)) {
    op->acked |= bit;
    if ((set_ & bit) != 0) slow_members_.record(now_, slot, now_ - op->since);
    settle(*op);
  }
  if (peer.join != 0) advance_join(slot);
}

void Replica::on_refuse(const Message& message) {
  const Slot slot = slot_of(message.from);
  if (slot > kMostPeers) return;
  Peer& peer = peers_[slot];
  peer.heard = now_;
  const bool old_epoch =
      message.refusal == Refusal::kEpoch || message.refusal == Refusal::kNoRecord;
  if (old_epoch && message.join != 0 && message.join == peer.join && role_ == Role::kActive)
    rewrite_for(slot, message.seq);
  const bool higher = message.record != nullptr && message.record->epoch > durable_.record.epoch;
  if (message.refusal == Refusal::kEpoch && higher) {
    if (!is_sound(*message.record)) return;
    Record record = *message.record;
    record.revision = 0;  // heard, not read
    adopt(record);        // R11
    if (proposal_) driver_.fetch_record();
    return;
  }
  if (role_ == Role::kFollower || message.about != durable_.record.epoch) return;
  const Mask bit = Mask{1} << slot;
  const bool member = (set_ & bit) != 0;
  switch (message.refusal) {
    case Refusal::kNone:
      return;
    case Refusal::kNoRecord:
      if ((required_ & bit) != 0 || peer.join != 0) {
        reach(slot);
        resend(slot);
      }
      return;
    case Refusal::kNoSpace:
      if (Op* op = in_flight(message.seq)) {
        op->refused |= bit;
        if (member || (required_ & bit) != 0) return settle(*op);
      }
      return end_join(slot, true);
    case Refusal::kEpoch:
      peer.failed = "it has promised not to serve this primary any more";
      break;
    case Refusal::kFailed:
      peer.failed = "its disk failed";
      break;
    case Refusal::kUntrusted:
      peer.failed = "it does not hold what the record says";
      break;
  }
  if (!member) {
    end_join(slot, true);
    return;
  }
  check_members();
}

// A write was sent to a joiner under an epoch that it does not accept (any more), and has ended
// since, because nobody waits for a joiner: it is not sent again with what is in flight. The joiner
// gets this replica's content of the range under a new seq; until that is sent, the old seq stays
// unacknowledged, so that the join does not go on without it.
void Replica::rewrite_for(Slot joiner, Seq refused) {
  Peer& peer = peers_[joiner];
  const auto at = peer.unacked.find(refused.value);
  if (at == peer.unacked.end() || in_flight(refused) != nullptr) return;
  for (const Op* op : order_) {
    if (op->instead_of == refused && op->joiner == joiner && op->join == peer.join) return;
  }
  ++rewriting_;
  Op& op = make_op(next_internal_++, OpKind::kRewrite, at->second.range);
  op.needs_payload = true;
  op.joiner = joiner;
  op.join = peer.join;
  op.instead_of = refused;
  if (may_start(op)) start(op);
}

// R3: answered when all of `required` have acknowledged.
void Replica::settle(Op& op) {
  if (op.state != Op::State::kInFlight) return;
  const Mask open = required_ & ~op.acked;
  if (op.failed) {  // no space here: others that have it must take it back
    if ((open & ~op.refused) == 0) undo(op);
    return;
  }
  if ((open & op.refused) != 0 && (op.acked & 1) != 0) {
    for (Slot slot = 1; slot < peers_.size(); ++slot) {
      if ((open & op.refused) >> slot & 1) peers_[slot].failed = "its disk is full";
    }
    return check_members();
  }
  if (open != 0 || acknowledgements_wait()) return;
  CVOL_ASSERT((op.acked & required_) == required_);  // I6
  const OpId id = op.id;
  const OpKind kind = op.kind;
  if (kind != OpKind::kUndo) highest_done_ = std::max(highest_done_, op.seq);
  if (kind == OpKind::kRewrite) {
    CVOL_ASSERT(rewriting_ > 0);
    --rewriting_;
  }
  end_op(id, kind == OpKind::kUndo ? Outcome::kNoSpace : Outcome::kDone);
  advance_commit_point();
  if (kind == OpKind::kRewrite) next_rewrites();
}

void Replica::settle_all() {
  std::vector<OpId> all;
  for (const Op* op : in_flight_) {
    if (op != nullptr) all.push_back(op->id);
  }
  for (const OpId id : all) {
    if (Op* op = find_op(id)) settle(*op);
  }
  answer_held_reads();
  start_ready_ops();
}

// The write found no space at the primary. Members that have it write the old content again, under
// a new seq, so that all are equal when the client hears of it.
void Replica::undo(Op& op) {
  op.undo_to = op.sent & ~op.refused & ~Mask{1};
  op.kind = OpKind::kUndo;
  if (op.undo_to == 0) {
    end_op(op.id, Outcome::kNoSpace);
    advance_commit_point();
    return;
  }
  in_flight_[op.seq.value - first_in_flight_.value] = nullptr;
  in_flight_blocks_ -= weight(op);
  op.failed = false;
  op.state = Op::State::kPayload;
  advance_commit_point();
  driver_.make_payload(op.id, OpKind::kUndo, op.range);
}

// R13. Never above what is durable everywhere: a seq whose write was taken back leaves no trace
// here, and after a restart it may be used again. A commit point above it would hide that.
void Replica::advance_commit_point() {
  while (!in_flight_.empty() && in_flight_.front() == nullptr) {
    in_flight_.pop_front();
    first_in_flight_ = first_in_flight_.next();
  }
  if (role_ != Role::kActive) return;
  Seq point = in_flight_.empty() ? last_seq_ : Seq{first_in_flight_.value - 1};
  point = std::min(point, highest_done_);
  if (mutant(Mutant::kCommitPointTooEarly)) point = last_seq_;
  // A write that is taken back has no seq for a moment; nothing later may be called committed.
  for (const Op* op : order_) {
    if (op->kind == OpKind::kUndo && op->state == Op::State::kPayload)
      point = std::min(point, Seq{op->seq.value - 1});
  }
  if (point <= commit_point_) return;
  commit_point_ = point;
  driver_.note_commit_point(point);
}

bool Replica::acknowledgements_wait() const {
  return durable_.record.in_sync.size() < durable_.record.min_in_sync && role_ == Role::kActive;
}

// --- leases (R6, R7) ---

Replica::Mask Replica::lease_mask() const {
  Mask mask = required_ | set_;
  if (mutant(Mutant::kNoLeases)) mask = 0;
  if (mutant(Mutant::kJoinerLeaseNotNeeded)) mask = set_;
  return mask & ~Mask{1};
}

bool Replica::has_leases(Nanoseconds now) const {
  const Mask mask = lease_mask();
  bool all = true;
  bool any = mask == 0;
  for (Slot slot = 1; slot < peers_.size(); ++slot) {
    if ((mask >> slot & 1) == 0) continue;
    const bool held = peers_[slot].lease_until > now;
    all = all && held;
    any = any || held;
  }
  return mutant(Mutant::kOneLeaseIsEnough) ? any : all;
}

// R6, strict reads: all that could take over have accepted this primary at `when` or later.
bool Replica::granted_since(Nanoseconds when) const {
  if (mutant(Mutant::kStrictReadsUnconfirmed)) return true;
  const Mask mask = lease_mask();
  for (Slot slot = 1; slot < peers_.size(); ++slot) {
    if ((mask >> slot & 1) != 0 && peers_[slot].granted < when) return false;
  }
  return true;
}

// One round of beacons confirms all reads that began before it; those that come meanwhile are for
// the next one.
bool Replica::may_answer(const Op& read) {
  if (!options_.strict_reads) return has_leases(now_);
  if (granted_since(read.since)) return true;
  const bool under_way = round_ != 0 && !granted_since(round_) && now_ - round_ < options_.beacon;
  if (under_way) return false;
  round_ = now_;
  for (Slot slot = 1; slot < peers_.size(); ++slot) {
    if ((lease_mask() >> slot & 1) != 0) send_beacon(slot);
  }
  return false;
}

bool Replica::wants_beacons() const {
  return role_ != Role::kFollower && role_ != Role::kHandedOver && peers_.size() > 1;
}

// Nobody has used the volume for a while, and all of its replicas are well.
bool Replica::is_quiet() const {
  if (role_ != Role::kActive || !ops_.empty() || proposal_ || handing_) return false;
  if (now_ - std::max(last_op_, epoch_since_) < options_.quiet_after) return false;
  return durable_.record.in_sync.size() == durable_.record.members.size();
}

// Of a volume that is quiet there is half as much to be said; leases still survive two lost
// beacons, and check_members() knows of it.
Nanoseconds Replica::beacon_interval() const {
  if (!is_quiet()) return options_.beacon;
  const Nanoseconds most = std::min(options_.lease / 3, options_.replica_timeout / 2);
  return std::max(options_.beacon, std::min(2 * options_.beacon, most));
}

void Replica::send_beacons(Nanoseconds now, bool with_all) {
  now_ = now;
  if (!wants_beacons()) return;
  const Nanoseconds since = now - last_beacon_;
  const Nanoseconds interval = beacon_interval();
  // The driver's clock is not exact.
  if (!with_all && interval > options_.beacon && since < interval - options_.beacon / 4) return;
  beacon_gap_ = std::min(since, 2 * options_.beacon);
  last_beacon_ = now;
  for (Slot slot = 1; slot < peers_.size(); ++slot) {
    const Mask bit = Mask{1} << slot;
    if (((required_ | set_) & bit) == 0 && !is_active_joiner(slot)) continue;
    send_beacon(slot);
  }
}

void Replica::send_beacon(Slot slot) {
  Message beacon = make(MessageType::kBeacon, slot);
  beacon.stamp = now_;
  beacon.commit_point = commit_point_;
  beacon.join = (set_ >> slot & 1) != 0 ? 0 : peers_[slot].join;
  send(slot, beacon);
}

void Replica::on_grant(const Message& message) {
  const Slot slot = slot_of(message.from);
  if (slot > kMostPeers || role_ == Role::kFollower || role_ == Role::kHandedOver) return;
  Peer& peer = peers_[slot];
  peer.heard = now_;
  if (message.epoch != durable_.record.epoch) return;
  if (const InSync* entry = durable_.record.find_in_sync(peer.id);
      entry != nullptr && entry->incarnation != message.incarnation)
    return;
  const bool had = has_leases(now_);
  peer.lease_until = std::max(peer.lease_until, message.stamp + options_.lease);
  peer.granted = std::max(peer.granted, message.stamp);
  if (!had || options_.strict_reads) answer_held_reads();
}

// --- members that fail (R4) ---

void Replica::check_members() {
  if (role_ == Role::kFollower || role_ == Role::kHandedOver) return;
  // As much patience with those who are asked less often.
  const Nanoseconds silence =
      options_.replica_timeout + std::max<Nanoseconds>(0, beacon_gap_ - options_.beacon);
  // For as long as its own disk finishes nothing, this replica is in no place to judge by that.
  const Nanoseconds own = own_disk_delay();
  Mask bad = 0;
  std::string who;
  for (Slot slot = 1; slot < peers_.size(); ++slot) {
    const Mask bit = Mask{1} << slot;
    Peer& peer = peers_[slot];
    if ((required_ & bit) == 0) continue;
    if (peer.failed.empty() && peer.dead) peer.failed = "its process is dead";
    if (peer.failed.empty() && now_ - peer.heard > silence) peer.failed = "it is silent";
    if (peer.failed.empty() && peer.reached < durable_.record.epoch && known_persisted() &&
        now_ - epoch_since_ > options_.stuck_write + own)
      peer.failed = "it does not take the record in";
    // Nobody waits long for a joiner.
    const Nanoseconds limit =
        (set_ & bit) != 0 ? options_.stuck_write + own : 2 * options_.replica_timeout;
    if (peer.failed.empty() && delay_of(slot) > limit) peer.failed = "it does not finish a write";
    if (peer.failed.empty()) continue;
    if ((set_ & bit) == 0) {
      end_join(slot, true);
      continue;
    }
    bad |= bit;
    who += fmt::format("{}{} ({})", who.empty() ? "" : ", ", peer.id.to_string(), peer.failed);
  }
  if (bad == 0 || proposal_) return;
  if (durable_.record.revision == 0) {
    if (!fetching_) {
      fetching_ = true;
      fetch_sent_ = now_;
      driver_.fetch_record();
    }
    return;
  }
  Record next = durable_.record;
  next.epoch = next.epoch.next();
  std::erase_if(next.in_sync, [&](const InSync& entry) {
    const Slot slot = slot_of(entry.replica);
    return slot <= kMostPeers && (bad >> slot & 1) != 0;
  });
  CVOL_ASSERT(!next.in_sync.empty());  // I7: this replica stays
  driver_.event("taking out of the in-sync set: replica " + who);
  if (mutant(Mutant::kAcknowledgeBeforeRemoval)) required_ &= ~bad;
  propose(std::move(next), /*promotes=*/false, /*joiner=*/0);
}

// R16. Only while enough members are left, and it has to wait longer and longer before it may
// return.
void Replica::check_slow_members() {
  if (role_ != Role::kActive || proposal_ || now_ - slow_checked_ < kSecond) return;
  slow_checked_ = now_;
  const std::size_t least = std::max<std::size_t>(2, durable_.record.min_in_sync);
  if (durable_.record.in_sync.size() <= least) return;
  const Slot slot = slow_members_.slow(now_, set_);
  if (slot == 0) return;
  slow_members_.forget(slot);
  Peer& peer = peers_[slot];
  peer.failed = "it is far slower than the others";
  peer.slow_backoff = std::clamp<Nanoseconds>(peer.slow_backoff * 2, 5 * kSecond, 600 * kSecond);
  peer.join_refused_until = now_ + peer.slow_backoff;
  check_members();
}

bool Replica::put_out(Nanoseconds now, const ReplicaId& id, const std::string& why) {
  now_ = now;
  const Slot slot = slot_of(id);
  if (slot > kMostPeers || slot == kSelf || role_ != Role::kActive) return false;
  if ((set_ >> slot & 1) == 0) return true;
  peers_[slot].failed = why;
  peers_[slot].join_backoff = std::max(peers_[slot].join_backoff, options_.join_retry);
  check_members();
  return true;
}

}  // namespace cvol::replication
