// Register: the metadata store as one linearizable record with a revision (etcd's shape).
//
// Requests and answers take time and get lost; a compare-and-swap whose caller was told nothing may
// be applied at once, later or never. Watches are hints: late, or left out for a while.
#pragma once

#include <functional>
#include <vector>

#include "replication/core/driver.h"
#include "tests/sim/protocol/world.h"

namespace cvol::sim {

using replication::CasResult;
using replication::Record;

class Register {
 public:
  struct Times {
    Nanoseconds delay = 2 * kMillisecond;  // mean, one way
    Nanoseconds timeout = kSecond;         // then a caller is told kUnknown
    Nanoseconds latest = 5 * kSecond;      // a late compare-and-swap lands within this
  };
  // Of compare-and-swap requests, in percent.
  struct Faults {
    uint64_t answer_lost = 0;  // applied at once, told nothing
    uint64_t late = 0;         // told nothing, applied later
    uint64_t lost = 0;         // told nothing, never applied
    uint64_t watch_left_out = 0;
  };
  using Watcher = std::function<void(const Record&)>;
  using Applied = std::function<void(const Record& before, const Record& after)>;

  Register(World& world, const Times& times) : world_(world), times_(times) {}
  // `who` numbers the ends of the network.
  void add_watcher(Watcher watcher) { ends_.push_back({std::move(watcher), true, 0}); }
  void set_applied(Applied applied) { applied_ = std::move(applied); }
  void create(Record record);
  // From a backup: an older state comes back, with the revision that it had then.
  void restore(Record backup);

  // Expected revision: next.revision. `done` at most once, maybe never.
  void compare_and_swap(int who, const Record& next,
                        std::function<void(CasResult, uint64_t revision)> done);
  // A linearizable read.
  void fetch(int who, std::function<void(const Record&)> done);
  // The end watches anew: it is told the record soon (if it is reachable).
  void list(int who);

  // The truth, for checks and for scenarios.
  const Record& record() const { return record_; }

  // --- faults ---
  void set_reachable(int who, bool reachable);
  bool reachable(int who) const { return up_ && ends_[static_cast<std::size_t>(who)].reachable; }
  void set_up(bool up);
  void set_faults(const Faults& faults) { faults_ = faults; }
  // The next compare-and-swap of this end is told nothing, and lands after `delay`.
  void delay_next_of(int who, Nanoseconds delay) {
    ends_[static_cast<std::size_t>(who)].delay_next = delay;
  }
  // It has not come yet.
  bool delays_next_of(int who) const { return ends_[static_cast<std::size_t>(who)].delay_next > 0; }
  std::size_t under_way() const { return under_way_; }

 private:
  struct End {
    Watcher watcher;
    bool reachable = true;
    Nanoseconds delay_next = 0;
  };

  bool apply(const Record& next);
  void tell(int who, Nanoseconds delay);

  World& world_;
  const Times times_;
  Faults faults_;
  std::vector<End> ends_;
  Record record_;
  Applied applied_;
  bool up_ = true;
  std::size_t under_way_ = 0;
};

}  // namespace cvol::sim
