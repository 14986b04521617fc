// Invariants: what holds at every step of a run, checked from outside with full sight.
//
// I4: one acknowledging primary per epoch. I5: who is promoted was in the set, as it is now. I6:
// every member of the register's set durably holds every acknowledged write or a later one, and
// whatever a read has shown; checked at every answer, every change of the record, every restart.
// I7: records follow each other by legal steps. I8: in-sync replicas are equal when all is quiet.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "tests/sim/protocol/disk.h"

namespace cvol::sim {

class Node;

std::string describe(const Block& block);

class Invariants {
 public:
  Invariants(World& world, uint64_t blocks) : world_(world), acknowledged_(blocks) {}
  void watch(const Node& node) { nodes_.push_back(&node); }
  void set_record(const replication::Record& record) { record_ = record; }

  // A write was answered by this node, in this epoch of its.
  void on_written(const Node& node, BlockRange range, const std::vector<Block>& data);
  // What was acknowledged or shown up to now: a read that comes later may not show less (R6).
  std::vector<Block> least(BlockRange range) const;
  // Reads are answered with what every member has, and not with less than `asked`.
  void on_read(const Node& node, BlockRange range, const std::vector<Block>& data,
               const std::vector<Block>& asked);
  // `member_change`: an operator has replaced a replica.
  void on_record(const replication::Record& before, const replication::Record& after);
  void on_restart() { check_all("after a restart"); }
  // I8: a complaint, or nothing.
  std::string compare_members() const;

 private:
  // That it holds this or something later. A write that was taken back leaves the same value with
  // different versions.
  static bool holds(const Block& held, const Block& least) {
    return held.version >= least.version || held.value == least.value;
  }
  void check(uint64_t block, const std::string& when);
  void check_all(const std::string& when);
  // An operator accepted a loss: what was acknowledged before is not asked for any more.
  void forget() { acknowledged_.assign(acknowledged_.size(), Block{}); }
  // The members of the set as the register has it whose disk is the one that it means.
  std::vector<const Node*> members() const;

  World& world_;
  std::vector<const Node*> nodes_;
  replication::Record record_;
  std::vector<Block> acknowledged_;          // the highest version of each
  std::map<uint64_t, int> acknowledged_by_;  // node by epoch (I4)
};

}  // namespace cvol::sim
