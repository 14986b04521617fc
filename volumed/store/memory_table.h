// A Table in memory, for the simulator: its contents live in a MemoryTableState, which outlives
// the engine as a disk would, and a commit is all there or not at all.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "volumed/store/table.h"

namespace cvol::store {

struct MemoryTableState {
  std::map<std::string, std::string, std::less<>> content;
  bool exists = false;
  bool dead = false;                          // commits fail without effect: the node has crashed
  bool fail_commits = false;                  // commits fail without effect: a disk error
  bool full = false;                          // commits fail with kNoSpace
  bool starved = false;                       // commits fail with kBusy: no descriptors
  bool verify_fails = false;                  // verify() finds damage
  std::vector<TableBatch>* record = nullptr;  // every commit is appended, if set

  // Faults; replacing the table ends those of them that are its contents' damage.
  bool damaged = false;                   // it cannot be opened
  std::optional<std::string> damaged_at;  // scans that reach this key end in kDamaged
  uint64_t commits_left = UINT64_MAX;     // then it is dead
  uint64_t lose_commits = 0;              // so many commits are acknowledged and not done
  std::function<void()> before_commit;    // called if set
};

// One table; or the two of a mirror, where the second has a path that ends in 2.
TableOpener memory_table_opener(std::shared_ptr<MemoryTableState> first,
                                std::shared_ptr<MemoryTableState> second = nullptr);

}  // namespace cvol::store
