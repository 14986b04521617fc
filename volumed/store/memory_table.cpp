#include "volumed/store/memory_table.h"

#include <algorithm>
#include <utility>

namespace cvol::store {
namespace {

class MemoryTable final : public Table {
 public:
  explicit MemoryTable(std::shared_ptr<MemoryTableState> state) : state_(std::move(state)) {}

  Status commit(const TableBatch& batch) override {
    if (state_->before_commit) state_->before_commit();
    if (state_->commits_left == 0) state_->dead = true;
    if (state_->dead) return Status(Code::kIo, "write chunk table: the node is dead");
    if (state_->fail_commits) return Status(Code::kIo, "write chunk table: injected error");
    if (state_->full) return Status(Code::kNoSpace, "write chunk table: no space left");
    if (state_->starved) return Status(Code::kBusy, "write chunk table: too many open files");
    if (state_->commits_left != UINT64_MAX) --state_->commits_left;
    if (state_->record != nullptr) state_->record->push_back(batch);
    if (state_->lose_commits > 0) {
      --state_->lose_commits;
      return Status::ok();
    }
    for (const TableBatch::Change& change : batch.changes) {
      if (change.value) {
        state_->content[change.key] = *change.value;
      } else {
        state_->content.erase(change.key);
      }
    }
    return Status::ok();
  }

  Status scan_range(const std::string& prefix, const std::string& after,
                    const Visit& visit) override {
    const std::string start = std::max(prefix, after);
    auto at = state_->content.lower_bound(start);
    if (at != state_->content.end() && !after.empty() && at->first == after) ++at;
    std::vector<std::pair<std::string, std::string>> pairs;  // a copy: visitors may commit
    for (; at != state_->content.end() && at->first.starts_with(prefix); ++at) pairs.push_back(*at);
    for (const auto& [key, value] : pairs) {
      if (state_->damaged_at && key >= *state_->damaged_at && start <= *state_->damaged_at)
        return Status(Code::kDamaged, "read chunk table: injected damage");
      CVOL_TRY(visit(key, value));
    }
    return Status::ok();
  }

  Status verify() override {
    if (state_->verify_fails) return Status(Code::kDamaged, "chunk table: injected damage");
    return scan([](std::string_view, std::string_view) { return Status::ok(); });
  }

 private:
  std::shared_ptr<MemoryTableState> state_;
};

}  // namespace

TableOpener memory_table_opener(std::shared_ptr<MemoryTableState> first,
                                std::shared_ptr<MemoryTableState> second) {
  return [first, second](const std::string& path, TableOpen how) -> Result<std::unique_ptr<Table>> {
    const auto& state = second != nullptr && path.ends_with('2') ? second : first;
    const std::string doing = "open chunk table " + path;
    if (how == TableOpen::kReplace && !state->dead) {
      state->content.clear();
      state->exists = state->damaged = false;
      state->damaged_at.reset();
    }
    if (how == TableOpen::kExisting && !state->exists)
      return Status(Code::kNotFound, doing + ": there is none");
    if (how != TableOpen::kExisting && state->exists)
      return Status(Code::kDamaged, doing + ": there is one");
    if (state->damaged) return Status(Code::kDamaged, doing + ": injected damage");
    state->exists = true;
    return std::unique_ptr<Table>(std::make_unique<MemoryTable>(state));
  };
}

}  // namespace cvol::store
