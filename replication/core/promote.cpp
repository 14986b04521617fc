// Becoming the primary: R8 (promise, compare-and-swap), R9 (reconcile), planned moves.
#include <algorithm>

#include "replication/core/replica.h"
#include "volumed/base/assert.h"

namespace cvol::replication {

void Replica::consider_promotion() {
  const Record& record = durable_.record;
  if (role_ != Role::kFollower || disk_failed_ || promising_ || proposal_ || fetching_) return;
  if (record.epoch.value == 0 || record.primary.is_nil() || is_ahead_of_register()) return;
  if (!trusts_itself() && !mutant(Mutant::kAnyoneMayPromote)) return;
  const bool was_primary = record.primary == self_;
  const bool free = was_primary || handed_to_me_;
  const bool waits = !free && !primary_dead_ && !mutant(Mutant::kNoGrace);
  if (waits && now_ < grace_until_) {
    // So that the answers are there when the grace is over.
    if (grace_until_ - now_ <= options_.ask_members) ask_members();
    return;
  }
  if (!handed_to_me_) ask_members();
  if (!free) {
    if (candidate_since_ == 0) candidate_since_ = now_;
    int64_t rank = 0;
    for (const InSync& entry : record.in_sync) {
      if (entry.replica == self_) break;
      if (entry.replica != record.primary) ++rank;
    }
    if (now_ - candidate_since_ < rank * options_.candidate_step) return;
  }
  if (handed_to_me_ || members_answered()) begin_promotion();
}

// R8: the promise is on stable storage before the proposal leaves.
void Replica::begin_promotion() {
  const Record& record = durable_.record;
  if (role_ != Role::kFollower || proposal_) return;
  promising_ = true;
  if (durable_.promised < record.epoch) {
    durable_.promised = record.epoch;
    member_join_ = 0;
    if (mutant(Mutant::kPromiseNotPersisted)) {
      persisted_promise_ = record.epoch;
    } else {
      persist();
    }
  }
  if (persisted_promise_ < record.epoch) return;  // on_persisted() goes on
  promising_ = false;
  if (record.revision == 0) {  // heard of, never read: what to expect is not known
    fetching_ = true;
    fetch_sent_ = now_;
    driver_.fetch_record();
    return;
  }
  Record next = record;
  next.epoch = record.epoch.next();
  next.primary = self_;
  if (record.primary != self_ && !handed_to_me_)
    std::erase_if(next.in_sync, [&](const InSync& e) { return e.replica == record.primary; });
  if (next.find_in_sync(self_) == nullptr) next.in_sync.push_back({self_, durable_.incarnation});
  driver_.event("proposing itself as the primary: " + describe(next));
  propose(std::move(next), /*promotes=*/true, /*joiner=*/0);
}

// The register says so. R9 comes first.
void Replica::promoted() {
  CVOL_ASSERT(durable_.record.primary == self_);  // I4
  CVOL_ASSERT(durable_.promised < durable_.record.epoch);
  CVOL_ASSERT(trusts_itself() || mutant(Mutant::kAnyoneMayPromote) || disk_failed_);  // I5
  for (Slot slot = 1; slot < peers_.size(); ++slot) {
    Peer& peer = peers_[slot];
    peer.reached = Epoch{};
    peer.heard = now_;
    peer.lease_until = peer.granted = 0;
    peer.failed.clear();
    peer.join = 0;
    peer.state = Peer::JoinState::kNone;
    peer.unacked.clear();
  }
  required_ = set_ | 1;
  epoch_since_ = now_;
  connection_ = 0;
  handed_to_me_ = false;
  candidate_since_ = 0;
  asked_at_ = 0;
  begin_recovering();
  reach_all();
  check_members();
  recover();
}

// Nothing that an earlier recovery has found counts.
void Replica::begin_recovering() {
  reach_ = Reach{};
  tail_.clear();
  tail_ready_ = false;
  ++tail_ticket_;
  become(Role::kRecovering);
}

// R9 (1) and (2).
void Replica::recover() {
  if (role_ != Role::kRecovering) return;
  if (disk_holds_writes()) return;  // of before; on_appended(), on_stored() go on
  if (!tail_ready_) {
    collect_own_tail();
    return;
  }
  for (Slot slot = 1; slot < peers_.size(); ++slot) {
    if ((required_ >> slot & 1) != 0 && peers_[slot].reached != durable_.record.epoch) return;
  }
  begin_reconcile();
}

void Replica::collect_own_tail() {
  if (reach_.tail_asked) return;
  reach_.tail_asked = true;
  reach_.ticket = ++tail_ticket_;
  driver_.collect_tail(commit_point_, reach_.ticket);
}

void Replica::on_tail(Nanoseconds now, uint64_t ticket, std::vector<BlockRange> ranges) {
  now_ = now;
  if (!reach_.tail_asked || reach_.ticket != ticket) return;
  reach_.tail_asked = false;
  if (role_ == Role::kRecovering) {
    tail_.insert(tail_.end(), ranges.begin(), ranges.end());
    tail_ready_ = true;
    return recover();
  }
  if (!reach_.waits) return;
  reach_.waits = false;
  const Slot to = slot_of(reach_.from);
  if (to > kMostPeers) return;
  Message answer = make(MessageType::kReached, to);
  answer.seq = last_seq_;
  answer.commit_point = commit_point_;
  answer.tail = std::make_shared<std::vector<BlockRange>>(std::move(ranges));
  send(to, answer);
}

// R9 (3): its own content of the union of all tails, to all, under new (epoch, seq).
void Replica::begin_reconcile() {
  std::sort(tail_.begin(), tail_.end());
  std::vector<BlockRange> merged;
  for (const BlockRange& range : tail_) {
    if (range.empty()) continue;
    if (!merged.empty() && range.begin <= merged.back().end) {
      merged.back().end = std::max(merged.back().end, range.end);
    } else {
      merged.push_back(range);
    }
  }
  tail_ = std::move(merged);
  if (mutant(Mutant::kNoReconcile)) tail_.clear();
  // Above every seq that any replica may have seen: at most most_in_flight were on their way.
  last_seq_ = Seq{last_seq_.value + kSeqGap};
  tail_next_ = 0;
  tail_offset_ = 0;
  rewriting_ = 0;
  become(mutant(Mutant::kServeBeforeReconciled) ? Role::kActive : Role::kReconciling);
  next_rewrites();
}

void Replica::next_rewrites() {
  if (role_ != Role::kReconciling && !mutant(Mutant::kServeBeforeReconciled)) return;
  while (rewriting_ < kRewrites && tail_next_ < tail_.size()) {
    const BlockRange& whole = tail_[tail_next_];
    const uint64_t begin = whole.begin + tail_offset_;
    const uint64_t end = (begin / kRewriteBlocks + 1) * kRewriteBlocks;
    const BlockRange piece{begin, std::min(whole.end, end)};
    tail_offset_ += piece.blocks();
    if (piece.end == whole.end) {
      ++tail_next_;
      tail_offset_ = 0;
    }
    ++rewriting_;
    Op& op = make_op(next_internal_++, OpKind::kRewrite, piece);
    op.needs_payload = true;
    if (may_start(op)) start(op);
  }
  if (rewriting_ == 0 && tail_next_ >= tail_.size() && role_ == Role::kReconciling) activated();
}

// What no member can read is left as it is: it cannot be told what it was, and no one serves it.
// The blocks around it are rewritten one by one. A joiner hears of it from its resync, which begins
// anew.
void Replica::rewrite_around_damage(Op& op) {
  CVOL_ASSERT(rewriting_ > 0);
  const BlockRange range = op.range;
  const Slot joiner = op.joiner;
  const bool joins = joiner != 0 && peers_[joiner].join == op.join;
  if (joiner == 0 && range.blocks() == 1)
    driver_.event("block " + std::to_string(range.begin) +
                  " is damaged in all in-sync replicas, and stays so until it is written");
  if (joiner == 0 && range.blocks() > 1) {
    for (uint64_t block = range.begin; block < range.end; ++block)
      tail_.push_back({block, block + 1});
  }
  --rewriting_;
  end_op(op.id, Outcome::kDone);
  if (joins) end_join(joiner, true);
  next_rewrites();
}

// R9 (4).
void Replica::activated() {
  CVOL_ASSERT(in_flight_.empty());
  tail_.clear();
  become(Role::kActive);
  driver_.event("serving as the primary: " + describe(durable_.record));
  advance_commit_point();
  send_beacons(now_);
  start_ready_ops();
}

// --- planned moves ---

bool Replica::hand_over(Nanoseconds now, const ReplicaId& to) {
  now_ = now;
  const Slot slot = slot_of(to);
  if (slot > kMostPeers || slot == kSelf || role_ != Role::kActive) return false;
  if ((set_ >> slot & 1) == 0 || !peers_[slot].up || !peers_[slot].failed.empty()) return false;
  if (handing_) return handing_to_ == slot;
  handing_ = true;
  handing_to_ = slot;
  handed_at_ = now;
  go_on_handing_over();
  return true;
}

// Nothing is admitted any more; when all that was is answered, the other one is told.
void Replica::go_on_handing_over() {
  if (!handing_ || role_ != Role::kActive || proposal_) return;
  for (const Op* op : order_) {
    if (is_started(*op)) return;
  }
  serve_no_more(handing_to_);
}

void Replica::serve_no_more(Slot successor) {
  handing_ = false;
  handed_at_ = now_;
  become(Role::kHandedOver);  // first: nothing below may begin or be answered any more
  drop_all_ops();
  for (Slot slot = 1; slot < peers_.size(); ++slot) {
    if (peers_[slot].join != 0) end_join(slot, true);
    // Gives up its leases: it reads no more in this epoch.
    peers_[slot].lease_until = peers_[slot].granted = 0;
  }
  Message message = make(MessageType::kHandOver, successor);
  message.commit_point = commit_point_;
  send(successor, message);
}

// How long this replica's own disk has been at the oldest of what it alone has to finish.
Nanoseconds Replica::own_disk_delay() const {
  Nanoseconds oldest = now_;
  if (!persisting_.empty()) oldest = std::min(oldest, persisting_.front().since);
  if (role_ == Role::kRecovering && !tail_ready_) oldest = std::min(oldest, epoch_since_);
  for (const Op* op : in_flight_) {
    if (op != nullptr && !op->failed && (op->acked & 1) == 0) oldest = std::min(oldest, op->since);
  }
  return now_ - oldest;
}

// The same with what may wait for others too: reads and payloads of blocks that are damaged here.
Nanoseconds Replica::own_delay() const {
  Nanoseconds oldest = now_ - own_disk_delay();
  for (const Op* op : order_) {
    if (op->state == Op::State::kPayload || op->state == Op::State::kReading)
      oldest = std::min(oldest, op->since);
  }
  return now_ - oldest;
}

// How long a write has been at a peer that has not acknowledged it.
Nanoseconds Replica::delay_of(Slot slot) const {
  const Mask bit = Mask{1} << slot;
  Nanoseconds oldest = now_;
  for (const Op* op : in_flight_) {  // the oldest first
    if (op == nullptr || (op->sent & bit) == 0 || (op->acked & bit) != 0) continue;
    const bool again = (op->again & bit) != 0;
    oldest = std::min(oldest, again ? std::max(op->since, peers_[slot].asked_again) : op->since);
    if (!again) break;
  }
  return now_ - oldest;
}

// R4 and R11 for this replica itself, whose disk holds up the volume while its process answers for
// it: another member takes over, and puts it out if it has to; the one that has kept up best, for
// others may be stuck as well. The last member stays.
void Replica::leave_if_stuck() {
  if (proposal_ || own_delay() <= options_.stuck_write) return;
  Slot best = 0;
  Nanoseconds least = 0;
  for (Slot slot = 1; slot < peers_.size(); ++slot) {
    const Peer& peer = peers_[slot];
    if ((set_ >> slot & 1) == 0 || !peer.up || !peer.failed.empty() ||
        peer.reached != durable_.record.epoch || now_ - peer.heard > options_.replica_timeout)
      continue;
    const Nanoseconds delay = delay_of(slot);
    if (best != 0 && delay >= least) continue;
    best = slot;
    least = delay;
  }
  if (best == 0) return;
  driver_.event("the disk of this replica finishes nothing: handing over to replica " +
                peers_[best].id.to_string());
  serve_no_more(best);
}

}  // namespace cvol::replication
