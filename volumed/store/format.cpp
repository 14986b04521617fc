#include "volumed/store/format.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "volumed/base/assert.h"
#include "volumed/base/bytes.h"
#include "volumed/base/checksum.h"

namespace cvol::store {
namespace {

constexpr uint64_t kLabelMagic = 0x4b5349444c4f5643;    // "CVOLDISK"
constexpr uint64_t kJournalMagic = 0x4c4e524a4c4f5643;  // "CVOLJRNL"
constexpr uint64_t kBatchMagic = 0x484354424c4f5643;    // "CVOLBTCH"
constexpr uint64_t kStateMagic = 0x544154534c4f5643;    // "CVOLSTAT"
constexpr std::size_t kLabelChecksumAt = kBlockBytes - 8;

Status newer(std::string_view what, uint32_t version, uint32_t known = kDiskFormatVersion) {
  return Status(Code::kUnsupported,
                fmt::format("{} has format version {}, this volumed knows up to {}; use the newer "
                            "volumed that wrote it",
                            what, version, known));
}

void put_uuid(std::byte* at, const Uuid& uuid) {
  std::memcpy(at, uuid.bytes.data(), 16);
}

Uuid get_uuid(const std::byte* at) {
  Uuid uuid;
  std::memcpy(uuid.bytes.data(), at, 16);
  return uuid;
}

// Label and journal header share one shape; only the magic differs.
void encode_block(uint64_t magic, const Label& label, std::span<std::byte, kBlockBytes> into) {
  std::fill(into.begin(), into.end(), std::byte{0});
  store_le<uint64_t>(&into[0], magic);
  store_le<uint32_t>(&into[8], kDiskFormatVersion);
  put_uuid(&into[16], label.disk);
  put_uuid(&into[32], label.journal);
  store_le<uint64_t>(&into[48], label.journal_bytes);
  store_le<uint64_t>(&into[56], label.capacity_chunks);
  store_le<uint64_t>(&into[kLabelChecksumAt], plain_checksum(into.first(kLabelChecksumAt)));
}

Result<Label> decode_block(uint64_t magic, std::string_view what,
                           std::span<const std::byte> bytes) {
  if (bytes.size() < kBlockBytes || load_le<uint64_t>(&bytes[0]) != magic)
    return Status(Code::kDamaged, fmt::format("{}: the magic number is missing", what));
  const uint32_t version = load_le<uint32_t>(&bytes[8]);
  const bool holds =
      load_le<uint64_t>(&bytes[kLabelChecksumAt]) == plain_checksum(bytes.first(kLabelChecksumAt));
  if (holds && version > kDiskFormatVersion) return newer(what, version);
  if (!holds || version == 0)
    return Status(Code::kDamaged, fmt::format("{}: the checksum does not hold", what));
  Label label;
  label.disk = get_uuid(&bytes[16]);
  label.journal = get_uuid(&bytes[32]);
  label.journal_bytes = load_le<uint64_t>(&bytes[48]);
  label.capacity_chunks = load_le<uint64_t>(&bytes[56]);
  if (label.journal_bytes % kBlockBytes != 0 || label.journal_bytes < kMinJournalBytes ||
      label.journal_bytes / kBlockBytes > UINT32_MAX || label.capacity_chunks == 0 ||
      label.capacity_chunks >= UINT32_MAX) {
    return Status(Code::kDamaged, fmt::format("{}: a size in it is impossible", what));
  }
  return label;
}

}  // namespace

void encode_label(const Label& label, std::span<std::byte, kBlockBytes> into) {
  encode_block(kLabelMagic, label, into);
}

Result<Label> decode_label(std::span<const std::byte> bytes) {
  return decode_block(kLabelMagic, "disk label", bytes);
}

void encode_journal_header(const Label& label, std::span<std::byte, kBlockBytes> into) {
  encode_block(kJournalMagic, label, into);
}

Result<Label> decode_journal_header(std::span<const std::byte> bytes) {
  return decode_block(kJournalMagic, "journal header", bytes);
}

Status check_journal_header(const Label& header, const Label& label) {
  if (header.disk != label.disk || header.journal != label.journal ||
      header.journal_bytes != label.journal_bytes) {
    return Status(Code::kDamaged, "journal header: it belongs to another disk");
  }
  return Status::ok();
}

// --- batches ---
// Fixed part: 0 magic, 8 checksum, 16 journal uuid, 32 version, 36 header blocks, 40 payload
// blocks, 44 record count, 48 record bytes, 56 lsn, 64 generation, 72 position, 80 durable lsn,
// 88 tail lsn, 96..112 reserved (0).

std::size_t record_checksum_bytes(const Record& record) {
  switch (record.type) {
    case RecordType::kWrite:
      return std::size_t{record.count} * 8;
    case RecordType::kZero:
    case RecordType::kCommitPoint:
      return 0;
    case RecordType::kMap:
      return (record.flags & kRecordEmpty) != 0 ? 0
                                                : std::size_t{record.count} * kBlocksPerChunk * 4;
  }
  return 0;
}

void BatchEncoder::add(const Record& record, const void* checksums) {
  CVOL_ASSERT(fits(record_bytes(record)));
  if (record.type == RecordType::kCommitPoint) version_ = 2;
  std::byte* at = area_.data() + used_;
  store_le<uint8_t>(at, static_cast<uint8_t>(record.type));
  store_le<uint8_t>(at + 1, record.flags);
  store_le<uint16_t>(at + 2, 0);
  store_le<uint32_t>(at + 4, record.replica);
  store_le<uint64_t>(at + 8, record.epoch);
  store_le<uint64_t>(at + 16, record.seq);
  store_le<uint64_t>(at + 24, record.first);
  store_le<uint32_t>(at + 32, record.count);
  store_le<uint32_t>(at + 36, record.payload);
  const std::size_t sums = record_checksum_bytes(record);
  if (sums != 0) std::memcpy(at + kRecordFixedBytes, checksums, sums);
  used_ += kRecordFixedBytes + sums;
  ++count_;
}

std::span<std::byte> BatchEncoder::seal(BatchHeader header, const Uuid& journal) {
  const std::size_t blocks = (used_ + kBlockBytes - 1) / kBlockBytes;
  CVOL_ASSERT(blocks <= kMaxHeaderBlocks && header.payload_blocks <= kMaxPayloadBlocks);
  std::span<std::byte> area = area_.first(blocks * kBlockBytes);
  std::memset(area.data() + used_, 0, area.size() - used_);
  std::byte* at = area.data();
  store_le<uint64_t>(at, kBatchMagic);
  put_uuid(at + 16, journal);
  store_le<uint32_t>(at + 32, version_);
  store_le<uint32_t>(at + 36, static_cast<uint32_t>(blocks));
  store_le<uint32_t>(at + 40, header.payload_blocks);
  store_le<uint32_t>(at + 44, count_);
  store_le<uint32_t>(at + 48, static_cast<uint32_t>(used_ - kBatchFixedBytes));
  store_le<uint32_t>(at + 52, 0);
  store_le<uint64_t>(at + 56, header.lsn);
  store_le<uint64_t>(at + 64, header.generation);
  store_le<uint64_t>(at + 72, header.position);
  store_le<uint64_t>(at + 80, header.durable_lsn);
  store_le<uint64_t>(at + 88, header.tail_lsn);
  std::memset(at + 96, 0, 16);
  store_le<uint64_t>(at + 8, plain_checksum(area.subspan(16)));
  return area;
}

Result<BatchHeader> peek_batch(std::span<const std::byte> block, const Uuid& journal) {
  const Status none(Code::kDamaged, "no journal batch");
  if (block.size() < kBatchFixedBytes || load_le<uint64_t>(&block[0]) != kBatchMagic) return none;
  if (get_uuid(&block[16]) != journal) return none;
  const uint32_t version = load_le<uint32_t>(&block[32]);
  if (version > kBatchVersion) return newer("journal batch", version, kBatchVersion);
  if (version == 0) return none;
  BatchHeader header;
  header.version = version;
  header.header_blocks = load_le<uint32_t>(&block[36]);
  header.payload_blocks = load_le<uint32_t>(&block[40]);
  header.record_count = load_le<uint32_t>(&block[44]);
  header.record_bytes = load_le<uint32_t>(&block[48]);
  header.lsn = load_le<uint64_t>(&block[56]);
  header.generation = load_le<uint64_t>(&block[64]);
  header.position = load_le<uint64_t>(&block[72]);
  header.durable_lsn = load_le<uint64_t>(&block[80]);
  header.tail_lsn = load_le<uint64_t>(&block[88]);
  if (header.header_blocks == 0 || header.header_blocks > kMaxHeaderBlocks ||
      header.payload_blocks > kMaxPayloadBlocks ||
      header.record_bytes > header.header_blocks * kBlockBytes - kBatchFixedBytes) {
    return none;
  }
  return header;
}

namespace {

// Bounds of one record against its batch.
bool record_holds(const Record& record, const BatchHeader& header) {
  if (record.type == RecordType::kCommitPoint) {
    return header.version >= 2 && record.flags == 0 && record.epoch == 0 && record.first == 0 &&
           record.count == 0 && record.payload == 0;
  }
  if (record.count == 0 || record.first > UINT64_MAX / kChunkBytes - record.count) return false;
  switch (record.type) {
    case RecordType::kWrite:
      return record.payload <= header.payload_blocks &&
             record.count <= header.payload_blocks - record.payload;
    case RecordType::kZero:
      return record.count <= kGiB / kBlockBytes;
    case RecordType::kMap:
      return record.payload <= UINT32_MAX - record.count;
    case RecordType::kCommitPoint:
      break;
  }
  return false;
}

}  // namespace

Result<DecodedBatch> decode_batch(std::span<const std::byte> area, const Uuid& journal) {
  Result<BatchHeader> header = peek_batch(area, journal);
  if (!header) return header.status();
  const Status damaged(Code::kDamaged, fmt::format("journal batch {} is damaged", header->lsn));
  if (area.size() != header->header_blocks * kBlockBytes) return damaged;
  if (load_le<uint64_t>(&area[8]) != plain_checksum(area.subspan(16))) return damaged;
  DecodedBatch batch{*header, {}};
  std::span<const std::byte> rest = area.subspan(kBatchFixedBytes, header->record_bytes);
  while (!rest.empty()) {
    if (rest.size() < kRecordFixedBytes) return damaged;
    DecodedRecord decoded;
    Record& record = decoded.record;
    record.type = static_cast<RecordType>(load_le<uint8_t>(&rest[0]));
    record.flags = load_le<uint8_t>(&rest[1]);
    record.replica = load_le<uint32_t>(&rest[4]);
    record.epoch = load_le<uint64_t>(&rest[8]);
    record.seq = load_le<uint64_t>(&rest[16]);
    record.first = load_le<uint64_t>(&rest[24]);
    record.count = load_le<uint32_t>(&rest[32]);
    record.payload = load_le<uint32_t>(&rest[36]);
    if (!record_holds(record, *header)) return damaged;
    const std::size_t sums = record_checksum_bytes(record);
    if (rest.size() - kRecordFixedBytes < sums) return damaged;
    decoded.checksums = rest.subspan(kRecordFixedBytes, sums);
    batch.records.push_back(decoded);
    rest = rest.subspan(kRecordFixedBytes + sums);
  }
  if (batch.records.size() != header->record_count) return damaged;
  return batch;
}

// --- table ---

namespace {

// Meta and replicas sort before the chunks, so that one scan knows the replicas first.
constexpr char kMetaKind = 'a';
constexpr char kReplicaKind = 'b';
constexpr char kChunkKind = 'c';
constexpr char kMarkKind = 'd';
constexpr char kScrubKind = 'e';
constexpr char kStateKind = 'f';
constexpr char kZeroedKind = 'g';
constexpr uint8_t kValueVersion = 1;

template <typename T>
void append_be(std::string& to, T value) {
  const T swapped = swap_bytes(value);
  to.append(reinterpret_cast<const char*>(&swapped), sizeof swapped);
}

template <typename T>
void append_le(std::string& to, T value) {
  to.append(reinterpret_cast<const char*>(&value), sizeof value);
}

const std::byte* bytes_of(std::string_view text) {
  return reinterpret_cast<const std::byte*>(text.data());
}

Status check_version(std::string_view value, std::string_view what,
                     uint8_t newest = kValueVersion) {
  if (value.empty()) return Status(Code::kDamaged, fmt::format("{}: it is empty", what));
  const auto version = static_cast<uint8_t>(value[0]);
  if (version > newest) return newer(what, version, newest);
  if (version == 0) return Status(Code::kDamaged, fmt::format("{}: it has version 0", what));
  return Status::ok();
}

Status check_size(std::string_view value, std::size_t size, std::string_view what) {
  if (value.size() == size) return Status::ok();
  return Status(Code::kDamaged, fmt::format("{}: it has {} bytes", what, value.size()));
}

Status check_value(std::string_view value, std::size_t size, std::string_view what) {
  CVOL_TRY(check_version(value, what));
  return check_size(value, size, what);
}

std::string kind_key(char kind, uint32_t replica) {
  std::string key(1, kind);
  append_be(key, replica);
  return key;
}

bool parse_kind_key(std::string_view key, char kind, uint32_t* replica) {
  if (key.size() != 5 || key[0] != kind) return false;
  *replica = load_be<uint32_t>(bytes_of(key) + 1);
  return true;
}

constexpr std::size_t kChunkValueBytes = 1 + 8 + 4 + 2 + kBlocksPerChunk * 4;
constexpr std::size_t kReplicaValueBytes = 1 + 16 + 16 + 8 + 8 + 1;  // version 1
constexpr uint8_t kReplicaVersion = 2;                               // has the commit point behind
constexpr std::size_t kZeroedRangeBytes = 3 * 8;
constexpr std::size_t kMetaValueBytes = 1 + 16 + 8 + 8 + 8 + 8 + 4;
constexpr std::size_t kMarkValueBytes = 1 + 8;
constexpr std::size_t kScrubValueBytes = 1 + 1 + 1 + 4 + 9 * 8;

}  // namespace

std::string meta_key() {
  return std::string(1, kMetaKind);
}

std::string replica_key(uint32_t replica) {
  return kind_key(kReplicaKind, replica);
}

std::string chunk_prefix(uint32_t replica) {
  return kind_key(kChunkKind, replica);
}

std::string chunk_key(uint32_t replica, uint64_t chunk, uint64_t point) {
  std::string key = chunk_prefix(replica);
  append_be(key, chunk);
  append_be(key, ~point);  // newest first
  return key;
}

bool parse_replica_key(std::string_view key, uint32_t* replica) {
  return parse_kind_key(key, kReplicaKind, replica);
}

bool parse_chunk_key(std::string_view key, uint32_t* replica, uint64_t* chunk, uint64_t* point) {
  if (key.size() != 21 || key[0] != kChunkKind) return false;
  *replica = load_be<uint32_t>(bytes_of(key) + 1);
  *chunk = load_be<uint64_t>(bytes_of(key) + 5);
  *point = ~load_be<uint64_t>(bytes_of(key) + 13);
  return true;
}

std::string commit_mark_prefix() {
  return std::string(1, kMarkKind);
}

std::string commit_mark_key(uint32_t slot) {
  return kind_key(kMarkKind, slot);
}

bool parse_commit_mark_key(std::string_view key, uint32_t* slot) {
  return parse_kind_key(key, kMarkKind, slot);
}

std::string encode_commit_mark(uint64_t number) {
  std::string value;
  append_le(value, kValueVersion);
  append_le(value, number);
  return value;
}

Result<uint64_t> decode_commit_mark(std::string_view value) {
  CVOL_TRY(check_value(value, kMarkValueBytes, "commit mark"));
  return load_le<uint64_t>(bytes_of(value) + 1);
}

std::string encode_chunk_record(const ChunkRecord& record) {
  std::string value;
  value.reserve(kChunkValueBytes);
  append_le(value, kValueVersion);
  append_le(value, record.version);
  append_le(value, record.place);
  append_le(value, record.present);
  for (uint32_t sum : record.checksums) append_le(value, sum);
  return value;
}

Result<ChunkRecord> decode_chunk_record(std::string_view value) {
  CVOL_TRY(check_value(value, kChunkValueBytes, "chunk record"));
  const std::byte* at = bytes_of(value);
  ChunkRecord record;
  record.version = load_le<uint64_t>(at + 1);
  record.place = load_le<uint32_t>(at + 9);
  record.present = load_le<uint16_t>(at + 13);
  for (std::size_t i = 0; i < kBlocksPerChunk; ++i)
    record.checksums[i] = load_le<uint32_t>(at + 15 + i * 4);
  return record;
}

std::string encode_replica_record(const ReplicaRecord& record) {
  std::string value;
  append_le<uint8_t>(value, record.commit_point == 0 ? 1 : 2);
  value.append(reinterpret_cast<const char*>(record.volume.bytes.data()), 16);
  value.append(reinterpret_cast<const char*>(record.replica.bytes.data()), 16);
  append_le(value, record.size_bytes);
  append_le(value, record.last_seq);
  append_le<uint8_t>(value, record.removing ? 1 : 0);
  if (record.commit_point != 0) append_le(value, record.commit_point);
  return value;
}

Result<ReplicaRecord> decode_replica_record(std::string_view value) {
  CVOL_TRY(check_version(value, "replica record", kReplicaVersion));
  const bool has_commit_point = value[0] == kReplicaVersion;
  CVOL_TRY(check_size(value, kReplicaValueBytes + (has_commit_point ? 8 : 0), "replica record"));
  const std::byte* at = bytes_of(value);
  ReplicaRecord record;
  record.volume = get_uuid(at + 1);
  record.replica = get_uuid(at + 17);
  record.size_bytes = load_le<uint64_t>(at + 33);
  record.last_seq = load_le<uint64_t>(at + 41);
  record.removing = load_le<uint8_t>(at + 49) != 0;
  if (has_commit_point) record.commit_point = load_le<uint64_t>(at + kReplicaValueBytes);
  if (record.size_bytes % kBlockBytes != 0 || record.size_bytes > kMaxVolumeBytes)
    return Status(Code::kDamaged, "replica record: its size is impossible");
  return record;
}

std::string encode_table_meta(const TableMeta& meta) {
  std::string value;
  append_le(value, kValueVersion);
  value.append(reinterpret_cast<const char*>(meta.disk.bytes.data()), 16);
  append_le(value, meta.generation);
  append_le(value, meta.tail_lsn);
  append_le(value, meta.tail_position);
  append_le(value, meta.tail_generation);
  append_le(value, meta.next_replica);
  return value;
}

Result<TableMeta> decode_table_meta(std::string_view value) {
  CVOL_TRY(check_value(value, kMetaValueBytes, "table meta record"));
  const std::byte* at = bytes_of(value);
  TableMeta meta;
  meta.disk = get_uuid(at + 1);
  meta.generation = load_le<uint64_t>(at + 17);
  meta.tail_lsn = load_le<uint64_t>(at + 25);
  meta.tail_position = load_le<uint64_t>(at + 33);
  meta.tail_generation = load_le<uint64_t>(at + 41);
  meta.next_replica = load_le<uint32_t>(at + 49);
  return meta;
}

std::string replica_state_key(uint32_t replica) {
  return kind_key(kStateKind, replica);
}

bool parse_replica_state_key(std::string_view key, uint32_t* replica) {
  return parse_kind_key(key, kStateKind, replica);
}

std::string encode_replica_state(std::string_view state) {
  CVOL_ASSERT(!state.empty() && state.size() <= kMaxReplicaStateBytes);
  std::string value;
  append_le(value, kValueVersion);
  value.append(state);
  return value;
}

Result<std::string> decode_replica_state(std::string_view value) {
  CVOL_TRY(check_version(value, "replica state"));
  if (value.size() == 1 || value.size() > 1 + kMaxReplicaStateBytes)
    return Status(Code::kDamaged, fmt::format("replica state: it has {} bytes", value.size()));
  return std::string(value.substr(1));
}

std::string zeroed_ranges_key(uint32_t replica) {
  return kind_key(kZeroedKind, replica);
}

bool parse_zeroed_ranges_key(std::string_view key, uint32_t* replica) {
  return parse_kind_key(key, kZeroedKind, replica);
}

std::string encode_zeroed_ranges(std::span<const ZeroedRange> ranges) {
  std::string value;
  value.reserve(1 + ranges.size() * kZeroedRangeBytes);
  append_le(value, kValueVersion);
  for (const ZeroedRange& range : ranges) {
    append_le(value, range.first_block);
    append_le(value, range.blocks);
    append_le(value, range.seq);
  }
  return value;
}

Result<std::vector<ZeroedRange>> decode_zeroed_ranges(std::string_view value) {
  CVOL_TRY(check_version(value, "zeroed ranges"));
  if (value.size() % kZeroedRangeBytes != 1)
    return Status(Code::kDamaged, fmt::format("zeroed ranges: they have {} bytes", value.size()));
  std::vector<ZeroedRange> ranges;
  ranges.reserve(value.size() / kZeroedRangeBytes);
  constexpr uint64_t kMostBlocks = kMaxVolumeBytes / kBlockBytes;
  for (std::size_t at = 1; at < value.size(); at += kZeroedRangeBytes) {
    const std::byte* bytes = bytes_of(value) + at;
    const ZeroedRange range{load_le<uint64_t>(bytes), load_le<uint64_t>(bytes + 8),
                            load_le<uint64_t>(bytes + 16)};
    if (range.blocks == 0 || range.blocks > kMostBlocks ||
        range.first_block > kMostBlocks - range.blocks) {
      return Status(Code::kDamaged, "zeroed ranges: one of them is impossible");
    }
    ranges.push_back(range);
  }
  return ranges;
}

std::string scrub_key() {
  return std::string(1, kScrubKind);
}

std::string encode_scrub_record(const ScrubRecord& record) {
  std::string value;
  append_le(value, kValueVersion);
  append_le(value, static_cast<uint8_t>(record.state));
  append_le(value, static_cast<uint8_t>(record.phase));
  append_le(value, record.next_place);
  for (const uint64_t word :
       {record.rate, record.started, record.stopped, record.bytes, record.damaged, record.completed,
        record.completed_started, record.completed_bytes, record.completed_damaged}) {
    append_le(value, word);
  }
  return value;
}

Result<ScrubRecord> decode_scrub_record(std::string_view value) {
  CVOL_TRY(check_value(value, kScrubValueBytes, "scrub record"));
  const std::byte* at = bytes_of(value);
  const auto state = load_le<uint8_t>(at + 1);
  const auto phase = load_le<uint8_t>(at + 2);
  if (state > static_cast<uint8_t>(ScrubState::kStopped) ||
      phase > static_cast<uint8_t>(ScrubPhase::kTable)) {
    return Status(Code::kDamaged, "scrub record: a state in it is impossible");
  }
  ScrubRecord record;
  record.state = static_cast<ScrubState>(state);
  record.phase = static_cast<ScrubPhase>(phase);
  record.next_place = load_le<uint32_t>(at + 3);
  at += 7;
  for (uint64_t* word : {&record.rate, &record.started, &record.stopped, &record.bytes,
                         &record.damaged, &record.completed, &record.completed_started,
                         &record.completed_bytes, &record.completed_damaged}) {
    *word = load_le<uint64_t>(at);
    at += 8;
  }
  return record;
}

// --- state block ---
// 0 magic, 8 version, 12 state (0 healthy, 1 failed), 16 disk uuid, 32 time, 40 bytes of the
// reason, 44 the reason, 4088 checksum.

namespace {

constexpr std::size_t kReasonAt = 44;

}  // namespace

void encode_disk_state(const DiskState& state, std::span<std::byte, kBlockBytes> into) {
  std::fill(into.begin(), into.end(), std::byte{0});
  const std::size_t reason_bytes = std::min(state.reason.size(), kMaxReasonBytes);
  store_le<uint64_t>(&into[0], kStateMagic);
  store_le<uint32_t>(&into[8], kDiskFormatVersion);
  store_le<uint32_t>(&into[12], state.failed ? 1 : 0);
  put_uuid(&into[16], state.disk);
  store_le<uint64_t>(&into[32], state.time);
  store_le<uint32_t>(&into[40], static_cast<uint32_t>(reason_bytes));
  std::memcpy(&into[kReasonAt], state.reason.data(), reason_bytes);
  store_le<uint64_t>(&into[kLabelChecksumAt], plain_checksum(into.first(kLabelChecksumAt)));
}

Result<DiskState> decode_disk_state(std::span<const std::byte> bytes) {
  if (std::all_of(bytes.begin(), bytes.end(), [](std::byte byte) { return byte == std::byte{0}; }))
    return DiskState{};
  const Status damaged(Code::kDamaged, "state block: the checksum does not hold");
  if (bytes.size() < kBlockBytes || load_le<uint64_t>(&bytes[0]) != kStateMagic) return damaged;
  const bool holds =
      load_le<uint64_t>(&bytes[kLabelChecksumAt]) == plain_checksum(bytes.first(kLabelChecksumAt));
  const uint32_t version = load_le<uint32_t>(&bytes[8]);
  if (!holds) return damaged;
  if (version > kDiskFormatVersion) return newer("state block", version);
  const uint32_t state = load_le<uint32_t>(&bytes[12]);
  const uint32_t reason_bytes = load_le<uint32_t>(&bytes[40]);
  if (version == 0 || state > 1 || reason_bytes > kMaxReasonBytes) return damaged;
  DiskState decoded;
  decoded.failed = state == 1;
  decoded.disk = get_uuid(&bytes[16]);
  decoded.time = load_le<uint64_t>(&bytes[32]);
  decoded.reason.assign(reinterpret_cast<const char*>(&bytes[kReasonAt]), reason_bytes);
  return decoded;
}

}  // namespace cvol::store
