#include "tests/sim/protocol/swarm.h"

#include <fmt/format.h>

#include <algorithm>

#include "tests/sim/protocol/converge.h"

namespace cvol::sim {
namespace {

class Run {
 public:
  explicit Run(const Swarm& swarm)
      : swarm_(swarm), cluster_(swarm.shape), nemesis_(cluster_, swarm.rates) {}

  Result go() {
    Result result;
    result.complaint = phases();
    World& world = cluster_.world();
    if (result.complaint.empty() && world.failed()) result.complaint = world.failure();
    result.hash = world.hash();
    result.events = world.events();
    result.virtual_time = world.now();
    result.writes = cluster_.history().writes();
    result.reads = cluster_.history().reads();
    result.counts = world.counts();
    if (!result.complaint.empty() && world.tracing())
      result.story = world.last_events() + cluster_.status();
    return result;
  }

 private:
  std::string phases() {
    cluster_.record().set_faults(swarm_.register_faults);
    for (int i = 0; i < cluster_.gateways(); ++i) cluster_.gateway(i).work(swarm_.work);
    nemesis_.begin();
    probe();
    if (!cluster_.run(swarm_.safety)) return cluster_.world().failure();
    nemesis_.end();
    const std::string slow = live();
    if (!slow.empty()) return slow;
    if (lost_) {
      // Faults took every copy that the register trusts; a person would have to decide.
      cluster_.world().count("volumes_lost");
      return cluster_.history().check();
    }
    const std::string differs = converge(cluster_, swarm_.liveness);
    if (differs.empty() || cluster_.world().failed() || any_usable()) return differs;
    return cluster_.history().check();
  }

  void probe() {
    if (swarm_.probe_every == 0) return;
    World& world = cluster_.world();
    world.after(world.around(swarm_.probe_every), [this, &world] {
      const uint64_t most = swarm_.work.hot_blocks != 0 ? 4 : swarm_.shape.blocks;
      const uint64_t block = world.random().below(most);
      for (int i = 0; i < cluster_.nodes(); ++i) cluster_.node(i).probe({block, block + 1});
      probe();
    });
  }

  bool any_usable() const {
    for (int i = 0; i < cluster_.nodes(); ++i) {
      if (cluster_.usable(i)) return true;
    }
    return false;
  }

  // I14.
  std::string live() {
    World& world = cluster_.world();
    cluster_.heal();
    cluster_.record().set_faults({});
    for (int i = 0; i < cluster_.gateways(); ++i) cluster_.gateway(i).go_on();
    for (int a = 0; a < cluster_.network().ends(); ++a) {
      for (int b = 0; b < cluster_.network().ends(); ++b) {
        if (a != b) cluster_.network().set_delay(a, b, kMillisecond);
      }
    }
    std::vector<bool> core;
    for (int i = 0; i < cluster_.nodes(); ++i) core.push_back(world.percent(60));
    for (int i = 0; i < cluster_.nodes(); ++i) {
      if (core[static_cast<std::size_t>(i)]) {
        repair(cluster_, i);
      } else {
        lose_for_good(i);
      }
    }
    // What is on its way to the register lands; then it is known who can be promoted.
    cluster_.run(swarm_.shape.register_times.latest + kSecond);
    if (world.failed()) return world.failure();
    if (!any_usable()) {
      lost_ = true;
      return "";
    }
    complete(core);
    return wait(core);
  }

  void lose_for_good(int node) {
    switch (cluster_.world().random().below(4)) {
      case 0:
        return cluster_.lose_power(node);
      case 1:
        return cluster_.node(node).stop();
      case 2:
        return cluster_.node(node).disk().stick_until(cluster_.world().now() + 100000 * kSecond);
      default:
        return cluster_.isolate(node);
    }
  }

  // A core that can live has one that may be promoted, and as many as min_in_sync asks for.
  void complete(std::vector<bool>& core) {
    const auto take = [&](int i) {
      core[static_cast<std::size_t>(i)] = true;
      cluster_.record().set_reachable(i, true);
      repair(cluster_, i);
    };
    bool usable = false;
    for (int i = 0; i < cluster_.nodes(); ++i)
      usable = usable || (core[static_cast<std::size_t>(i)] && cluster_.usable(i));
    for (int i = 0; i < cluster_.nodes() && !usable; ++i) {
      if (!cluster_.usable(i)) continue;
      take(i);
      usable = true;
    }
    for (int i = 0; i < cluster_.nodes(); ++i) {
      const auto size = std::count(core.begin(), core.end(), true);
      if (size >= swarm_.shape.min_in_sync) break;
      if (!core[static_cast<std::size_t>(i)]) take(i);
    }
    // Those of the core reach each other and the front ends.
    for (int a = 0; a < cluster_.network().ends(); ++a) {
      for (int b = 0; b < a; ++b) {
        const bool in = (a >= cluster_.nodes() || core[static_cast<std::size_t>(a)]) &&
                        (b >= cluster_.nodes() || core[static_cast<std::size_t>(b)]);
        if (in) cluster_.network().cut_both(a, b, false);
      }
    }
  }

  std::string wait(const std::vector<bool>& core) {
    World& world = cluster_.world();
    const Nanoseconds begin = world.now();
    std::vector<int> wanted;
    for (int i = 0; i < cluster_.nodes(); ++i) {
      if (core[static_cast<std::size_t>(i)]) wanted.push_back(i);
    }
    // A disk that is stuck is found by requests only.
    if (cluster_.record().record().session.id.is_nil()) cluster_.attach(0);
    const auto done = [&] {
      bool all = cluster_.set_is(wanted) && !cluster_.changing_session();
      for (int i = 0; i < cluster_.gateways(); ++i)
        all = all && cluster_.gateway(i).oldest() > begin;
      return all;
    };
    const bool lived = world.run_until(begin + swarm_.liveness, 20 * kMillisecond,
                                       [&] { return world.now() > begin && done(); });
    if (world.failed()) return world.failure();
    if (!lived) {
      std::string who;
      for (const int node : wanted) who += fmt::format(" {}", node);
      return fmt::format("I14: the core{} does not live after {} s", who,
                         seconds(world.now() - begin));
    }
    auto& longest = world.counts()["longest_recovery_ms"];
    longest = static_cast<uint64_t>((world.now() - begin) / kMillisecond);
    return "";
  }

  const Swarm swarm_;
  Cluster cluster_;
  Nemesis nemesis_;
  bool lost_ = false;
};

}  // namespace

Result run_swarm(const Swarm& swarm) {
  return Run(swarm).go();
}

}  // namespace cvol::sim
