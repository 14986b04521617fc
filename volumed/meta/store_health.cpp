#include "volumed/meta/store_health.h"

namespace cvol::meta {
namespace {

StoreHealth::Time now() {
  return std::chrono::system_clock::now();
}

}  // namespace

void StoreHealth::set(std::optional<Fault>& fault, const Status& status, Time began) {
  if (!fault) fault = Fault{began, ""};
  fault->error = status.message();
}

void StoreHealth::note(const Status& status, Time began) {
  std::lock_guard lock(mutex_);
  if (status.code() == Code::kUnavailable) {
    set(away_, status, began);
  } else {
    away_.reset();
  }
}

void StoreHealth::note_change(const Status& status, Time began) {
  note(status, began);
  std::lock_guard lock(mutex_);
  if (status.code() == Code::kNoSpace) {
    set(full_, status, began);
  } else if (status.is_ok()) {
    full_.reset();
  }
}

std::optional<StoreHealth::Fault> StoreHealth::away() const {
  std::lock_guard lock(mutex_);
  return away_;
}

std::optional<StoreHealth::Fault> StoreHealth::full() const {
  std::lock_guard lock(mutex_);
  return full_;
}

Result<std::optional<Entry>> HealthyStore::get(std::string_view key) {
  const auto began = now();
  auto answer = store_->get(key);
  health_->note(answer.status(), began);
  return answer;
}

Result<std::vector<Entry>> HealthyStore::list(std::string_view prefix) {
  const auto began = now();
  auto answer = store_->list(prefix);
  health_->note(answer.status(), began);
  return answer;
}

Result<CommitResult> HealthyStore::commit(const Transaction& transaction) {
  const auto began = now();
  auto answer = store_->commit(transaction);
  health_->note_change(answer.status(), began);
  return answer;
}

Result<std::unique_ptr<Watch>> HealthyStore::watch(std::string prefix, WatchCallback callback) {
  return store_->watch(std::move(prefix), std::move(callback));
}

Result<LeaseId> HealthyStore::grant_lease(std::chrono::milliseconds time) {
  const auto began = now();
  auto answer = store_->grant_lease(time);
  health_->note_change(answer.status(), began);
  return answer;
}

Status HealthyStore::keep_alive(LeaseId lease) {
  const auto began = now();
  Status answer = store_->keep_alive(lease);
  health_->note(answer, began);
  return answer;
}

Status HealthyStore::revoke_lease(LeaseId lease) {
  const auto began = now();
  Status answer = store_->revoke_lease(lease);
  health_->note(answer, began);
  return answer;
}

}  // namespace cvol::meta
