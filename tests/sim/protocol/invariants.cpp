#include "tests/sim/protocol/invariants.h"

#include <fmt/format.h>

#include <algorithm>

#include "tests/sim/protocol/node.h"

namespace cvol::sim {

using replication::InSync;
using replication::Record;

std::vector<const Node*> Invariants::members() const {
  std::vector<const Node*> all;
  for (const InSync& entry : record_.in_sync) {
    for (const Node* node : nodes_) {
      const bool same = node->id() == entry.replica;
      if (same && node->disk().durable().incarnation == entry.incarnation) all.push_back(node);
    }
  }
  return all;
}

void Invariants::check(uint64_t block, const std::string& when) {
  for (const Node* node : members()) {
    const Version held = node->disk().block(block).version;
    const Version least = acknowledged_[block];
    if (held >= least) continue;
    world_.fail(fmt::format("I6 {}: node {} is in the set and holds {}.{} of block {}, not {}.{}",
                            when, node->index(), held.epoch.value, held.seq.value, block,
                            least.epoch.value, least.seq.value));
  }
}

void Invariants::check_all(const std::string& when) {
  for (uint64_t block = 0; block < acknowledged_.size(); ++block) check(block, when);
}

void Invariants::on_written(const Node& node, BlockRange range, Version version) {
  const uint64_t epoch = node.replica()->epoch().value;
  const auto [at, first] = acknowledged_by_.emplace(epoch, node.index());
  if (!first && at->second != node.index())
    world_.fail(fmt::format("I4: nodes {} and {} acknowledge in epoch {}", at->second,
                            node.index(), epoch));
  for (uint64_t i = range.begin; i < range.end; ++i) {
    acknowledged_[i] = std::max(acknowledged_[i], version);
    check(i, "at an acknowledgement");
  }
}

void Invariants::on_read(const Node& node, BlockRange range, const std::vector<Block>& data) {
  for (uint64_t i = range.begin; i < range.end; ++i) {
    const Version shown = data[i - range.begin].version;
    for (const Node* member : members()) {
      if (member->disk().block(i).version >= shown) continue;
      world_.fail(fmt::format(
          "I6 at a read: node {} shows {}.{} of block {}, which node {} in the set lacks",
          node.index(), shown.epoch.value, shown.seq.value, i, member->index()));
    }
    acknowledged_[i] = std::max(acknowledged_[i], shown);
  }
}

void Invariants::on_record(const Record& before, const Record& after) {
  record_ = after;
  const auto fail = [&](const std::string& what) {
    world_.fail(what + ": " + describe(before) + " to " + describe(after));
  };
  if (after.epoch != before.epoch.next()) fail("I7: epochs rise by one");
  if (after.in_sync.empty()) fail("I7: an empty set");
  const InSync* leader = after.find_in_sync(after.primary);
  if (leader == nullptr) return fail("I7: the primary is not in the set");
  if (after.primary != before.primary) {
    world_.count("promotions");
    const InSync* was = before.find_in_sync(after.primary);
    if (was == nullptr || !(*was == *leader)) fail("I5: promoted, but was not in the set");
  }
  std::size_t joined = 0;
  for (const InSync& entry : after.in_sync) {
    const InSync* was = before.find_in_sync(entry.replica);
    joined += was == nullptr ? 1 : 0;
    if (was != nullptr && !(*was == entry)) fail("I7: another incarnation of a member");
  }
  if (joined > (after.primary == before.primary ? 1u : 0u)) fail("I7: taken in unduly");
  if (joined > 0) world_.count("resyncs_done");
  if (after.in_sync.size() < before.in_sync.size()) world_.count("removals");
  check_all("at a change of the record");
}

std::string Invariants::compare_members() const {
  const std::vector<const Node*> all = members();
  for (uint64_t block = 0; block < acknowledged_.size(); ++block) {
    for (const Node* node : all) {
      const Block& first = all.front()->disk().block(block);
      const Block& other = node->disk().block(block);
      if (first.value == other.value) continue;
      return fmt::format("I8: block {}: node {} holds {:x} ({}.{}), node {} {:x} ({}.{})", block,
                         all.front()->index(), first.value, first.version.epoch.value,
                         first.version.seq.value, node->index(), other.value,
                         other.version.epoch.value, other.version.seq.value);
    }
  }
  return "";
}

}  // namespace cvol::sim
