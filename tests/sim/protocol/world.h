// World: virtual time, chance and the record of one simulated run.
//
// One thread, one queue of events ordered by virtual time; ties are drawn from the seed. Everything
// that happens in a run follows from the seed, so a run can be done again exactly. A failure is
// noted and ends the run at the next event; it never throws through the code under test.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <queue>
#include <string>
#include <vector>

#include "replication/core/types.h"
#include "volumed/base/random.h"

namespace cvol::sim {

using replication::kMillisecond;
using replication::kSecond;
using replication::Nanoseconds;

class World {
 public:
  // `tracing`: keep the last events as text (and print them all if `loud`); costs time only.
  explicit World(uint64_t seed, bool tracing = false, bool loud = false);

  uint64_t seed() const { return seed_; }
  Nanoseconds now() const { return now_; }
  Random& random() { return random_; }

  void at(Nanoseconds when, std::function<void()> what);
  void after(Nanoseconds delay, std::function<void()> what) { at(now_ + delay, std::move(what)); }
  // Runs events until `when`, or until one has failed. False: failed.
  bool run_until(Nanoseconds when);
  // The same until `done` holds; it is asked every `step`. False: failed or not done at `limit`.
  bool run_until(Nanoseconds limit, Nanoseconds step, const std::function<bool()>& done);

  // --- chance ---
  // Uniform in [low, high].
  Nanoseconds between(Nanoseconds low, Nanoseconds high);
  // Exponential with this mean, at most 20 times it.
  Nanoseconds around(Nanoseconds mean);
  bool percent(uint64_t chance) { return random_.below(100) < chance; }

  // --- the record ---
  // Mixes what happened into the hash of the run.
  void note(uint64_t what, uint64_t a, uint64_t b = 0, uint64_t c = 0);
  uint64_t hash() const { return hash_; }
  uint64_t events() const { return ran_; }
  bool tracing() const { return tracing_; }
  void trace(std::string line);  // only if tracing()
  std::string last_events() const;

  void fail(const std::string& why);  // the first one counts
  bool failed() const { return !failure_.empty(); }
  const std::string& failure() const { return failure_; }

  // Counters by name: faults, failovers, answers; for figures.
  std::map<std::string, uint64_t>& counts() { return counts_; }
  void count(const std::string& what) { ++counts_[what]; }

 private:
  struct Entry {
    Nanoseconds when;
    uint64_t tie;
    uint64_t number;
    uint32_t slot;
    bool operator<(const Entry& other) const {  // of a heap with the earliest at its top
      if (when != other.when) return when > other.when;
      if (tie != other.tie) return tie > other.tie;
      return number > other.number;
    }
  };

  const uint64_t seed_;
  const bool tracing_, loud_;
  Random random_;
  Nanoseconds now_ = 0;
  uint64_t number_ = 0, ran_ = 0, hash_ = 0;
  std::priority_queue<Entry> queue_;
  std::vector<std::function<void()>> slots_;
  std::vector<uint32_t> free_;
  std::deque<std::string> lines_;
  std::string failure_;
  std::map<std::string, uint64_t> counts_;
};

// "12.345678" seconds.
std::string seconds(Nanoseconds time);

}  // namespace cvol::sim
