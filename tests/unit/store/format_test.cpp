// Formats: round trips, refusals, and golden bytes that must never change for their version.
#include "volumed/store/format.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <iterator>

#include "volumed/base/bytes.h"
#include "volumed/base/checksum.h"

namespace cvol::store {
namespace {

Uuid uuid(uint8_t first) {
  Uuid made;
  for (std::size_t i = 0; i < made.bytes.size(); ++i)
    made.bytes[i] = static_cast<uint8_t>(first + i);
  return made;
}

Label sample_label() {
  return {uuid(1), uuid(65), 64 * kMiB, 1000};
}

std::string as_string(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// Compares with tests/golden/NAME; CVOL_WRITE_GOLDEN=1 writes it (for a new format version only).
void expect_golden(const std::string& name, const std::string& bytes) {
  const std::string path = std::string(CVOL_GOLDEN_DIR) + "/" + name;
  if (std::getenv("CVOL_WRITE_GOLDEN") != nullptr) {
    std::ofstream(path, std::ios::binary) << bytes;
  }
  std::ifstream file(path, std::ios::binary);
  ASSERT_TRUE(file.good()) << path;
  const std::string golden((std::istreambuf_iterator<char>(file)), {});
  EXPECT_EQ(golden, bytes) << name << ": the bytes of a released format have changed";
}

std::vector<std::byte> sample_batch(bool commit_point = false) {
  std::vector<std::byte> area(kMaxHeaderBlocks * kBlockBytes);
  BatchEncoder encoder(area);
  const uint64_t sums[2] = {0x1111222233334444, 0x5555666677778888};
  encoder.add({RecordType::kWrite, 0, 7, 3, 41, 100, 2, 0}, sums);
  encoder.add({RecordType::kZero, kRecordKeep, 7, 3, 42, 200, 16, 0}, nullptr);
  std::array<uint32_t, 2 * kBlocksPerChunk> chunk_sums;
  for (uint32_t i = 0; i < chunk_sums.size(); ++i) chunk_sums[i] = 0xabc00000 + i;
  encoder.add({RecordType::kMap, 0, 7, 3, 43, 5, 2, 900}, chunk_sums.data());
  encoder.add({RecordType::kMap, kRecordEmpty, 7, 3, 44, 9, 4, 910}, nullptr);
  if (commit_point) encoder.add({RecordType::kCommitPoint, 0, 7, 0, 40, 0, 0, 0}, nullptr);
  BatchHeader header;
  header.lsn = 17;
  header.generation = 2;
  header.position = 1234;
  header.durable_lsn = 16;
  header.tail_lsn = 9;
  header.payload_blocks = 2;
  const std::span<std::byte> sealed = encoder.seal(header, uuid(65));
  return {sealed.begin(), sealed.end()};
}

TEST(Label, round_trip_and_golden_bytes) {
  std::array<std::byte, kBlockBytes> block;
  encode_label(sample_label(), block);
  expect_golden("label.v1", as_string(block));
  Result<Label> label = decode_label(block);
  ASSERT_TRUE(label) << label.message();
  EXPECT_EQ(label->disk, uuid(1));
  EXPECT_EQ(label->journal_bytes, 64 * kMiB);
  EXPECT_EQ(label->capacity_chunks, 1000u);
}

TEST(Label, every_flipped_bit_is_noticed) {
  std::array<std::byte, kBlockBytes> block;
  encode_label(sample_label(), block);
  for (std::size_t byte = 0; byte < block.size(); ++byte) {
    block[byte] ^= std::byte{0x10};
    EXPECT_FALSE(decode_label(block)) << "byte " << byte;
    block[byte] ^= std::byte{0x10};
  }
  EXPECT_FALSE(decode_label(std::span(block).first(100)));
}

TEST(Label, a_newer_version_is_refused_as_such) {
  std::array<std::byte, kBlockBytes> block;
  encode_label(sample_label(), block);
  store_le<uint32_t>(&block[8], kDiskFormatVersion + 1);
  EXPECT_EQ(decode_label(block).code(), Code::kDamaged);  // a flipped bit
  store_le<uint64_t>(&block[kBlockBytes - 8], plain_checksum(std::span(block).first(4088)));
  Result<Label> label = decode_label(block);
  EXPECT_EQ(label.code(), Code::kUnsupported);
  EXPECT_NE(label.message().find("newer"), std::string::npos);
}

TEST(Batch, round_trip_and_golden_bytes) {
  const std::vector<std::byte> area = sample_batch();
  expect_golden("journal_batch.v1", as_string(area));
  Result<DecodedBatch> batch = decode_batch(area, uuid(65));
  ASSERT_TRUE(batch) << batch.message();
  EXPECT_EQ(batch->header.lsn, 17u);
  EXPECT_EQ(batch->header.durable_lsn, 16u);
  ASSERT_EQ(batch->records.size(), 4u);
  EXPECT_EQ(batch->records[0].record.first, 100u);
  EXPECT_EQ(load_le<uint64_t>(&batch->records[0].checksums[8]), 0x5555666677778888u);
  EXPECT_EQ(batch->records[1].record.flags, kRecordKeep);
  EXPECT_EQ(batch->records[2].checksums.size(), 2 * kBlocksPerChunk * 4);
  EXPECT_TRUE(batch->records[3].checksums.empty());
}

TEST(Batch, with_a_commit_point_has_version_2_round_trip_and_golden_bytes) {
  const std::vector<std::byte> area = sample_batch(/*commit_point=*/true);
  expect_golden("journal_batch.v2", as_string(area));
  Result<DecodedBatch> batch = decode_batch(area, uuid(65));
  ASSERT_TRUE(batch) << batch.message();
  EXPECT_EQ(batch->header.version, 2u);
  ASSERT_EQ(batch->records.size(), 5u);
  const Record& record = batch->records[4].record;
  EXPECT_EQ(record.type, RecordType::kCommitPoint);
  EXPECT_EQ(record.replica, 7u);
  EXPECT_EQ(record.seq, 40u);
  EXPECT_TRUE(batch->records[4].checksums.empty());
  EXPECT_EQ(decode_batch(sample_batch(), uuid(65))->header.version, 1u);
}

TEST(Batch, of_version_1_has_no_commit_point) {
  std::vector<std::byte> area = sample_batch(/*commit_point=*/true);
  const auto reseal = [&] {
    store_le<uint64_t>(&area[8], plain_checksum(std::span(area).subspan(16)));
  };
  store_le<uint32_t>(&area[32], 1);
  reseal();
  EXPECT_EQ(decode_batch(area, uuid(65)).code(), Code::kDamaged);
  store_le<uint32_t>(&area[32], kBatchVersion + 1);
  reseal();
  EXPECT_EQ(decode_batch(area, uuid(65)).code(), Code::kUnsupported);
}

TEST(Batch, every_flipped_bit_is_noticed) {
  std::vector<std::byte> area = sample_batch();
  for (std::size_t byte = 0; byte < area.size(); ++byte) {
    area[byte] ^= std::byte{0x01};
    EXPECT_FALSE(decode_batch(area, uuid(65))) << "byte " << byte;
    area[byte] ^= std::byte{0x01};
  }
}

TEST(Batch, of_another_journal_is_no_batch) {
  EXPECT_FALSE(decode_batch(sample_batch(), uuid(66)));
}

TEST(TableRecords, round_trips_and_golden_bytes) {
  ChunkRecord chunk{77, 12, 0x8001, {}};
  for (uint32_t i = 0; i < kBlocksPerChunk; ++i) chunk.checksums[i] = i * 3;
  const std::string value = encode_chunk_record(chunk);
  expect_golden("chunk_record.v1", value);
  Result<ChunkRecord> again = decode_chunk_record(value);
  ASSERT_TRUE(again);
  EXPECT_EQ(again->place, 12u);
  EXPECT_EQ(again->present, 0x8001);
  EXPECT_EQ(again->checksums[15], 45u);

  const ReplicaRecord replica{uuid(1), uuid(2), 10 * kGiB, 99, true};
  expect_golden("replica_record.v1", encode_replica_record(replica));
  Result<ReplicaRecord> replica_again = decode_replica_record(encode_replica_record(replica));
  ASSERT_TRUE(replica_again);
  EXPECT_EQ(replica_again->last_seq, 99u);
  EXPECT_TRUE(replica_again->removing);

  const TableMeta meta{uuid(1), 4, 1000, 5000, 3, 9};
  expect_golden("table_meta.v1", encode_table_meta(meta));
  Result<TableMeta> meta_again = decode_table_meta(encode_table_meta(meta));
  ASSERT_TRUE(meta_again);
  EXPECT_EQ(meta_again->tail_position, 5000u);
  EXPECT_EQ(meta_again->next_replica, 9u);
}

TEST(TableRecords, a_replica_with_a_commit_point_has_version_2) {
  const ReplicaRecord replica{uuid(1), uuid(2), 10 * kGiB, 99, false, 88};
  const std::string value = encode_replica_record(replica);
  expect_golden("replica_record.v2", value);
  Result<ReplicaRecord> again = decode_replica_record(value);
  ASSERT_TRUE(again) << again.message();
  EXPECT_EQ(again->commit_point, 88u);
  EXPECT_EQ(again->last_seq, 99u);
  EXPECT_FALSE(again->removing);
  EXPECT_EQ(decode_replica_record(value.substr(0, 50)).code(), Code::kDamaged);
  EXPECT_EQ(decode_replica_record(value + "x").code(), Code::kDamaged);
  std::string odd = value;
  odd[0] = 1;  // of a length that version 1 does not have
  EXPECT_EQ(decode_replica_record(odd).code(), Code::kDamaged);
  odd[0] = 3;
  EXPECT_EQ(decode_replica_record(odd).code(), Code::kUnsupported);
}

TEST(TableRecords, replica_state_round_trip_golden_bytes_and_bounds) {
  const std::string state("promised \0 7", 12);
  const std::string value = encode_replica_state(state);
  expect_golden("replica_state.v1", value);
  Result<std::string> again = decode_replica_state(value);
  ASSERT_TRUE(again) << again.message();
  EXPECT_EQ(*again, state);
  const std::string longest(kMaxReplicaStateBytes, 'x');
  EXPECT_EQ(*decode_replica_state(encode_replica_state(longest)), longest);
  EXPECT_EQ(decode_replica_state("").code(), Code::kDamaged);
  EXPECT_EQ(decode_replica_state("\1").code(), Code::kDamaged);
  EXPECT_EQ(decode_replica_state(encode_replica_state(longest) + "x").code(), Code::kDamaged);
  EXPECT_EQ(decode_replica_state("\2x").code(), Code::kUnsupported);
}

TEST(TableRecords, zeroed_ranges_round_trip_golden_bytes_and_bounds) {
  const std::vector<ZeroedRange> ranges = {{16, 32, 7}, {1000, 1, 8}};
  const std::string value = encode_zeroed_ranges(ranges);
  expect_golden("zeroed_ranges.v1", value);
  Result<std::vector<ZeroedRange>> again = decode_zeroed_ranges(value);
  ASSERT_TRUE(again) << again.message();
  EXPECT_EQ(*again, ranges);
  EXPECT_EQ(decode_zeroed_ranges("").code(), Code::kDamaged);
  EXPECT_EQ(decode_zeroed_ranges(value.substr(0, value.size() - 1)).code(), Code::kDamaged);
  EXPECT_EQ(decode_zeroed_ranges(value + "x").code(), Code::kDamaged);
  const uint64_t blocks = kMaxVolumeBytes / kBlockBytes;
  for (const ZeroedRange& odd :
       {ZeroedRange{5, 0, 1}, ZeroedRange{0, blocks + 1, 1}, ZeroedRange{UINT64_MAX, 2, 1}}) {
    EXPECT_EQ(decode_zeroed_ranges(encode_zeroed_ranges({&odd, 1})).code(), Code::kDamaged);
  }
  std::string odd = value;
  odd[0] = 2;
  EXPECT_EQ(decode_zeroed_ranges(odd).code(), Code::kUnsupported);
}

TEST(TableKeys, of_what_replication_keeps_sort_behind_the_chunks) {
  uint32_t replica = 0;
  ASSERT_TRUE(parse_replica_state_key(replica_state_key(7), &replica));
  EXPECT_EQ(replica, 7u);
  ASSERT_TRUE(parse_zeroed_ranges_key(zeroed_ranges_key(8), &replica));
  EXPECT_EQ(replica, 8u);
  EXPECT_FALSE(parse_zeroed_ranges_key(replica_state_key(7), &replica));
  EXPECT_FALSE(parse_replica_state_key(scrub_key(), &replica));
  EXPECT_LT(chunk_key(UINT32_MAX, UINT64_MAX, 0), replica_state_key(0));
}

TEST(TableRecords, commit_marks_round_trip_and_golden_bytes) {
  const std::string value = encode_commit_mark(0x123456789abc);
  expect_golden("commit_mark.v1", value);
  Result<uint64_t> again = decode_commit_mark(value);
  ASSERT_TRUE(again);
  EXPECT_EQ(*again, 0x123456789abcu);
  EXPECT_EQ(decode_commit_mark(value + "x").code(), Code::kDamaged);
  EXPECT_EQ(decode_commit_mark("").code(), Code::kDamaged);
  uint32_t slot = 0;
  ASSERT_TRUE(parse_commit_mark_key(commit_mark_key(4095), &slot));
  EXPECT_EQ(slot, 4095u);
  EXPECT_FALSE(parse_commit_mark_key(replica_key(1), &slot));
  EXPECT_LT(chunk_key(UINT32_MAX, UINT64_MAX, 0), commit_mark_key(0));
}

TEST(ScrubRecord, round_trip_golden_bytes_and_bounds) {
  const ScrubRecord record{
      ScrubState::kRunning, ScrubPhase::kJournal, 77, 32 * kMiB, 1, 2, 3, 4, 5, 6, 7, 8};
  const std::string value = encode_scrub_record(record);
  expect_golden("scrub_record.v1", value);
  Result<ScrubRecord> again = decode_scrub_record(value);
  ASSERT_TRUE(again) << again.message();
  EXPECT_EQ(*again, record);
  EXPECT_EQ(decode_scrub_record("").code(), Code::kDamaged);
  EXPECT_EQ(decode_scrub_record(value + "x").code(), Code::kDamaged);
  EXPECT_EQ(decode_scrub_record(value.substr(0, 20)).code(), Code::kDamaged);
  std::string odd = value;
  odd[1] = 3;  // a state that does not exist
  EXPECT_EQ(decode_scrub_record(odd).code(), Code::kDamaged);
  odd = value;
  odd[2] = 9;
  EXPECT_EQ(decode_scrub_record(odd).code(), Code::kDamaged);
  odd = value;
  odd[0] = 2;
  EXPECT_EQ(decode_scrub_record(odd).code(), Code::kUnsupported);
}

TEST(DiskState, round_trip_golden_bytes_and_bounds) {
  std::array<std::byte, kBlockBytes> block;
  const DiskState state{uuid(1), true, 1767225600, "write the journal: Input/output error"};
  encode_disk_state(state, block);
  expect_golden("disk_state.v1", as_string(block));
  Result<DiskState> again = decode_disk_state(block);
  ASSERT_TRUE(again) << again.message();
  EXPECT_EQ(*again, state);
  for (std::size_t byte = 0; byte < block.size(); ++byte) {
    block[byte] ^= std::byte{0x10};
    EXPECT_EQ(decode_disk_state(block).code(), Code::kDamaged) << "byte " << byte;
    block[byte] ^= std::byte{0x10};
  }
  EXPECT_EQ(decode_disk_state(std::span(block).first(100)).code(), Code::kDamaged);
  DiskState wordy = state;
  wordy.reason = std::string(5000, 'x');
  encode_disk_state(wordy, block);
  EXPECT_EQ(decode_disk_state(block)->reason.size(), kMaxReasonBytes);
}

TEST(DiskState, none_is_healthy_and_a_newer_one_is_refused) {
  std::array<std::byte, kBlockBytes> block{};
  EXPECT_FALSE(decode_disk_state({})->failed);
  EXPECT_FALSE(decode_disk_state(block)->failed);
  encode_disk_state({uuid(1), false, 5, ""}, block);
  EXPECT_FALSE(decode_disk_state(block)->failed);
  store_le<uint32_t>(&block[8], kDiskFormatVersion + 1);
  store_le<uint64_t>(&block[kBlockBytes - 8],
                     plain_checksum(std::span(block).first(kBlockBytes - 8)));
  EXPECT_EQ(decode_disk_state(block).code(), Code::kUnsupported);
}

TEST(TableRecords, short_long_and_newer_values_are_refused) {
  const std::string value = encode_chunk_record({});
  EXPECT_EQ(decode_chunk_record("").code(), Code::kDamaged);
  EXPECT_EQ(decode_chunk_record(value.substr(1)).code(), Code::kDamaged);
  EXPECT_EQ(decode_chunk_record(value + "x").code(), Code::kDamaged);
  std::string newer = value;
  newer[0] = 2;
  EXPECT_EQ(decode_chunk_record(newer).code(), Code::kUnsupported);
}

TEST(TableKeys, sort_by_replica_chunk_and_newest_point_first) {
  EXPECT_LT(meta_key(), replica_key(0));
  EXPECT_LT(replica_key(UINT32_MAX), chunk_key(0, 0));
  EXPECT_LT(chunk_key(1, 255), chunk_key(1, 256));
  EXPECT_LT(chunk_key(1, UINT64_MAX), chunk_key(2, 0));
  EXPECT_LT(chunk_key(1, 5, kLivePoint), chunk_key(1, 5, 10));
  uint32_t replica = 0;
  uint64_t chunk = 0;
  uint64_t point = 0;
  ASSERT_TRUE(parse_chunk_key(chunk_key(3, 4, 5), &replica, &chunk, &point));
  EXPECT_EQ(replica, 3u);
  EXPECT_EQ(chunk, 4u);
  EXPECT_EQ(point, 5u);
  EXPECT_FALSE(parse_chunk_key("c123", &replica, &chunk, &point));
}

}  // namespace
}  // namespace cvol::store
