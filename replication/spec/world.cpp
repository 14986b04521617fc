#include "replication/spec/world.h"

#include <algorithm>
#include <cstdlib>

namespace cvol::spec {
namespace {

// Calls visit(field, bits) for every field, always in the same order.
template <typename AnyWorld, typename Visit>
void each_field(AnyWorld& world, const Visit& visit) {
  const auto record = [&](auto& r) {
    visit(r.primary, 2), visit(r.in_sync, 3), visit(r.incarnations, 3), visit(r.session, 1);
  };
  visit(world.epoch, 3);
  for (int epoch = 1; epoch <= kEpochs; ++epoch) {
    record(world.records[epoch]);
    visit(world.write_count[epoch], 2);
    for (auto& write : world.writes[epoch]) {
      visit(write.value, 2), visit(write.message_epoch, 3), visit(write.destinations, 3);
    }
  }
  for (auto& proposal : world.proposals) visit(proposal.present, 1), record(proposal.record);
  for (auto& r : world.replicas) {
    visit(r.known, 3), visit(r.promised, 3), visit(r.version, 5), visit(r.commit, 5);
    visit(r.synced, 5), visit(r.incarnation, 1), visit(r.alive, 1), visit(r.fresh, 1);
    visit(r.role, 2), visit(r.required, 3), visit(r.leases, 3), visit(r.reached, 3);
    visit(r.tail, 1), visit(r.cas, 1), visit(r.joiner, 2), visit(r.joiner_ready, 1);
    visit(r.joiner_incarnation, 1), visit(r.flight, 5), visit(r.flight_value, 2);
    visit(r.flight_current, 1), visit(r.acknowledged, 3), visit(r.old_requests, 4);
  }
  visit(world.issued, 2), visit(world.done, 2), visit(world.target, 2), visit(world.queued, 1);
  visit(world.session, 1), visit(world.acknowledged, 2), visit(world.seen, 2);
  visit(world.killed, 4), visit(world.broken, 3), visit(world.crashes, 2), visit(world.unclean, 1);
}

int order_of(const Proposal& proposal) {
  const Record& record = proposal.record;
  return proposal.present << 12 | record.primary << 8 | record.in_sync << 4 |
         record.incarnations << 1 | record.session;
}

}  // namespace

void sort_proposals(World& world) {
  std::sort(world.proposals.begin(), world.proposals.end(),
            [](const Proposal& a, const Proposal& b) { return order_of(a) > order_of(b); });
}

Model::State pack(const World& world) {
  Model::State state{};
  size_t at = 0;
  each_field(world, [&](const uint8_t& field, size_t bits) {
    if (field >> bits != 0) std::abort();
    const uint64_t value = field;
    state[at / 64] |= value << (at % 64);
    if (at % 64 + bits > 64) state[at / 64 + 1] |= value >> (64 - at % 64);
    at += bits;
  });
  if (at > state.size() * 64) std::abort();
  return state;
}

World unpack(const Model::State& state) {
  World world;
  size_t at = 0;
  each_field(world, [&](uint8_t& field, size_t bits) {
    uint64_t value = state[at / 64] >> (at % 64);
    if (at % 64 + bits > 64) value |= state[at / 64 + 1] << (64 - at % 64);
    field = static_cast<uint8_t>(value & ((1U << bits) - 1));
    at += bits;
  });
  return world;
}

}  // namespace cvol::spec
