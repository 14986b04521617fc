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

constexpr uint32_t kDiskFormatVersion = 1;
constexpr uint64_t kMinJournalBytes = kMiB;

// --- label: the first 4 KiB of file `label` ---

struct Label {
  Uuid disk;
  Uuid journal;                 // identity of the journal's batches
  uint64_t journal_bytes = 0;   // of file `journal`, its header block included
  uint64_t capacity_chunks = 0; // most chunks that file `chunks` may hold
};

void encode_label(const Label& label, std::span<std::byte, kBlockBytes> into);
Result<Label> decode_label(std::span<const std::byte> bytes);

// --- journal header: the first 4 KiB of file `journal`; the ring follows ---

void encode_journal_header(const Label& label, std::span<std::byte, kBlockBytes> into);
Status check_journal_header(std::span<const std::byte> bytes, const Label& label);

// --- journal batch: header area (whole 4 KiB blocks), then payload blocks ---

struct BatchHeader {
  uint64_t lsn = 0;             // consecutive
  uint64_t generation = 0;      // raised at every open of the disk
  uint64_t position = 0;        // of the header area, in blocks since the ring's beginning of time
  uint64_t durable_lsn = 0;     // highest LSN known durable when this batch was made
  uint64_t tail_lsn = 0;        // first LSN that was not yet destaged
  uint32_t header_blocks = 0;
  uint32_t payload_blocks = 0;
  uint32_t record_count = 0;
  uint32_t record_bytes = 0;    // of the records, after the fixed part
};

enum class RecordType : uint8_t {
  kWrite = 1,  // `count` blocks from block `first`; payload at `payload`; one checksum each
  kZero = 2,   // `count` blocks from block `first` read as zeroes
  kMap = 3     // `count` chunks from chunk `first` lie at places from `payload` on
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
  bool removing = false;  // its chunks are being given back
};

struct TableMeta {
  Uuid disk;
  uint64_t generation = 0;
  uint64_t tail_lsn = 1;       // first LSN to replay
  uint64_t tail_position = 0;  // where it is, or will be
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

std::string encode_chunk_record(const ChunkRecord& record);
Result<ChunkRecord> decode_chunk_record(std::string_view value);
std::string encode_replica_record(const ReplicaRecord& record);
Result<ReplicaRecord> decode_replica_record(std::string_view value);
std::string encode_table_meta(const TableMeta& meta);
Result<TableMeta> decode_table_meta(std::string_view value);

}  // namespace cvol::store
