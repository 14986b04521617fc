#include "tests/sim/protocol/network.h"

#include <algorithm>

#include "volumed/base/assert.h"

namespace cvol::sim {

int Network::add(End& end) {
  ends_.push_back(&end);
  return ends() - 1;
}

void Network::start() {
  const std::size_t all = ends_.size() * ends_.size();
  ways_.resize(all);
  sides_.resize(all);
  pairs_.resize(all);
  for (Way& way : ways_) way.delay = times_.delay;
  for (int a = 0; a < ends(); ++a) {
    for (int b = a + 1; b < ends(); ++b) connect_later(a, b, times_.delay);
  }
}

bool Network::send(int from, int to, PacketPointer packet) {
  const Side& mine = side(from, to);
  if (!mine.up) return false;
  const Pair& both = pair(from, to);
  if (!both.connected || mine.generation != both.generation) return true;  // lost, not yet seen
  schedule(from, to, std::move(packet), mine.generation);
  return true;
}

void Network::schedule(int from, int to, PacketPointer packet, uint64_t generation) {
  Way& on = way(from, to);
  Nanoseconds when = world_.now() + world_.around(on.delay);
  when = std::max({when, on.clogged_until, side(to, from).ready, on.last}) + 1;
  on.last = when;
  world_.at(when, [this, from, to, packet = std::move(packet), generation] {
    arrive(from, to, packet, generation);
  });
}

void Network::arrive(int from, int to, const PacketPointer& packet, uint64_t generation) {
  const Pair& both = pair(from, to);
  if (!both.connected || both.generation != generation) return;
  Way& on = way(from, to);
  if (on.cut || !on.held.empty()) {
    on.held.push_back({packet, generation});
    return;
  }
  const Side& theirs = side(to, from);
  if (!theirs.up || theirs.generation != generation) return;  // it has given the connection up
  ends_[static_cast<std::size_t>(to)]->on_packet(from, packet);
}

void Network::reset(int a, int b, Nanoseconds notice) {
  lose(a, b, world_.around(notice), world_.around(notice));
}

void Network::lose(int a, int b, Nanoseconds notice_a, Nanoseconds notice_b) {
  Pair& both = pair(a, b);
  if (!both.connected) return;
  both.connected = false;
  way(a, b).held.clear();
  way(b, a).held.clear();
  tell_down(a, b, both.generation, notice_a);
  tell_down(b, a, both.generation, notice_b);
  connect_later(a, b, times_.reconnect);
}

void Network::tell_down(int at, int peer, uint64_t generation, Nanoseconds delay) {
  world_.after(delay, [this, at, peer, generation] {
    Side& mine = side(at, peer);
    if (!mine.up || mine.generation != generation) return;
    mine.up = false;
    if (ends_[static_cast<std::size_t>(at)]->alive())
      ends_[static_cast<std::size_t>(at)]->on_link(peer, false, 0);
  });
}

void Network::connect_later(int a, int b, Nanoseconds delay) {
  Pair& both = pair(a, b);
  if (both.connecting) return;
  both.connecting = true;
  world_.after(world_.around(delay), [this, a, b] {
    pair(a, b).connecting = false;
    if (!pair(a, b).connected) connect(a, b);
  });
}

void Network::connect(int a, int b) {
  const bool alive =
      ends_[static_cast<std::size_t>(a)]->alive() && ends_[static_cast<std::size_t>(b)]->alive();
  if (!alive || way(a, b).cut || way(b, a).cut) return connect_later(a, b, times_.reconnect);
  Pair& both = pair(a, b);
  both.connected = true;
  ++both.generation;
  tell_up(a, b, both.generation);
  tell_up(b, a, both.generation);
}

void Network::tell_up(int at, int peer, uint64_t generation) {
  Side& mine = side(at, peer);
  const Nanoseconds delay = world_.around(times_.delay);
  mine.ready = world_.now() + delay;
  const uint64_t process = ends_[static_cast<std::size_t>(peer)]->process();
  world_.after(delay, [this, at, peer, generation, process] {
    const Pair& both = pair(at, peer);
    if (!both.connected || both.generation != generation) return;
    End& end = *ends_[static_cast<std::size_t>(at)];
    Side& known = side(at, peer);
    if (known.up) end.on_link(peer, false, 0);
    known.up = true;
    known.generation = generation;
    end.on_link(peer, true, process);
  });
}

void Network::cut(int from, int to, bool is_cut) {
  Way& on = way(from, to);
  if (on.cut == is_cut) return;
  on.cut = is_cut;
  if (is_cut) {
    const uint64_t number = ++on.cuts;
    if (times_.cut_seen == 0) return;
    world_.after(world_.around(times_.cut_seen), [this, from, to, number] {
      if (way(from, to).cut && way(from, to).cuts == number) reset(from, to, times_.notice);
    });
    return;
  }
  if (on.held.empty()) return;
  if (world_.percent(40)) return reset(from, to, times_.notice);
  world_.after(world_.around(on.delay), [this, from, to] { release(from, to); });
}

// Until then whatever arrives queues up behind, so that the order holds.
void Network::release(int from, int to) {
  Way& on = way(from, to);
  while (!on.cut && !on.held.empty()) {
    const Held held = std::move(on.held.front());
    on.held.pop_front();
    const Side& theirs = side(to, from);
    if (!theirs.up || theirs.generation != held.generation) continue;
    ends_[static_cast<std::size_t>(to)]->on_packet(from, held.packet);
  }
}

void Network::heal() {
  for (int a = 0; a < ends(); ++a) {
    for (int b = 0; b < ends(); ++b) {
      if (a == b) continue;
      cut(a, b, false);
      way(a, b).clogged_until = 0;
    }
  }
}

void Network::clog(int from, int to, Nanoseconds until) {
  Way& on = way(from, to);
  on.clogged_until = std::max(on.clogged_until, until);
}

// A kernel that lives sends what its dead process had sent, and then ends the connection.
void Network::on_death(int end, bool kernel_lives) {
  for (int peer = 0; peer < ends(); ++peer) {
    if (peer == end) continue;
    side(end, peer).up = false;
    if (!kernel_lives) {
      lose(end, peer, 0, world_.around(3 * times_.notice));
      continue;
    }
    const uint64_t generation = pair(end, peer).generation;
    world_.after(world_.around(2 * way(end, peer).delay), [this, end, peer, generation] {
      if (pair(end, peer).generation == generation) lose(end, peer, 0, times_.delay);
    });
  }
}

}  // namespace cvol::sim
