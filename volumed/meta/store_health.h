// StoreHealth: whether the metadata store answers, as the calls of this process find it; and
// HealthyStore, the decorator that keeps it.
//
// Threading: any thread. Nothing here waits.
#pragma once

#include <chrono>
#include <mutex>
#include <optional>
#include <string>

#include "volumed/meta/metadata_store.h"

namespace cvol::meta {

class StoreHealth {
 public:
  using Time = std::chrono::system_clock::time_point;
  struct Fault {
    Time since;         // when the first call began that was not served
    std::string error;  // of the last one
  };

  // A call that began at `began` ended so.
  void note(const Status& status, Time began);
  // The same of a change.
  void note_change(const Status& status, Time began);

  // The store does not answer; it refuses changes for want of space.
  std::optional<Fault> away() const;
  std::optional<Fault> full() const;

 private:
  static void set(std::optional<Fault>& fault, const Status& status, Time began);

  mutable std::mutex mutex_;
  std::optional<Fault> away_;
  std::optional<Fault> full_;
};

// Passes everything on to `store`, and notes how it ended.
class HealthyStore final : public MetadataStore {
 public:
  HealthyStore(std::unique_ptr<MetadataStore> store, std::shared_ptr<StoreHealth> health)
      : store_(std::move(store)), health_(std::move(health)) {}

  Result<std::optional<Entry>> get(std::string_view key) override;
  Result<std::vector<Entry>> list(std::string_view prefix) override;
  Result<CommitResult> commit(const Transaction& transaction) override;
  Result<std::unique_ptr<Watch>> watch(std::string prefix, WatchCallback callback) override;
  Result<LeaseId> grant_lease(std::chrono::milliseconds time) override;
  Status keep_alive(LeaseId lease) override;
  Status revoke_lease(LeaseId lease) override;

 private:
  const std::unique_ptr<MetadataStore> store_;
  const std::shared_ptr<StoreHealth> health_;
};

}  // namespace cvol::meta
