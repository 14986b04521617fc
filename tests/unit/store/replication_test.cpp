// What the engine keeps for replication: the replica's state, its commit point, the versions of
// chunks and the ranges that were zeroed; and checksums that the caller of a write has.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/unit/store/disk_fixture.h"
#include "volumed/base/checksum.h"

namespace cvol::store {
namespace {

class ReplicationTest : public DiskTest {
 protected:
  ReplicationTest() { options_.read_cache = false; }

  Status put(std::string state) {
    return wait([&] { return engine().put_replica_state(number_, state); });
  }
  std::string state() {
    Result<std::string> state = engine().replica_state(number_);
    EXPECT_TRUE(state) << state.message();
    return state ? *state : "?";
  }
  uint64_t commit_point() { return engine().replica(number_)->commit_point; }
  void note(uint64_t seq) { engine().note_commit_point(number_, seq); }

  using Chunks = std::vector<ChunkVersion>;
  using Ranges = std::vector<ZeroedRange>;
  Chunks changed(uint64_t after) {
    Chunks found;
    EXPECT_TRUE(disk_->run(collect(&engine(), number_, after, &found)));
    return found;
  }
  Ranges zeroed(uint64_t after) { return engine().zeroed_after(number_, after); }
  static Task<void> collect(DiskEngine* engine, ReplicaNumber number, uint64_t after,
                            Chunks* found) {
    Result<Chunks> result = co_await engine->changed_chunks(number, after);
    EXPECT_TRUE(result) << result.message();
    if (result) *found = std::move(*result);
  }
  Status write_as(uint64_t seq, uint64_t first, uint64_t count, uint64_t value) {
    seq_ = seq - 1;
    return write(first, count, value);
  }
  Status zero_as(uint64_t seq, uint64_t first, uint64_t count, bool keep = false) {
    return wait([=, this] {
      return engine().append_zero(number_, 1, seq, first * kBlockBytes, count * kBlockBytes, keep);
    });
  }
  // Power loss; of what is not synced nothing is left.
  void crash() {
    disk_->crash([](const io::SimWrite&, uint64_t) { return false; });
    ASSERT_TRUE(disk_->open()) << disk_->failure().message();
  }
  bool table_has(const std::string& key) { return disk_->table().content.contains(key); }
};

// --- state ---

TEST_F(ReplicationTest, a_state_is_kept_through_crash_and_destage) {
  start();
  EXPECT_EQ(state(), "");
  ASSERT_TRUE(put("one").is_ok());
  EXPECT_EQ(state(), "one");
  crash();
  EXPECT_EQ(state(), "one");
  ASSERT_TRUE(put(std::string(kMaxReplicaStateBytes, 'x')).is_ok());
  ASSERT_TRUE(write(0, 1, 1).is_ok());
  ASSERT_TRUE(destage().is_ok());
  crash();
  EXPECT_EQ(state(), std::string(kMaxReplicaStateBytes, 'x'));
}

TEST_F(ReplicationTest, a_state_that_is_too_long_is_refused) {
  start();
  ASSERT_TRUE(put("one").is_ok());
  EXPECT_EQ(put(std::string(kMaxReplicaStateBytes + 1, 'x')).code(), Code::kInvalidArgument);
  EXPECT_EQ(state(), "one");
}

TEST_F(ReplicationTest, states_that_are_put_at_once_take_effect_in_their_order) {
  start();
  Status one, two, three;
  disk_->node().start(store_status(engine().put_replica_state(number_, "one"), &one));
  disk_->node().start(store_status(engine().put_replica_state(number_, "two"), &two));
  three = put("three");
  EXPECT_TRUE(one.is_ok() && two.is_ok() && three.is_ok());
  EXPECT_EQ(state(), "three");
  crash();
  EXPECT_EQ(state(), "three");
}

TEST_F(ReplicationTest, an_empty_state_takes_everything_away) {
  start();
  ASSERT_TRUE(put("one").is_ok());
  ASSERT_TRUE(zero_as(1, 0, 16).is_ok());
  ASSERT_TRUE(destage().is_ok());
  EXPECT_TRUE(table_has(zeroed_ranges_key(number_)));
  ASSERT_TRUE(put("").is_ok());
  EXPECT_EQ(state(), "");
  EXPECT_TRUE(zeroed(0).empty());
  EXPECT_FALSE(table_has(replica_state_key(number_)));
  EXPECT_FALSE(table_has(zeroed_ranges_key(number_)));
}

TEST_F(ReplicationTest, what_is_kept_goes_with_the_replica) {
  start();
  ASSERT_TRUE(put("one").is_ok());
  ASSERT_TRUE(zero_as(5, 0, 16).is_ok());
  ASSERT_TRUE(destage().is_ok());
  ASSERT_TRUE(wait([this] { return engine().remove_replica(number_); }).is_ok());
  EXPECT_FALSE(table_has(replica_state_key(number_)));
  EXPECT_FALSE(table_has(zeroed_ranges_key(number_)));
  EXPECT_EQ(engine().replica_state(number_).code(), Code::kNotFound);
  EXPECT_EQ(put("two").code(), Code::kNotFound);
  engine().note_commit_point(number_, 7);
  EXPECT_TRUE(zeroed(0).empty());
  ASSERT_TRUE(reopen());
}

// --- commit point ---

TEST_F(ReplicationTest, a_commit_point_only_rises) {
  start();
  EXPECT_EQ(commit_point(), 0u);
  note(5);
  EXPECT_EQ(commit_point(), 5u);
  note(3);
  EXPECT_EQ(commit_point(), 5u);
}

TEST_F(ReplicationTest, a_commit_point_rides_along_with_the_next_write) {
  start();
  ASSERT_TRUE(put("one").is_ok());
  ASSERT_TRUE(write(0, 1, 1).is_ok());
  note(1);
  crash();
  EXPECT_EQ(commit_point(), 0u);  // no write came
  note(1);
  ASSERT_TRUE(write(1, 1, 1).is_ok());
  EXPECT_EQ(engine().replica(number_)->last_seq, 2u);
  crash();
  EXPECT_EQ(commit_point(), 1u);
  EXPECT_EQ(engine().replica(number_)->last_seq, 2u);
}

TEST_F(ReplicationTest, commit_points_cost_no_write_and_are_carried_now_and_then) {
  start();
  ASSERT_TRUE(put("one").is_ok());
  const auto records = [this] { return engine().metrics().journal_records.get(); };
  const auto batches = [this] { return engine().metrics().journal_batches.get(); };
  note(1);
  pass_time(io::kSecond);
  EXPECT_EQ(batches(), 0u);
  ASSERT_TRUE(write(0, 1, 1).is_ok());
  EXPECT_EQ(records(), 2u);
  note(2);
  ASSERT_TRUE(write(0, 1, 1).is_ok());
  EXPECT_EQ(records(), 3u);  // too soon
  note(3);
  pass_time(100 * io::kMillisecond);
  ASSERT_TRUE(write(0, 1, 1).is_ok());
  EXPECT_EQ(records(), 5u);
  note(3 + 255);
  ASSERT_TRUE(write(0, 1, 1).is_ok());
  EXPECT_EQ(records(), 6u);
  note(3 + 256);
  ASSERT_TRUE(write(0, 1, 1).is_ok());
  EXPECT_EQ(records(), 8u);
  ASSERT_TRUE(write(0, 1, 1).is_ok());
  EXPECT_EQ(records(), 9u);
  EXPECT_EQ(batches(), 6u);
  crash();
  EXPECT_EQ(commit_point(), 3u + 256);
}

TEST_F(ReplicationTest, destage_makes_the_newest_commit_point_durable) {
  start();
  ASSERT_TRUE(put("one").is_ok());
  note(1);
  ASSERT_TRUE(write(0, 1, 1).is_ok());
  note(2);  // too soon for the journal
  ASSERT_TRUE(destage().is_ok());
  crash();
  EXPECT_EQ(commit_point(), 2u);
}

TEST_F(ReplicationTest, destage_that_passes_a_commit_point_of_another_replica_keeps_it) {
  start();
  const ReplicaNumber replicated = number_;
  ASSERT_TRUE(put("one").is_ok());
  ASSERT_TRUE(disk_->run(make_replica(this)));
  ASSERT_NE(number_, replicated);
  engine().note_commit_point(replicated, 9);
  ASSERT_TRUE(write(0, 1, 1).is_ok());
  crash();
  EXPECT_EQ(engine().replica(replicated)->commit_point, 9u);
  ASSERT_TRUE(destage().is_ok());  // of what was replayed
  crash();
  EXPECT_EQ(engine().replica(replicated)->commit_point, 9u);
}

TEST_F(ReplicationTest, a_state_takes_the_commit_point_along) {
  start();
  ASSERT_TRUE(put("one").is_ok());
  note(1);
  ASSERT_TRUE(put("").is_ok());
  crash();
  EXPECT_EQ(commit_point(), 1u);
}

TEST_F(ReplicationTest, the_idle_destage_takes_the_commit_point_along) {
  options_.destage_when_idle = true;
  start();
  ASSERT_TRUE(put("one").is_ok());
  note(1);
  ASSERT_TRUE(write(0, 1, 1).is_ok());
  note(2);
  pass_time(5 * io::kSecond);
  EXPECT_EQ(engine().info().journal_used_bytes, 0u);
  crash();
  EXPECT_EQ(commit_point(), 2u);
}

TEST_F(ReplicationTest,
       a_disk_without_replicated_replicas_has_nothing_that_an_older_volumed_refuses) {
  start();
  ASSERT_TRUE(write(0, 40, 1).is_ok());
  ASSERT_TRUE(zero_as(++seq_, 0, 16).is_ok());
  ASSERT_TRUE(write(0, 1, 1).is_ok());
  ASSERT_TRUE(destage().is_ok());
  EXPECT_TRUE(zeroed(0).empty());
  for (const auto& [key, value] : disk_->table().content) {
    EXPECT_TRUE(key[0] >= 'a' && key[0] <= 'e') << key;
    EXPECT_EQ(value[0], 1) << key;
  }
}

// --- versions ---

TEST_F(ReplicationTest, changed_chunks_are_those_with_a_later_write_from_journal_and_chunks) {
  start();
  ASSERT_TRUE(write_as(10, 0, 1, 1).is_ok());
  ASSERT_TRUE(write_as(11, 33, 1, 1).is_ok());
  ASSERT_TRUE(write_as(12, 64, 16, 1).is_ok());
  const Chunks all = {{0, 10}, {2, 11}, {4, 12}};
  EXPECT_EQ(changed(0), all);
  EXPECT_EQ(changed(10), (Chunks{{2, 11}, {4, 12}}));
  EXPECT_EQ(changed(12), Chunks());
  ASSERT_TRUE(destage().is_ok());
  EXPECT_EQ(changed(0), all);
  ASSERT_TRUE(write_as(13, 1, 1, 1).is_ok());
  EXPECT_EQ(changed(11), (Chunks{{0, 13}, {4, 12}}));
  crash();
  EXPECT_EQ(changed(11), (Chunks{{0, 13}, {4, 12}}));
}

TEST_F(ReplicationTest, changed_chunks_of_one_replica_only_and_of_none) {
  start();
  ASSERT_TRUE(write_as(10, 0, 1, 1).is_ok());
  const ReplicaNumber first = number_;
  ASSERT_TRUE(disk_->run(make_replica(this)));
  EXPECT_EQ(changed(0), Chunks());
  number_ = first;
  EXPECT_EQ(changed(0), (Chunks{{0, 10}}));
  Code code = Code::kOk;
  ASSERT_TRUE(disk_->run([](DiskEngine* engine, Code* into) -> Task<void> {
    Result<Chunks> result = co_await engine->changed_chunks(77, 0);
    *into = result.code();
  }(&engine(), &code)));
  EXPECT_EQ(code, Code::kNotFound);
}

// A resync writes with the versions of its source.
TEST_F(ReplicationTest, a_lower_seq_does_not_lower_the_version) {
  start();
  const std::vector<std::pair<uint64_t, uint64_t>> writes = {{0, 1}, {0, 2}, {0, 16}, {0, 20}};
  for (const auto& [first, count] : writes) {
    for (const bool between : {false, true}) {
      SCOPED_TRACE(std::to_string(count) + (between ? " destaged" : ""));
      ASSERT_TRUE(write_as(100, 0, 1, 5).is_ok());
      if (between) {
        ASSERT_TRUE(destage().is_ok());
      }
      ASSERT_TRUE(write_as(50, first, count, 6).is_ok());
      expect_value(0, 6);
      ASSERT_GE(changed(99).size(), 1u);
      EXPECT_EQ(changed(99)[0], (ChunkVersion{0, 100}));
      ASSERT_TRUE(destage().is_ok());
      crash();
      expect_value(0, 6);
      ASSERT_GE(changed(99).size(), 1u);
      EXPECT_EQ(changed(99)[0], (ChunkVersion{0, 100}));
      EXPECT_EQ(engine().replica(number_)->last_seq, 100u);
      ASSERT_TRUE(zero_as(100, 0, 32).is_ok());
      ASSERT_TRUE(destage().is_ok());
      ASSERT_EQ(changed(0), Chunks());
    }
  }
}

TEST_F(ReplicationTest, a_partial_destage_keeps_the_version_of_an_overwritten_block) {
  options_.destage_round_blocks = 1;
  start();
  ASSERT_TRUE(write_as(1, 3, 1, 4).is_ok());
  ASSERT_TRUE(destage().is_ok());  // the chunk has its place
  ASSERT_TRUE(write_as(100, 0, 1, 5).is_ok());
  ASSERT_TRUE(write_as(50, 0, 1, 6).is_ok());
  // The table's commit of the first round gets through, nothing after it.
  disk_->table().commits_left = disk_->table2().commits_left = 1;
  EXPECT_FALSE(destage().is_ok());
  crash();
  expect_value(0, 6);
  EXPECT_EQ(changed(0), (Chunks{{0, 100}}));
}

// --- zeroed ranges ---

TEST_F(ReplicationTest, zeroed_ranges_are_remembered_through_crash_and_destage) {
  start();
  ASSERT_TRUE(put("one").is_ok());
  ASSERT_TRUE(write_as(1, 0, 64, 1).is_ok());
  ASSERT_TRUE(zero_as(2, 0, 32).is_ok());
  ASSERT_TRUE(zero_as(3, 40, 2).is_ok());
  ASSERT_TRUE(zero_as(4, 50, 2, true).is_ok());
  ASSERT_TRUE(zero_as(5, 1000, 16).is_ok());  // nothing was there
  const Ranges all = {{0, 32, 2}, {40, 2, 3}, {50, 2, 4}, {1000, 16, 5}};
  EXPECT_EQ(zeroed(0), all);
  EXPECT_EQ(zeroed(3), (Ranges{{50, 2, 4}, {1000, 16, 5}}));
  crash();
  EXPECT_EQ(zeroed(0), all);
  EXPECT_EQ(engine().replica(number_)->last_seq, 5u);
  ASSERT_TRUE(destage().is_ok());
  EXPECT_EQ(zeroed(0), all);
  crash();
  EXPECT_EQ(zeroed(0), all);
  EXPECT_EQ(engine().replica(number_)->last_seq, 5u);
  note(3);
  EXPECT_EQ(zeroed(0), (Ranges{{50, 2, 4}, {1000, 16, 5}}));
  ASSERT_TRUE(zero_as(3, 60, 1).is_ok());  // as old as the commit point
  EXPECT_EQ(zeroed(0).size(), 2u);
  note(5);
  EXPECT_TRUE(zeroed(0).empty());
  ASSERT_TRUE(destage().is_ok());
  EXPECT_FALSE(table_has(zeroed_ranges_key(number_)));
  crash();
  EXPECT_TRUE(zeroed(0).empty());
}

TEST_F(ReplicationTest, zeroes_of_a_replica_without_state_are_not_remembered) {
  start();
  ASSERT_TRUE(write(0, 16, 1).is_ok());
  ASSERT_TRUE(zero_as(2, 0, 16).is_ok());
  EXPECT_TRUE(zeroed(0).empty());
  ASSERT_TRUE(zero_as(3, 100, 16).is_ok());
  EXPECT_EQ(engine().replica(number_)->last_seq, 2u);  // it costs nothing, not even a record
  ASSERT_TRUE(put("one").is_ok());
  ASSERT_TRUE(zero_as(4, 100, 16).is_ok());
  EXPECT_EQ(zeroed(0), (Ranges{{100, 16, 4}}));
}

TEST_F(ReplicationTest, a_chunk_that_a_lower_seq_frees_leaves_its_version) {
  start();
  ASSERT_TRUE(put("one").is_ok());
  for (const bool destaged : {false, true}) {
    const uint64_t first = destaged ? 160 : 0;
    ASSERT_TRUE(write_as(100, first, 1, 5).is_ok());
    if (destaged) {
      ASSERT_TRUE(destage().is_ok());
    }
    ASSERT_TRUE(zero_as(50, first, 16).is_ok());
  }
  const Ranges all = {{0, 16, 50}, {0, 16, 100}, {160, 16, 50}, {160, 16, 100}};
  const auto sorted = [this] {
    Ranges found = zeroed(0);
    std::stable_sort(found.begin(), found.end(), [](const auto& a, const auto& b) {
      return a.first_block != b.first_block ? a.first_block < b.first_block : a.seq < b.seq;
    });
    return found;
  };
  EXPECT_EQ(changed(0), Chunks());
  EXPECT_EQ(sorted(), all);
  ASSERT_TRUE(destage().is_ok());
  crash();
  EXPECT_EQ(changed(0), Chunks());
  EXPECT_EQ(sorted(), all);
}

TEST_F(ReplicationTest, zeroed_ranges_end_with_the_volume) {
  start();
  ASSERT_TRUE(disk_->run(make_replica(this, 2 * kMiB + kBlockBytes)));
  ASSERT_TRUE(put("one").is_ok());
  ASSERT_TRUE(write_as(100, 512, 1, 5).is_ok());
  ASSERT_TRUE(zero_as(50, 512, 1).is_ok());
  for (const ZeroedRange& range : zeroed(0)) {
    EXPECT_EQ(range.first_block, 512u);
    EXPECT_EQ(range.blocks, 1u);
  }
  EXPECT_EQ(zeroed(99).size(), 1u);
}

TEST_F(ReplicationTest, zeroed_ranges_stay_few_without_a_commit_point) {
  start();
  ASSERT_TRUE(put("one").is_ok());
  for (uint64_t i = 0; i < 6000; ++i) ASSERT_TRUE(zero_as(i + 1, (i * 977 % 8000) * 2, 1).is_ok());
  EXPECT_LE(zeroed(0).size(), kMostZeroedRanges);
  EXPECT_GT(zeroed(0).size(), kMostZeroedRanges / 4);
  crash();
  EXPECT_LE(zeroed(0).size(), kMostZeroedRanges);
}

// --- checksums ---

TEST_F(ReplicationTest, a_write_takes_the_checksums_of_its_caller) {
  start();
  const uint64_t salt = checksum_salt(engine().replica(number_)->volume);
  for (const uint64_t count : {1, 20, 70}) {
    std::vector<uint64_t> sums;
    for (uint64_t i = 0; i < count; ++i) {
      sim::fill_block(memory(count).data() + i * kBlockBytes, 5 + i, count);
      sums.push_back(block_checksum(salt, 5 + i, memory(count).data() + i * kBlockBytes));
    }
    ASSERT_TRUE(wait([&] {
                  return engine().append_write(number_, 1, ++seq_, 5 * kBlockBytes, memory(count),
                                               sums);
                }).is_ok());
    expect_value(5, count);
    expect_value(5 + count - 1, count);
    // They are taken as they are: wrong ones make the block a damaged one.
    sums.back() ^= uint64_t{1} << 60;
    for (uint64_t i = 0; i < count; ++i)
      sim::fill_block(memory(count).data() + i * kBlockBytes, 5 + i, count);
    ASSERT_TRUE(wait([&] {
                  return engine().append_write(number_, 1, ++seq_, 5 * kBlockBytes, memory(count),
                                               sums);
                }).is_ok());
    EXPECT_EQ(read(5 + count - 1, 1).code(), Code::kDamaged);
  }
}

}  // namespace
}  // namespace cvol::store
