// Network: connections between the ends (nodes first, then front ends), like TCP's.
//
// Each pair of ends has at most one connection at a time. Within one, packets arrive in order in
// each direction, each after a drawn delay, or not at all because the connection was lost; then
// both ends hear of it, each at its own time, and a new one is made when both live and no way
// between them is cut. What was sent on an old connection never arrives after it was lost. A cut
// way holds packets back; healing lets them go or loses the connection.
#pragma once

#include <functional>
#include <vector>

#include "tests/sim/protocol/packet.h"

namespace cvol::sim {

class Network {
 public:
  class End {
   public:
    virtual ~End() = default;
    virtual void on_packet(int from, const PacketPointer& packet) = 0;
    // `process`: which life of the peer's process the connection leads to (up only).
    virtual void on_link(int peer, bool up, uint64_t process) = 0;
    virtual bool alive() const = 0;  // a process is there, stopped or not
    virtual uint64_t process() const = 0;
  };
  struct Times {
    Nanoseconds delay = kMillisecond;  // mean, of one packet
    Nanoseconds notice = kSecond;      // mean, until an end sees that the connection is lost
    Nanoseconds reconnect = 100 * kMillisecond;
    Nanoseconds cut_seen = 3 * kSecond;  // mean, until a cut loses the connection; 0: never
  };

  Network(World& world, const Times& times) : world_(world), times_(times) {}
  int add(End& end);
  void start();  // when all are added; each connects to all the others

  // False if this end knows of no connection: the packet is gone.
  bool send(int from, int to, PacketPointer packet);
  bool is_up(int at, int peer) const { return side(at, peer).up; }

  // --- faults ---
  // The connection is lost; the ends notice within about `notice`.
  void reset(int a, int b, Nanoseconds notice);
  void cut(int from, int to, bool is_cut);
  void cut_both(int a, int b, bool is_cut) { cut(a, b, is_cut), cut(b, a, is_cut); }
  bool is_cut(int from, int to) const { return way(from, to).cut; }
  void heal();
  // Nothing moves from `from` to `to` until then; it is late, not lost.
  void clog(int from, int to, Nanoseconds until);
  void set_delay(int from, int to, Nanoseconds mean) { way(from, to).delay = mean; }
  // The process at this end is gone: its connections are lost. `kernel_lives`: the peers hear soon.
  void on_death(int end, bool kernel_lives);
  int ends() const { return static_cast<int>(ends_.size()); }

 private:
  struct Held {
    PacketPointer packet;
    uint64_t generation;
  };
  struct Way {  // of a direction
    bool cut = false;
    uint64_t cuts = 0;
    Nanoseconds delay = 0;  // mean
    Nanoseconds last = 0, clogged_until = 0;
    std::deque<Held> held;
  };
  struct Side {  // what an end knows of its connection to a peer
    bool up = false;
    uint64_t generation = 0;
    Nanoseconds ready = 0;  // when it learned or will learn of the present one
  };
  struct Pair {
    bool connected = false;
    bool connecting = false;
    uint64_t generation = 0;
  };

  std::size_t index(int from, int to) const {
    return static_cast<std::size_t>(from) * ends_.size() + static_cast<std::size_t>(to);
  }
  Way& way(int from, int to) { return ways_[index(from, to)]; }
  const Way& way(int from, int to) const { return ways_[index(from, to)]; }
  Side& side(int at, int peer) { return sides_[index(at, peer)]; }
  const Side& side(int at, int peer) const { return sides_[index(at, peer)]; }
  Pair& pair(int a, int b) { return a < b ? pairs_[index(a, b)] : pairs_[index(b, a)]; }
  void arrive(int from, int to, const PacketPointer& packet, uint64_t generation);
  void release(int from, int to);
  void schedule(int from, int to, PacketPointer packet, uint64_t generation);
  void lose(int a, int b, Nanoseconds notice_a, Nanoseconds notice_b);
  void tell_down(int at, int peer, uint64_t generation, Nanoseconds delay);
  void tell_up(int at, int peer, uint64_t generation);
  void connect_later(int a, int b, Nanoseconds delay);
  void connect(int a, int b);

  World& world_;
  const Times times_;
  std::vector<End*> ends_;
  std::vector<Way> ways_;
  std::vector<Side> sides_;
  std::vector<Pair> pairs_;
};

}  // namespace cvol::sim
