// Many seeds, each a run of its own (TESTING.md). CVOL_SIM_PROTOCOL_SEEDS: how many (2,000);
// CVOL_SIM_FIRST_SEED: from which on; CVOL_SIM_SEED: that one only, with every event printed;
// CVOL_FIGURES: a file that gets a line of JSON.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <unistd.h>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>

#include "tests/sim/protocol/swarm.h"

namespace cvol::sim {
namespace {

uint64_t number_from(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

volatile uint64_t running_seed = 0;

// An assertion of the code under test: says which seed it was.
void on_abort(int) {
  char text[128];
  const int length = std::snprintf(text, sizeof text, "aborted in seed %llu: CVOL_SIM_SEED=%llu\n",
                                   static_cast<unsigned long long>(running_seed),
                                   static_cast<unsigned long long>(running_seed));
  const ssize_t written = write(2, text, static_cast<std::size_t>(length));
  std::signal(SIGABRT, SIG_DFL);
  if (written >= 0) std::abort();
}

// Again, with its events kept: the same seed does the same.
void report(uint64_t seed, const Result& first) {
  Swarm swarm = draw_swarm(seed);
  swarm.shape.tracing = true;
  const Result again = run_swarm(swarm);
  ADD_FAILURE() << "seed " << seed << ": " << first.complaint << "\n"
                << describe(swarm) << "\n"
                << again.story << "again: CVOL_SIM_SEED=" << seed;
  EXPECT_EQ(again.complaint, first.complaint);
}

struct Figures {
  uint64_t seeds = 0, events = 0, writes = 0, reads = 0, failed = 0;
  Nanoseconds time = 0;
  std::map<std::string, uint64_t> counts;
  void add(const Result& result) {
    ++seeds;
    events += result.events;
    writes += result.writes;
    reads += result.reads;
    time += result.virtual_time;
    for (const auto& [name, count] : result.counts) {
      if (name == "longest_recovery_ms") {
        counts[name] = std::max(counts[name], count);
      } else {
        counts[name] += count;
      }
    }
  }
  std::string json() const {
    std::string text = fmt::format(
        "{{\"figure\":\"protocol_simulation\",\"seeds\":{},\"failed\":{},\"virtual_hours\":{:.2f},"
        "\"events\":{},\"acknowledged_writes\":{},\"reads\":{}",
        seeds, failed, static_cast<double>(time) / 3600e9, events, writes, reads);
    for (const auto& [name, count] : counts) text += fmt::format(",\"{}\":{}", name, count);
    return text + "}";
  }
};

TEST(ProtocolSimulation, seeds) {
  std::signal(SIGABRT, on_abort);
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  const uint64_t few = 200;
#else
  const uint64_t few = 2000;
#endif
  const uint64_t one = number_from("CVOL_SIM_SEED", 0);
  const uint64_t first = one != 0 ? one : number_from("CVOL_SIM_FIRST_SEED", 1);
  const uint64_t count = one != 0 ? 1 : number_from("CVOL_SIM_PROTOCOL_SEEDS", few);
  Figures figures;
  for (uint64_t seed = first; seed < first + count; ++seed) {
    running_seed = seed;
    Swarm swarm = draw_swarm(seed);
    swarm.shape.loud = one != 0;
    const Result result = run_swarm(swarm);
    figures.add(result);
    if (!result.complaint.empty()) {
      report(seed, result);
      if (++figures.failed == 5) break;
    } else if (seed % 50 == 0) {
      EXPECT_EQ(run_swarm(swarm).hash, result.hash) << "seed " << seed << " is not repeatable";
    }
  }
  const std::string line = figures.json();
  std::printf("%s\n", line.c_str());
  if (const char* path = std::getenv("CVOL_FIGURES")) {
    if (std::FILE* file = std::fopen(path, "a")) {
      std::fprintf(file, "%s\n", line.c_str());
      std::fclose(file);
    }
  }
}

}  // namespace
}  // namespace cvol::sim
