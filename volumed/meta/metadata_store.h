// MetadataStore: the records of a cluster: get, list, watch, compare-and-swap transactions, leases.
//
// Two backends: embedded (rocksdb_store.h: one node, RocksDB) and etcd (etcd_store.h); open_store.h
// opens either. Keys are texts such as "/cvol/v1/default/volumes/ID" (keys.h), values are JSON
// (records.h). Every change of the store raises its revision; an entry carries the revision of its
// last change.
//
// Threading: any thread; calls block (a sync of the disk, or a round trip). Watchers are called on
// a thread of the store's.
// Durability: what commit() says is applied is on stable storage.
// Errors: kUnavailable: the store is away; a commit that ended so may or may not have been applied:
// send the same again (rule R5). kDamaged, kUnsupported (newer format): see the text.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "volumed/base/result.h"

namespace cvol::meta {

using Revision = uint64_t;  // 0: none
using LeaseId = uint64_t;   // 0: none

struct Entry {
  std::string key;
  std::string value;
  Revision revision = 0;  // of the last change
};

// Holds if the key was last changed at `revision`; 0: if there is no such key.
struct Condition {
  std::string key;
  Revision revision = 0;
};

struct Change {
  std::string key;
  std::optional<std::string> value;  // nullopt: the key is removed
  LeaseId lease = 0;                 // not 0: the key goes when the lease ends
};

struct Transaction {
  std::vector<Condition> conditions;
  std::vector<Change> changes;  // all, or none; each key at most once
};

struct CommitResult {
  bool applied = false;   // false: a condition did not hold, nothing was changed
  Revision revision = 0;  // of the store, afterwards
};

// Something happened to a key: a new value, or (nullopt) its end.
struct WatchEvent {
  std::string key;
  std::optional<std::string> value;
  Revision revision = 0;
};

// One commit's events of the watched prefix, in order of revisions. Not called with nothing.
using WatchCallback = std::function<void(const std::vector<WatchEvent>&)>;

// Ends its watch when destroyed; returns when the callback is not running. Not to be destroyed
// from within the callback.
class Watch {
 public:
  virtual ~Watch() = default;
};

class MetadataStore {
 public:
  virtual ~MetadataStore() = default;

  virtual Result<std::optional<Entry>> get(std::string_view key) = 0;
  // In order of keys.
  virtual Result<std::vector<Entry>> list(std::string_view prefix) = 0;

  // Applies all changes if all conditions hold. It is sent once: kUnavailable means that the
  // outcome is unknown, and it may still be applied later. The caller then assumes the larger
  // obligation of the two and commits the *same* transaction again, with the same conditions, until
  // it gets an answer (R5). "applied" is then true, or it is false and a condition's revision is
  // gone for good: by somebody else, or by the caller's own earlier copy, which reading the record
  // now tells apart if what was written says who wrote it. Reading before that answer proves
  // nothing. kNotFound: a lease has ended; nothing was changed. Any other code: nothing was changed
  // either (of an embedded store's kIo, the next open decides). At most 100 conditions and 100
  // changes, and 1 MiB in all, to fit every backend.
  virtual Result<CommitResult> commit(const Transaction& transaction) = 0;

  // Everything that happens to keys with this prefix from the call on. To miss nothing: watch
  // first, then list, and drop events that are not newer than the listed entry. Where a backend has
  // lost the history (a compaction of etcd while the connection was away), the last value of a key
  // stands for all of its changes; a watch is a hint, every decision is a commit().
  virtual Result<std::unique_ptr<Watch>> watch(std::string prefix, WatchCallback callback) = 0;

  // A lease ends `time` after it was granted or last kept alive, or somewhat later (etcd_store.h).
  // kNotFound: it has ended.
  virtual Result<LeaseId> grant_lease(std::chrono::milliseconds time) = 0;
  virtual Status keep_alive(LeaseId lease) = 0;
  // Ends it at once, and its keys with it.
  virtual Status revoke_lease(LeaseId lease) = 0;
};

}  // namespace cvol::meta
