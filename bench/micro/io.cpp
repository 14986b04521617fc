// The reactor: waking it from another thread, turning its loop, one operation through the ring.
#include <benchmark/benchmark.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>

#include "volumed/io/scope.h"
#include "volumed/io/shard.h"
#include "volumed/io/uring_reactor.h"

namespace cvol::io {
namespace {

// A call from another thread to a shard that sleeps, and back: what a control call costs.
void wake_up_and_back(benchmark::State& state) {
  Result<std::unique_ptr<Shard>> shard = Shard::start("bench");
  if (!shard) {
    state.SkipWithError(shard.message().c_str());
    return;
  }
  uint64_t calls = 0;
  for (auto _ : state) (*shard)->invoke([&calls] { return ++calls; });
  benchmark::DoNotOptimize(calls);
}
BENCHMARK(wake_up_and_back)->UseRealTime();

Task<void> yield_often(Reactor& reactor, benchmark::State& state) {
  for (auto _ : state) co_await yield(reactor);
}

// One coroutine that gives way to nobody: the loop's own cost, kernel entries included.
void turn_of_the_loop(benchmark::State& state) {
  Result<std::unique_ptr<UringReactor>> reactor = UringReactor::make(UringOptions{});
  if (!reactor) {
    state.SkipWithError(reactor.message().c_str());
    return;
  }
  (*reactor)->run_until_done(yield_often(**reactor, state));
}
BENCHMARK(turn_of_the_loop);

Task<void> sync_often(File& file, benchmark::State& state) {
  for (auto _ : state) benchmark::DoNotOptimize(co_await file.sync());
}

// An operation through the ring that has nothing to do: a sync of an unchanged file.
void operation_through_the_ring(benchmark::State& state) {
  Result<std::unique_ptr<UringReactor>> reactor = UringReactor::make(UringOptions{});
  if (!reactor) {
    state.SkipWithError(reactor.message().c_str());
    return;
  }
  OpenOptions options;
  options.read_only = true;
  options.direct = false;
  Result<File> file = (*reactor)->open("/proc/self/exe", options);
  if (!file) {
    state.SkipWithError(file.message().c_str());
    return;
  }
  (*reactor)->run_until_done(sync_often(*file, state));
}
BENCHMARK(operation_through_the_ring);

}  // namespace
}  // namespace cvol::io
