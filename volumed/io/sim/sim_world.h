// SimWorld: virtual time, one event queue, in-memory files and network; everything from one seed.
//
// One thread. Nodes are SimReactors of the same world. Events at the same instant are ordered by a
// number drawn from the seed, so that no test relies on an order that real machines do not keep.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <queue>
#include <string>
#include <vector>

#include "volumed/base/random.h"
#include "volumed/io/reactor.h"
#include "volumed/io/sim/sim_file.h"

namespace cvol::io {

class SimReactor;

// Delays and rates; each is drawn uniformly from [low, high].
struct SimFaults {
  Nanoseconds disk_low = 20 * kMicrosecond, disk_high = 400 * kMicrosecond;
  Nanoseconds net_low = 10 * kMicrosecond, net_high = 200 * kMicrosecond;
  Nanoseconds helper_low = 10 * kMicrosecond, helper_high = 2 * kMillisecond;
  // Chances in a million per operation.
  uint64_t read_error = 0, write_error = 0, sync_error = 0;
  uint64_t cached_read = 500000;    // a read through the page cache is done at once
  uint64_t short_receive = 250000;  // a receive gets only part of what is there
  uint64_t connection_reset = 0;
  uint64_t disk_bytes = UINT64_MAX;  // file_allocate fails beyond, all files together
};

// One direction of a connection.
struct SimPipe {
  std::deque<std::byte> bytes;
  bool closed = false;
  Op* receiver = nullptr;
  SimReactor* receiver_node = nullptr;
  Nanoseconds last_arrival = 0;
};

class SimWorld {
 public:
  explicit SimWorld(uint64_t seed) : random_(seed) {}

  Nanoseconds now() const { return now_; }
  Random& random() { return random_; }
  SimFaults faults;

  void at(Nanoseconds when, std::function<void()> event);
  // Runs the next event; false if there is none.
  bool step();
  // Steps until `done()` or until nothing is left to do; returns done().
  bool run_until(const std::function<bool()>& done);

  std::map<std::string, std::shared_ptr<SimFile>> files;  // by path
  uint64_t allocated_bytes() const;

  struct ListenerState {
    std::deque<int> backlog;  // handles made by connect, owned by the listening node
    Op* acceptor = nullptr;
    SimReactor* node = nullptr;
    bool closed = false;
  };
  std::map<std::string, std::shared_ptr<ListenerState>> listeners;

  uint64_t events_run() const { return events_run_; }
  Nanoseconds draw(Nanoseconds low, Nanoseconds high) {
    return low + static_cast<Nanoseconds>(random_.below(static_cast<uint64_t>(high - low) + 1));
  }

 private:
  struct Event {
    Nanoseconds when;
    uint64_t tie;
    uint64_t number;
    std::function<void()> run;
    bool operator>(const Event& other) const {
      if (when != other.when) return when > other.when;
      if (tie != other.tie) return tie > other.tie;
      return number > other.number;
    }
  };
  Nanoseconds now_ = kSecond;
  Random random_;
  uint64_t next_number_ = 0;
  uint64_t events_run_ = 0;
  std::priority_queue<Event, std::vector<Event>, std::greater<>> queue_;
};

}  // namespace cvol::io
