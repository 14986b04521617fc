// A Table in memory, for the simulator: its contents live in a MemoryTableState, which outlives
// the engine as a disk would, and a commit is all there or not at all.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "volumed/store/table.h"

namespace cvol::store {

struct MemoryTableState {
  std::map<std::string, std::string, std::less<>> content;
  bool exists = false;
  bool dead = false;                          // commits fail without effect: the node has crashed
  bool fail_commits = false;                  // commits fail without effect: a disk error
  std::vector<TableBatch>* record = nullptr;  // every commit is appended, if set
};

TableOpener memory_table_opener(std::shared_ptr<MemoryTableState> state);

}  // namespace cvol::store
