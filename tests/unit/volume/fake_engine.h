// A disk engine in memory: blocks in a map; operations take a moment of the reactor's time, so
// that they overlap, and record what they were asked to do.
#pragma once

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <string>
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
  bool seqs_rise = true;  // checked: a primary's do, those of a resync do not

  store::DiskInfo info() const override { return {}; }
  const store::EngineMetrics& metrics() const override { return metrics_; }
  std::vector<store::ReplicaInfo> replicas() const override { return {}; }
  Result<store::ReplicaInfo> replica(store::ReplicaNumber) const override {
    store::ReplicaInfo info;
    info.last_seq = last_seq_;
    info.commit_point = commit_point_;
    return info;
  }
  Task<Result<store::ReplicaInfo>> create_replica(Uuid, Uuid, uint64_t) override {
    co_return store::ReplicaInfo{};
  }
  Task<Status> resize_replica(store::ReplicaNumber, uint64_t) override { co_return Status::ok(); }
  Task<Status> remove_replica(store::ReplicaNumber) override { co_return Status::ok(); }

  Task<Status> put_replica_state(store::ReplicaNumber, std::string state) override {
    co_await wait();
    if (!fail_with.is_ok()) co_return fail_with;
    state_ = std::move(state);
    co_return Status::ok();
  }
  Result<std::string> replica_state(store::ReplicaNumber) const override { return state_; }
  void note_commit_point(store::ReplicaNumber, uint64_t seq) override {
    commit_point_ = std::max(commit_point_, seq);
    std::erase_if(zeroed_, [&](const store::ZeroedRange& range) { return range.seq <= seq; });
  }
  Task<Result<std::vector<store::ChunkVersion>>> changed_chunks(store::ReplicaNumber,
                                                                uint64_t after_seq) override {
    co_await wait();
    if (!fail_with.is_ok()) co_return fail_with;
    std::vector<store::ChunkVersion> changed;
    for (const auto& [chunk, version] : versions_) {
      const auto block = blocks_.lower_bound(chunk * kChunkBytes);
      if (version > after_seq && block != blocks_.end() && block->first / kChunkBytes == chunk)
        changed.push_back({chunk, version});
    }
    co_return changed;
  }
  std::vector<store::ZeroedRange> zeroed_after(store::ReplicaNumber,
                                               uint64_t after_seq) const override {
    std::vector<store::ZeroedRange> zeroed = zeroed_;
    std::erase_if(zeroed, [&](const store::ZeroedRange& range) { return range.seq <= after_seq; });
    std::sort(zeroed.begin(), zeroed.end(),
              [](const auto& a, const auto& b) { return a.first_block < b.first_block; });
    return zeroed;
  }

  Task<Status> append_write(store::ReplicaNumber, uint64_t, uint64_t seq, uint64_t offset,
                            std::span<const std::byte> data,
                            std::span<const uint64_t> = {}) override {
    calls.push_back({'w', seq, offset, data.size(), data.data(), false});
    take_seq(seq);
    check_aligned(offset, data.size(), data.data());
    co_await wait();
    if (!fail_with.is_ok()) co_return fail_with;
    for (uint64_t at = 0; at < data.size(); at += kBlockBytes)
      std::memcpy(blocks_[offset + at].data(), data.data() + at, kBlockBytes);
    for (uint64_t at = offset; at < offset + data.size(); at += kBlockBytes)
      versions_[at / kChunkBytes] = std::max(versions_[at / kChunkBytes], seq);
    co_return Status::ok();
  }
  Task<Status> append_zero(store::ReplicaNumber, uint64_t, uint64_t seq, uint64_t offset,
                           uint64_t length, bool keep_allocated) override {
    calls.push_back({'z', seq, offset, length, nullptr, keep_allocated});
    CVOL_ASSERT(length > 0 && length <= kGiB);
    take_seq(seq);
    check_aligned(offset, length, nullptr);
    co_await wait();
    if (!fail_with.is_ok()) co_return fail_with;
    blocks_.erase(blocks_.lower_bound(offset), blocks_.lower_bound(offset + length));
    if (!state_.empty() && seq > commit_point_)
      zeroed_.push_back({offset / kBlockBytes, length / kBlockBytes, seq});
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
  std::optional<uint32_t> expected_checksum(store::ReplicaNumber, uint64_t) const override {
    return std::nullopt;
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
  void take_seq(uint64_t seq) {
    CVOL_ASSERT(seq > 0 && (!seqs_rise || seq > last_seq_));
    last_seq_ = std::max(last_seq_, seq);
  }
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
  uint64_t commit_point_ = 0;
  std::string state_;
  std::map<uint64_t, uint64_t> versions_;  // by chunk
  std::vector<store::ZeroedRange> zeroed_;
  std::map<uint64_t, std::array<std::byte, kBlockBytes>> blocks_;
};

}  // namespace cvol::volume
