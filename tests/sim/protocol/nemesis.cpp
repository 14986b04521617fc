#include "tests/sim/protocol/nemesis.h"

#include <fmt/format.h>

#include <algorithm>

#include "volumed/base/assert.h"

namespace cvol::sim {

std::string_view name_of(Fault fault) {
  constexpr std::array<std::string_view, kFaults> kNames = {
      "reset",         "cut_one_way",  "cut_both_ways", "isolate",       "halves",    "clog",
      "slow_link",     "cut_front",    "cut_register",  "kill",          "kill_told", "power",
      "all_at_once",   "stop",         "slow_disk",     "stuck_disk",    "full_disk", "fail_disk",
      "roll_back",     "replace_disk", "image",         "register_down", "repair",    "hand_over",
      "put_out_asked", "attach",       "detach",        "reconnect",     "stop_front"};
  return kNames[static_cast<std::size_t>(fault)];
}

void Nemesis::begin() {
  for (std::size_t i = 0; i < kFaults; ++i) {
    if (rates_.every[i] > 0) arm(static_cast<Fault>(i));
  }
}

void Nemesis::arm(Fault fault) {
  World& world = cluster_.world();
  const Nanoseconds delay = world.around(rates_[fault]);
  world.after(delay, [this, fault, round = round_] {
    if (round != round_) return;
    inject(fault);
    arm(fault);
  });
}

void Nemesis::later(std::function<void()> what) {
  World& world = cluster_.world();
  world.after(world.around(rates_.lasts), [this, what = std::move(what), round = round_] {
    if (round == round_) what();
  });
}

int Nemesis::any_node() {
  return static_cast<int>(cluster_.world().random().below(static_cast<uint64_t>(cluster_.nodes())));
}

int Nemesis::running_node() {
  // The primary is worth more than another.
  const int primary = cluster_.primary();
  const bool its = cluster_.world().percent(35);
  const int node = its && primary >= 0 ? primary : any_node();
  return cluster_.node(node).alive() && !cluster_.node(node).stopped() ? node : -1;
}

bool Nemesis::can_spare(int node) const {
  for (int other = 0; other < cluster_.nodes(); ++other) {
    if (other != node && cluster_.usable(other)) return true;
  }
  return false;
}

void Nemesis::inject(Fault fault) {
  cluster_.world().count(std::string(name_of(fault)));
  if (cluster_.world().tracing())
    cluster_.world().trace(fmt::format("nemesis: {}", name_of(fault)));
  if (fault <= Fault::kCutRegister) return inject_network(fault);
  if (fault <= Fault::kStop) return inject_process(fault);
  if (fault <= Fault::kImage) return inject_disk(fault);
  inject_operator(fault);
}

void Nemesis::inject_network(Fault fault) {
  World& world = cluster_.world();
  Network& network = cluster_.network();
  const int a = any_node();
  int b = any_node();
  if (a == b) b = (a + 1) % cluster_.nodes();
  const int front = cluster_.nodes();
  switch (fault) {
    case Fault::kReset:
      return network.reset(a, world.percent(70) ? b : front, kSecond / 2);
    case Fault::kCutOneWay:
      network.cut(a, b, true);
      return later([=, &network] { network.cut(a, b, false); });
    case Fault::kCutBothWays:
      network.cut_both(a, b, true);
      return later([=, &network] { network.cut_both(a, b, false); });
    case Fault::kIsolate: {
      const uint64_t how = world.random().below(3);  // both ways, cannot send, cannot hear
      for (int other = 0; other < network.ends(); ++other) {
        if (other == a) continue;
        if (how != 2) network.cut(a, other, true);
        if (how != 1) network.cut(other, a, true);
      }
      if (world.percent(70)) cluster_.record().set_reachable(a, false);
      return later([this] { cluster_.heal(); });
    }
    case Fault::kHalves: {
      const bool front_left = world.percent(50), register_left = world.percent(50);
      std::vector<bool> left;
      for (int end = 0; end < network.ends(); ++end)
        left.push_back(end < front ? world.percent(50) : front_left);
      for (int x = 0; x < network.ends(); ++x) {
        if (x < front && left[static_cast<std::size_t>(x)] != register_left)
          cluster_.record().set_reachable(x, false);
        for (int y = 0; y < x; ++y) {
          if (left[static_cast<std::size_t>(x)] != left[static_cast<std::size_t>(y)])
            network.cut_both(x, y, true);
        }
      }
      return later([this] { cluster_.heal(); });
    }
    case Fault::kClog:
      return network.clog(a, b, world.now() + world.between(0, 5 * kSecond));
    case Fault::kSlowLink:
      network.set_delay(a, b, 100 * kMillisecond);
      return later(
          [=, this, &network] { network.set_delay(a, b, cluster_.shape().network.delay); });
    case Fault::kCutFrontEnd: {
      const int node = cluster_.primary() >= 0 ? cluster_.primary() : a;
      network.cut_both(node, front, true);
      return later([=, &network] { network.cut_both(node, front, false); });
    }
    case Fault::kCutRegister:
      cluster_.record().set_reachable(a, false);
      return later([=, this] { cluster_.record().set_reachable(a, true); });
    default:
      CVOL_ASSERT(false);
  }
}

void Nemesis::down(int node) {
  later([this, node] { cluster_.restart(node); });
}

void Nemesis::inject_process(Fault fault) {
  if (fault == Fault::kAllAtOnce) {
    for (int node = 0; node < cluster_.nodes(); ++node) {
      cluster_.lose_power(node);
      down(node);
    }
    return;
  }
  const int node = running_node();
  if (node < 0) return;
  if (fault == Fault::kStop) {
    cluster_.node(node).stop();
    return later([this, node] { cluster_.node(node).go_on(); });
  }
  if (fault == Fault::kPower) {
    cluster_.lose_power(node);
  } else {
    cluster_.kill(node, fault == Fault::kKillTold);
  }
  down(node);
}

void Nemesis::inject_disk(Fault fault) {
  World& world = cluster_.world();
  const int index = any_node();
  Node& node = cluster_.node(index);
  const bool destroys =
      fault == Fault::kFailDisk || fault == Fault::kRollBack || fault == Fault::kReplaceDisk;
  if (destroys && !can_spare(index)) return;
  switch (fault) {
    case Fault::kSlowDisk:
      node.disk().set_slowness(world.between(5, 50));
      return later([=, this] { cluster_.node(index).disk().set_slowness(1); });
    case Fault::kStuckDisk:
      return node.disk().stick_until(world.now() +
                                     std::min(20 * kSecond, world.around(rates_.lasts * 2)));
    case Fault::kFullDisk:
      node.disk().set_capacity(node.disk().allocated() + world.random().below(4));
      return later(
          [=, this] { cluster_.node(index).disk().set_capacity(cluster_.shape().blocks); });
    case Fault::kFailDisk:
      if (node.disk().failed()) return;
      node.fail_disk();
      return later([=, this] {
        if (!cluster_.node(index).disk().failed()) return;
        cluster_.kill(index);
        cluster_.replace_disk(index);
        cluster_.restart(index);
      });
    case Fault::kRollBack:
      cluster_.lose_power(index);
      if (node.disk().has_image() && world.percent(70)) {
        cluster_.roll_back(index);
      } else {
        cluster_.lose_trust(index);
      }
      return down(index);
    case Fault::kReplaceDisk:
      cluster_.lose_power(index);
      cluster_.replace_disk(index);
      return down(index);
    case Fault::kImage:
      return node.disk().take_image();
    default:
      CVOL_ASSERT(false);
  }
}

void Nemesis::inject_operator(Fault fault) {
  World& world = cluster_.world();
  const int front =
      static_cast<int>(world.random().below(static_cast<uint64_t>(cluster_.gateways())));
  switch (fault) {
    case Fault::kRegisterDown:
      cluster_.record().set_up(false);
      return later([this] { cluster_.record().set_up(true); });
    case Fault::kRepair: {  // as if its driver had found damage, and got good content
      const uint64_t block = world.random().below(cluster_.shape().blocks);
      return cluster_.node(any_node()).run([block](Replica& replica, Nanoseconds now) {
        replica.repair(now, {block, block + 1});
      });
    }
    case Fault::kHandOver:
      return cluster_.hand_over(any_node());
    case Fault::kPutOut:
      return cluster_.put_out(any_node());
    case Fault::kAttach:
      cluster_.attach(front);
      if (world.percent(20)) cluster_.attach((front + 1) % cluster_.gateways());
      return;
    case Fault::kDetach:
      cluster_.detach();
      return later([this] { cluster_.attach(0); });
    case Fault::kReconnect:
      return cluster_.gateway(front).reconnect();
    case Fault::kStopFrontEnd:
      cluster_.gateway(front).stop();
      return later([this, front] { cluster_.gateway(front).go_on(); });
    default:
      CVOL_ASSERT(false);
  }
}

}  // namespace cvol::sim
