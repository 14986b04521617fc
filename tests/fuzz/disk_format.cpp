// Labels and the chunk table's keys and values.
#include "tests/fuzz/fuzz.h"
#include "volumed/base/assert.h"
#include "volumed/store/format.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  using namespace cvol::store;
  const auto bytes = as_bytes(data, size);
  const auto text = as_text(data, size);
  (void)decode_label(bytes);
  cvol::Result<Label> header = decode_journal_header(bytes);
  if (header) (void)check_journal_header(*header, Label{});
  cvol::Result<ChunkRecord> chunk = decode_chunk_record(text);
  if (chunk) CVOL_ASSERT(encode_chunk_record(*chunk) == text);
  cvol::Result<ReplicaRecord> replica = decode_replica_record(text);
  (void)replica.is_ok();  // any byte but 0 says that it is being removed
  cvol::Result<std::string> state = decode_replica_state(text);
  if (state) CVOL_ASSERT(encode_replica_state(*state) == text);
  cvol::Result<std::vector<ZeroedRange>> zeroed = decode_zeroed_ranges(text);
  if (zeroed) CVOL_ASSERT(encode_zeroed_ranges(*zeroed) == text);
  cvol::Result<TableMeta> meta = decode_table_meta(text);
  if (meta) CVOL_ASSERT(encode_table_meta(*meta) == text);
  cvol::Result<uint64_t> mark = decode_commit_mark(text);
  if (mark) CVOL_ASSERT(encode_commit_mark(*mark) == text);
  cvol::Result<ScrubRecord> scrub = decode_scrub_record(text);
  if (scrub) CVOL_ASSERT(encode_scrub_record(*scrub) == text);
  (void)decode_disk_state(bytes);
  uint32_t number = 0;
  if (parse_commit_mark_key(text, &number)) CVOL_ASSERT(commit_mark_key(number) == text);
  uint64_t index = 0;
  uint64_t point = 0;
  if (parse_chunk_key(text, &number, &index, &point))
    CVOL_ASSERT(chunk_key(number, index, point) == text);
  if (parse_replica_state_key(text, &number)) CVOL_ASSERT(replica_state_key(number) == text);
  if (parse_zeroed_ranges_key(text, &number)) CVOL_ASSERT(zeroed_ranges_key(number) == text);
  if (parse_replica_key(text, &number)) CVOL_ASSERT(replica_key(number) == text);
  return 0;
}
