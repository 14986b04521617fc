// Table: the persistent chunk table of one disk, as an ordered map of byte strings.
//
// Two implementations: RocksDB (open_rocksdb_table) and memory_table.h for the simulator.
// Threading: the calls block; the engine makes them on the reactor's helper threads, one at a time.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "volumed/base/result.h"

namespace cvol::store {

// Puts and deletes that take effect together.
struct TableBatch {
  struct Change {
    std::string key;
    std::optional<std::string> value;  // nullopt: delete
  };
  std::vector<Change> changes;

  void put(std::string key, std::string value) {
    changes.push_back({std::move(key), std::move(value)});
  }
  void remove(std::string key) { changes.push_back({std::move(key), std::nullopt}); }
};

class Table {
 public:
  virtual ~Table() = default;
  // All or nothing, and on stable storage on return. After an error nothing is known: the disk
  // must be opened again.
  virtual Status commit(const TableBatch& batch) = 0;
  using Visit = std::function<Status(std::string_view key, std::string_view value)>;
  // Visits every pair in key order, as of the call; stops at the first error, its own or the
  // visitor's.
  Status scan(const Visit& visit) { return scan_prefix("", visit); }
  // The same for keys that begin with `prefix`.
  virtual Status scan_prefix(const std::string& prefix, const Visit& visit) = 0;
};

// `create`: the directory must not hold a table yet.
using TableOpener =
    std::function<Result<std::unique_ptr<Table>>(const std::string& path, bool create)>;

Result<std::unique_ptr<Table>> open_rocksdb_table(const std::string& path, bool create);

}  // namespace cvol::store
