// Registers that went back (restored from a backup): nobody takes over by such a record while a
// replica that knows a later one can be asked, and whoever knows a later one makes it known.
#include <fmt/format.h>

#include "replication/core/replica.h"
#include "volumed/base/assert.h"

namespace cvol::replication {

// --- a candidate asks (R8) ---

// Once per attempt; members that are reached later are asked then (on_link()).
void Replica::ask_members() {
  if (asked_at_ != 0 || mutant(Mutant::kProposeUnasked)) return;
  asked_at_ = now_;
  told_ = 0;
  for (const Member& member : durable_.record.members) ask(slot_of(member.replica));
}

void Replica::ask(Slot member) {
  if (member == kSelf || member > kMostPeers) return;
  send(member, make(MessageType::kAsk, member));
}

// All that can be reached have, or had the time to. A replica that has just started gives the
// connections to the others that time too.
bool Replica::members_answered() const {
  if (mutant(Mutant::kProposeUnasked)) return true;
  for (const Member& member : durable_.record.members) {
    const Slot slot = slot_of(member.replica);
    if (slot == kSelf || slot > kMostPeers) continue;
    const Peer& peer = peers_[slot];
    if (peer.dead || (told_ >> slot & 1) != 0) continue;
    const Nanoseconds since = peer.up ? asked_at_ : started_;
    if (now_ - since < options_.ask_members) return false;
  }
  return true;
}

void Replica::on_ask(const Message& message) {
  const Slot to = make_slot(message.from);
  Message answer = make(MessageType::kKnown, to);
  answer.record = std::make_shared<Record>(durable_.record);
  send(to, answer);
}

void Replica::on_known(const Message& message) {
  CVOL_ASSERT(message.record != nullptr);
  const Slot slot = slot_of(message.from);
  if (slot > kMostPeers || role_ != Role::kFollower) return;
  if (message.record->epoch <= durable_.record.epoch) {
    told_ |= Mask{1} << slot;
    if (asked_at_ != 0) consider_promotion();
    return;
  }
  if (!is_sound(*message.record)) return;
  Record record = *message.record;
  record.revision = 0;  // heard, not read
  adopt(record);        // R1
  fetching_ = true;     // the register knows it too, unless it was restored
  fetch_sent_ = now_;
  driver_.fetch_record();
}

// --- the register has gone back ---

// What a watch tells may be old; a read that begins now is not.
void Replica::look_for_fall() {
  fall_suspected_ = true;  // until a read was answered
  if (fall_looked_ != 0 && now_ - fall_looked_ < 5 * kSecond) return;
  fall_looked_ = now_;
  driver_.fetch_record();
}

// Records that are adopted have been in the register: a read that began after that shows no less.
void Replica::on_fetched(Nanoseconds now, const Record& record, Epoch known) {
  now_ = now;
  fall_suspected_ = false;
  if (record.epoch < known) {
    fetching_ = false;
    return register_fell(record);
  }
  on_record(now, record);
}

// A primary goes on: its replicas hold what was acknowledged, and no other can be promoted beside
// it by those that can reach it. What it needs the register for fails until the record is rebuilt.
void Replica::register_fell(const Record& there) {
  if (!is_ahead_of_register())
    driver_.event(fmt::format(
        "the metadata store knows epoch {} of the volume, this replica epoch {}: the store was "
        "restored from an old backup; start volumed on all nodes of the volume, then run 'cvol "
        "volume rebuild-record'",
        there.epoch.value, durable_.record.epoch.value));
  ahead_since_ = durable_.record.epoch;
  driver_.claim(durable_.record);
}

}  // namespace cvol::replication
