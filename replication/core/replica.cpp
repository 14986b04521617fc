// Records, roles and timers.
#include "replication/core/replica.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>

#include "volumed/base/assert.h"

namespace cvol::replication {

Replica::Replica(Driver& driver, const Options& options, Start start)
    : driver_(driver),
      options_(options),
      self_(start.self),
      now_(start.now),
      durable_(std::move(start.durable)),
      persisted_epoch_(durable_.record.epoch),
      persisted_promise_(durable_.promised),
      persisted_rebuilding_(durable_.rebuilding),
      last_seq_(std::max(start.last_seq, start.commit_point)),
      held_seq_(std::max(start.last_seq, start.commit_point)),
      commit_point_(start.commit_point),
      noted_commit_point_(start.commit_point),
      grace_until_(start.now + options.grace),
      started_(start.now) {
  CVOL_ASSERT(!self_.is_nil());
  Peer self;
  self.id = self_;
  self.up = true;
  peers_.push_back(self);
  rebuild_masks();
}

bool Replica::mutant([[maybe_unused]] Mutant which) const {
#ifdef CVOL_MUTANTS
  return options_.mutant == which;
#else
  return false;
#endif
}

// --- peers ---

Replica::Slot Replica::slot_of(const ReplicaId& id) const {
  for (Slot slot = 0; slot < peers_.size(); ++slot) {
    if (peers_[slot].id == id) return slot;
  }
  return kMostPeers + 1;
}

// Slots of replicas that the record no longer has are used again, if nothing in flight knows them.
Replica::Slot Replica::make_slot(const ReplicaId& id) {
  const Slot before = slot_of(id);
  if (before <= kMostPeers) return before;
  Peer peer;
  peer.id = id;
  peer.heard = now_;
  for (Slot slot = 1; slot < peers_.size(); ++slot) {
    const Mask bit = Mask{1} << slot;
    const ReplicaId& there = peers_[slot].id;
    // One that an operator has taken out of the members may be in the set a little longer.
    const bool known = durable_.record.find_member(there) != nullptr ||
                       durable_.record.find_in_sync(there) != nullptr;
    if (known || (required_ & bit) != 0 || peers_[slot].join != 0) continue;
    for (Op* op : order_) {
      op->sent &= ~bit;
      op->acked &= ~bit;
      op->refused &= ~bit;
      op->again &= ~bit;
    }
    told_ &= ~bit;
    peers_[slot] = peer;
    return slot;
  }
  CVOL_ASSERT(peers_.size() <= kMostPeers);
  peers_.push_back(peer);
  return static_cast<Slot>(peers_.size() - 1);
}

Replica::Mask Replica::mask_of_set(const Record& record) const {
  Mask mask = 0;
  for (const InSync& entry : record.in_sync) {
    const Slot slot = slot_of(entry.replica);
    if (slot <= kMostPeers) mask |= Mask{1} << slot;
  }
  return mask;
}

void Replica::rebuild_masks() {
  for (const Member& member : durable_.record.members) {
    if (member.replica != self_) make_slot(member.replica);
  }
  for (const InSync& entry : durable_.record.in_sync) {
    if (entry.replica != self_) make_slot(entry.replica);
  }
  set_ = mask_of_set(durable_.record);
}

Message Replica::make(MessageType type, Slot to) const {
  Message message;
  message.type = type;
  message.from = self_;
  message.to = peers_[to].id;
  message.epoch = durable_.record.epoch;
  message.incarnation = durable_.incarnation;
  return message;
}

void Replica::send(Slot to, const Message& message) {
  if (to == kSelf || to > kMostPeers || !peers_[to].up) return;
  driver_.send(message);
}

std::vector<ReplicaId> Replica::required() const {
  std::vector<ReplicaId> all;
  for (Slot slot = 0; slot < peers_.size(); ++slot) {
    if ((required_ >> slot & 1) != 0) all.push_back(peers_[slot].id);
  }
  return all;
}

bool Replica::trusts_itself() const {
  const InSync* entry = durable_.record.find_in_sync(self_);
  return entry != nullptr && entry->incarnation == durable_.incarnation && !durable_.rebuilding &&
         !disk_failed_;
}

// --- records ---

void Replica::persist() {
  ++persist_ticket_;
  persisting_.push_back(
      {persist_ticket_, durable_.record.epoch, durable_.promised, durable_.rebuilding, now_});
  driver_.persist(durable_, persist_ticket_);
}

void Replica::on_persisted(Nanoseconds now, uint64_t ticket) {
  now_ = now;
  while (!persisting_.empty() && persisting_.front().ticket <= ticket) {
    persisted_epoch_ = std::max(persisted_epoch_, persisting_.front().epoch);
    persisted_promise_ = std::max(persisted_promise_, persisting_.front().promised);
    persisted_rebuilding_ = persisting_.front().rebuilding;
    persisting_.pop_front();
  }
  begin_joining();
  if (member_join_completing_ && !persisted_rebuilding_ && !durable_.rebuilding) {
    member_join_completing_ = false;
    const Slot primary = slot_of(durable_.record.primary);
    Message completed = make(MessageType::kJoinCompleted, primary);
    completed.join = member_join_;
    send(primary, completed);
  }
  flush_gated();
  answer_reach();
  if (promising_) begin_promotion();
}

void Replica::on_record(Nanoseconds now, const Record& record) {
  now_ = now;
  fetching_ = false;
  if (!is_sound(record)) return;
  Record& known = durable_.record;
  if (record.epoch > known.epoch) {
    adopt(record);
  } else if (record.epoch == known.epoch) {
    // The same epoch: what may differ is nothing that decides, and the revision to expect.
    if (record.revision > known.revision) {
      known.revision = record.revision;
      known.members = record.members;
      rebuild_masks();
    }
  } else {
    look_for_fall();  // an old state, or a register that was restored from a backup
    return;
  }
  ahead_since_ = Epoch{};
  // R5: an answer that proves the expected revision gone; or that ours was applied.
  const bool shown = mutant(Mutant::kOutcomeByReading) && proposal_ && !proposal_->under_way;
  if (shown || (proposal_ && record.revision > proposal_->next.revision)) forget_proposal();
  consider_promotion();
}

// One from the register or from a peer that does not hold together changes nothing here.
bool Replica::is_sound(const Record& record) {
  const std::string problem = problem_of(record);
  if (problem.empty()) return true;
  if (record.epoch != unsound_) {
    driver_.event(fmt::format("a record of epoch {} is ignored: {}; see 'cvol volume explain'",
                              record.epoch.value, problem));
  }
  unsound_ = record.epoch;
  return false;
}

// A record with a higher epoch, whoever told it (R1).
void Replica::adopt(const Record& record) {
  CVOL_ASSERT(record.epoch > durable_.record.epoch);  // I4: epochs only rise
  const bool same_primary = record.primary == durable_.record.primary;
  const bool same_session = record.session == durable_.record.session;
  const bool same_size = record.size_bytes == durable_.record.size_bytes;
  const bool was_primary = role_ != Role::kFollower;
  if (record.lineage != durable_.record.lineage && durable_.record.epoch.value != 0 &&
      record.find_in_sync(self_) == nullptr)
    durable_.given_up = true;
  durable_.record = record;
  rebuild_masks();
  reach_ = Reach{};
  handed_to_me_ = false;
  candidate_since_ = 0;
  asked_at_ = 0;
  promising_ = false;
  if (!same_primary) {
    recent_.fill({});
    gated_.clear();
    leave_join();
  }
  // A primary that is new, or that made this record itself, has the time to say so. (Operators who
  // change session or size while there is none do not hold up those who would take over; nor does
  // their change bring a process back to life.)
  const bool by_operator = same_primary && !(same_session && same_size);
  if (!by_operator) grace_until_ = std::max(grace_until_, now_ + options_.grace);
  const Slot primary = slot_of(record.primary);
  primary_dead_ = primary_dead_ && by_operator && primary <= kMostPeers && peers_[primary].dead;
  if (record.find_in_sync(self_) != nullptr) leave_join();
  persist();
  if (record.primary != self_) {
    if (was_primary) step_down();
    forget_proposal();
    if (!same_primary) drop_all_ops();
    driver_.changed();
    return;
  }
  if (!was_primary) {
    // Ours, by a compare-and-swap of this life (promoted()) or of an earlier one (R8: propose
    // anew).
    driver_.changed();
    return;
  }
  // Still the primary, in a new epoch: all members hear of it, and what is in flight goes again.
  epoch_since_ = now_;
  if (!same_session) {
    fence_waiting_ops();
    connection_ = 0;  // connections are numbered within their session
  }
  if (role_ == Role::kHandedOver) {
    // Taken back. It has asked nobody since it handed over: that they were silent says nothing.
    for (Peer& peer : peers_) peer.heard = now_;
    begin_recovering();
  }
  Mask keep = set_;
  if (proposal_ && proposal_->joiner != 0) keep |= Mask{1} << proposal_->joiner;
  for (Slot slot = 1; slot < peers_.size(); ++slot) {
    const Mask bit = Mask{1} << slot;
    Peer& peer = peers_[slot];
    if ((set_ & bit) != 0 && peer.join != 0) end_join(slot, false);
    if ((set_ & bit) == 0 && peer.join != 0 && (required_ & bit) != 0) keep |= bit;
    if ((set_ & bit) == 0) peer.lease_until = (keep & bit) != 0 ? peer.lease_until : 0;
    if ((set_ & bit) != 0 && (required_ & bit) == 0) peer.heard = now_;
  }
  required_ = keep;
  for (Slot slot = 1; slot < peers_.size(); ++slot) {
    if ((required_ >> slot & 1) == 0) peers_[slot].failed.clear();
  }
  reach_all();
  settle_all();
  if (role_ == Role::kRecovering) recover();
  driver_.changed();
}

void Replica::become(Role role) {
  if (role_ == role) return;
  role_ = role;
  driver_.changed();
}

// R11. Outcomes of what is in flight are unknown: nothing is answered; the front end sends it
// again.
void Replica::step_down() {
  become(Role::kFollower);  // first: nothing below may be answered any more
  for (Slot slot = 1; slot < peers_.size(); ++slot) {
    if (peers_[slot].join != 0) end_join(slot, false);
    peers_[slot].lease_until = peers_[slot].granted = 0;
    peers_[slot].failed.clear();
    peers_[slot].reached = Epoch{};
  }
  drop_all_ops();
  tail_.clear();
  tail_ready_ = false;
  rewriting_ = 0;
  handing_ = false;
  handing_to_ = 0;
  required_ = 1;
}

// --- the register ---

void Replica::propose(Record next, bool promotes, Slot joiner) {
  CVOL_ASSERT(!proposal_);
  CVOL_ASSERT(!next.in_sync.empty());  // I7
  CVOL_ASSERT(next.epoch == durable_.record.epoch.next());
  Proposal proposal;
  proposal.next = std::move(next);
  proposal.promotes = promotes;
  proposal.joiner = joiner;
  proposal_ = std::move(proposal);
  send_proposal();
}

void Replica::send_proposal() {
  proposal_->ticket = ++next_ticket_;
  proposal_->sent = now_;
  proposal_->under_way = true;
  driver_.propose(proposal_->next, proposal_->ticket);
}

void Replica::on_proposed(Nanoseconds now, uint64_t ticket, CasResult result, uint64_t revision) {
  now_ = now;
  if (!proposal_ || proposal_->ticket != ticket) return;
  proposal_->under_way = false;
  proposal_->sent = now;
  switch (result) {
    case CasResult::kUnknown:
      if (mutant(Mutant::kOutcomeByReading)) driver_.fetch_record();
      return;  // R5: tick() sends the same one again
    case CasResult::kConflict:
      // It can never land any more, or it has landed before: the record tells.
      proposal_->sent = now;
      driver_.fetch_record();
      fetching_ = true;
      fetch_sent_ = now;
      return;
    case CasResult::kApplied: {
      Record next = proposal_->next;
      const bool promotes = proposal_->promotes;
      next.revision = revision;
      if (next.epoch <= durable_.record.epoch) {  // heard of it before, from a watch
        if (next.epoch == durable_.record.epoch && durable_.record.revision < revision)
          durable_.record.revision = revision;
        const bool ours = durable_.record.epoch == next.epoch && durable_.record.primary == self_;
        forget_proposal();
        if (promotes && ours && role_ == Role::kFollower) promoted();
        return;
      }
      adopt(next);
      forget_proposal();
      if (promotes) promoted();
      return;
    }
  }
}

// It is decided: what it held up goes on. A joiner that the record did not take in leaves
// `required` with the end of its join.
void Replica::forget_proposal() {
  if (!proposal_) return;
  const Slot joiner = proposal_->joiner;
  const bool promotes = proposal_->promotes;
  const Record next = proposal_->next;
  proposal_.reset();
  if (joiner != 0 && role_ != Role::kFollower && (set_ >> joiner & 1) == 0) end_join(joiner, true);
  // Heard from a watch or a read that our promotion was applied.
  if (promotes && role_ == Role::kFollower && durable_.record.epoch == next.epoch &&
      durable_.record.primary == self_ && next.primary == self_)
    promoted();
  if (role_ != Role::kFollower) settle_all();
}

// --- time ---

void Replica::tick(Nanoseconds now) {
  now_ = std::max(now_, now);
  const Nanoseconds retry = is_ahead_of_register() ? 5 * kSecond : options_.propose_retry;
  if (proposal_ && !proposal_->under_way && !fetching_ && now_ - proposal_->sent >= retry)
    send_proposal();
  if (fall_suspected_) look_for_fall();
  if (fetching_ && now_ - fetch_sent_ >= 5 * options_.propose_retry) {
    fetch_sent_ = now_;
    driver_.fetch_record();
  }
  if (role_ == Role::kFollower) {
    consider_promotion();
    say_hello();
    return;
  }
  if (role_ == Role::kHandedOver) {
    if (now_ - handed_at_ >= options_.hand_over) {
      step_down();
      handed_to_me_ = true;  // taken back: it was the primary itself (R8)
      consider_promotion();
    }
    return;
  }
  if (handing_ && (now_ - handed_at_ >= options_.hand_over || (set_ >> handing_to_ & 1) == 0)) {
    handing_ = false;  // what was admitted may never end, with too few members: serves again
    driver_.event("the planned move is given up");
  }
  leave_if_stuck();
  if (role_ == Role::kHandedOver) return;
  check_members();
  check_slow_members();
  for (Slot slot = 1; slot < peers_.size(); ++slot) {
    Peer& peer = peers_[slot];
    if ((required_ >> slot & 1) != 0 && peer.reached < durable_.record.epoch &&
        now_ - peer.reach_sent >= options_.replica_timeout / 2)
      reach(slot);
    if (peer.join != 0) advance_join(slot);
  }
  answer_held_reads();
  start_ready_ops();
}

void Replica::on_link(Nanoseconds now, const ReplicaId& id, bool up) {
  now_ = now;
  const Slot slot = slot_of(id);
  if (slot > kMostPeers || slot == kSelf) return;
  Peer& peer = peers_[slot];
  peer.up = up;
  if (up) peer.dead = false;
  if (role_ == Role::kFollower) {
    if (id == durable_.record.primary && member_join_ != 0) {
      leave_join();  // begun anew
    }
    if (up && id == durable_.record.primary) {
      hello_sent_ = 0;
      say_hello();
    }
    if (up && asked_at_ != 0) ask(slot);
    return;
  }
  if (peer.join != 0) end_join(slot, false);
  if (!up) return;
  if ((required_ >> slot & 1) != 0) {
    // What was under way may be lost: the record first, then all that is not acknowledged.
    forget_acknowledgements(slot);
    reach(slot);
    resend(slot);
  }
}

void Replica::on_peer_dead(Nanoseconds now, const ReplicaId& id) {
  now_ = now;
  const Slot slot = slot_of(id);
  if (slot > kMostPeers || slot == kSelf) return;
  peers_[slot].dead = true;
  peers_[slot].up = false;
  if (role_ != Role::kFollower) {
    if (peers_[slot].join != 0) end_join(slot, false);
    check_members();
    return;
  }
  if (id == durable_.record.primary) {
    primary_dead_ = true;  // it serves no reads: nobody waits for its leases
    consider_promotion();
  }
}

void Replica::on_disk_failed(Nanoseconds now) {
  now_ = now;
  if (disk_failed_) return;
  disk_failed_ = true;
  driver_.event("the disk of this replica has failed");
  // R11. Others take over when their grace is over, or at once if one of them can be told.
  if (role_ == Role::kFollower) return;
  Slot best = kMostPeers + 1;
  for (Slot slot = 1; slot < peers_.size(); ++slot) {
    if ((set_ >> slot & 1) != 0 && peers_[slot].up && peers_[slot].failed.empty() &&
        peers_[slot].reached == durable_.record.epoch) {
      best = slot;
      break;
    }
  }
  const Role before = role_;
  step_down();
  if (best <= kMostPeers && before == Role::kActive) send(best, make(MessageType::kHandOver, best));
}

void Replica::on_disk_mended(Nanoseconds now) {
  now_ = now;
  if (!disk_failed_) return;
  if (role_ != Role::kFollower) step_down();
  disk_failed_ = false;
  recent_.fill({});
  gated_.clear();
  reach_ = Reach{};
  leave_join();
  handed_to_me_ = promising_ = false;
  candidate_since_ = asked_at_ = hello_sent_ = 0;
  grace_until_ = std::max(grace_until_, now_ + options_.grace);
  persist();  // what could not be kept while it had failed
  driver_.event("the disk of this replica is in service again");
  driver_.changed();
}

void Replica::on_message(Nanoseconds now, const Message& message) {
  now_ = now;
  CVOL_ASSERT(message.to == self_);
  switch (message.type) {
    case MessageType::kReach:
      return on_reach(message);
    case MessageType::kReached:
      return on_reached(message);
    case MessageType::kPrepare:
      return on_prepare(message);
    case MessageType::kAck:
      return on_ack(message);
    case MessageType::kRefuse:
      return on_refuse(message);
    case MessageType::kBeacon:
      return on_beacon(message);
    case MessageType::kGrant:
      return on_grant(message);
    case MessageType::kJoinHello:
      return on_join_hello(message);
    case MessageType::kJoinAccept:
      return on_join_accept(message);
    case MessageType::kJoinReady:
      return on_join_ready(message);
    case MessageType::kJoinAbort:
      return on_join_abort(message);
    case MessageType::kJoinComplete:
      return on_join_complete(message);
    case MessageType::kJoinCompleted:
      return on_join_completed(message);
    case MessageType::kHandOver:
      return on_hand_over(message);
    case MessageType::kAsk:
      return on_ask(message);
    case MessageType::kKnown:
      return on_known(message);
  }
}

bool Replica::rests() const {
  const Nanoseconds two_beacons = 2 * options_.beacon;
  if (role_ == Role::kActive) {
    const bool sent = !wants_beacons() || last_beacon_ == now_;
    return is_quiet() && sent && beacon_interval() == two_beacons;
  }
  if (role_ != Role::kFollower || !trusts_itself() || is_candidate()) return false;
  if (proposal_ || fetching_ || handed_to_me_ || member_join_ != 0) return false;
  return now_ - last_prepare_ >= options_.quiet_after && grace_until_ - now_ > two_beacons;
}

bool Replica::confirmed() const {
  if (role_ != Role::kActive) return false;
  for (Slot slot = 1; slot < peers_.size(); ++slot) {
    if ((required_ >> slot & 1) != 0 && peers_[slot].reached != durable_.record.epoch) return false;
  }
  // I11: nothing of a session before is still to take effect.
  for (const Op* op : order_) {
    if (op->client && op->session != durable_.record.session.generation) return false;
  }
  return true;
}

std::string Replica::waits_for(Nanoseconds now) const {
  if (is_ahead_of_register() && role_ != Role::kActive)
    return "the metadata store was restored from an old backup; 'cvol volume rebuild-record' mends "
           "it";
  if (role_ == Role::kFollower) {
    if (!trusts_itself()) return "the primary is another replica";
    return "no primary runs; this replica takes over when its grace is over";
  }
  const auto names = [&](Mask mask) {
    std::string all;
    for (Slot slot = 1; slot < peers_.size(); ++slot) {
      if ((mask >> slot & 1) == 0) continue;
      all += (all.empty() ? "" : ", ") + peers_[slot].id.to_string();
    }
    return all;
  };
  if (role_ == Role::kHandedOver) return "the primary is moving to another replica";
  Mask silent = 0;
  for (Slot slot = 1; slot < peers_.size(); ++slot) {
    const Peer& peer = peers_[slot];
    if ((required_ >> slot & 1) != 0 &&
        (peer.dead || !peer.failed.empty() || peer.reached != durable_.record.epoch ||
         now - peer.heard > options_.replica_timeout))
      silent |= Mask{1} << slot;
  }
  if (silent != 0)
    return "replica " + names(silent) +
           " does not answer; it leaves the in-sync set when the metadata store has it recorded";
  if (role_ != Role::kActive) return "the new primary is levelling the replicas";
  if (acknowledgements_wait())
    return fmt::format("{} replicas are in sync, {} are needed (min_in_sync)",
                       durable_.record.in_sync.size(), durable_.record.min_in_sync);
  if (!options_.strict_reads && !has_leases(now))
    return "leases of the other replicas have run out";
  return "";
}

}  // namespace cvol::replication
