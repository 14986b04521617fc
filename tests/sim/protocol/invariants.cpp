#include "tests/sim/protocol/invariants.h"

#include <fmt/format.h>

#include <algorithm>

#include "tests/sim/protocol/node.h"

namespace cvol::sim {

using replication::InSync;
using replication::Record;

std::string describe(const Block& block) {
  return fmt::format("{:x} ({}.{})", block.value, block.version.epoch.value,
                     block.version.seq.value);
}

std::vector<const Node*> Invariants::members() const {
  std::vector<const Node*> all;
  for (const InSync& entry : record_.in_sync) {
    for (const Node* node : nodes_) {
      const bool same = node->id() == entry.replica && !node->disk().behind();
      if (same && node->disk().durable().incarnation == entry.incarnation) all.push_back(node);
    }
  }
  return all;
}

void Invariants::check(uint64_t block, const std::string& when) {
  for (const Node* node : members()) {
    const Block& held = node->disk().block(block);
    const Block& least = acknowledged_[block];
    if (holds(held, least)) continue;
    world_.fail(fmt::format("I6 {}: node {} is in the set and holds {} of block {}, not {}", when,
                            node->index(), describe(held), block, describe(least)));
  }
}

void Invariants::check_all(const std::string& when) {
  for (uint64_t block = 0; block < acknowledged_.size(); ++block) check(block, when);
}

void Invariants::on_written(const Node& node, BlockRange range, const std::vector<Block>& data) {
  const uint64_t epoch = node.replica()->epoch().value;
  const auto [at, first] = acknowledged_by_.emplace(epoch, node.index());
  if (!first && at->second != node.index())
    world_.fail(fmt::format("I4: nodes {} and {} acknowledge in epoch {}", at->second, node.index(),
                            epoch));
  for (uint64_t i = range.begin; i < range.end; ++i) {
    const Block& written = data[i - range.begin];
    if (acknowledged_[i].version <= written.version) acknowledged_[i] = written;
    check(i, "at an acknowledgement");
  }
}

std::vector<Block> Invariants::least(BlockRange range) const {
  const auto begin = acknowledged_.begin();
  return {begin + static_cast<int64_t>(range.begin), begin + static_cast<int64_t>(range.end)};
}

void Invariants::on_read(const Node& node, BlockRange range, const std::vector<Block>& data,
                         const std::vector<Block>& asked) {
  for (uint64_t i = range.begin; i < range.end; ++i) {
    const Block& shown = data[i - range.begin];
    if (const Block& floor = asked[i - range.begin]; !holds(shown, floor))
      world_.fail(fmt::format("I2 at a read: node {} shows {} of block {}, not {}", node.index(),
                              describe(shown), i, describe(floor)));
    for (const Node* member : members()) {
      if (holds(member->disk().block(i), shown)) continue;
      world_.fail(fmt::format(
          "I6 at a read: node {} shows {} of block {}, node {} in the set has {}", node.index(),
          describe(shown), i, member->index(), describe(member->disk().block(i))));
    }
    if (acknowledged_[i].version <= shown.version) acknowledged_[i] = shown;
  }
}

void Invariants::on_record(const Record& before, const Record& after) {
  record_ = after;
  const auto fail = [&](const std::string& what) {
    world_.fail(what + ": " + describe(before) + " to " + describe(after));
  };
  if (after.epoch != before.epoch.next()) fail("I7: epochs rise by one");
  if (after.lineage != before.lineage) return forget();
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
      return fmt::format("I8: block {}: node {} holds {}, node {} {}", block, all.front()->index(),
                         describe(first), node->index(), describe(other));
    }
  }
  return "";
}

}  // namespace cvol::sim
