// Table: the persistent chunk table of one disk, as an ordered map of byte strings.
//
// Implementations: RocksDB (open_rocksdb_table), memory_table.h for the simulator, and
// mirrored_table.h, which keeps two of either.
// Threading: the calls block; the engine makes them on the reactor's helper threads, one at a time
// unless a function says otherwise.
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
  // All or nothing, and on stable storage on return. kNoSpace, kBusy (descriptors or memory have
  // run out): nothing was changed, and resume() may help. After any other error nothing is known:
  // the disk must be opened again.
  virtual Status commit(const TableBatch& batch) = 0;
  using Visit = std::function<Status(std::string_view key, std::string_view value)>;
  // Visits every pair in key order, as of the call; stops at the first error, its own or the
  // visitor's.
  Status scan(const Visit& visit) { return scan_range("", "", visit); }
  // The same for keys that begin with `prefix`.
  Status scan_prefix(const std::string& prefix, const Visit& visit) {
    return scan_range(prefix, "", visit);
  }
  // The same for those of them that are greater than `after`.
  virtual Status scan_range(const std::string& prefix, const std::string& after,
                            const Visit& visit) = 0;
  // Reads everything that the next open would read, as it is on the disk, and checks it: kDamaged
  // with what is damaged. Takes as long as reading the table takes. Commits and scans may go on
  // meanwhile on other threads; one verify() at a time.
  virtual Status verify() = 0;
  // Makes the table take commits again after one that ended in kNoSpace or kBusy, the errors
  // after which what was committed before is still known. That commit may have taken effect or
  // not: make it again. kDamaged: the table cannot be had back; other errors: try again later.
  // Scans answer kUnavailable between a resume that failed and the next.
  virtual Status resume() { return Status::ok(); }
};

enum class TableOpen {
  kExisting,  // kNotFound if there is none
  kCreate,    // there must be none
  kReplace,   // whatever is there is removed first
};
using TableOpener =
    std::function<Result<std::unique_ptr<Table>>(const std::string& path, TableOpen how)>;

Result<std::unique_ptr<Table>> open_rocksdb_table(const std::string& path, TableOpen how);

}  // namespace cvol::store
