// Journal batches, overlay and chunk map.
#include <benchmark/benchmark.h>

#include <array>
#include <cstdlib>
#include <memory>
#include <vector>

#include "volumed/base/random.h"
#include "volumed/store/chunk_map.h"
#include "volumed/store/format.h"
#include "volumed/store/overlay.h"

namespace cvol::store {
namespace {

constexpr std::size_t kAreaBytes = kMaxHeaderBlocks * kBlockBytes;
struct Free {
  void operator()(std::byte* memory) const { std::free(memory); }
};
using Area = std::unique_ptr<std::byte, Free>;
Area make_area() {
  return Area(static_cast<std::byte*>(std::aligned_alloc(kBlockBytes, kAreaBytes)));
}

Record write_record(uint64_t block) {
  return {RecordType::kWrite, 0, 1, 1, block, block, 1, 0};
}

std::span<std::byte> encode(Area& area, const Uuid& journal, int records) {
  BatchEncoder encoder({area.get(), kAreaBytes});
  const uint64_t checksum = 0x0123456789abcdefULL;
  for (int i = 0; i < records; ++i) encoder.add(write_record(static_cast<uint64_t>(i)), &checksum);
  BatchHeader header;
  header.lsn = 17;
  header.payload_blocks = static_cast<uint32_t>(records);
  return encoder.seal(header, journal);
}

// A batch's header area, from records of 4 KiB writes to sealed bytes.
void journal_encode(benchmark::State& state) {
  Area area = make_area();
  Random random(1);
  const Uuid journal = Uuid::make(random);
  const int records = static_cast<int>(state.range(0));
  for (auto _ : state) benchmark::DoNotOptimize(encode(area, journal, records).size());
  state.SetItemsProcessed(state.iterations() * records);
}
BENCHMARK(journal_encode)->Arg(1)->Arg(32)->Arg(256);

void journal_decode(benchmark::State& state) {
  Area area = make_area();
  Random random(1);
  const Uuid journal = Uuid::make(random);
  const int records = static_cast<int>(state.range(0));
  const std::span<std::byte> bytes = encode(area, journal, records);
  for (auto _ : state) benchmark::DoNotOptimize(decode_batch(bytes, journal).is_ok());
  state.SetItemsProcessed(state.iterations() * records);
}
BENCHMARK(journal_decode)->Arg(1)->Arg(32)->Arg(256);

constexpr uint64_t kStride = 2654435761u;  // visits the chunks in no order

// An overlay of so many chunks, asked for chunks that it has, in random order.
void overlay_lookup(benchmark::State& state) {
  const uint64_t chunks = static_cast<uint64_t>(state.range(0));
  Overlay overlay;
  for (uint64_t i = 0; i < chunks; ++i) overlay.find_or_make(ChunkKey(1, i)).mask = 1;
  uint64_t at = 0;
  for (auto _ : state) {
    at = (at + kStride) % chunks;
    benchmark::DoNotOptimize(overlay.find(ChunkKey(1, at))->position[3]);
  }
}
BENCHMARK(overlay_lookup)->Arg(1 << 10)->Arg(1 << 20);

void overlay_miss(benchmark::State& state) {
  Overlay overlay;
  for (uint64_t i = 0; i < 1 << 16; ++i) overlay.find_or_make(ChunkKey(1, i)).mask = 1;
  uint64_t at = 0;
  for (auto _ : state) benchmark::DoNotOptimize(overlay.find(ChunkKey(2, ++at)));
}
BENCHMARK(overlay_miss);

// The chunk map of 64 MiB, 64 GiB and 1 TiB of allocated chunks.
void chunk_table_lookup(benchmark::State& state) {
  const uint64_t chunks = static_cast<uint64_t>(state.range(0));
  ChunkMap map(static_cast<uint32_t>(chunks));
  for (uint64_t i = 0; i < chunks; ++i) map.insert(ChunkKey(1, i), static_cast<uint32_t>(i));
  uint64_t at = 0;
  for (auto _ : state) {
    at = (at + kStride) % chunks;
    const uint16_t present = map.slot(map.find(ChunkKey(1, at))).present;
    benchmark::DoNotOptimize(present);
  }
  state.counters["bytes_per_chunk"] =
      static_cast<double>(map.memory_bytes()) / static_cast<double>(chunks);
}
BENCHMARK(chunk_table_lookup)->Arg(1 << 10)->Arg(1 << 20)->Arg(1 << 24);

}  // namespace
}  // namespace cvol::store
