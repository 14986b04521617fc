// What replication keeps with a replica on its disk, as bytes.
#include "replication/node/state.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>

#include "tests/unit/replication/samples.h"
#include "volumed/base/bytes.h"
#include "volumed/base/checksum.h"
#include "volumed/store/format.h"

namespace cvol::replication {
namespace {

KeptState sample_state() {
  KeptState kept;
  Durable& state = kept.durable;
  state.promised = {6};
  state.record = sample_record();
  state.record.revision = 42;
  state.rebuilding = true;
  state.incarnation = 4;
  return kept;
}

TEST(State, comes_back_as_it_was) {
  const Durable state = sample_state().durable;
  auto kept = decode_state(encode_state(sample_state()));
  ASSERT_TRUE(kept) << kept.message();
  const Durable* decoded = &kept->durable;
  EXPECT_EQ(decoded->promised, state.promised);
  EXPECT_EQ(decoded->rebuilding, state.rebuilding);
  EXPECT_EQ(decoded->incarnation, state.incarnation);
  EXPECT_EQ(decoded->record.revision, state.record.revision);
  EXPECT_EQ(decoded->record.epoch, state.record.epoch);
  EXPECT_EQ(decoded->record.primary, state.record.primary);
  EXPECT_EQ(decoded->record.in_sync, state.record.in_sync);
  EXPECT_EQ(decoded->record.members, state.record.members);
  EXPECT_EQ(decoded->record.session, state.record.session);
  EXPECT_EQ(decoded->record.lineage, state.record.lineage);
  EXPECT_EQ(decoded->record.size_bytes, state.record.size_bytes);
  EXPECT_EQ(decoded->record.min_in_sync, state.record.min_in_sync);
}

TEST(State, each_flag_is_kept_by_itself) {
  for (const bool rebuilding : {false, true}) {
    for (const bool given_up : {false, true}) {
      KeptState state = sample_state();
      state.durable.rebuilding = rebuilding;
      state.durable.given_up = given_up;
      auto decoded = decode_state(encode_state(state));
      ASSERT_TRUE(decoded) << decoded.message();
      EXPECT_EQ(decoded->durable.rebuilding, rebuilding);
      EXPECT_EQ(decoded->durable.given_up, given_up);
    }
  }
}

KeptState sample_with_lost_blocks() {
  KeptState state = sample_state();
  state.lost.add({7, 8});
  state.lost.add({1000, 1024});
  return state;
}

TEST(State, lost_blocks_come_back) {
  auto decoded = decode_state(encode_state(sample_with_lost_blocks()));
  ASSERT_TRUE(decoded) << decoded.message();
  EXPECT_EQ(decoded->lost, sample_with_lost_blocks().lost);
  EXPECT_EQ(decoded->durable.record.revision, 42u);
  EXPECT_TRUE(decode_state(encode_state(sample_state()))->lost.empty());
}

void expect_golden(const std::string& bytes, const char* name) {
  const std::string path = std::string(CVOL_GOLDEN_DIR) + "/" + name;
  if (std::getenv("CVOL_WRITE_GOLDEN") != nullptr) std::ofstream(path, std::ios::binary) << bytes;
  std::ifstream file(path, std::ios::binary);
  ASSERT_TRUE(file) << path;
  const std::string golden((std::istreambuf_iterator<char>(file)), {});
  EXPECT_EQ(golden, bytes) << "the bytes of a released format have changed";
}

TEST(State, golden_bytes) {
  expect_golden(encode_state(sample_state()), "replication_state.v1");
  expect_golden(encode_state(sample_with_lost_blocks()), "replication_state.v2");
}

TEST(State, every_truncation_and_every_changed_byte_is_refused) {
  for (const std::string& whole :
       {encode_state(sample_state()), encode_state(sample_with_lost_blocks())}) {
    for (std::size_t size = 0; size < whole.size(); ++size)
      EXPECT_FALSE(decode_state(std::string_view(whole).substr(0, size))) << size;
    for (std::size_t at = 0; at < whole.size(); ++at) {
      for (const int bits : {1, 128, 255}) {
        std::string changed = whole;
        changed[at] = static_cast<char>(changed[at] ^ bits);
        EXPECT_FALSE(decode_state(changed)) << at;
      }
    }
  }
}

// A right checksum over ranges that cannot be.
TEST(State, ranges_of_lost_blocks_that_make_no_sense_are_refused) {
  const std::string whole = encode_state(sample_with_lost_blocks());
  constexpr std::size_t kRanges = 2 + 2 + 3 * 8;
  const auto with = [&](std::size_t at, uint64_t value, std::size_t bytes) {
    std::string changed = whole;
    for (std::size_t i = 0; i < bytes; ++i) changed[at + i] = static_cast<char>(value >> 8 * i);
    const std::size_t content = changed.size() - 8;
    const uint64_t sum =
        plain_checksum(std::span(reinterpret_cast<const std::byte*>(changed.data()), content));
    for (std::size_t i = 0; i < 8; ++i) changed[content + i] = static_cast<char>(sum >> 8 * i);
    return decode_state(changed).code();
  };
  EXPECT_EQ(with(kRanges, 2, 2), Code::kOk);  // as it was
  EXPECT_EQ(with(kRanges, 0, 2), Code::kDamaged);
  EXPECT_EQ(with(kRanges, 65535, 2), Code::kDamaged);
  EXPECT_EQ(with(kRanges + 2, 2000, 8), Code::kDamaged);         // not ascending
  EXPECT_EQ(with(kRanges + 2, 999, 8), Code::kDamaged);          // they touch
  EXPECT_EQ(with(kRanges + 10, 0, 8), Code::kDamaged);           // empty
  EXPECT_EQ(with(kRanges + 26, UINT64_MAX, 8), Code::kDamaged);  // too long
  EXPECT_EQ(with(kRanges + 18, UINT64_MAX, 8), Code::kDamaged);  // too far
}

TEST(State, a_newer_version_is_refused_as_such) {
  std::string newer = encode_state(sample_state());
  newer[0] = static_cast<char>(kStateVersion + 1);
  EXPECT_EQ(decode_state(newer).code(), Code::kUnsupported);
}

TEST(State, fits_with_as_many_replicas_as_there_can_be) {
  KeptState kept = sample_state();
  Durable& state = kept.durable;
  for (uint64_t i = 0; i < kMostLostRanges; ++i) kept.lost.add({2 * i, 2 * i + 1});
  while (state.record.members.size() < 16) state.record.members.push_back({});
  while (state.record.in_sync.size() < 16) state.record.in_sync.push_back({});
  const std::string bytes = encode_state(kept);
  EXPECT_LE(bytes.size(), store::kMaxReplicaStateBytes);
  EXPECT_TRUE(decode_state(bytes));
}

}  // namespace
}  // namespace cvol::replication
