// The chunk table on RocksDB.
#include <rocksdb/db.h>
#include <rocksdb/filter_policy.h>
#include <rocksdb/table.h>

#include "volumed/store/table.h"

namespace cvol::store {
namespace {

Status from_rocksdb(const rocksdb::Status& status, const std::string& doing) {
  if (status.ok()) return Status::ok();
  Code code = Code::kIo;
  if (status.IsCorruption()) code = Code::kDamaged;
  if (status.IsNoSpace()) code = Code::kNoSpace;
  if (status.IsNotFound()) code = Code::kNotFound;
  return Status(code, doing + ": " + status.ToString());
}

rocksdb::Options table_options() {
  rocksdb::Options options;
  options.create_if_missing = false;
  // Refuse a damaged log. Only an unfinished last record, which no commit waited for, is dropped.
  options.wal_recovery_mode = rocksdb::WALRecoveryMode::kTolerateCorruptedTailRecords;
  options.paranoid_checks = true;
  options.write_buffer_size = 8 << 20;
  options.max_write_buffer_number = 2;
  options.max_background_jobs = 2;
  options.max_open_files = 64;
  options.keep_log_file_num = 4;
  options.max_log_file_size = 1 << 20;
  options.info_log_level = rocksdb::InfoLogLevel::WARN_LEVEL;
  options.stats_dump_period_sec = 0;  // no timers: an idle disk costs nothing
  options.stats_persist_period_sec = 0;
  options.compression = rocksdb::kNoCompression;
  options.manual_wal_flush = false;
  rocksdb::BlockBasedTableOptions table;
  table.block_cache = rocksdb::NewLRUCache(4 << 20);  // the working table is in memory
  table.checksum = rocksdb::ChecksumType::kXXH3;
  table.format_version = 5;
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  return options;
}

class RocksdbTable final : public Table {
 public:
  explicit RocksdbTable(std::unique_ptr<rocksdb::DB> db, std::string path)
      : db_(std::move(db)), path_(std::move(path)) {}

  Status commit(const TableBatch& batch) override {
    rocksdb::WriteBatch changes;
    for (const TableBatch::Change& change : batch.changes) {
      const rocksdb::Status added =
          change.value ? changes.Put(change.key, *change.value) : changes.Delete(change.key);
      CVOL_TRY(from_rocksdb(added, "write chunk table " + path_));
    }
    rocksdb::WriteOptions options;
    options.sync = true;
    return from_rocksdb(db_->Write(options, &changes), "write chunk table " + path_);
  }

  Status scan_prefix(const std::string& prefix, const Visit& visit) override {
    rocksdb::ReadOptions options;
    options.fill_cache = false;
    options.readahead_size = 2 << 20;
    options.verify_checksums = true;
    std::unique_ptr<rocksdb::Iterator> at(db_->NewIterator(options));
    for (at->Seek(prefix); at->Valid() && at->key().starts_with(prefix); at->Next()) {
      CVOL_TRY(
          visit({at->key().data(), at->key().size()}, {at->value().data(), at->value().size()}));
    }
    return from_rocksdb(at->status(), "read chunk table " + path_);
  }

 private:
  std::unique_ptr<rocksdb::DB> db_;
  std::string path_;
};

}  // namespace

Result<std::unique_ptr<Table>> open_rocksdb_table(const std::string& path, bool create) {
  rocksdb::Options options = table_options();
  options.create_if_missing = create;
  options.error_if_exists = create;
  rocksdb::DB* raw = nullptr;
  const rocksdb::Status opened = rocksdb::DB::Open(options, path, &raw);
  if (!opened.ok()) {
    Status status = from_rocksdb(opened, "open chunk table " + path);
    if (status.code() == Code::kDamaged || opened.IsInvalidArgument() || opened.IsPathNotFound()) {
      return Status(
          Code::kDamaged,
          status.message() + "; the disk is left as it is: restore it from a replica or a backup");
    }
    return status;
  }
  return std::unique_ptr<Table>(
      std::make_unique<RocksdbTable>(std::unique_ptr<rocksdb::DB>(raw), path));
}

}  // namespace cvol::store
