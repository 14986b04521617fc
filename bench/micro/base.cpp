// Checksums and buffers.
#include <benchmark/benchmark.h>

#include <vector>

#include "volumed/base/buffer_pool.h"
#include "volumed/base/checksum.h"
#include "volumed/base/units.h"

namespace cvol {
namespace {

void block_checksum_4k(benchmark::State& state) {
  std::vector<std::byte> data(kBlockBytes, std::byte{0x5a});
  uint64_t block = 0;
  for (auto _ : state) benchmark::DoNotOptimize(block_checksum(42, ++block, data.data()));
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * kBlockBytes));
}
BENCHMARK(block_checksum_4k);

// Memory that is in no cache: what a write that has just been received costs at worst.
void block_checksum_cold(benchmark::State& state) {
  constexpr std::size_t kBlocks = 64 * 1024;
  std::vector<std::byte> data(kBlocks * kBlockBytes, std::byte{0x5a});
  uint64_t block = 0;
  for (auto _ : state) {
    block = (block + 40503) % kBlocks;
    benchmark::DoNotOptimize(block_checksum(42, block, data.data() + block * kBlockBytes));
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * kBlockBytes));
}
BENCHMARK(block_checksum_cold);

void plain_checksum_of(benchmark::State& state) {
  std::vector<std::byte> data(static_cast<std::size_t>(state.range(0)), std::byte{0x5a});
  for (auto _ : state) benchmark::DoNotOptimize(plain_checksum(data));
  state.SetBytesProcessed(state.iterations() * state.range(0));
}
BENCHMARK(plain_checksum_of)->Arg(64)->Arg(4096)->Arg(65536);

void buffer_take_and_return(benchmark::State& state) {
  BufferPool pool(64 * kMiB, 32 * kMiB);
  for (auto _ : state) {
    Buffer buffer = pool.try_take(static_cast<std::size_t>(state.range(0)));
    benchmark::DoNotOptimize(buffer.data());
  }
}
BENCHMARK(buffer_take_and_return)->Arg(4096)->Arg(1 << 20);

}  // namespace
}  // namespace cvol
