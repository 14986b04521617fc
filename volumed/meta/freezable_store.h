// FreezableStore: a metadata store that can be told to take no more changes, for good: its records
// move elsewhere. Reads, watches and leases go on.
//
// Threading: any thread.
#pragma once

#include <mutex>
#include <shared_mutex>
#include <string>

#include "volumed/meta/metadata_store.h"

namespace cvol::meta {

class FreezableStore final : public MetadataStore {
 public:
  explicit FreezableStore(std::unique_ptr<MetadataStore> store) : store_(std::move(store)) {}

  // Waits for commits that are under way; those that come later end with kFailedPrecondition and
  // this reason. `work` runs on the store itself; if it fails, changes are taken again.
  template <typename Work>
  Status freeze(const std::string& reason, Work work) {
    std::unique_lock lock(mutex_);
    if (!frozen_.empty()) return Status(Code::kFailedPrecondition, frozen_);
    Status done = work(*store_);
    if (done.is_ok()) frozen_ = reason;
    return done;
  }

  Result<std::optional<Entry>> get(std::string_view key) override { return store_->get(key); }
  Result<std::vector<Entry>> list(std::string_view prefix) override { return store_->list(prefix); }
  Result<CommitResult> commit(const Transaction& transaction) override {
    std::shared_lock lock(mutex_);
    if (!frozen_.empty()) return Status(Code::kFailedPrecondition, frozen_);
    return store_->commit(transaction);
  }
  Result<std::unique_ptr<Watch>> watch(std::string prefix, WatchCallback callback) override {
    return store_->watch(std::move(prefix), std::move(callback));
  }
  Result<LeaseId> grant_lease(std::chrono::milliseconds time) override {
    return store_->grant_lease(time);
  }
  Status keep_alive(LeaseId lease) override { return store_->keep_alive(lease); }
  Status revoke_lease(LeaseId lease) override { return store_->revoke_lease(lease); }

 private:
  std::unique_ptr<MetadataStore> store_;
  std::shared_mutex mutex_;
  std::string frozen_;  // the reason
};

}  // namespace cvol::meta
