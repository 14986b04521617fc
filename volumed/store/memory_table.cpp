#include "volumed/store/memory_table.h"

namespace cvol::store {
namespace {

class MemoryTable final : public Table {
 public:
  explicit MemoryTable(std::shared_ptr<MemoryTableState> state) : state_(std::move(state)) {}

  Status commit(const TableBatch& batch) override {
    if (state_->dead) return Status(Code::kIo, "write chunk table: the node is dead");
    if (state_->fail_commits) return Status(Code::kIo, "write chunk table: injected error");
    if (state_->record != nullptr) state_->record->push_back(batch);
    for (const TableBatch::Change& change : batch.changes) {
      if (change.value) {
        state_->content[change.key] = *change.value;
      } else {
        state_->content.erase(change.key);
      }
    }
    return Status::ok();
  }

  Status scan_prefix(const std::string& prefix, const Visit& visit) override {
    const auto snapshot = state_->content;  // visitors may commit
    for (auto at = snapshot.lower_bound(prefix);
         at != snapshot.end() && at->first.rfind(prefix, 0) == 0; ++at) {
      CVOL_TRY(visit(at->first, at->second));
    }
    return Status::ok();
  }

 private:
  std::shared_ptr<MemoryTableState> state_;
};

}  // namespace

TableOpener memory_table_opener(std::shared_ptr<MemoryTableState> state) {
  return [state](const std::string& path, bool create) -> Result<std::unique_ptr<Table>> {
    if (create == state->exists)
      return Status(Code::kDamaged, "open chunk table " + path + ": wrong state");
    state->exists = true;
    return std::unique_ptr<Table>(std::make_unique<MemoryTable>(state));
  };
}

}  // namespace cvol::store
