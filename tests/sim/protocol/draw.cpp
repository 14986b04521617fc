// What a seed draws.
#include <fmt/format.h>

#include <algorithm>

#include "tests/sim/protocol/swarm.h"

namespace cvol::sim {
namespace {

class Draw {
 public:
  explicit Draw(uint64_t seed) : random_(seed * 0x9e3779b97f4a7c15u + 1) {}
  bool percent(uint64_t chance) { return random_.below(100) < chance; }
  uint64_t from(uint64_t low, uint64_t high) { return low + random_.below(high - low + 1); }
  // So that every order of magnitude is as likely as another.
  Nanoseconds wide(Nanoseconds low, Nanoseconds high) {
    Nanoseconds value = low;
    uint64_t doublings = 0;
    for (Nanoseconds at = low; at < high; at *= 2) ++doublings;
    value <<= random_.below(doublings + 1);
    return std::min(
        high, value + static_cast<Nanoseconds>(random_.below(static_cast<uint64_t>(value) + 1)));
  }
  template <typename T>
  T one_of(std::initializer_list<T> all) {
    return all.begin()[random_.below(all.size())];
  }

 private:
  Random random_;
};

void draw_rates(Draw& draw, Swarm& swarm) {
  const bool calm = draw.percent(5);
  for (std::size_t i = 0; i < kFaults; ++i) {
    const bool on = draw.percent(30);
    const Nanoseconds every = draw.wide(kSecond, 30 * kSecond);
    if (on && !calm) swarm.rates.every[i] = every;
  }
  swarm.rates.lasts = draw.wide(50 * kMillisecond, 10 * kSecond);
  // What destroys a copy, rarely; images are taken before they are gone back to.
  for (const Fault fault :
       {Fault::kFailDisk, Fault::kRollBack, Fault::kReplaceDisk, Fault::kAllAtOnce}) {
    if (draw.percent(50)) swarm.rates[fault] = 0;
    swarm.rates[fault] *= 3;
  }
  if (swarm.rates[Fault::kRollBack] > 0) swarm.rates[Fault::kImage] = 3 * kSecond;
  if (draw.percent(40)) {
    swarm.register_faults.answer_lost = draw.one_of<uint64_t>({0, 10, 40});
    swarm.register_faults.late = draw.one_of<uint64_t>({0, 10, 40});
    swarm.register_faults.lost = draw.one_of<uint64_t>({0, 10, 40});
    swarm.register_faults.watch_left_out = draw.one_of<uint64_t>({0, 30, 90});
  }
}

void draw_times(Draw& draw, Shape& shape) {
  const Nanoseconds divisor = draw.one_of<Nanoseconds>({1, 1, 2, 4});
  replication::Options& options = shape.options;
  options.beacon /= divisor;
  options.lease /= divisor;
  options.grace /= divisor;
  options.replica_timeout /= divisor;
  options.stuck_write /= divisor * 2;
  options.candidate_step /= divisor;
  options.ask_members /= divisor;
  options.join_retry /= divisor;
  options.propose_retry /= divisor;
  options.hand_over /= divisor;
  options.most_in_flight = draw.one_of<uint32_t>({2, 16, 1024});
  shape.tick /= divisor;
  shape.network.delay = draw.wide(100000, options.replica_timeout / 10);
  shape.network.notice = draw.wide(kMillisecond, 2 * kSecond);
  shape.network.cut_seen = draw.one_of<Nanoseconds>({0, kSecond, 3 * kSecond});
  shape.disk.append = draw.wide(100000, 20 * kMillisecond);
  shape.disk.persist = draw.wide(100000, 20 * kMillisecond);
  shape.disk.read = draw.wide(50000, 5 * kMillisecond);
  shape.register_times.delay = draw.wide(kMillisecond, 100 * kMillisecond);
}

}  // namespace

Swarm draw_swarm(uint64_t seed, Mutant mutant) {
  Draw draw(seed);
  Swarm swarm;
  Shape& shape = swarm.shape;
  shape.seed = seed;
  shape.tracing = false;
  shape.nodes = draw.one_of({2, 2, 2, 3, 3, 3, 3, 4, 5});
  shape.blocks = draw.one_of<uint64_t>({16, 16, 32, 64, 256});
  shape.min_in_sync = shape.nodes > 2 && draw.percent(15) ? 2 : 1;
  shape.compare_copies = draw.percent(50);
  shape.gateway.overlapping = draw.percent(15);
  shape.gateway.patience = draw.one_of<Nanoseconds>({kSecond, 5 * kSecond});
  draw_times(draw, shape);
  shape.options.mutant = mutant;
  swarm.work.workers = draw.from(1, 6);
  swarm.work.think = draw.wide(5 * kMillisecond, 200 * kMillisecond);
  swarm.work.reads = draw.one_of<uint64_t>({20, 50, 80});
  swarm.work.zeroes = draw.one_of<uint64_t>({0, 10, 30});
  swarm.work.hot_blocks = draw.percent(50) ? 4 : 0;
  swarm.safety = static_cast<Nanoseconds>(draw.from(10, 30)) * kSecond;
  draw_rates(draw, swarm);
  if (draw.percent(50)) swarm.probe_every = draw.wide(20 * kMillisecond, 200 * kMillisecond);
  // Mutants of leases are for reads that need them.
  shape.options.strict_reads = draw.percent(20) && mutant == Mutant::kNone;
  return swarm;
}

std::string describe(const Swarm& swarm) {
  std::string text = fmt::format(
      "{} nodes, {} blocks, min in sync {}, {} workers, delay {} us, append {} us, beacon {} "
      "ms{}{}",
      swarm.shape.nodes, swarm.shape.blocks, swarm.shape.min_in_sync, swarm.work.workers,
      swarm.shape.network.delay / 1000, swarm.shape.disk.append / 1000,
      swarm.shape.options.beacon / kMillisecond,
      swarm.shape.gateway.overlapping ? ", overlapping" : "",
      swarm.shape.options.strict_reads ? ", strict reads" : "");
  for (std::size_t i = 0; i < kFaults; ++i) {
    if (swarm.rates.every[i] > 0)
      text += fmt::format(", {} every {} s", name_of(static_cast<Fault>(i)),
                          seconds(swarm.rates.every[i]));
  }
  return text;
}

}  // namespace cvol::sim
