// Many seeds, each a run of its own (TESTING.md). CVOL_SIM_NODE_SEEDS: how many (200);
// CVOL_SIM_FIRST_SEED: from which on; CVOL_SIM_SEED: that one only, with every event printed;
// CVOL_FIGURES: a file that gets a line of JSON.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>

#include "tests/sim/node/swarm.h"
#include "volumed/base/log.h"

namespace cvol::sim {
namespace {

uint64_t number_from(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

volatile uint64_t running_seed = 0;

// An assertion of the code under test: says which seed it was.
void on_abort(int) {
  char text[64];
  const int length = std::snprintf(text, sizeof text, "aborted: CVOL_SIM_SEED=%llu\n",
                                   static_cast<unsigned long long>(running_seed));
  const ssize_t written = write(2, text, static_cast<std::size_t>(length));
  std::signal(SIGABRT, SIG_DFL);
  if (written >= 0) std::abort();
}

struct Figures {
  uint64_t seeds = 0, failed = 0, events = 0, acknowledged = 0, reads = 0, no_space = 0;
  io::Nanoseconds time = 0;
  std::map<std::string, uint64_t> counts;
  void add(const NodeResult& result) {
    ++seeds;
    events += result.events;
    acknowledged += result.acknowledged;
    reads += result.reads;
    no_space += result.no_space;
    time += result.virtual_time;
    for (const auto& [name, number] : result.counts) counts[name] += number;
  }
  std::string json() const {
    std::string text = fmt::format(
        "{{\"figure\":\"node_simulation\",\"seeds\":{},\"failed\":{},\"virtual_hours\":{:.2f},"
        "\"events\":{},\"acknowledged_writes\":{},\"reads\":{},\"no_space\":{}",
        seeds, failed, static_cast<double>(time) / 3600e9, events, acknowledged, reads, no_space);
    for (const auto& [name, number] : counts) text += fmt::format(",\"{}\":{}", name, number);
    return text + "}";
  }
};

TEST(NodeSimulation, seeds) {
  log::set_level(std::getenv("CVOL_SIM_LOG") != nullptr ? "debug" : "off");
  std::signal(SIGABRT, on_abort);
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  const uint64_t few = 30;
#else
  const uint64_t few = 200;
#endif
  const uint64_t one = number_from("CVOL_SIM_SEED", 0);
  const uint64_t first = one != 0 ? one : number_from("CVOL_SIM_FIRST_SEED", 1);
  const uint64_t many = one != 0 ? 1 : number_from("CVOL_SIM_NODE_SEEDS", few);
  Figures figures;
  for (uint64_t seed = first; seed < first + many; ++seed) {
    running_seed = seed;
    const NodeSwarm swarm = draw_node_swarm(seed);
    const NodeResult result = run_node_swarm(swarm);
    figures.add(result);
    if (!result.complaint.empty()) {
      ADD_FAILURE() << "seed " << seed << ": " << result.complaint << "\n"
                    << describe(swarm) << "\n"
                    << result.story << "again: CVOL_SIM_SEED=" << seed;
      if (++figures.failed == number_from("CVOL_SIM_FAILURES", 5)) break;
    } else if (seed % 50 == 0) {
      EXPECT_EQ(run_node_swarm(swarm).hash, result.hash) << "seed " << seed << " is not repeatable";
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
