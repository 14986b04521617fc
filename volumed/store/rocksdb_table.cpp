// The chunk table on RocksDB.
#include <rocksdb/db.h>
#include <rocksdb/filter_policy.h>
#include <rocksdb/perf_level.h>
#include <rocksdb/table.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <mutex>
#include <system_error>

#include "volumed/base/rocksdb_log.h"
#include "volumed/store/format.h"
#include "volumed/store/patient_write.h"
#include "volumed/store/table.h"

namespace cvol::store {
namespace {

// RocksDB can lose commits without a word if its log or the last records of its manifest are
// damaged; kCommitMarks shows it. So that no more commits than that can be concerned, the log is
// emptied so often that what four files of level 0 and the log hold together stays below.
constexpr uint64_t kCommitsPerFlush = 512;
static_assert(6 * kCommitsPerFlush < kCommitMarks);

// RocksDB has no code for errors that others cause and that pass; its text has strerror()'s.
bool is_want_of_descriptors(const std::string& text) {
  return text.find("Too many open files") != std::string::npos ||
         text.find("Cannot allocate memory") != std::string::npos ||
         text.find("Resource temporarily unavailable") != std::string::npos ||
         text.find("Interrupted system call") != std::string::npos;
}

Status from_rocksdb(const rocksdb::Status& status, const std::string& doing) {
  if (status.ok()) return Status::ok();
  Code code = Code::kIo;
  if (status.IsCorruption()) code = Code::kDamaged;
  if (status.IsNoSpace()) code = Code::kNoSpace;
  if (status.IsNotFound()) code = Code::kNotFound;
  if (code == Code::kIo && is_want_of_descriptors(status.ToString())) code = Code::kBusy;
  return Status(code, doing + ": " + status.ToString());
}

rocksdb::Options table_options() {
  rocksdb::Options options;
  options.create_if_missing = false;
  // Refuse a damaged log. Only an unfinished last record, which no commit waited for, is dropped.
  options.wal_recovery_mode = rocksdb::WALRecoveryMode::kTolerateCorruptedTailRecords;
  options.paranoid_checks = true;
  options.write_buffer_size = 4 << 20;  // a disk has two tables
  options.max_bytes_for_level_base = 64 << 20;
  options.max_write_buffer_number = 2;
  options.max_background_jobs = 2;
  options.max_open_files = 64;
  options.info_log = std::make_shared<RocksDbLog>("store");
  options.stats_dump_period_sec = 0;  // no timers: an idle disk costs nothing
  options.stats_persist_period_sec = 0;
  options.compression = rocksdb::kNoCompression;
  options.manual_wal_flush = false;
  rocksdb::BlockBasedTableOptions table;
  table.block_cache = rocksdb::NewLRUCache(2 << 20);  // the working table is in memory
  table.checksum = rocksdb::ChecksumType::kXXH3;
  table.format_version = 5;
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  return options;
}

// Visits what `db` holds now. `after` is beyond nothing if it is empty: no key is.
Status scan_db(rocksdb::DB& db, const std::string& path, const std::string& prefix,
               const std::string& after, const Table::Visit& visit) {
  rocksdb::SetPerfLevel(rocksdb::PerfLevel::kDisable);  // of this thread; it counts each step else
  rocksdb::ReadOptions options;
  options.fill_cache = false;
  options.readahead_size = 2 << 20;
  options.verify_checksums = true;
  std::unique_ptr<rocksdb::Iterator> at(db.NewIterator(options));
  at->Seek(std::max(prefix, after));
  if (at->Valid() && !after.empty() && at->key() == after) at->Next();
  for (; at->Valid() && at->key().starts_with(prefix); at->Next()) {
    CVOL_TRY(visit({at->key().data(), at->key().size()}, {at->value().data(), at->value().size()}));
  }
  return from_rocksdb(at->status(), "read chunk table " + path);
}

Result<std::shared_ptr<rocksdb::DB>> open_database(const std::string& path, bool create) {
  rocksdb::Options options = table_options();
  options.create_if_missing = create;
  options.error_if_exists = create;
  rocksdb::DB* raw = nullptr;
  const rocksdb::Status opened = rocksdb::DB::Open(options, path, &raw);
  if (opened.ok()) return std::shared_ptr<rocksdb::DB>(raw);
  Status status = from_rocksdb(opened, "open chunk table " + path);
  if (opened.IsInvalidArgument() || opened.IsPathNotFound() || opened.IsNotSupported())
    return Status(Code::kDamaged, status.message());
  return status;
}

class RocksdbTable final : public Table {
 public:
  RocksdbTable(std::shared_ptr<rocksdb::DB> db, std::string path)
      : db_(std::move(db)), path_(std::move(path)) {}

  // After an error RocksDB must not be written to again: it may append to a log that ends in half a
  // record (a build with assertions aborts then).
  Status commit(const TableBatch& batch) override {
    if (!failure_) return failure_;
    rocksdb::WriteBatch changes;
    for (const TableBatch::Change& change : batch.changes) {
      const rocksdb::Status added =
          change.value ? changes.Put(change.key, *change.value) : changes.Delete(change.key);
      CVOL_TRY(from_rocksdb(added, "write chunk table " + path_));
    }
    rocksdb::WriteOptions options;
    options.sync = true;
    failure_ = from_rocksdb(database()->Write(options, &changes), "write chunk table " + path_);
    if (!failure_ || ++commits_ % kCommitsPerFlush != 0) return failure_;
    failure_ =
        from_rocksdb(database()->Flush(rocksdb::FlushOptions()), "write chunk table " + path_);
    return failure_;
  }

  Status scan_range(const std::string& prefix, const std::string& after,
                    const Visit& visit) override {
    const std::shared_ptr<rocksdb::DB> db = database();
    if (db == nullptr) return waits_for_room();
    return scan_db(*db, path_, prefix, after, visit);
  }

  // Through a second, read-only instance, so that current file, manifest and log are read as well,
  // and not what this one remembers of them. Files that it needs stay while it looks.
  Status verify() override {
    const std::shared_ptr<rocksdb::DB> db = database();
    if (db == nullptr) return waits_for_room();
    const std::string doing = "verify chunk table " + path_;
    CVOL_TRY(from_rocksdb(db->DisableFileDeletions(), doing));
    const Status status = verify_files(*db, doing);
    const Status enabled = from_rocksdb(db->EnableFileDeletions(/*force=*/false), doing);
    return status ? enabled : status;
  }

  // By opening it again. While a scan has it open that fails: try later.
  Status resume() override {
    if (failure_) return Status::ok();
    {
      std::lock_guard lock(mutex_);
      db_.reset();
    }
    auto opened = open_database(path_, false);
    if (!opened) return opened.status();
    std::lock_guard lock(mutex_);
    db_ = std::move(*opened);
    failure_ = Status::ok();
    return failure_;
  }

 private:
  Status verify_files(rocksdb::DB& db, const std::string& doing) {
    CVOL_TRY(from_rocksdb(db.Flush(rocksdb::FlushOptions()), doing));
    rocksdb::DB* raw = nullptr;
    const rocksdb::Status opened = rocksdb::DB::OpenForReadOnly(table_options(), path_, &raw);
    if (!opened.ok()) {
      const Status why = from_rocksdb(opened, doing);
      return is_want_of_room(why.code()) ? why : Status(Code::kDamaged, why.message());
    }
    const std::unique_ptr<rocksdb::DB> files(raw);
    CVOL_TRY(from_rocksdb(files->VerifyChecksum(), doing));
    return scan_db(*files, path_, "", "",
                   [](std::string_view, std::string_view) { return Status::ok(); });
  }

  Status waits_for_room() const {
    return Status(Code::kUnavailable, "chunk table " + path_ + " waits for room");
  }

  std::shared_ptr<rocksdb::DB> database() const {
    std::lock_guard lock(mutex_);
    return db_;
  }

  mutable std::mutex mutex_;         // of the pointer: verify() runs beside the others
  std::shared_ptr<rocksdb::DB> db_;  // null if it could not be opened again yet
  std::string path_;
  uint64_t commits_ = 0;
  Status failure_;  // of a commit
};

}  // namespace

Result<std::unique_ptr<Table>> open_rocksdb_table(const std::string& path, TableOpen how) {
  std::error_code error;
  if (how == TableOpen::kReplace) std::filesystem::remove_all(path, error);
  if (error) return status_from_errno(error.value(), "remove chunk table " + path);
  if (how == TableOpen::kExisting && !std::filesystem::exists(path, error))
    return Status(Code::kNotFound, "open chunk table " + path + ": there is none");
  auto opened = open_database(path, how != TableOpen::kExisting);
  if (!opened) return opened.status();
  return std::unique_ptr<Table>(std::make_unique<RocksdbTable>(std::move(*opened), path));
}

}  // namespace cvol::store
