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

Durable sample_state() {
  Durable state;
  state.promised = {6};
  state.record = sample_record();
  state.record.revision = 42;
  state.rebuilding = true;
  state.incarnation = 4;
  return state;
}

TEST(State, comes_back_as_it_was) {
  const Durable state = sample_state();
  auto decoded = decode_state(encode_state(state));
  ASSERT_TRUE(decoded) << decoded.message();
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
      Durable state = sample_state();
      state.rebuilding = rebuilding;
      state.given_up = given_up;
      auto decoded = decode_state(encode_state(state));
      ASSERT_TRUE(decoded) << decoded.message();
      EXPECT_EQ(decoded->rebuilding, rebuilding);
      EXPECT_EQ(decoded->given_up, given_up);
    }
  }
}

TEST(State, golden_bytes) {
  const std::string bytes = encode_state(sample_state());
  const std::string path = std::string(CVOL_GOLDEN_DIR) + "/replication_state.v1";
  if (std::getenv("CVOL_WRITE_GOLDEN") != nullptr) std::ofstream(path, std::ios::binary) << bytes;
  std::ifstream file(path, std::ios::binary);
  ASSERT_TRUE(file) << path;
  const std::string golden((std::istreambuf_iterator<char>(file)), {});
  EXPECT_EQ(golden, bytes) << "the bytes of a released format have changed";
}

TEST(State, every_truncation_and_every_changed_byte_is_refused) {
  const std::string whole = encode_state(sample_state());
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

TEST(State, a_newer_version_is_refused_as_such) {
  std::string newer = encode_state(sample_state());
  newer[0] = static_cast<char>(kStateVersion + 1);
  EXPECT_EQ(decode_state(newer).code(), Code::kUnsupported);
}

TEST(State, fits_with_as_many_replicas_as_there_can_be) {
  Durable state = sample_state();
  while (state.record.members.size() < 16) state.record.members.push_back({});
  while (state.record.in_sync.size() < 16) state.record.in_sync.push_back({});
  const std::string bytes = encode_state(state);
  EXPECT_LE(bytes.size(), store::kMaxReplicaStateBytes);
  EXPECT_TRUE(decode_state(bytes));
}

}  // namespace
}  // namespace cvol::replication
