// Two things of the disk engine at once, at every step of each other: destage and changes of
// replicas, a verify and what fails beside it. On the simulated disk.
#include <cstring>

#include "tests/unit/store/disk_fixture.h"

namespace cvol::store {
namespace {

class InterleavingTest : public DiskTest {};

// A disk that could not be read whole for the first verify.
TEST_F(InterleavingTest, second_verify_after_refused_replay) {
  start();
  fill_chunks(8);
  for (uint64_t i = 0; i < 6; ++i) ASSERT_TRUE(write(i, 1, 100 + i).is_ok());
  world_.faults.write_error = 1000000;
  EXPECT_EQ(write(8, 1, 80).code(), Code::kIo);
  world_.faults.write_error = 0;
  // The header of a batch in the middle.
  io::SimFile& j = *world_.files.at("/disk/journal");
  for (uint64_t b = 1; b < j.size() / kBlockBytes; ++b) {
    std::byte m[72];
    j.current().read(b * kBlockBytes, m);
    if (std::memcmp(m, "CVOLBTCH", 8) != 0) continue;
    uint64_t lsn;
    std::memcpy(&lsn, m + 56, 8);
    if (lsn == 11) {
      flip("/disk/journal", b * kBlockBytes + 130);
      flip("/disk/journal", b * kBlockBytes + 141);
    }
  }
  const std::string first = verify(false);
  EXPECT_TRUE(engine().info().failed);
  const std::string second = verify(false);
  EXPECT_TRUE(engine().info().failed) << "served after a refused replay";
  if (!engine().info().failed)
    for (uint64_t i = 0; i < 6; ++i) expect_value(i, 100 + i);
}

TEST_F(InterleavingTest, second_verify_after_transient_read_error) {
  int bad = 0;
  for (int seed = 0; seed < 40; ++seed) {
    world_.files.clear();
    start();
    fill_chunks(8);
    for (uint64_t i = 0; i < 6; ++i) ASSERT_TRUE(write(i, 1, 100 + i).is_ok());
    world_.faults.write_error = 1000000;
    EXPECT_EQ(write(8, 1, 80).code(), Code::kIo);
    world_.faults.write_error = 0;
    world_.faults.read_error = 300000;
    const std::string first = verify(false);
    world_.faults.read_error = 0;
    const std::string second = verify(false);
    bool lost = false;
    if (!engine().info().failed) {
      for (uint64_t i = 0; i < 6; ++i) {
        if (!read(i, 1).is_ok() || sim::block_value(memory(1).data(), i) != 100 + i) lost = true;
      }
    }
    if (lost) {
      ++bad;
    }
    disk_->crash([](const io::SimWrite&, uint64_t) { return false; });
    disk_.reset();
  }
  EXPECT_EQ(bad, 0);
}

Task<void> keep_writing(SimDisk* disk, ReplicaNumber b, Status* into) {
  for (int i = 0; i < 400; ++i) {
    const Status s = co_await disk->engine().append_write(b, 1, 5000 + i, 0, memory(64 * 16));
    *into = s;
    if (s.code() != Code::kNoSpace) co_return;
    co_await disk->node().sleep(50 * io::kMicrosecond);
  }
}
TEST_F(InterleavingTest, resize_beside_table_changes) {
  int bad = 0, hits = 0;
  for (int steps = 0; steps < 900; ++steps) {
    world_.files.clear();
    format_.journal_bytes = 8 * kMiB;
    format_.capacity_bytes = 64 * kMiB;
    start();
    std::vector<Status> st(300);
    for (uint64_t c = 0; c < 300; ++c)
      disk_->node().start(store_status(
          engine().append_write(number_, 1, ++seq_, c * kChunkBytes, memory(1)), &st[c]));
    ASSERT_TRUE(world_.run_until([this] { return disk_->node().done(); }));
    Status d, r(Code::kInternal, "");
    disk_->node().start(store_status(engine().destage_all(), &d));
    for (int i = 0; i < steps && !disk_->node().done() && world_.step(); ++i) {
    }
    const bool over = disk_->node().done();
    disk_->node().start(store_status(engine().resize_replica(number_, 128 * kMiB), &r));
    ASSERT_TRUE(world_.run_until([this] { return disk_->node().done(); }));
    ASSERT_TRUE(r.is_ok());
    ++hits;
    ASSERT_TRUE(reopen());
    const uint64_t size = engine().replica(number_)->size_bytes;
    if (size != 128 * kMiB) ++bad;
    disk_->close();
    disk_.reset();
    if (over) break;
  }
  EXPECT_GT(hits, 100);
  EXPECT_EQ(bad, 0);
}

TEST_F(InterleavingTest, remove_beside_table_changes) {
  int back = 0, refused = 0, tried = 0;
  for (int steps = 585, round = 0; round < 500; ++round, steps = 585 + round % 30) {
    world_.files.clear();
    format_.journal_bytes = 8 * kMiB;
    format_.capacity_bytes = 20 * kMiB;  // 320 places
    start();
    const ReplicaNumber a = number_;
    ASSERT_TRUE(disk_->run(make_replica(this)));
    const ReplicaNumber b = number_;
    std::vector<Status> st(300);
    for (uint64_t c = 0; c < 300; ++c)
      disk_->node().start(
          store_status(engine().append_write(a, 1, ++seq_, c * kChunkBytes, memory(1)), &st[c]));
    ASSERT_TRUE(world_.run_until([this] { return disk_->node().done(); }));
    Status d, r(Code::kInternal, ""), w(Code::kInternal, "");
    disk_->node().start(store_status(engine().destage_all(), &d));
    for (int i = 0; i < steps && !disk_->node().done() && world_.step(); ++i) {
    }
    ++tried;
    disk_->node().start(store_status(engine().remove_replica(a), &r));
    disk_->node().start(keep_writing(disk_.get(), b, &w));
    // until the large write of the other replica is acknowledged, or the removal is done
    bool removing = false, again = false;
    while (r.code() == Code::kInternal && world_.step()) {
      auto at = disk_->table().content.find(replica_key(a));
      if (at == disk_->table().content.end()) continue;
      Result<ReplicaRecord> rec = decode_replica_record(at->second);
      if (rec->removing) removing = true;
      if (removing && !rec->removing) again = true;
      if (again && w.is_ok()) break;
    }
    if (again) ++back;
    if (again && w.is_ok() && r.code() == Code::kInternal) {
      disk_->crash([](const io::SimWrite&, uint64_t) { return true; });
      if (!disk_->open()) {
        ++refused;
      }
    } else {
      world_.run_until([this] { return disk_->node().done(); });
      disk_->close();
    }
    disk_.reset();
  }
  EXPECT_GT(tried, 100);
  EXPECT_EQ(back, 0);
  EXPECT_EQ(refused, 0);
}

TEST_F(InterleavingTest, remove_overtakes_table_changes) {
  int zombie = 0, refused = 0;
  for (int round = 0; round < 12; ++round) {
    world_.files.clear();
    format_.journal_bytes = 16 * kMiB;
    format_.capacity_bytes = 80 * kMiB;  // 1280 places
    world_.faults = io::SimFaults{};
    start();
    const ReplicaNumber a = number_;
    ASSERT_TRUE(disk_->run(make_replica(this)));
    const ReplicaNumber b = number_;
    std::vector<Status> st(1000);
    for (uint64_t c = 0; c < 1000; ++c)
      disk_->node().start(
          store_status(engine().append_write(a, 1, ++seq_, c * kChunkBytes, memory(1)), &st[c]));
    ASSERT_TRUE(world_.run_until([this] { return disk_->node().done(); }));
    Status d, r(Code::kInternal, "");
    disk_->node().start(store_status(engine().destage_all(), &d));
    io::SimFile& chunks = *world_.files.at("/disk/chunks");
    while (chunks.pending().empty() && world_.step()) {
    }
    while (!chunks.pending().empty() && world_.step()) {
    }
    for (int i = 0; i < round % 8; ++i) world_.step();
    world_.faults.helper_low = world_.faults.helper_high = 0;
    disk_->node().start(store_status(engine().remove_replica(a), &r));
    ASSERT_TRUE(world_.run_until([this] { return disk_->node().done(); }));
    ASSERT_TRUE(r.is_ok()) << r.message();
    number_ = b;
    const bool back = disk_->table().content.contains(replica_key(a));
    if (back) ++zombie;
    // places of a are free: another volume uses them
    for (uint64_t c = 0; c < 31 * 31 * 16; c += 16 * 31) ASSERT_TRUE(write(c, 16 * 31, 7).is_ok());

    ASSERT_TRUE(destage().is_ok());
    disk_->close();
    if (disk_->open()) {
      disk_->close();
    } else {
      ++refused;
    }
    disk_.reset();
  }
  EXPECT_EQ(zombie, 0);
  EXPECT_EQ(refused, 0);
}

// A disk that fails again while the healthy mark is written.
TEST_F(InterleavingTest, fails_while_leaving_quarantine) {
  int bad = 0, tried = 0;
  for (int round = 0; round < 300; ++round) {
    world_.files.clear();
    world_.faults = io::SimFaults{};
    mended_ = 0;
    failures_.clear();
    std::string order;
    options_.hooks.failed = [&](Uuid, const std::string&) { order += 'F'; };
    options_.hooks.mended = [&](Uuid) { order += 'M'; };
    start();
    fill_chunks(4);
    world_.faults.write_error = 1000000;
    EXPECT_EQ(write(8, 1, 80).code(), Code::kIo);
    world_.faults.write_error = 0;
    ASSERT_TRUE(engine().start_verify(false).is_ok());
    while (engine().info().failed && world_.step()) {
    }
    // in service; the mark is being written
    Status st;
    sim::fill_block(memory(1).data(), 8, 5);
    disk_->node().start(
        store_status(engine().append_write(number_, 1, ++seq_, 8 * kBlockBytes, memory(1)), &st));
    for (int i = 0; i < round % 6; ++i) world_.step();
    world_.faults.write_error = 700000;
    for (int i = 0; i < 60 && world_.step(); ++i) {
    }
    world_.faults.write_error = 0;
    finish_scrub();
    ASSERT_TRUE(world_.run_until([this] { return disk_->node().done(); }));
    if (!engine().info().failed) {
      disk_->close();
      disk_.reset();
      continue;
    }
    ++tried;
    // what the owner would know: the last hook
    const bool owner_knows = !order.empty() && order.back() == 'F';
    disk_->crash([](const io::SimWrite&, uint64_t) { return false; });
    disk_->options().known_failure = owner_knows ? "known" : "";
    if (disk_->open()) {
      if (!engine().info().failed) ++bad;
      disk_->close();
    }
    disk_.reset();
  }
  EXPECT_EQ(bad, 0);
}

TEST_F(InterleavingTest, block_status_while_opened_again) {
  start();
  fill_chunks(8);
  world_.faults.write_error = 1000000;
  EXPECT_EQ(write(8, 1, 80).code(), Code::kIo);
  world_.faults.write_error = 0;
  ASSERT_TRUE(engine().start_verify(false).is_ok());
  int holes = 0, steps = 0, gone = 0;
  while (scrub_runs() && world_.step()) {
    ++steps;
    auto e = engine().block_status(number_, 0, 8 * kChunkBytes);
    if (e.size() == 1 && e[0].hole && e[0].zero) ++holes;
    if (engine().replicas().empty()) ++gone;
  }
  EXPECT_GT(steps, 0);
  EXPECT_EQ(holes, 0) << "stored data is told as a hole";
  EXPECT_EQ(gone, 0) << "the disk's replicas are not told";
}

}  // namespace
}  // namespace cvol::store
