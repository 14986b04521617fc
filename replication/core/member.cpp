// What a member does for its primary: R1, R2, R7, R10.
#include <fmt/format.h>

#include <algorithm>

#include "replication/core/replica.h"
#include "volumed/base/assert.h"

namespace cvol::replication {

// R1. `promised` is the highest epoch whose primary this replica may no longer serve.
bool Replica::accepts(const Message& message) const {
  if (mutant(Mutant::kNoEpochCheck)) return true;
  return message.epoch == durable_.record.epoch && message.epoch > durable_.promised &&
         message.from == durable_.record.primary && role_ == Role::kFollower;
}

void Replica::refuse(const Message& message, Refusal why) {
  const Slot to = slot_of(message.from);
  if (to > kMostPeers) return;
  Message answer = make(MessageType::kRefuse, to);
  answer.refusal = why;
  answer.about = message.epoch;
  answer.seq = message.seq;
  answer.join = message.join;
  answer.record = std::make_shared<Record>(durable_.record);
  send(to, answer);
}

// R9 (1), and R1: a higher epoch makes this replica adopt the record.
void Replica::on_reach(const Message& message) {
  CVOL_ASSERT(message.record != nullptr);
  if (message.epoch != message.record->epoch || message.record->primary != message.from) return;
  if (!is_sound(*message.record)) return;
  make_slot(message.from);
  if (message.epoch < durable_.record.epoch || message.epoch <= durable_.promised)
    return refuse(message, Refusal::kEpoch);
  if (message.epoch > durable_.record.epoch) {
    Record record = *message.record;
    record.revision = 0;  // heard, not read
    adopt(record);
  }
  if (durable_.record.primary != message.from) return refuse(message, Refusal::kEpoch);
  if (role_ != Role::kFollower) return;
  if (!trusts_itself() && member_join_ == 0) {
    refuse(message, Refusal::kUntrusted);
    hello_sent_ = 0;
    return say_hello();
  }
  // Asked again for what is on its way: a tail that takes longer than the primary waits between two
  // questions would never be answered if each of them began it anew.
  if (reach_.waits && reach_.from == message.from && reach_.epoch == message.epoch &&
      reach_.wants_tail == message.wants_tail)
    return answer_reach();
  // A primary that begins anew may use seqs again that left no trace with it: none of them is one
  // that is sent again.
  if (message.wants_tail) recent_.fill({});
  reach_ = Reach{};
  reach_.waits = true;
  reach_.from = message.from;
  reach_.epoch = message.epoch;
  reach_.wants_tail = message.wants_tail;
  answer_reach();
}

// When the record is durable and, for a tail, nothing of before is on its way to the disk.
void Replica::answer_reach() {
  if (!reach_.waits || !known_persisted()) return;
  if (reach_.wants_tail) {
    if (disk_holds_writes() || reach_.tail_asked) return;
    reach_.tail_asked = true;
    reach_.ticket = ++tail_ticket_;
    driver_.collect_tail(commit_point_, reach_.ticket);
    return;
  }
  reach_.waits = false;
  const Slot to = slot_of(reach_.from);
  Message answer = make(MessageType::kReached, to);
  answer.seq = last_seq_;
  answer.commit_point = commit_point_;
  answer.tail = std::make_shared<std::vector<BlockRange>>();
  send(to, answer);
}

// R2: acknowledged when durable here.
void Replica::on_prepare(const Message& message) {
  make_slot(message.from);
  last_prepare_ = now_;
  if (!accepts(message)) {
    driver_.drop_prepared(message);
    const bool unknown = message.epoch > durable_.record.epoch;
    return refuse(message, unknown ? Refusal::kNoRecord : Refusal::kEpoch);
  }
  hear_commit_point(message.commit_point);
  const bool as_joiner = message.join != 0;
  if (as_joiner ? message.join != member_join_ || !member_join_ready_ : !trusts_itself()) {
    driver_.drop_prepared(message);
    return refuse(message, Refusal::kUntrusted);
  }
  const uint64_t seq = message.seq.value;
  Recent& recent = recent_[seq % kRecent];
  if (recent.seq == seq) {  // sent again
    driver_.drop_prepared(message);
    if (recent.done) {
      send_ack(seq, slot_of(message.from), message.join);
    } else if (const auto at = prepares_.find(seq); at != prepares_.end()) {
      at->second.epoch = message.epoch;
      at->second.join = message.join;
    }
    return;
  }
  recent = {seq, false};
  prepares_[seq] = {seq, message.from, message.join, message.epoch};
  ++appending_;
  if (mutant(Mutant::kAcknowledgeBeforeDurable)) send_ack(seq, slot_of(message.from), message.join);
  driver_.append_prepared(message);
}

void Replica::member_appended(Seq seq, AppendResult result) {
  const auto at = prepares_.find(seq.value);
  CVOL_ASSERT(at != prepares_.end());
  const Gated done = at->second;
  prepares_.erase(at);
  Recent& recent = recent_[seq.value % kRecent];
  if (result == AppendResult::kDurable) {
    last_seq_ = std::max(last_seq_, seq);
    if (recent.seq == seq.value) recent.done = true;
    if (known_persisted()) {
      send_ack(done.seq, slot_of(done.to), done.join);
    } else {
      gated_.push_back(done);
    }
  } else {
    if (recent.seq == seq.value) recent = {};
    const Slot to = slot_of(done.to);
    if (to <= kMostPeers) {
      Message answer = make(MessageType::kRefuse, to);
      answer.seq = seq;
      answer.join = done.join;
      answer.about = done.epoch;
      answer.refusal = result == AppendResult::kNoSpace ? Refusal::kNoSpace : Refusal::kFailed;
      send(to, answer);
    }
    if (result == AppendResult::kFailed) disk_failed_ = true;
  }
}

// To whoever is the primary now: the epoch of the message says what this replica knows.
void Replica::send_ack(uint64_t seq, Slot to, uint64_t join) {
  if (to > kMostPeers || peers_[to].id != durable_.record.primary) return;
  Message ack = make(MessageType::kAck, to);
  ack.seq = Seq{seq};
  ack.join = join;
  send(to, ack);
}

void Replica::flush_gated() {
  if (!known_persisted() || gated_.empty()) return;
  std::vector<Gated> gated;
  gated.swap(gated_);
  for (const Gated& done : gated) send_ack(done.seq, slot_of(done.to), done.join);
}

// R13. Only members hear it: a joiner that took it before its copy is complete would leave out what
// it lacks at its next resync.
void Replica::hear_commit_point(Seq seq) {
  if (seq <= commit_point_ || member_join_ != 0 || !trusts_itself()) return;
  if (lacks(seq)) return distrust_itself(seq);
  raise_commit_point(seq);
}

// Every member of the set has acknowledged all up to the commit point as durable, or was copied to
// and told how far: its highest seq is no lower, after a crash too. What counts is what it has
// itself, and not what a recovery has heard of from others: else the answer that comes first
// decides whether another one is understood.
bool Replica::lacks(Seq committed) const {
#ifdef CVOL_MUTANTS
  if (options_.mutant == Mutant::kJudgedByTheFirstAnswer) return committed > last_seq_;
  if (options_.mutant != Mutant::kNone) return false;  // they are to be caught by what clients see
#endif
  return committed > held_seq_;
}

// The disk holds an older state than it said that it does: an older copy of it was put in its
// place, or it lies. From now on this replica is not the one that the record lists, and comes back
// as any other that is out of sync.
void Replica::distrust_itself(Seq committed) {
  CVOL_ASSERT(!promising_ && (!proposal_ || !proposal_->promotes));
  driver_.event(fmt::format(
      "this replica holds nothing above seq {}, but once had all up to {}: its disk was taken back "
      "to an older state; it gets what it lacks from the others",
      held_seq_.value, committed.value));
  const InSync* entry = durable_.record.find_in_sync(self_);
  durable_.incarnation =
      std::max(durable_.incarnation, entry != nullptr ? entry->incarnation : 0) + 1;
  persist();
  if (role_ != Role::kFollower) step_down();
  handed_to_me_ = false;
  CVOL_ASSERT(!trusts_itself());
  driver_.changed();
}

// No seq up to the commit point is free: a replica that was copied to may hold none near it.
void Replica::raise_commit_point(Seq seq) {
  commit_point_ = std::max(commit_point_, seq);
  last_seq_ = std::max(last_seq_, commit_point_);
  held_seq_ = std::max(held_seq_, commit_point_);
  driver_.note_commit_point(commit_point_);
}

// R7: counted from the receipt. Restarted replicas have waited already (grace_until_).
void Replica::on_beacon(const Message& message) {
  make_slot(message.from);
  if (!accepts(message)) {
    const bool unknown = message.epoch > durable_.record.epoch;
    return refuse(message, unknown ? Refusal::kNoRecord : Refusal::kEpoch);
  }
  hear_commit_point(message.commit_point);
  const bool as_joiner = message.join != 0 && message.join == member_join_;
  if (!trusts_itself() && !as_joiner) return refuse(message, Refusal::kUntrusted);
  if (as_joiner) join_heard_ = now_;
  primary_dead_ = false;
  grace_until_ = std::max(grace_until_, now_ + options_.grace);
  candidate_since_ = 0;
  asked_at_ = 0;
  const Slot to = slot_of(message.from);
  Message grant = make(MessageType::kGrant, to);
  grant.stamp = message.stamp;
  grant.join = message.join;
  send(to, grant);
}

// --- R10, the joiner's side ---

void Replica::say_hello() {
  const Record& record = durable_.record;
  if (role_ != Role::kFollower || disk_failed_ || record.primary.is_nil()) return;
  if (record.find_member(self_) == nullptr || record.primary == self_) return;
  // The primary may have ended the join in an epoch that this replica never heard of.
  if (member_join_ != 0 && now_ - join_heard_ > 4 * options_.replica_timeout) leave_join();
  if (trusts_itself() || member_join_ != 0) return;
  const Slot primary = slot_of(record.primary);
  if (primary > kMostPeers || !peers_[primary].up) return;
  if (hello_sent_ != 0 && now_ - hello_sent_ < options_.join_retry) return;
  hello_sent_ = now_;
  Message hello = make(MessageType::kJoinHello, primary);
  hello.commit_point = commit_point_;
  hello.seq = last_seq_;
  hello.rebuilding = durable_.rebuilding;
  hello.given_up = durable_.given_up;
  send(primary, hello);
}

// `rebuilding` is durable, and nothing of before is on its way to the disk.
void Replica::begin_joining() {
  if (!member_join_persisting_ || !persisted_rebuilding_ || !durable_.rebuilding) return;
  if (disk_holds_writes()) return;
  member_join_persisting_ = false;
  member_join_ready_ = true;
  const Slot primary = slot_of(durable_.record.primary);
  Message ready = make(MessageType::kJoinReady, primary);
  ready.join = member_join_;
  send(primary, ready);
}

// A role ends when the disk has let go of everything that it was given for that role. A piece of a
// join that is over would land in what the next role has compared, acknowledged or written.
bool Replica::disk_holds_writes() const {
  if (mutant(Mutant::kPiecesOutliveTheirJoin)) return appending_ > 0;
  return appending_ + storing_ > 0;
}

bool Replica::begin_store(Nanoseconds now, uint64_t join) {
  now_ = now;
  if (join == 0 || join != ready_join() || role_ != Role::kFollower) return false;
  ++storing_;
  return true;
}

void Replica::on_stored(Nanoseconds now) {
  now_ = now;
  CVOL_ASSERT(storing_ > 0);
  --storing_;
  answer_reach();
  begin_joining();
  if (role_ == Role::kRecovering) recover();
}

void Replica::leave_join() {
  member_join_ = 0;
  member_join_persisting_ = member_join_ready_ = member_join_completing_ = false;
}

void Replica::on_join_accept(const Message& message) {
  CVOL_ASSERT(message.record != nullptr);
  if (message.record->primary != message.from || message.epoch != message.record->epoch) return;
  if (!is_sound(*message.record)) return;
  make_slot(message.from);
  if (message.epoch > durable_.record.epoch && message.epoch > durable_.promised) {
    Record record = *message.record;
    record.revision = 0;
    adopt(record);
  }
  if (!accepts(message) || trusts_itself() || disk_failed_) return;
  recent_.fill({});
  member_join_ = message.join;
  join_heard_ = now_;
  member_join_persisting_ = true;
  member_join_ready_ = member_join_completing_ = false;
  durable_.rebuilding = true;
  persist();
}

void Replica::on_join_complete(const Message& message) {
  if (!accepts(message) || message.join != member_join_ || !member_join_ready_) return;
  if (disk_holds_writes()) return;  // the primary has all acknowledgements; it asks again
  raise_commit_point(message.commit_point);
  last_seq_ = std::max(last_seq_, message.seq);  // copied or acknowledged
  held_seq_ = std::max(held_seq_, message.seq);
  durable_.rebuilding = false;
  durable_.given_up = false;
  member_join_completing_ = true;
  persist();
}

void Replica::on_join_abort(const Message& message) {
  if (message.from != durable_.record.primary || message.join != member_join_) return;
  leave_join();
}

// A planned move: the primary serves no more in this epoch, so its grace need not be waited for.
void Replica::on_hand_over(const Message& message) {
  if (!accepts(message) || !trusts_itself()) return;
  handed_to_me_ = true;
  consider_promotion();
}

}  // namespace cvol::replication
