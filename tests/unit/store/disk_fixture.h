// A disk engine on the simulated disk with one replica, and what its hooks told: the fixture of
// tests that scrub, damage and fail disks.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <vector>

#include "tests/sim/block_model.h"
#include "tests/sim/sim_disk.h"
#include "volumed/base/log.h"

namespace cvol::store {
using sim::SimDisk;

inline std::span<std::byte> memory(uint64_t blocks) {
  static std::byte* const all = static_cast<std::byte*>(std::aligned_alloc(4096, 8 * kMiB));
  return {all, blocks * kBlockBytes};
}

class DiskTest : public ::testing::Test {
 protected:
  DiskTest() : world_(1) {
    log::set_level("off");
    format_.journal_bytes = kMiB;
    format_.capacity_bytes = 16 * kMiB;
    options_.destage_when_idle = false;
    options_.scrub_rate = kGiB;
    options_.hooks.damaged = [this](const Damage& damage) { told_.push_back(damage); };
    options_.hooks.failed = [this](Uuid, const std::string& why) { failures_.push_back(why); };
    options_.hooks.mended = [this](Uuid) { ++mended_; };
    options_.hooks.notice = [this](const std::string& what) { notices_.push_back(what); };
  }
  void start() {
    disk_ = std::make_unique<SimDisk>(world_, format_, options_);
    ASSERT_TRUE(disk_->format()) << disk_->failure().message();
    ASSERT_TRUE(disk_->open()) << disk_->failure().message();
    ASSERT_TRUE(disk_->run(make_replica(this)));
  }
  static Task<void> make_replica(DiskTest* test, uint64_t size = 64 * kMiB) {
    Random& random = test->world_.random();
    Result<ReplicaInfo> made =
        co_await test->engine().create_replica(Uuid::make(random), Uuid::make(random), size);
    EXPECT_TRUE(made) << made.message();
    test->number_ = made->number;
  }
  Engine& engine() { return disk_->engine(); }

  template <typename Make>
  Status wait(Make make) {
    Status status(Code::kInternal, "not done");
    EXPECT_TRUE(disk_->run(store_status(make(), &status)));
    return status;
  }
  static Task<void> store_status(Task<Status> task, Status* into) {
    *into = co_await std::move(task);
  }
  Status write(uint64_t first, uint64_t count, uint64_t value) {
    for (uint64_t i = 0; i < count; ++i)
      sim::fill_block(memory(count).data() + i * kBlockBytes, first + i, value);
    return wait([=, this] {
      return engine().append_write(number_, 1, ++seq_, first * kBlockBytes, memory(count));
    });
  }
  Status read(uint64_t first, uint64_t count) {
    return wait([=, this] { return engine().read(number_, first * kBlockBytes, memory(count)); });
  }
  Status destage() {
    return wait([this] { return engine().destage_all(); });
  }
  void expect_value(uint64_t block, uint64_t value) {
    const Status status = read(block, 1);
    ASSERT_TRUE(status.is_ok()) << status.message();
    EXPECT_EQ(sim::block_value(memory(1).data(), block), value) << "block " << block;
  }
  void flip(const std::string& path, uint64_t offset) {
    io::SimFile& file = *world_.files.at(path);
    io::SimImage image = file.current();
    std::byte byte;
    image.read(offset, {&byte, 1});
    byte ^= std::byte{4};
    image.write(offset, {&byte, 1});
    const bool locked = file.locked;
    file.reset(image);
    file.locked = locked;
  }
  bool reopen() {
    disk_->close();
    return disk_->open();
  }
  void pass_time(io::Nanoseconds time) { ASSERT_TRUE(disk_->run(sleep(this, time))); }
  static Task<void> sleep(DiskTest* test, io::Nanoseconds time) {
    co_await test->disk_->node().sleep(time);
  }
  bool scrub_runs() { return engine().scrub().record.state == ScrubState::kRunning; }
  void finish_scrub() {
    for (int i = 0; i < 100000 && scrub_runs(); ++i) pass_time(io::kMillisecond);
    ASSERT_FALSE(scrub_runs());
  }
  // A whole pass; returns what it found.
  uint64_t scrub_all() {
    EXPECT_TRUE(engine().start_scrub(0).is_ok());
    finish_scrub();
    const ScrubInfo info = engine().scrub();
    EXPECT_EQ(info.outcome, "");
    EXPECT_EQ(info.record.state, ScrubState::kIdle);
    return info.record.completed_damaged;
  }
  std::string verify(bool accept_damage) {
    const Status begun = engine().start_verify(accept_damage);
    EXPECT_TRUE(begun.is_ok()) << begun.message();
    finish_scrub();
    return engine().scrub().outcome;
  }
  // Chunks 0..count-1 in the chunks file, one place each.
  void fill_chunks(uint64_t count) {
    for (uint64_t chunk = 0; chunk < count; ++chunk)
      ASSERT_TRUE(write(chunk * 16, 16, 1 + chunk).is_ok());
    ASSERT_TRUE(destage().is_ok());
  }

  io::SimWorld world_;
  FormatOptions format_;
  EngineOptions options_;
  std::unique_ptr<SimDisk> disk_;
  ReplicaNumber number_ = 0;
  uint64_t seq_ = 0;
  std::vector<Damage> told_;
  std::vector<std::string> failures_;
  std::vector<std::string> notices_;
  int mended_ = 0;
};

}  // namespace cvol::store
