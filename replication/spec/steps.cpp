#include "replication/spec/steps.h"

#include <algorithm>

namespace cvol::spec {
namespace {

// The primary that waits for acknowledgements of the version, or -1.
int owner_of(const World& world, int version) {
  for (int r = 0; r < kReplicas; ++r) {
    if (world.replicas[r].flight == version) return r;
  }
  return -1;
}

}  // namespace

void Steps::all() {
  if (now_.broken != kNothing) return;
  client();
  register_lands();
  operator_detaches();
  for (int r = 0; r < config_.replicas; ++r) {
    crashes(r);
    if (now_.replicas[r].alive == 0) continue;
    writes(r);
    reads(r);
    members(r);
    joins(r);
    records(r);
    promotes(r);
    reconciles(r);
  }
}

// R1. A promise is kept towards the epoch it names, too: README.md, "Found".
bool Steps::accepts(const Replica& replica, int epoch) const {
  if (mutant(Mutant::kNoEpochCheck)) return true;
  if (epoch < replica.known) return false;
  return config_.equal_is_served ? epoch >= replica.promised : epoch > replica.promised;
}

bool Steps::has_incarnation(int r, const Record& record) const {
  if (mutant(Mutant::kIncarnationIgnored)) return true;
  return ((record.incarnations >> r) & 1) == now_.replicas[r].incarnation;
}

// A replica that lost data, and with it promises and records perhaps, is no member: until a primary
// has brought it up to date it neither acknowledges nor grants. README.md, "Found".
bool Steps::trusts_itself(int r, int epoch) const {
  if (mutant(Mutant::kRolledBackMemberGrants)) return true;
  const uint8_t listed = now_.records[epoch].incarnations >> r & 1;
  if (listed == now_.replicas[r].incarnation) return true;
  return std::any_of(now_.replicas.begin(), now_.replicas.end(), [&](const Replica& primary) {
    return primary.known == epoch && primary.joiner == r + 1 &&
           primary.joiner_incarnation == now_.replicas[r].incarnation;
  });
}

// R7: as long as anyone holds a lease from r, the grace of r is not over (G outlasts L).
bool Steps::grace_is_over(int r) const {
  if (mutant(Mutant::kNoGrace) || now_.replicas[r].fresh != 0) return true;
  return std::none_of(now_.replicas.begin(), now_.replicas.end(),
                      [&](const Replica& other) { return (other.leases & bit(r)) != 0; });
}

bool Steps::can_propose() const {
  return now_.epoch < config_.epochs && now_.proposals.back().present == 0;
}

void Steps::propose(World& world, const Record& record) const {
  for (auto& slot : world.proposals) {
    if (slot.present != 0 && slot.record == record) return;
    if (slot.present != 0) continue;
    slot = {1, record};
    return;
  }
}

void Steps::lose_volatile(World& world, int r) const {
  Replica& old = world.replicas[r];
  Replica next;
  next.known = old.known, next.promised = old.promised, next.incarnation = old.incarnation;
  next.version = old.version, next.commit = old.commit, next.synced = old.synced;
  next.alive = old.alive, next.fresh = old.fresh;
  old = next;
  if (world.target == r + 1) world.target = 0, world.queued = 0;
}

// R11: it answers nothing any more.
void Steps::step_down(World& world, int r) const {
  if (world.replicas[r].role != kFollower) lose_volatile(world, r);
}

// Replica r learns the record of a higher epoch, and keeps it (R1, R5, R11).
void Steps::adopt(World& world, int r, int epoch) const {
  Replica& self = world.replicas[r];
  const Record& record = world.records[epoch];
  const bool clean =
      (record.incarnations >> r & 1) == self.incarnation || mutant(Mutant::kIncarnationIgnored);
  if (self.role != kFollower && record.primary == r) {
    const bool detached = world.records[self.known].session != record.session;
    self.known = static_cast<uint8_t>(epoch);
    // The reply proves the revision of any outstanding compare-and-swap gone: R5.
    self.required = record.in_sync, self.cas = 0, self.joiner = 0;
    self.joiner_ready = 0, self.joiner_incarnation = 0;
    if (self.flight != 0) {
      Write& write = write_of(world, self.flight);
      write.message_epoch = self.known;
      write.destinations |= self.required & ~bit(r);
    }
    if (detached && !mutant(Mutant::kSessionNotChecked)) {
      self.old_requests = 0;
      if (world.target == r + 1) world.target = 0, world.queued = 0;
    }
    return;
  }
  step_down(world, r);
  self.known = static_cast<uint8_t>(epoch);
  if (record.primary != r || !clean) return;
  self.role = mutant(Mutant::kNoReconcile) ? kActive : kRecovering;  // R9
  self.required = record.in_sync;
  if (mutant(Mutant::kNoReconcile)) return;
  self.reached = bit(r);
  self.tail = self.version > self.commit;
}

// R2: version, local write, PREPARE to all of required and to a joiner.
void Steps::start_write(World& world, int r, int value, bool current) const {
  Replica& self = world.replicas[r];
  const int index = world.write_count[self.known]++;
  const auto version = static_cast<uint8_t>(4 * self.known + index + 1);
  uint8_t to = self.required;
  if (self.joiner != 0) to |= bit(self.joiner - 1);
  to &= static_cast<uint8_t>(~bit(r));
  world.writes[self.known][index] = {static_cast<uint8_t>(value), self.known, to};
  self.version = version, self.flight = version;
  self.flight_value = static_cast<uint8_t>(value), self.flight_current = current;
  self.acknowledged = bit(r);
  if (mutant(Mutant::kCommitPointTooEarly)) self.commit = version;
}

// The client sends its next write, or the unanswered one again: on a new connection, a new
// generation.
void Steps::client() {
  const bool idle = now_.issued == now_.done;
  if (idle ? now_.issued == config_.writes : !config_.resend) return;
  for (int r = 0; r < config_.replicas; ++r) {
    const Replica& to = now_.replicas[r];
    if (to.alive == 0 || to.role == kFollower) continue;
    if (now_.records[to.known].session != now_.session) continue;
    World next = now_;
    if (idle) ++next.issued;
    if (idle && next.target == r + 1) {  // the same connection
      next.queued = 1;
      emit(next, {Action::kSend, next.issued, static_cast<uint8_t>(r)});
      continue;
    }
    if (next.queued != 0) next.replicas[next.target - 1].old_requests |= bit(next.issued);
    // R12: a new generation discards what is not yet admitted of older ones.
    if (!mutant(Mutant::kOldGenerationAdmitted)) next.replicas[r].old_requests = 0;
    for (auto& replica : next.replicas) replica.flight_current = 0;
    next.target = static_cast<uint8_t>(r + 1), next.queued = 1;
    emit(next, {Action::kSend, next.issued, static_cast<uint8_t>(r)});
  }
}

void Steps::writes(int r) {
  const Replica& self = now_.replicas[r];
  const auto who = static_cast<uint8_t>(r);
  // Admission (R2). The range lock: one write to the block at a time.
  if (self.role == kActive && self.flight == 0 && now_.write_count[self.known] < kWritesPerEpoch) {
    if (now_.target == r + 1 && now_.queued != 0) {
      World next = now_;
      next.queued = 0;
      start_write(next, r, next.issued, true);
      emit(next, {Action::kAdmit, next.issued, who});
    }
    for (uint8_t write = 1; write <= config_.writes; ++write) {
      if ((self.old_requests & bit(write)) == 0) continue;
      World next = now_;
      next.replicas[r].old_requests &= static_cast<uint8_t>(~bit(write));
      start_write(next, r, write, false);
      emit(next, {Action::kAdmitOld, write, who});
    }
  }
  // PREPARE arrives, once more perhaps; the acknowledgement arrives with it (README.md).
  for (int epoch = 1; epoch <= now_.epoch; ++epoch) {
    for (int index = 0; index < now_.write_count[epoch]; ++index) {
      const Write& write = now_.writes[epoch][index];
      const auto version = static_cast<uint8_t>(4 * epoch + index + 1);
      if ((write.destinations & bit(r)) == 0 || !accepts(self, write.message_epoch)) continue;
      if (!trusts_itself(r, write.message_epoch)) continue;
      World next = now_;
      Replica& to = next.replicas[r];
      if (write.message_epoch > to.known) adopt(next, r, write.message_epoch);
      to.version = std::max(to.version, version);
      const int owner = owner_of(next, version);
      if (owner >= 0) next.replicas[owner].acknowledged |= bit(r);
      if (pack(next) != pack(now_)) emit(next, {Action::kDeliver, version, who});
    }
  }
  // R3: all of required.
  const bool complete = mutant(Mutant::kOneAcknowledgementIsEnough)
                            ? self.acknowledged != bit(r) || self.required == bit(r)
                            : (self.required & ~self.acknowledged) == 0;
  if (self.flight != 0 && complete) {
    World next = now_;
    Replica& from = next.replicas[r];
    if (from.role == kReconciling) {
      from.role = kActive;  // R9 (4)
    } else if (from.flight_value != 0) {
      next.acknowledged = std::max(next.acknowledged, from.flight_value);
      if (from.flight_current != 0) next.done = from.flight_value;
    }
    if (from.joiner != 0 && (from.acknowledged & bit(from.joiner - 1)) == 0) from.joiner_ready = 0;
    from.commit = from.flight;  // R13
    from.flight = 0, from.flight_value = 0, from.flight_current = 0, from.acknowledged = 0;
    emit(next, {Action::kAnswer, self.flight_value, who});
  }
  // R13: the commit point rides on messages to members.
  const int primary = now_.records[self.known].primary;
  const Replica& from = now_.replicas[primary];
  if (primary != r && from.alive != 0 && from.role != kFollower && from.known == self.known &&
      accepts(self, self.known) && (now_.records[self.known].in_sync & bit(r)) != 0 &&
      self.commit < from.commit &&
      (self.version >= from.commit || mutant(Mutant::kCommitPointTooEarly))) {
    World next = now_;
    next.replicas[r].commit = from.commit;
    emit(next, {Action::kHearCommit, who});
  }
  if (mutant(Mutant::kAcknowledgeBeforeDurable) && self.synced != self.version) {
    World next = now_;
    next.replicas[r].synced = self.version;
    emit(next, {Action::kSyncDisk, who});
  }
}

// R6.
bool Steps::may_read(int r) const {
  const Replica& self = now_.replicas[r];
  if (self.role != kActive) return false;
  if (self.flight != 0 && !mutant(Mutant::kReadInFlight)) return false;
  if (mutant(Mutant::kNoLeases)) return true;
  uint8_t needed = now_.records[self.known].in_sync;
  if (!mutant(Mutant::kJoinerLeaseNotNeeded)) needed |= self.required;
  needed &= static_cast<uint8_t>(~bit(r));
  if (mutant(Mutant::kOneLeaseIsEnough)) return needed == 0 || self.leases != 0;
  return (needed & ~self.leases) == 0;
}

void Steps::reads(int r) {
  const Replica& self = now_.replicas[r];
  const auto who = static_cast<uint8_t>(r);
  if (may_read(r)) {
    const uint8_t value = value_of(now_, self.version);
    World next = now_;
    if ((now_.killed & bit(value)) != 0) next.broken = kDetached;
    if (value < now_.seen) next.broken = kGhost;
    if (value < now_.acknowledged) next.broken = kLost;
    next.seen = std::max(next.seen, value);
    if (next.broken != kNothing || next.seen != now_.seen) emit(next, {Action::kRead, value, who});
  }
  // R7, R8: a beacon arrives and is answered; or the lease ends.
  if (self.role == kFollower) return;
  for (int m = 0; m < config_.replicas; ++m) {
    if (m == r) continue;
    const Replica& member = now_.replicas[m];
    World next = now_;
    if ((self.leases & bit(m)) != 0) {
      next.replicas[r].leases &= static_cast<uint8_t>(~bit(m));
      emit(next, {Action::kExpire, static_cast<uint8_t>(m), who});
    } else if (member.alive != 0 && self.known >= member.known && self.known > member.promised &&
               trusts_itself(m, self.known)) {
      if (self.known > member.known) adopt(next, m, self.known);
      next.replicas[r].leases |= bit(m);
      emit(next, {Action::kGrant, static_cast<uint8_t>(m), who});
    }
  }
}

// R4: a member is proposed for removal, for whatever reason.
void Steps::members(int r) {
  const Replica& self = now_.replicas[r];
  if (self.role == kFollower || self.cas != 0 || self.known != now_.epoch || !can_propose()) return;
  for (int m = 0; m < config_.replicas; ++m) {
    Record record = now_.records[self.known];
    if (m == r || (record.in_sync & bit(m)) == 0) continue;
    World next = now_;
    record.in_sync &= static_cast<uint8_t>(~bit(m));
    next.replicas[r].cas = 1;
    if (mutant(Mutant::kAcknowledgeBeforeRemoval)) next.replicas[r].required = record.in_sync;
    propose(next, record);
    emit(next, {Action::kRemove, static_cast<uint8_t>(m), static_cast<uint8_t>(r)});
  }
}

// R10. The difference is copied under the range lock, so not while a write is in flight.
void Steps::joins(int r) {
  const Replica& self = now_.replicas[r];
  const auto who = static_cast<uint8_t>(r);
  if (self.role != kActive || self.cas != 0) return;
  for (int j = 0; j < config_.replicas; ++j) {
    const Replica& other = now_.replicas[j];
    if (j == r || (self.required & bit(j)) != 0 || self.flight != 0 || other.alive == 0) continue;
    if (!accepts(other, self.known)) continue;
    if (self.joiner != 0 && (self.joiner != j + 1 || self.joiner_ready != 0)) continue;
    World next = now_;
    Replica& to = next.replicas[j];
    if (self.known > to.known) adopt(next, j, self.known);
    const bool own_tail = to.version > to.commit && !mutant(Mutant::kJoinWithoutOwnTail);
    if (self.version > to.commit || own_tail) to.version = self.version;
    if (mutant(Mutant::kAcknowledgeBeforeDurable)) to.synced = to.version;
    to.commit = self.version;
    Replica& from = next.replicas[r];
    from.joiner = static_cast<uint8_t>(j + 1), from.joiner_ready = 1;
    from.joiner_incarnation = to.incarnation;
    emit(next, {Action::kSync, static_cast<uint8_t>(j), who});
  }
  if (self.joiner == 0 || self.joiner_ready == 0 || self.known != now_.epoch || !can_propose())
    return;
  const int j = self.joiner - 1;
  World next = now_;
  Replica& from = next.replicas[r];
  if (!mutant(Mutant::kJoinerRequiredAfterCas)) {
    from.required |= bit(j);
    if (from.flight != 0) write_of(next, from.flight).destinations |= bit(j);
  }
  from.cas = 1;
  Record record = now_.records[self.known];
  record.in_sync |= bit(j);
  record.incarnations &= static_cast<uint8_t>(~bit(j));
  if (self.joiner_incarnation != 0) record.incarnations |= bit(j);
  propose(next, record);
  emit(next, {Action::kJoin, static_cast<uint8_t>(j), who});
}

// A reply, a watch or a peer tells of a newer record, late perhaps.
void Steps::records(int r) {
  const Replica& self = now_.replicas[r];
  for (int epoch = self.known + 1; epoch <= now_.epoch; ++epoch) {
    World next = now_;
    adopt(next, r, epoch);
    emit(next, {Action::kLearn, static_cast<uint8_t>(epoch), static_cast<uint8_t>(r)});
  }
  if (mutant(Mutant::kOutcomeByReading) && self.cas != 0 && self.known == now_.epoch) {
    World next = now_;
    Replica& forgets = next.replicas[r];
    forgets.cas = 0, forgets.required = now_.records[self.known].in_sync;
    forgets.joiner = 0, forgets.joiner_ready = 0, forgets.joiner_incarnation = 0;
    emit(next, {Action::kReadRegister, static_cast<uint8_t>(r)});
  }
}

// R8: the promise is on disk before the proposal leaves.
void Steps::promotes(int r) {
  const Replica& self = now_.replicas[r];
  if (self.role != kFollower || self.known != now_.epoch || !can_propose()) return;
  Record record = now_.records[self.known];
  const bool member = (record.in_sync & bit(r)) != 0 && has_incarnation(r, record);
  if (!member && !mutant(Mutant::kAnyoneMayPromote)) return;
  if (record.primary != r && !grace_is_over(r)) return;
  World next = now_;
  next.replicas[r].promised = self.known;
  if (record.primary != r && !mutant(Mutant::kOldPrimaryStaysInSet)) {
    record.in_sync &= static_cast<uint8_t>(~bit(record.primary));
  }
  record.primary = static_cast<uint8_t>(r);
  record.in_sync |= bit(r);
  propose(next, record);
  if (pack(next) != pack(now_)) emit(next, {Action::kPromote, static_cast<uint8_t>(r)});
}

// R9 (1) to (3); (4) is in writes().
void Steps::reconciles(int r) {
  const Replica& self = now_.replicas[r];
  const auto who = static_cast<uint8_t>(r);
  if (self.role != kRecovering) return;
  for (int m = 0; m < config_.replicas; ++m) {
    const Replica& member = now_.replicas[m];
    if (((self.required & ~self.reached) & bit(m)) == 0 || member.alive == 0) continue;
    if (!accepts(member, self.known) || !trusts_itself(m, self.known)) continue;
    World next = now_;
    if (self.known > member.known) adopt(next, m, self.known);
    next.replicas[r].reached |= bit(m);
    if (!mutant(Mutant::kReconcileOwnTailOnly)) {
      next.replicas[r].tail |= member.version > member.commit;
    }
    emit(next, {Action::kReach, static_cast<uint8_t>(m), who});
  }
  if ((self.required & ~self.reached) != 0) return;
  if (now_.write_count[self.known] == kWritesPerEpoch) return;
  World next = now_;
  Replica& primary = next.replicas[r];
  primary.reached = 0, primary.tail = 0;
  primary.role = kActive;
  if (self.tail != 0) {
    start_write(next, r, value_of(now_, self.version), false);
    primary.role = mutant(Mutant::kServeBeforeReconciled) ? kActive : kReconciling;
    if (primary.role == kActive) primary.flight = 0, primary.flight_value = 0;
    if (primary.role == kActive) primary.acknowledged = 0;
  }
  emit(next, {Action::kReconcile, who});
}

void Steps::crashes(int r) {
  const Replica& self = now_.replicas[r];
  const auto who = static_cast<uint8_t>(r);
  if (self.alive == 0) {
    // R7: a restarted member waits a whole grace before anything else.
    const bool waits = !mutant(Mutant::kRestartWithoutGrace);
    if (waits && !mutant(Mutant::kNoGrace) && !grace_is_over(r)) return;
    World next = now_;
    next.replicas[r].alive = 1;
    next.replicas[r].fresh = waits ? 0 : 1;
    if (mutant(Mutant::kTailRolledBack)) next.replicas[r].version = self.commit;
    emit(next, {Action::kRestart, who});
    return;
  }
  if (now_.crashes == config_.crashes) return;
  World next = now_;
  ++next.crashes;
  lose_volatile(next, r);
  Replica& crashed = next.replicas[r];
  crashed.alive = 0, crashed.fresh = 0;
  for (auto& other : next.replicas) {
    if (other.joiner != r + 1 || (other.required & bit(r)) != 0) continue;
    other.joiner_ready = 0;
    if (other.cas == 0) other.joiner = 0, other.joiner_incarnation = 0;
  }
  if (mutant(Mutant::kPromiseNotPersisted)) crashed.promised = 0;
  if (mutant(Mutant::kAcknowledgeBeforeDurable)) crashed.version = crashed.synced;
  crashed.commit = std::min(crashed.commit, crashed.version);
  emit(next, {Action::kCrash, who});
  if (now_.unclean == config_.unclean) return;
  ++next.unclean;
  crashed.version = 0, crashed.commit = 0, crashed.promised = 0, crashed.known = 1;
  crashed.synced = 0, crashed.incarnation = 1;
  emit(next, {Action::kUnclean, who});
}

// A compare-and-swap reaches the register; the others then on their way can only fail.
void Steps::register_lands() {
  for (uint8_t slot = 0; slot < kProposals; ++slot) {
    const Proposal& proposal = now_.proposals[slot];
    if (proposal.present == 0) continue;
    World next = now_;
    ++next.epoch;
    next.records[next.epoch] = proposal.record;
    next.proposals = {};
    const Record& before = now_.records[now_.epoch];
    const Record& after = proposal.record;
    if (config_.watch == Watch::kAll && after.primary != before.primary &&
        (before.in_sync & bit(after.primary)) == 0) {
      next.broken = kPromoted;  // I5
    }
    emit(next, {Action::kLand, next.epoch, after.primary, after.in_sync});
  }
}

// R12: the operator takes the attachment over; complete when a primary runs that epoch with all
// members.
void Steps::operator_detaches() {
  if (!config_.force_detach || now_.session != 0) return;
  Record record = now_.records[now_.epoch];
  if (record.session == 0 && can_propose()) {
    World next = now_;
    record.session = 1;
    propose(next, record);
    if (pack(next) != pack(now_)) emit(next, {Action::kDetach});
  }
  for (int r = 0; r < config_.replicas; ++r) {
    const Replica& primary = now_.replicas[r];
    const Record& runs = now_.records[primary.known];
    if (primary.alive == 0 || primary.role != kActive || runs.session == 0) continue;
    if (primary.flight != 0) continue;
    bool all = true;
    for (int m = 0; m < config_.replicas; ++m) {
      if ((runs.in_sync & bit(m)) == 0) continue;
      const Replica& member = now_.replicas[m];
      all = all && member.alive != 0 && member.known >= primary.known;
    }
    if (!all) continue;
    World next = now_;
    // What of the old session has not taken effect by now never may: I11.
    for (int write = value_of(now_, primary.version) + 1; write <= now_.issued; ++write) {
      next.killed |= bit(write);
    }
    if (next.queued != 0) next.replicas[next.target - 1].old_requests |= bit(next.issued);
    for (auto& replica : next.replicas) replica.flight_current = 0;
    next.session = 1, next.target = 0, next.queued = 0, next.done = next.issued;
    emit(next, {Action::kAttached, static_cast<uint8_t>(r)});
  }
}

// Drops what can have no effect any more, so that states which differ only in it are one.
void Steps::normalise(World& world) const {
  // These mutants and a rolled-back disk let old messages matter again.
  if (config_.unclean != 0 || mutant(Mutant::kNoEpochCheck) ||
      mutant(Mutant::kAcknowledgeBeforeDurable) || mutant(Mutant::kTailRolledBack)) {
    return;
  }
  uint8_t oldest = world.epoch;
  uint32_t held = 0;  // versions that are somewhere
  for (int r = 0; r < config_.replicas; ++r) {
    const Replica& replica = world.replicas[r];
    oldest = std::min(oldest, replica.known);
    held |= 1U << replica.version;
  }
  for (int epoch = 1; epoch <= world.epoch; ++epoch) {
    for (int index = 0; index < world.write_count[epoch]; ++index) {
      Write& write = world.writes[epoch][index];
      const int version = 4 * epoch + index + 1;
      const int owner = owner_of(world, version);
      const bool in_flight = owner >= 0;
      for (int r = 0; r < config_.replicas; ++r) {
        const Replica& to = world.replicas[r];
        const bool done = !in_flight || (world.replicas[owner].acknowledged & bit(r)) != 0;
        const bool useless = done && to.version >= version && to.known >= write.message_epoch;
        if (to.known > write.message_epoch || useless) {
          write.destinations &= static_cast<uint8_t>(~bit(r));
        }
      }
      if (write.destinations == 0 && !in_flight) {
        write.message_epoch = 0;
        if ((held >> version & 1) == 0) write.value = 0;
      }
    }
    if (epoch < oldest) world.records[epoch] = {};
    if (epoch < oldest) world.write_count[epoch] = kWritesPerEpoch;
  }
}

void Steps::emit(World& world, Action action) const {
  int primaries = 0;  // I4: per epoch at most one
  for (int r = 0; r < config_.replicas && world.broken == kNothing; ++r) {
    const Replica& replica = world.replicas[r];
    if (replica.alive == 0 || replica.role == kFollower) continue;
    const int mark = 1 << replica.known;
    if ((primaries & mark) != 0 && config_.watch == Watch::kAll) world.broken = kTwoPrimaries;
    primaries |= mark;
  }
  normalise(world);
  sort_proposals(world);
  out_->push_back({pack(world), action});
}

}  // namespace cvol::spec
