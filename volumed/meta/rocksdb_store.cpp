#include "volumed/meta/rocksdb_store.h"

#include <rocksdb/db.h>
#include <rocksdb/write_batch.h>

#include <charconv>
#include <cstring>
#include <memory>
#include <mutex>
#include <set>

#include "volumed/base/log.h"
#include "volumed/base/rocksdb_log.h"
#include "volumed/base/units.h"
#include "volumed/meta/notifier.h"

namespace cvol::meta {
namespace {

// Keys of the store itself begin with 'm', entries with 'k'. An entry's value is its revision and
// its lease (little-endian, 8 bytes each), then the text.
constexpr std::string_view kVersionKey = "mformat_version";
constexpr std::string_view kRevisionKey = "mrevision";
constexpr std::size_t kEntryHeader = 16;

std::string stored_key(std::string_view key) {
  return "k" + std::string(key);
}

void append_u64(std::string& text, uint64_t number) {
  for (int i = 0; i < 8; ++i) text += static_cast<char>(number >> (8 * i) & 0xff);
}

uint64_t read_u64(const char* bytes) {
  uint64_t number = 0;
  for (int i = 7; i >= 0; --i) number = number << 8 | static_cast<unsigned char>(bytes[i]);
  return number;
}

struct Stored {
  Revision revision;
  LeaseId lease;
  std::string value;
};

rocksdb::Options make_options() {
  rocksdb::Options options;
  options.create_if_missing = true;
  options.paranoid_checks = true;
  // Cuts off a torn last record, refuses any other damage.
  options.wal_recovery_mode = rocksdb::WALRecoveryMode::kTolerateCorruptedTailRecords;
  options.write_buffer_size = 4 * kMiB;
  options.max_background_jobs = 2;
  options.max_open_files = 64;
  options.info_log = std::make_shared<RocksDbLog>("meta");
  options.stats_dump_period_sec = 0;  // no timers
  options.stats_persist_period_sec = 0;
  return options;
}

class RocksDbStore final : public MetadataStore {
 public:
  explicit RocksDbStore(std::string path)
      : path_(std::move(path)), notifier_([this](LeaseId lease) { end_lease(lease); }) {}

  Status open();
  Result<std::optional<Entry>> get(std::string_view key) override;
  Result<std::vector<Entry>> list(std::string_view prefix) override;
  Result<CommitResult> commit(const Transaction& transaction) override;
  Result<std::unique_ptr<Watch>> watch(std::string prefix, WatchCallback callback) override {
    return notifier_.watch(std::move(prefix), std::move(callback));
  }
  Result<LeaseId> grant_lease(std::chrono::milliseconds time) override {
    return notifier_.grant(time);
  }
  Status keep_alive(LeaseId lease) override {
    return notifier_.keep_alive(lease) ? Status::ok() : no_lease(lease);
  }
  Status revoke_lease(LeaseId lease) override;

 private:
  static Status no_lease(LeaseId lease) {
    return Status(Code::kNotFound, "lease " + std::to_string(lease) + " has ended");
  }
  Status failed(const rocksdb::Status& status, std::string_view doing) const;
  Status check_version();
  Status load();
  Result<std::optional<Stored>> read(std::string_view key);
  Result<Stored> decode(std::string_view key, std::string value) const;
  Result<bool> conditions_hold(const Transaction& transaction);
  Result<CommitResult> apply(const Transaction& transaction);
  void end_lease(LeaseId lease);

  std::string path_;
  std::unique_ptr<rocksdb::DB> db_;
  std::mutex mutex_;  // commits, one at a time
  Revision revision_ = 0;
  std::map<LeaseId, std::set<std::string>> leased_;
  Notifier notifier_;  // last: its thread ends first
};

Status RocksDbStore::failed(const rocksdb::Status& status, std::string_view doing) const {
  const std::string text =
      std::string(doing) + " metadata store " + path_ + ": " + status.ToString();
  if (status.IsCorruption())
    return Status(Code::kDamaged, text +
                                      "; restore this directory from a copy, or move it away "
                                      "and keep it for repair: the disks hold the data, the "
                                      "metadata says which volume is which");
  if (status.IsIOError() && status.ToString().find("lock") != std::string::npos)
    return Status(Code::kBusy, text + "; another volumed is using it");
  if (status.IsNoSpace())
    return Status(Code::kNoSpace, text + "; make room on the file system that holds it");
  return Status(Code::kIo, text);
}

Status RocksDbStore::open() {
  rocksdb::DB* db = nullptr;
  const rocksdb::Status status = rocksdb::DB::Open(make_options(), path_, &db);
  db_.reset(db);
  if (!status.ok()) return failed(status, "open");
  CVOL_TRY(check_version());
  return load();
}

Status RocksDbStore::check_version() {
  std::string text;
  rocksdb::Status status = db_->Get({}, rocksdb::Slice(kVersionKey), &text);
  if (status.IsNotFound()) {
    rocksdb::WriteOptions durable;
    durable.sync = true;
    status = db_->Put(durable, rocksdb::Slice(kVersionKey), std::to_string(kRocksDbStoreVersion));
    return status.ok() ? Status::ok() : failed(status, "format");
  }
  if (!status.ok()) return failed(status, "read");
  uint32_t version = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), version);
  if (parsed.ec != std::errc{} || parsed.ptr != text.data() + text.size() || version == 0)
    return Status(Code::kDamaged, "metadata store " + path_ + ": its format version is '" +
                                      text.substr(0, 32) + "'");
  if (version > kRocksDbStoreVersion)
    return Status(Code::kUnsupported, "metadata store " + path_ + " has format version " +
                                          std::to_string(version) + ", this volumed knows up to " +
                                          std::to_string(kRocksDbStoreVersion) +
                                          "; start a newer volumed");
  return Status::ok();
}

// The revision, and an end to keys that an earlier process's leases left.
Status RocksDbStore::load() {
  std::string text;
  const rocksdb::Status status = db_->Get({}, rocksdb::Slice(kRevisionKey), &text);
  if (!status.ok() && !status.IsNotFound()) return failed(status, "read");
  if (status.ok()) {
    if (text.size() != 8)
      return Status(Code::kDamaged, "metadata store " + path_ + ": its revision is damaged");
    revision_ = read_u64(text.data());
  }
  auto entries = list("");
  if (!entries) return entries.status();
  Transaction left_over;
  for (const Entry& entry : *entries) {
    auto stored = read(entry.key);
    if (!stored) return stored.status();
    if (*stored && (*stored)->lease != 0) left_over.changes.push_back({entry.key, {}, 0});
  }
  if (left_over.changes.empty()) return Status::ok();
  return apply(left_over).status();
}

Result<Stored> RocksDbStore::decode(std::string_view key, std::string value) const {
  if (value.size() < kEntryHeader)
    return Status(Code::kDamaged,
                  "metadata store " + path_ + ": the entry " + std::string(key) + " is damaged");
  return Stored{read_u64(value.data()), read_u64(value.data() + 8), value.substr(kEntryHeader)};
}

Result<std::optional<Stored>> RocksDbStore::read(std::string_view key) {
  std::string value;
  const rocksdb::Status status = db_->Get({}, stored_key(key), &value);
  if (status.IsNotFound()) return std::optional<Stored>();
  if (!status.ok()) return failed(status, "read");
  auto stored = decode(key, std::move(value));
  if (!stored) return stored.status();
  return std::optional<Stored>(std::move(*stored));
}

Result<std::optional<Entry>> RocksDbStore::get(std::string_view key) {
  auto stored = read(key);
  if (!stored) return stored.status();
  if (!*stored) return std::optional<Entry>();
  return std::optional<Entry>(Entry{std::string(key), (*stored)->value, (*stored)->revision});
}

Result<std::vector<Entry>> RocksDbStore::list(std::string_view prefix) {
  std::vector<Entry> entries;
  const std::string first = stored_key(prefix);
  std::unique_ptr<rocksdb::Iterator> at(db_->NewIterator({}));
  for (at->Seek(first); at->Valid() && at->key().starts_with(first); at->Next()) {
    const std::string key = at->key().ToString().substr(1);
    auto stored = decode(key, at->value().ToString());
    if (!stored) return stored.status();
    entries.push_back({key, std::move(stored->value), stored->revision});
  }
  if (!at->status().ok()) return failed(at->status(), "read");
  return entries;
}

Result<bool> RocksDbStore::conditions_hold(const Transaction& transaction) {
  for (const Condition& condition : transaction.conditions) {
    auto stored = read(condition.key);
    if (!stored) return stored.status();
    if ((*stored ? (*stored)->revision : 0) != condition.revision) return false;
  }
  return true;
}

Result<CommitResult> RocksDbStore::commit(const Transaction& transaction) {
  std::lock_guard lock(mutex_);
  for (const Change& change : transaction.changes) {
    if (change.lease != 0 && !notifier_.has_lease(change.lease)) return no_lease(change.lease);
  }
  auto hold = conditions_hold(transaction);
  if (!hold) return hold.status();
  if (!*hold) return CommitResult{false, revision_};
  return apply(transaction);
}

Result<CommitResult> RocksDbStore::apply(const Transaction& transaction) {
  const Revision next = revision_ + 1;
  rocksdb::WriteBatch batch;
  std::vector<WatchEvent> events;
  for (const Change& change : transaction.changes) {
    const std::string key = stored_key(change.key);
    if (change.value) {
      std::string value;
      append_u64(value, next);
      append_u64(value, change.lease);
      batch.Put(key, value + *change.value);
    } else {
      batch.Delete(key);
    }
    events.push_back({change.key, change.value, next});
  }
  std::string revision;
  append_u64(revision, next);
  batch.Put(rocksdb::Slice(kRevisionKey), revision);
  rocksdb::WriteOptions durable;
  durable.sync = true;
  const rocksdb::Status status = db_->Write(durable, &batch);
  if (!status.ok()) return failed(status, "write to");
  revision_ = next;
  for (const Change& change : transaction.changes) {
    for (auto& [lease, keys] : leased_) keys.erase(change.key);
    if (change.value && change.lease != 0) leased_[change.lease].insert(change.key);
  }
  if (!events.empty()) notifier_.publish(std::move(events));
  return CommitResult{true, next};
}

Status RocksDbStore::revoke_lease(LeaseId lease) {
  if (!notifier_.drop_lease(lease)) return no_lease(lease);
  end_lease(lease);
  return Status::ok();
}

void RocksDbStore::end_lease(LeaseId lease) {
  std::lock_guard lock(mutex_);
  const auto found = leased_.find(lease);
  if (found == leased_.end()) return;
  Transaction removal;
  for (const std::string& key : found->second) removal.changes.push_back({key, {}, 0});
  leased_.erase(found);
  if (auto done = apply(removal); !done)
    log::error("meta", "cannot remove the keys of an ended lease", {{"error", done.message()}});
}

}  // namespace

Result<std::unique_ptr<MetadataStore>> open_rocksdb_store(const std::string& path) {
  auto store = std::make_unique<RocksDbStore>(path);
  CVOL_TRY(store->open());
  return std::unique_ptr<MetadataStore>(std::move(store));
}

}  // namespace cvol::meta
