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
#include <set>
#include <string>
#include <utility>
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
  uint64_t write_full = 0;          // a write finds the file system full; nothing is written
  uint64_t read_starved = 0;        // a read finds no memory
  uint64_t sync_starved = 0;        // a sync finds no memory; nothing is synced
  bool own_fails = false;           // holes of a copied file find no room
  uint64_t bad_byte = UINT64_MAX;   // reads of any file that take in this offset fail
  uint64_t cached_read = 500000;    // a read through the page cache is done at once
  uint64_t short_receive = 250000;  // a receive gets only part of what is there
  uint64_t connection_reset = 0;
  uint64_t disk_bytes = UINT64_MAX;  // file_allocate fails beyond, all files of a root together
};

// A machine of the network, by number. Reactors of one machine share it; 0 has no network faults.
using SimHost = uint32_t;

// One direction of a connection.
struct SimPipe {
  std::deque<std::byte> bytes;
  bool closed = false;  // nothing comes any more: the receiver sees the end
  bool broken = false;  // nothing can be sent any more: the sender sees an error
  bool dialed = false;  // the sender is the one that dialed; it notices a cut
  Op* receiver = nullptr;
  SimReactor* receiver_node = nullptr;
  Nanoseconds last_arrival = 0;
  SimHost from = 0, to = 0;
};

class SimWorld {
 public:
  explicit SimWorld(uint64_t seed) : random_(seed) {}

  Nanoseconds now() const { return now_; }
  Random& random() { return random_; }
  SimFaults faults;
  std::function<void(FileRange)> before_punch;  // called if set, of any file

  void at(Nanoseconds when, std::function<void()> event);
  // Runs the next event; false if there is none.
  bool step();
  // Steps until `done()` or until nothing is left to do; returns done().
  bool run_until(const std::function<bool()>& done);

  std::map<std::string, std::shared_ptr<SimFile>> files;  // by path
  // Of the files below `root`.
  uint64_t allocated_bytes(const std::string& root = "") const;

  struct ListenerState {
    std::deque<int> backlog;  // handles made by connect, owned by the listening node
    Op* acceptor = nullptr;
    SimReactor* node = nullptr;
    bool closed = false;
  };
  std::map<std::string, std::shared_ptr<ListenerState>> listeners;

  // --- the network between machines, each direction by itself ---

  // What is sent is held back, as when packets are lost and sent again; nothing new connects. The
  // one that dialed ends the connection after kCutNoticed, the other one does not notice.
  void cut(SimHost from, SimHost to) { cuts_.insert({from, to}); }
  // What was held back arrives, in its order.
  void heal(SimHost from, SimHost to);
  void heal_all();
  bool is_cut(SimHost from, SimHost to) const { return cuts_.contains({from, to}); }
  // Every connection between them ends in an error on both sides; what is on its way is lost.
  void reset_connections(SimHost a, SimHost b);
  // The machine is there again: whoever has a connection to its life before is told so.
  void forget_connections(SimHost host);
  // Instead of net_low..net_high of `faults`.
  void set_delay(SimHost from, SimHost to, Nanoseconds low, Nanoseconds high) {
    delays_[{from, to}] = {low, high};
  }
  Nanoseconds draw_delay(SimHost from, SimHost to);
  static constexpr Nanoseconds kCutNoticed = 3 * kSecond;

  // Of reactors.
  std::pair<std::shared_ptr<SimPipe>, std::shared_ptr<SimPipe>> make_pipes(SimHost dialer,
                                                                           SimHost listener);
  // Runs at `when`, or when nothing between the machines is cut any more.
  void carry(SimHost from, SimHost to, Nanoseconds when, std::function<void()> effect);
  using Way = std::pair<SimHost, SimHost>;
  void arrive(Way way, std::function<void()> effect);
  void end_pipe(const std::shared_ptr<SimPipe>& pipe);
  void notice_cut(const std::shared_ptr<SimPipe>& out, const std::shared_ptr<SimPipe>& in);

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
  std::set<Way> cuts_;
  std::map<Way, std::deque<std::function<void()>>> held_;
  std::map<Way, std::pair<Nanoseconds, Nanoseconds>> delays_;
  std::vector<std::weak_ptr<SimPipe>> pipes_;

  Nanoseconds now_ = kSecond;
  Random random_;
  uint64_t next_number_ = 0;
  uint64_t events_run_ = 0;
  std::priority_queue<Event, std::vector<Event>, std::greater<>> queue_;
};

}  // namespace cvol::io
