// Every byte that a disk holds (docs/formats.md): label, journal header, journal batches, and the
// records of the chunk table. Pure functions over bytes; all integers little-endian unless said.
//
// Decoders trust nothing: they answer kDamaged for bytes that do not hold together and
// kUnsupported for a newer version, and never read beyond the span.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "volumed/base/result.h"
#include "volumed/base/units.h"
#include "volumed/base/uuid.h"

namespace cvol::store {

constexpr uint32_t kDiskFormatVersion = 1;  // of label, journal header and state block
// Of a journal batch. A batch is 2 if it has a commit point, else 1.
constexpr uint32_t kBatchVersion = 2;
constexpr uint64_t kMinJournalBytes = kMiB;

// --- label: the first 4 KiB of file `label`, and the second once more ---
//
// What stays the same in all versions of label, journal header and batch: where the magic, the
// version, the checksum and (batch) the count of header blocks are. So a newer version is told from
// an older one with a flipped bit.

constexpr uint64_t kLabelCopies = 2;

struct Label {
  Uuid disk;
  Uuid journal;                  // identity of the journal's batches
  uint64_t journal_bytes = 0;    // of file `journal`, its header block included
  uint64_t capacity_chunks = 0;  // most chunks that file `chunks` may hold
};

void encode_label(const Label& label, std::span<std::byte, kBlockBytes> into);
Result<Label> decode_label(std::span<const std::byte> bytes);

// --- journal header: the first 4 KiB of file `journal`; the ring follows ---

void encode_journal_header(const Label& label, std::span<std::byte, kBlockBytes> into);
// kDamaged if the bytes do not hold together: the header follows from the label then.
Result<Label> decode_journal_header(std::span<const std::byte> bytes);
// Does a header that holds together belong to this label's disk?
Status check_journal_header(const Label& header, const Label& label);

// --- journal batch: header area (whole 4 KiB blocks), then payload blocks ---

struct BatchHeader {
  uint32_t version = 1;      // as read
  uint64_t lsn = 0;          // consecutive
  uint64_t generation = 0;   // raised at every open of the disk
  uint64_t position = 0;     // of the header area, in blocks since the ring's beginning of time
  uint64_t durable_lsn = 0;  // highest LSN known durable when this batch was made
  uint64_t tail_lsn = 0;     // first LSN that was not yet destaged
  uint32_t header_blocks = 0;
  uint32_t payload_blocks = 0;
  uint32_t record_count = 0;
  uint32_t record_bytes = 0;  // of the records, after the fixed part
};

enum class RecordType : uint8_t {
  kWrite = 1,  // `count` blocks from block `first`; payload at `payload`; one checksum each
  kZero = 2,   // `count` blocks from block `first` read as zeroes
  kMap = 3,    // `count` chunks from chunk `first` lie at places from `payload` on
  // `seq` is the commit point of the replica; nothing else but its number is set.
  kCommitPoint = 4
};

constexpr uint8_t kRecordKeep = 1;   // kZero: keep the chunks allocated
constexpr uint8_t kRecordEmpty = 2;  // kMap: the chunks read as zeroes; no checksums follow

struct Record {
  RecordType type = RecordType::kWrite;
  uint8_t flags = 0;
  uint32_t replica = 0;
  uint64_t epoch = 0;
  uint64_t seq = 0;
  uint64_t first = 0;    // block (kWrite, kZero) or chunk (kMap)
  uint32_t count = 0;    // blocks or chunks
  uint32_t payload = 0;  // block offset in the payload area (kWrite), or place (kMap)
};

constexpr std::size_t kBatchFixedBytes = 112;
constexpr std::size_t kRecordFixedBytes = 40;
constexpr uint32_t kMaxHeaderBlocks = 16;
constexpr uint32_t kMaxPayloadBlocks = 2048;  // 8 MiB

// Bytes of checksums behind a record.
std::size_t record_checksum_bytes(const Record& record);
inline std::size_t record_bytes(const Record& record) {
  return kRecordFixedBytes + record_checksum_bytes(record);
}

// Appends records to a header area, then seals it. `area` is zeroed memory of kMaxHeaderBlocks.
class BatchEncoder {
 public:
  explicit BatchEncoder(std::span<std::byte> area) : area_(area) {}
  bool fits(std::size_t more_record_bytes) const {
    return used_ + more_record_bytes <= area_.size();
  }
  // `checksums`: 8 bytes each for kWrite, 4 bytes each for kMap.
  void add(const Record& record, const void* checksums);
  // Fills in the fixed part; returns the area to write, whole blocks.
  std::span<std::byte> seal(BatchHeader header, const Uuid& journal);
  uint32_t record_count() const { return count_; }

 private:
  std::span<std::byte> area_;
  uint32_t version_ = 1;
  std::size_t used_ = kBatchFixedBytes;
  uint32_t count_ = 0;
};

// Looks at one block: is it the first of a batch of this journal, as far as the fixed part goes?
// The checksum is not verified yet: decode_batch does, with the whole header area.
Result<BatchHeader> peek_batch(std::span<const std::byte> block, const Uuid& journal);

// A record of a decoded batch with its checksums; spans point into the area.
struct DecodedRecord {
  Record record;
  std::span<const std::byte> checksums;
};

struct DecodedBatch {
  BatchHeader header;
  std::vector<DecodedRecord> records;
};

// `area`: header_blocks * 4 KiB. kDamaged if the checksum or a bound does not hold.
Result<DecodedBatch> decode_batch(std::span<const std::byte> area, const Uuid& journal);

// --- chunk table: keys and values of RocksDB ---

struct ChunkRecord {
  uint64_t version = 0;  // seq of the last write
  uint32_t place = 0;    // chunk slot in file `chunks`
  uint16_t present = 0;  // bit i: block i has data; others read as zeroes
  std::array<uint32_t, kBlocksPerChunk> checksums{};
};

struct ReplicaRecord {
  Uuid volume;
  Uuid replica;
  uint64_t size_bytes = 0;
  uint64_t last_seq = 0;
  bool removing = false;      // its chunks are being given back
  uint64_t commit_point = 0;  // 0: none was ever noted (version 1)
};

constexpr std::size_t kMaxReplicaStateBytes = 4 * kKiB;

constexpr std::size_t kMostZeroedRanges = 4096;  // kept of one replica

// Blocks of a replica that were zeroed, by operations of `seq` and before (zeroed_ranges.h).
struct ZeroedRange {
  uint64_t first_block = 0;
  uint64_t blocks = 0;
  uint64_t seq = 0;
  bool operator==(const ZeroedRange&) const = default;
};

struct TableMeta {
  Uuid disk;
  uint64_t generation = 0;
  uint64_t tail_lsn = 1;         // first LSN to replay
  uint64_t tail_position = 0;    // where it is, or will be
  uint64_t tail_generation = 0;  // of the last batch before it: older ones behind it are stale
  uint32_t next_replica = 1;
};

constexpr uint64_t kLivePoint = UINT64_MAX;  // snapshot point of the live volume

std::string chunk_key(uint32_t replica, uint64_t chunk, uint64_t point = kLivePoint);
// What all keys of a replica's chunks begin with.
std::string chunk_prefix(uint32_t replica);
std::string replica_key(uint32_t replica);
std::string meta_key();

// False if `key` is not of that kind.
bool parse_chunk_key(std::string_view key, uint32_t* replica, uint64_t* chunk, uint64_t* point);
bool parse_replica_key(std::string_view key, uint32_t* replica);

// Marks of a mirrored table: commit n leaves n in slot n modulo kCommitMarks (mirrored_table.h).
constexpr uint32_t kCommitMarks = 4096;
std::string commit_mark_prefix();
std::string commit_mark_key(uint32_t slot);
bool parse_commit_mark_key(std::string_view key, uint32_t* slot);
std::string encode_commit_mark(uint64_t number);
Result<uint64_t> decode_commit_mark(std::string_view value);

std::string encode_chunk_record(const ChunkRecord& record);
Result<ChunkRecord> decode_chunk_record(std::string_view value);
std::string encode_replica_record(const ReplicaRecord& record);
Result<ReplicaRecord> decode_replica_record(std::string_view value);
std::string encode_table_meta(const TableMeta& meta);
Result<TableMeta> decode_table_meta(std::string_view value);

// How far the scrub of the disk has come, and what the last one found.
enum class ScrubPhase : uint8_t { kChunks = 0, kJournal = 1, kTable = 2 };
enum class ScrubState : uint8_t {
  kIdle = 0,     // none was begun since the last one was finished
  kRunning = 1,  // goes on when the disk is opened
  kStopped = 2   // somebody stopped it; the next one goes on from there
};

struct ScrubRecord {
  ScrubState state = ScrubState::kIdle;
  // Of the pass that runs or was stopped.
  ScrubPhase phase = ScrubPhase::kChunks;
  uint32_t next_place = 0;  // kChunks: places below it have been read
  uint64_t rate = 0;        // bytes per second; 0: as fast as the disk goes
  uint64_t started = 0;     // seconds since 1970, as all times here
  uint64_t stopped = 0;     // 0: never
  uint64_t bytes = 0;       // read
  uint64_t damaged = 0;     // blocks found
  // Of the last pass that came to its end; `completed` 0: there was none.
  uint64_t completed = 0;
  uint64_t completed_started = 0;
  uint64_t completed_bytes = 0;
  uint64_t completed_damaged = 0;

  bool operator==(const ScrubRecord&) const = default;
};

// Of a replicated replica: its state, and its zeroed ranges; absent if empty.
std::string replica_state_key(uint32_t replica);
bool parse_replica_state_key(std::string_view key, uint32_t* replica);
std::string encode_replica_state(std::string_view state);
Result<std::string> decode_replica_state(std::string_view value);
std::string zeroed_ranges_key(uint32_t replica);
bool parse_zeroed_ranges_key(std::string_view key, uint32_t* replica);
std::string encode_zeroed_ranges(std::span<const ZeroedRange> ranges);
Result<std::vector<ZeroedRange>> decode_zeroed_ranges(std::string_view value);

std::string scrub_key();
std::string encode_scrub_record(const ScrubRecord& record);
Result<ScrubRecord> decode_scrub_record(std::string_view value);

// --- state block: the third 4 KiB of file `label` ---

constexpr uint64_t kStateBlockOffset = 2 * kBlockBytes;
constexpr uint64_t kProbeBlockOffset = 3 * kBlockBytes;  // of no meaning; verify writes it
constexpr std::size_t kMaxReasonBytes = 1024;

struct DiskState {
  Uuid disk;
  bool failed = false;
  uint64_t time = 0;   // of the change, seconds since 1970
  std::string reason;  // of the failure; longer ones are cut at kMaxReasonBytes

  bool operator==(const DiskState&) const = default;
};

void encode_disk_state(const DiskState& state, std::span<std::byte, kBlockBytes> into);
// A block that is not there (no bytes, or zeroes) is that of a healthy disk. kDamaged: the disk
// must be treated as failed.
Result<DiskState> decode_disk_state(std::span<const std::byte> bytes);

}  // namespace cvol::store
