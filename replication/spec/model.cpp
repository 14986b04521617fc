#include "replication/spec/model.h"

#include <algorithm>

#include "replication/spec/steps.h"
#include "replication/spec/world.h"

namespace cvol::spec {
namespace {

// Exchanges the replicas 1 and 2 everywhere.
uint8_t swap_mask(uint8_t mask) {
  return static_cast<uint8_t>((mask & 1) | (mask & 2) << 1 | (mask & 4) >> 1);
}
uint8_t swap_number(uint8_t replica) {
  return replica == 0 ? 0 : static_cast<uint8_t>(3 - replica);
}
uint8_t swap_or_none(uint8_t replica) {
  return replica < 2 ? replica : static_cast<uint8_t>(5 - replica);
}

void swap_record(Record& record) {
  record.primary = swap_number(record.primary);
  record.in_sync = swap_mask(record.in_sync);
  record.incarnations = swap_mask(record.incarnations);
}

World swapped(World world) {
  for (auto& record : world.records) swap_record(record);
  for (auto& epoch : world.writes) {
    for (auto& write : epoch) write.destinations = swap_mask(write.destinations);
  }
  for (auto& proposal : world.proposals) swap_record(proposal.record);
  sort_proposals(world);
  std::swap(world.replicas[1], world.replicas[2]);
  for (auto& r : world.replicas) {
    for (uint8_t* mask : {&r.required, &r.leases, &r.reached, &r.acknowledged}) {
      *mask = swap_mask(*mask);
    }
    r.joiner = swap_or_none(r.joiner);
  }
  world.target = swap_or_none(world.target);
  return world;
}

// I6: every member of the set, of the incarnation listed, holds every acknowledged write.
bool members_hold_all(const World& world, const Config& config) {
  const Record& record = world.records[world.epoch];
  for (int r = 0; r < config.replicas; ++r) {
    const Replica& replica = world.replicas[r];
    if ((record.in_sync & bit(r)) == 0) continue;
    if ((record.incarnations >> r & 1) != replica.incarnation) continue;
    if (value_of(world, replica.version) < world.acknowledged) return false;
  }
  return true;
}

// I5: who acts as primary is in the set, with the incarnation listed.
bool primaries_are_members(const World& world, const Config& config) {
  for (int r = 0; r < config.replicas; ++r) {
    const Replica& replica = world.replicas[r];
    if (replica.alive == 0 || replica.role == kFollower) continue;
    const Record& record = world.records[replica.known];
    if (record.primary != r || (record.in_sync & bit(r)) == 0) return false;
    if ((record.incarnations >> r & 1) != replica.incarnation) return false;
  }
  return true;
}

}  // namespace

Model::State Model::initial() const {
  World world;
  world.records[1].in_sync = config_.in_sync;
  for (int r = 0; r < config_.replicas; ++r)
    world.replicas[r].alive = 1, world.replicas[r].known = 1;
  world.replicas[0].role = kActive;
  world.replicas[0].required = config_.in_sync;
  return pack(world);
}

void Model::successors(const State& state, std::vector<Step<State, Action>>* out) const {
  const World world = unpack(state);
  Steps(config_, world, out).all();
}

Model::State Model::canonical(const State& state) const {
  if (config_.replicas < 3 || config_.in_sync == 0b011) return state;
  return std::min(state, pack(swapped(unpack(state))));
}

const char* Model::violation(const State& state) const {
  const World world = unpack(state);
  switch (world.broken) {
    case kLost:
      return "I1/I2: a read does not see an acknowledged write";
    case kGhost:
      return "I2/I9: a value that was read is gone";
    case kDetached:
      return "I11: a write of a detached session shows";
    default:
      break;
  }
  if (config_.watch == Watch::kClient) return nullptr;
  if (world.broken == kPromoted) return "I5: promoted from outside the set";
  if (world.broken == kTwoPrimaries) return "I4: two primaries in one epoch";
  const Record& record = world.records[world.epoch];
  if ((record.in_sync & bit(record.primary)) == 0) return "I7: the primary is not in the set";
  if (!members_hold_all(world, config_)) return "I6: a member lacks an acknowledged write";
  if (!primaries_are_members(world, config_)) return "I5: a primary that may not be one";
  return nullptr;
}

std::string Model::describe(const Action& action) const {
  const auto replica = [](int r) { return std::string(1, "PST"[r]); };
  const auto set = [&](int mask) {
    std::string text = "{";
    for (int r = 0; r < kReplicas; ++r) {
      if ((mask >> r & 1) != 0) text += replica(r);
    }
    return text + "}";
  };
  const std::string write = "write " + std::to_string(action.a);
  const auto version = [&] {
    return "(" + std::to_string(action.a / 4) + "," + std::to_string(action.a % 4) + ")";
  };
  switch (action.kind) {
    case Action::kSend:
      return "client sends " + write + " to " + replica(action.b);
    case Action::kAdmit:
      return replica(action.b) + " admits " + write + ", prepares it";
    case Action::kAdmitOld:
      return replica(action.b) + " admits an old copy of " + write;
    case Action::kDeliver:
      return "PREPARE " + version() + " arrives at " + replica(action.b);
    case Action::kAnswer:
      return replica(action.b) + " has every acknowledgement, answers " + write;
    case Action::kRead:
      return "read at " + replica(action.b) + " returns " + std::to_string(action.a);
    case Action::kHearCommit:
      return replica(action.a) + " hears the commit point";
    case Action::kSyncDisk:
      return replica(action.a) + " syncs its disk";
    case Action::kGrant:
      return replica(action.a) + " grants a lease to " + replica(action.b);
    case Action::kExpire:
      return "the lease of " + replica(action.a) + " at " + replica(action.b) + " ends";
    case Action::kRemove:
      return replica(action.b) + " proposes the set without " + replica(action.a);
    case Action::kSync:
      return replica(action.b) + " copies the difference to " + replica(action.a);
    case Action::kJoin:
      return replica(action.b) + " proposes the set with " + replica(action.a);
    case Action::kLand:
      return "register: epoch " + std::to_string(action.a) + ", primary " + replica(action.b) +
             ", in_sync " + set(action.c);
    case Action::kLearn:
      return replica(action.b) + " learns epoch " + std::to_string(action.a);
    case Action::kReadRegister:
      return replica(action.a) + " reads the register, forgets its proposal";
    case Action::kPromote:
      return replica(action.a) + " promises, proposes itself as primary";
    case Action::kReach:
      return replica(action.b) + " reaches " + replica(action.a) + " (recovering)";
    case Action::kReconcile:
      return replica(action.a) + " writes the tails anew, or has none";
    case Action::kCrash:
      return replica(action.a) + " crashes";
    case Action::kUnclean:
      return replica(action.a) + " crashes, its disk is rolled back";
    case Action::kRestart:
      return replica(action.a) + " restarts";
    case Action::kDetach:
      return "operator proposes a new session";
    case Action::kAttached:
      return "new session complete at " + replica(action.a);
  }
  return "?";
}

}  // namespace cvol::spec
