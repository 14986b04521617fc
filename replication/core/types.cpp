#include "replication/core/types.h"

#include <fmt/format.h>

#include "replication/core/driver.h"
#include "replication/core/options.h"

namespace cvol::replication {

const InSync* Record::find_in_sync(const ReplicaId& replica) const {
  for (const InSync& entry : in_sync) {
    if (entry.replica == replica) return &entry;
  }
  return nullptr;
}

const Member* Record::find_member(const ReplicaId& replica) const {
  for (const Member& member : members) {
    if (member.replica == replica) return &member;
  }
  return nullptr;
}

std::string describe(const Record& record) {
  std::string set;
  for (const InSync& entry : record.in_sync) {
    set += (set.empty() ? "" : " ") + entry.replica.to_string().substr(0, 8);
    if (entry.incarnation != 0) set += fmt::format("/{}", entry.incarnation);
  }
  return fmt::format("epoch {} primary {} in sync [{}] session {}/{}", record.epoch.value,
                     record.primary.to_string().substr(0, 8), set,
                     record.session.id.to_string().substr(0, 8), record.session.generation);
}

std::string problem_of(const Record& record) {
  if (record.in_sync.empty()) return "its in-sync set is empty";
  if (record.in_sync.size() > kMostReplicas || record.members.size() > kMostReplicas)
    return fmt::format("it lists more than {} replicas", kMostReplicas);
  for (std::size_t i = 0; i < record.in_sync.size(); ++i) {
    const ReplicaId& replica = record.in_sync[i].replica;
    if (replica.is_nil()) return "a replica of its in-sync set has no id";
    if (record.find_in_sync(replica) != &record.in_sync[i]) return "its in-sync set has one twice";
  }
  for (std::size_t i = 0; i < record.members.size(); ++i) {
    const ReplicaId& replica = record.members[i].replica;
    if (replica.is_nil()) return "a member has no id";
    if (record.find_member(replica) != &record.members[i]) return "it lists a member twice";
  }
  if (!record.primary.is_nil() && record.find_in_sync(record.primary) == nullptr)
    return "its primary is not in its in-sync set";
  return "";
}

std::string_view name_of(MessageType type) {
  switch (type) {
    case MessageType::kReach:
      return "reach";
    case MessageType::kReached:
      return "reached";
    case MessageType::kPrepare:
      return "prepare";
    case MessageType::kAck:
      return "ack";
    case MessageType::kRefuse:
      return "refuse";
    case MessageType::kBeacon:
      return "beacon";
    case MessageType::kGrant:
      return "grant";
    case MessageType::kJoinHello:
      return "join_hello";
    case MessageType::kJoinAccept:
      return "join_accept";
    case MessageType::kJoinReady:
      return "join_ready";
    case MessageType::kJoinAbort:
      return "join_abort";
    case MessageType::kJoinComplete:
      return "join_complete";
    case MessageType::kJoinCompleted:
      return "join_completed";
    case MessageType::kHandOver:
      return "hand_over";
    case MessageType::kAsk:
      return "ask";
    case MessageType::kKnown:
      return "known";
  }
  return "unknown";
}

std::string_view name_of(Role role) {
  switch (role) {
    case Role::kFollower:
      return "follower";
    case Role::kRecovering:
      return "recovering";
    case Role::kReconciling:
      return "reconciling";
    case Role::kActive:
      return "active";
    case Role::kHandedOver:
      return "handed_over";
  }
  return "unknown";
}

std::string check(const Options& options) {
  const auto ms = [](Nanoseconds time) { return time / kMillisecond; };
  const Nanoseconds least_grace =
      options.lease + options.lease * 2 * options.clock_error_percent / 100;
  // Lease and grace need a margin beyond the clocks' error: replies are handled in turns.
  if (options.grace < least_grace + 100 * kMillisecond)
    return fmt::format(
        "a grace of {} ms contradicts a lease of {} ms: it must be at least {} ms, or "
        "a cut-off primary could serve reads while another one takes over",
        ms(options.grace), ms(options.lease), ms(least_grace + 100 * kMillisecond));
  if (options.beacon * 3 > options.lease)
    return fmt::format(
        "beacons every {} ms contradict a lease of {} ms: at least three must fit "
        "in it, or one lost beacon stops reads",
        ms(options.beacon), ms(options.lease));
  if (options.replica_timeout < options.beacon * 2)
    return fmt::format(
        "a replica timeout of {} ms contradicts beacons every {} ms: at least two "
        "must fit in it",
        ms(options.replica_timeout), ms(options.beacon));
  if (options.replica_timeout >= options.grace)
    return fmt::format(
        "a replica timeout of {} ms contradicts a grace of {} ms: a cut-off member "
        "must be out before it may promote itself",
        ms(options.replica_timeout), ms(options.grace));
  return "";
}

}  // namespace cvol::replication
