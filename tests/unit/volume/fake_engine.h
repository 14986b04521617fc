// A disk engine in memory: blocks in a map; operations take a moment of the reactor's time, so
// that they overlap, and record what they were asked to do.
#pragma once

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <vector>

#include "volumed/store/disk_engine.h"

namespace cvol::volume {

class FakeEngine final : public store::DiskEngine {
 public:
  explicit FakeEngine(io::Reactor& reactor) : reactor_(reactor) {}

  struct Call {
    char kind;  // 'w', 'z', 'r'
    uint64_t seq, offset, length;
    const void* memory;
    bool keep_allocated;
  };
  std::vector<Call> calls;
  io::Nanoseconds delay = io::kMillisecond;
  Status fail_with;
  uint32_t under_way = 0;
  uint32_t most_under_way = 0;

  store::DiskInfo info() const override { return {}; }
  const store::EngineMetrics& metrics() const override { return metrics_; }
  std::vector<store::ReplicaInfo> replicas() const override { return {}; }
  Result<store::ReplicaInfo> replica(store::ReplicaNumber) const override {
    return store::ReplicaInfo{};
  }
  Task<Result<store::ReplicaInfo>> create_replica(Uuid, Uuid, uint64_t) override {
    co_return store::ReplicaInfo{};
  }
  Task<Status> resize_replica(store::ReplicaNumber, uint64_t) override { co_return Status::ok(); }
  Task<Status> remove_replica(store::ReplicaNumber) override { co_return Status::ok(); }

  Task<Status> append_write(store::ReplicaNumber, uint64_t, uint64_t seq, uint64_t offset,
                            std::span<const std::byte> data) override {
    calls.push_back({'w', seq, offset, data.size(), data.data(), false});
    CVOL_ASSERT(seq > last_seq_);
    last_seq_ = seq;
    check_aligned(offset, data.size(), data.data());
    co_await wait();
    if (!fail_with.is_ok()) co_return fail_with;
    for (uint64_t at = 0; at < data.size(); at += kBlockBytes)
      std::memcpy(blocks_[offset + at].data(), data.data() + at, kBlockBytes);
    co_return Status::ok();
  }
  Task<Status> append_zero(store::ReplicaNumber, uint64_t, uint64_t seq, uint64_t offset,
                           uint64_t length, bool keep_allocated) override {
    calls.push_back({'z', seq, offset, length, nullptr, keep_allocated});
    CVOL_ASSERT(seq > last_seq_ && length > 0 && length <= kGiB);
    last_seq_ = seq;
    check_aligned(offset, length, nullptr);
    co_await wait();
    if (!fail_with.is_ok()) co_return fail_with;
    blocks_.erase(blocks_.lower_bound(offset), blocks_.lower_bound(offset + length));
    co_return Status::ok();
  }
  Task<Status> read(store::ReplicaNumber, uint64_t offset, std::span<std::byte> into) override {
    calls.push_back({'r', 0, offset, into.size(), into.data(), false});
    check_aligned(offset, into.size(), into.data());
    co_await wait();
    for (uint64_t at = 0; at < into.size(); at += kBlockBytes) {
      const auto found = blocks_.find(offset + at);
      if (found == blocks_.end()) {
        std::memset(into.data() + at, 0, kBlockBytes);
      } else {
        std::memcpy(into.data() + at, found->second.data(), kBlockBytes);
      }
    }
    co_return Status::ok();
  }
  std::vector<Extent> block_status(store::ReplicaNumber, uint64_t, uint64_t length) const override {
    if (length == kBlockBytes) return {{length, true, true}};
    return {{kBlockBytes, false, false}, {length - kBlockBytes, true, true}};
  }
  Status start_scrub(uint64_t) override { return Status::ok(); }
  Task<Status> stop_scrub() override { co_return Status::ok(); }
  Status start_verify(bool) override { return Status::ok(); }
  store::ScrubInfo scrub() const override { return {}; }
  Task<Status> destage_all() override { co_return Status::ok(); }
  Task<void> close() override { co_return; }

 private:
  static void check_aligned(uint64_t offset, uint64_t length, const void* memory) {
    CVOL_ASSERT(((offset | length | reinterpret_cast<uintptr_t>(memory)) % kBlockBytes) == 0);
  }
  Task<void> wait() {
    most_under_way = std::max(most_under_way, ++under_way);
    co_await reactor_.sleep(delay);
    --under_way;
  }

  io::Reactor& reactor_;
  store::EngineMetrics metrics_;
  uint64_t last_seq_ = 0;
  std::map<uint64_t, std::array<std::byte, kBlockBytes>> blocks_;
};

}  // namespace cvol::volume
