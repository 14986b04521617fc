// Replay of a journal whose bytes are arbitrary: it ends or refuses, and never reads beyond.
// Records of both versions of a batch.
#include <cstring>

#include "tests/fuzz/fuzz.h"
#include "volumed/base/bytes.h"
#include "volumed/base/checksum.h"
#include "volumed/base/log.h"
#include "volumed/io/sim/sim_reactor.h"
#include "volumed/store/journal.h"

namespace cvol::store {
namespace {

Task<void> replay(io::Reactor* reactor, Label label, BufferPool* pool) {
  Result<io::File> file = reactor->open("/journal", {});
  CVOL_ASSERT(file);
  Result<ReplayResult> result = co_await replay_journal(
      *file, label, {1, 0}, 0, *pool,
      [](const DecodedBatch& batch, std::span<const std::byte> payload) {
        for (const DecodedRecord& record : batch.records) {
          if (record.record.type == RecordType::kCommitPoint)
            CVOL_ASSERT(batch.header.version >= 2 && record.record.count == 0);
          if (record.record.type != RecordType::kWrite) continue;
          const uint64_t end =
              (uint64_t{record.record.payload} + record.record.count) * kBlockBytes;
          CVOL_ASSERT(end <= payload.size());
        }
        return std::vector<BadBlock>{};
      },
      [](const DecodedBatch&, std::span<const std::byte>) {});
  (void)result.is_ok();
}

}  // namespace
}  // namespace cvol::store

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  using namespace cvol;
  log::set_level("off");
  // Whole input as header area: the decoder alone.
  store::Label label;
  label.journal_bytes = store::kMinJournalBytes;
  label.capacity_chunks = 16;
  (void)store::decode_batch(as_bytes(data, size), label.journal);
  // A batch whose fixed part and checksum are good and whose records are the input.
  std::vector<std::byte> area(store::kMaxHeaderBlocks * kBlockBytes);
  store::BatchEncoder encoder(area);
  store::BatchHeader header;
  header.lsn = 1;
  header.payload_blocks = 3;
  (void)encoder.seal(header, label.journal);
  area.resize(4 * kBlockBytes);
  const std::size_t used = std::min(size, area.size() - store::kBatchFixedBytes);
  if (used != 0) std::memcpy(area.data() + store::kBatchFixedBytes, data, used);
  store_le<uint32_t>(&area[32], size > 1 ? 1 + data[1] % store::kBatchVersion : 1);
  store_le<uint32_t>(&area[36], 4);  // header blocks
  store_le<uint32_t>(&area[44], used > 0 ? data[0] % 4u : 0);
  store_le<uint32_t>(&area[48], static_cast<uint32_t>(used));
  store_le<uint64_t>(&area[8], plain_checksum(std::span(area).subspan(16)));
  io::SimWorld world(1);
  io::SimReactor reactor(world);
  auto file = std::make_shared<io::SimFile>();
  io::SimImage image;
  image.size = label.journal_bytes;
  image.write(kBlockBytes, area);
  file->reset(image);
  world.files["/journal"] = file;
  BufferPool pool(64 * kMiB, 64 * kMiB);
  CVOL_ASSERT(reactor.run(store::replay(&reactor, label, &pool)));
  return 0;
}
