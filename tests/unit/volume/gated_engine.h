// GatedEngine: a disk engine whose making and removing of replicas waits at a gate, as at a disk
// that does not answer; everything else goes on.
#pragma once

#include <atomic>
#include <memory>
#include <utility>
#include <vector>

#include "volumed/store/disk_engine.h"

namespace cvol::volume {

struct Gate {
  std::atomic<bool> shut{false};
  std::atomic<int> waiting{0};
  std::atomic<bool> removal_fails{false};
};

class GatedEngine final : public store::DiskEngine {
 public:
  GatedEngine(io::Reactor& reactor, std::unique_ptr<store::DiskEngine> engine, Gate& gate)
      : reactor_(reactor), engine_(std::move(engine)), gate_(gate) {}

  store::DiskInfo info() const override { return engine_->info(); }
  const store::EngineMetrics& metrics() const override { return engine_->metrics(); }
  std::vector<store::ReplicaInfo> replicas() const override { return engine_->replicas(); }
  Result<store::ReplicaInfo> replica(store::ReplicaNumber number) const override {
    return engine_->replica(number);
  }
  Task<Result<store::ReplicaInfo>> create_replica(Uuid volume, Uuid replica,
                                                  uint64_t size) override {
    co_await pass();
    co_return co_await engine_->create_replica(volume, replica, size);
  }
  Task<Status> resize_replica(store::ReplicaNumber number, uint64_t size) override {
    return engine_->resize_replica(number, size);
  }
  Task<Status> remove_replica(store::ReplicaNumber number) override {
    co_await pass();
    if (gate_.removal_fails) co_return Status(Code::kIo, "the disk is broken");
    co_return co_await engine_->remove_replica(number);
  }
  Task<Status> put_replica_state(store::ReplicaNumber number, std::string state) override {
    return engine_->put_replica_state(number, std::move(state));
  }
  Result<std::string> replica_state(store::ReplicaNumber number) const override {
    return engine_->replica_state(number);
  }
  void note_commit_point(store::ReplicaNumber number, uint64_t seq) override {
    engine_->note_commit_point(number, seq);
  }
  Task<Result<std::vector<store::ChunkVersion>>> changed_chunks(store::ReplicaNumber number,
                                                                uint64_t after_seq) override {
    return engine_->changed_chunks(number, after_seq);
  }
  std::vector<store::ZeroedRange> zeroed_after(store::ReplicaNumber number,
                                               uint64_t after_seq) const override {
    return engine_->zeroed_after(number, after_seq);
  }
  Task<Status> append_write(store::ReplicaNumber number, uint64_t epoch, uint64_t seq,
                            uint64_t offset, std::span<const std::byte> data,
                            std::span<const uint64_t> checksums = {}) override {
    return engine_->append_write(number, epoch, seq, offset, data, checksums);
  }
  Task<Status> append_zero(store::ReplicaNumber number, uint64_t epoch, uint64_t seq,
                           uint64_t offset, uint64_t length, bool keep_allocated) override {
    return engine_->append_zero(number, epoch, seq, offset, length, keep_allocated);
  }
  Task<Status> read(store::ReplicaNumber number, uint64_t offset,
                    std::span<std::byte> into) override {
    return engine_->read(number, offset, into);
  }
  std::vector<Extent> block_status(store::ReplicaNumber number, uint64_t offset,
                                   uint64_t length) const override {
    return engine_->block_status(number, offset, length);
  }
  std::optional<uint32_t> expected_checksum(store::ReplicaNumber number,
                                            uint64_t block) const override {
    return engine_->expected_checksum(number, block);
  }
  Status start_scrub(uint64_t rate) override { return engine_->start_scrub(rate); }
  Task<Status> stop_scrub() override { return engine_->stop_scrub(); }
  Status start_verify(bool accept_damage) override { return engine_->start_verify(accept_damage); }
  store::ScrubInfo scrub() const override { return engine_->scrub(); }
  Task<Status> destage_all() override { return engine_->destage_all(); }
  Task<void> close() override { return engine_->close(); }

 private:
  Task<void> pass() {
    ++gate_.waiting;
    while (gate_.shut) co_await reactor_.sleep(io::kMillisecond);
    --gate_.waiting;
  }

  io::Reactor& reactor_;
  std::unique_ptr<store::DiskEngine> engine_;
  Gate& gate_;
};

}  // namespace cvol::volume
