#include "tests/sim/node/swarm.h"

#include <fmt/format.h>

#include <algorithm>

namespace cvol::sim {
namespace {

constexpr io::Nanoseconds kFinishBound = 180 * io::kSecond;  // virtual, from the healing on

uint32_t maybe(Random& random, uint32_t percent, uint32_t most) {
  if (!random.chance(percent, 100)) return 0;
  return 1 + static_cast<uint32_t>(random.below(most));
}

}  // namespace

NodeSwarm draw_node_swarm(uint64_t seed) {
  Random random(seed * 7919 + 17);
  NodeSwarm swarm;
  ClusterShape& shape = swarm.shape;
  shape.seed = seed;
  shape.nodes = 2 + static_cast<uint32_t>(random.below(3));
  shape.replicas = 1 + static_cast<uint32_t>(random.below(std::min(shape.nodes, 3u)));
  shape.gateway_node = 1 + static_cast<uint32_t>(random.below(shape.nodes));
  shape.work.blocks = 16 << random.below(5);
  shape.work.most_blocks = 1 + random.below(24);
  shape.work.unaligned = random.chance(1, 3) ? 0 : static_cast<uint32_t>(random.below(60));
  shape.work.zero = static_cast<uint32_t>(random.below(25));
  shape.work.think = (1 + static_cast<int64_t>(random.below(100))) * io::kMillisecond;
  shape.engine.destage_when_idle = random.chance(1, 2);
  shape.engine.idle_after = 20 * io::kMillisecond;
  shape.engine.read_cache = random.chance(1, 2);
  shape.engine.destage_round_blocks = 64;
  shape.faults.disk_high = (100 + static_cast<int64_t>(random.below(3000))) * io::kMicrosecond;
  shape.faults.net_high = (50 + static_cast<int64_t>(random.below(5000))) * io::kMicrosecond;
  if (random.chance(1, 8)) shape.faults.net_high = 50 * io::kMillisecond;
  if (random.chance(1, 5)) {
    shape.format.capacity_bytes = kMiB;
    shape.work.blocks = 512;
    shape.work.no_space_allowed = true;
  }
  if (random.chance(1, 2)) {
    swarm.reg.high = (1 + static_cast<int64_t>(random.below(100))) * io::kMillisecond;
    swarm.reg.never = maybe(random, 40, 200000);
    swarm.reg.unanswered = maybe(random, 40, 200000);
    swarm.reg.later = maybe(random, 40, 200000);
    swarm.reg.watch_lost = maybe(random, 40, 500000);
  }
  FaultRates& rates = swarm.rates;
  rates.reset = maybe(random, 30, 2000);
  rates.hand_over = maybe(random, 25, 1000);
  rates.delay = maybe(random, 20, 500);
  rates.slow_disk = maybe(random, 20, 300);
  if (random.chance(1, 6)) {
    rates.damage = maybe(random, 100, 2000);
    shape.damage = true;
  } else {
    rates.crash = maybe(random, 50, 400);
    rates.power = maybe(random, 30, 300);
    rates.pause = maybe(random, 25, 300);
    rates.cut = maybe(random, 35, 400);
    rates.one_way = maybe(random, 20, 300);
    rates.long_away = maybe(random, 15, 150);
    rates.tell_deaths = random.chance(1, 3);
  }
  rates.register_down = maybe(random, 20, 200);
  rates.register_cut = maybe(random, 20, 200);
  rates.attach = maybe(random, 20, 200);
  swarm.safety = (3 + static_cast<int64_t>(random.below(15))) * io::kSecond;
  if (rates.damage == 0 && shape.replicas == 1) {  // where there is no other one
    rates.damage = rates.damage_anywhere = maybe(random, 50, 1000);
    shape.damage = shape.work.damage_allowed = rates.damage != 0;
  }
  swarm.clients = 1 + static_cast<uint32_t>(random.below(8));
  swarm.operations = 100 + random.below(700);
  return swarm;
}

std::string describe(const NodeSwarm& swarm) {
  const FaultRates& r = swarm.rates;
  return fmt::format(
      "{} nodes, {} replicas, gateway on {}, {} blocks, {} clients, {} operations, {} s; per 1000 "
      "s:"
      " crash {} power {} pause {} reset {} cut {} one-way {} slow disk {} register down {} cut {}"
      " hand-over {} away {} damage {} delay {} attach {}{}",
      swarm.shape.nodes, swarm.shape.replicas, swarm.shape.gateway_node, swarm.shape.work.blocks,
      swarm.clients, swarm.operations, swarm.safety / io::kSecond, r.crash, r.power, r.pause,
      r.reset, r.cut, r.one_way, r.slow_disk, r.register_down, r.register_cut, r.hand_over,
      r.long_away, r.damage, r.delay, r.attach, r.tell_deaths ? ", deaths are told" : "");
}

namespace {

class Run {
 public:
  explicit Run(const NodeSwarm& swarm) : swarm_(swarm), cluster_(swarm.shape) {}

  NodeResult go() {
    cluster_.reg().faults = swarm_.reg;
    cluster_.start();
    cluster_.work().start(cluster_.gateway_node(), swarm_.clients, swarm_.operations);
    safety();
    if (fine()) liveness();
    if (fine()) result_.complaint = cluster_.converge();
    if (!result_.complaint.empty()) result_.story = cluster_.status();
    result_.events = cluster_.world().events_run();
    result_.acknowledged = cluster_.work().acknowledged();
    result_.reads = cluster_.work().reads();
    result_.no_space = cluster_.work().no_space();
    result_.damaged = cluster_.work().damaged();
    result_.virtual_time = cluster_.world().now();
    result_.hash = cluster_.world().random().next() ^ result_.events * 31 ^
                   static_cast<uint64_t>(cluster_.world().now());
    return result_;
  }

 private:
  Random& random() { return cluster_.world().random(); }
  bool fine() {
    if (result_.complaint.empty()) result_.complaint = cluster_.work().complaint();
    if (result_.complaint.empty()) result_.complaint = cluster_.reg().complaint();
    if (result_.complaint.empty() && any_distrusts_itself())
      result_.complaint = "a replica takes its disk for an older copy, and it is none";
    return result_.complaint.empty();
  }
  Node& any() { return cluster_.node(1 + static_cast<uint32_t>(random().below(cluster_.size()))); }
  bool any_distrusts_itself() {
    for (uint32_t number = 1; number <= cluster_.size(); ++number) {
      Node& node = cluster_.node(number);
      if (node.up() && node.host() != nullptr && node.host()->core().durable().incarnation != 1)
        return true;
    }
    return false;
  }
  // The fault ends after a while.
  void later(io::Nanoseconds most, std::function<void()> end) {
    cluster_.world().at(cluster_.world().now() + cluster_.world().draw(0, most), std::move(end));
  }
  void count(const char* what) { ++result_.counts[what]; }

  void safety();
  void liveness();
  void turn();
  void bring_back();
  void crash(Node& node, io::SimReactor::Death death, io::Nanoseconds most_away);
  void pause(Node& node);
  void cut(Node& a, Node& b, bool both);
  void slow_disk(Node& node);
  void delay(Node& a, Node& b);
  void damage();
  void hand_over();
  void attach();
  void clients_go_on();
  bool settled();

  const NodeSwarm swarm_;
  Cluster cluster_;
  NodeResult result_;
  std::map<uint32_t, io::Nanoseconds> back_at_;  // of nodes that are down
  std::vector<std::pair<Node*, Uuid>> dead_;     // to be told
};

void Run::crash(Node& node, io::SimReactor::Death death, io::Nanoseconds most_away) {
  if (node.down()) return;
  const Uuid process = node.process();
  const uint64_t kept[] = {0, 20, 50, 80, 100};
  cluster_.crash(node, death, kept[random().below(5)]);
  back_at_[node.number()] = cluster_.world().now() + cluster_.world().draw(0, most_away);
  if (swarm_.rates.tell_deaths && random().chance(2, 3)) dead_.emplace_back(&node, process);
}

void Run::bring_back() {
  for (const auto& [node, process] : std::exchange(dead_, {})) cluster_.tell_death(*node, process);
  for (auto at = back_at_.begin(); at != back_at_.end();) {
    if (at->second <= cluster_.world().now()) {
      cluster_.start(cluster_.node(at->first));
      at = back_at_.erase(at);
    } else {
      ++at;
    }
  }
}

void Run::pause(Node& node) {
  if (node.down() || node.reactor().paused()) return;
  cluster_.note(fmt::format("node {} is paused", node.number()));
  node.pause();
  io::SimReactor* reactor = &node.reactor();
  later(6 * io::kSecond, [this, &node, reactor] {
    if (node.down() || &node.reactor() != reactor) return;
    cluster_.note(fmt::format("node {} goes on", node.number()));
    node.resume();
  });
}

void Run::cut(Node& a, Node& b, bool both) {
  if (&a == &b) return;
  cluster_.note(
      fmt::format("nodes {} and {} are cut{}", a.number(), b.number(), both ? "" : " one way"));
  cluster_.world().cut(a.number(), b.number());
  if (both) cluster_.world().cut(b.number(), a.number());
  later(8 * io::kSecond, [this, &a, &b] {
    cluster_.world().heal(a.number(), b.number());
    cluster_.world().heal(b.number(), a.number());
  });
}

void Run::slow_disk(Node& node) {
  auto slow = std::make_shared<io::SimFaults>(cluster_.world().faults);
  slow->disk_low = 5 * io::kMillisecond;
  slow->disk_high = (10 + static_cast<int64_t>(random().below(300))) * io::kMillisecond;
  cluster_.note(fmt::format("the disk of node {} is slow", node.number()));
  node.set_faults(slow);
  later(8 * io::kSecond, [&node] { node.set_faults(nullptr); });
}

void Run::delay(Node& a, Node& b) {
  const io::Nanoseconds high = (1 + static_cast<int64_t>(random().below(400))) * io::kMillisecond;
  cluster_.world().set_delay(a.number(), b.number(), high / 4, high);
  later(8 * io::kSecond, [this, &a, &b] {
    const io::SimFaults& faults = cluster_.world().faults;
    cluster_.world().set_delay(a.number(), b.number(), faults.net_low, faults.net_high);
  });
}

// Of one replica only, while there is another one with all of it; or of any.
void Run::damage() {
  const bool anywhere = swarm_.rates.damage_anywhere != 0;
  if (!anywhere && (!cluster_.all_in_sync() || cluster_.reg().record().in_sync.size() < 2)) return;
  const uint64_t which =
      anywhere ? random().below(swarm_.shape.replicas) : swarm_.shape.seed % swarm_.shape.replicas;
  Node& node = cluster_.node(1 + static_cast<uint32_t>(which));
  const uint64_t block = random().below(swarm_.shape.work.blocks);
  const uint64_t copies =
      node.damage_block(block, anywhere ? 1 + random().below(3) : 1, anywhere ? 0 : 1);
  if (copies > 0) cluster_.note(fmt::format("node {}: block {} rots", node.number(), block));
  result_.counts["damaged_blocks"] += copies > 0 ? 1 : 0;
}

Task<void> ask_to_move(replication::Gateway* gateway, replication::ReplicaId replica) {
  const Status moved = co_await gateway->move_primary(replica);
  static_cast<void>(moved);
}

void Run::hand_over() {
  Node& gateway = cluster_.gateway_node();
  if (!gateway.up() || gateway.gateway() == nullptr || swarm_.shape.replicas < 2) return;
  Node& to = cluster_.node(1 + static_cast<uint32_t>(random().below(swarm_.shape.replicas)));
  cluster_.note(fmt::format("the primary is asked to move to node {}", to.number()));
  gateway.reactor().start(ask_to_move(gateway.gateway(), to.parts().replica));
}

// The volume is attached elsewhere; whoever had it before may be unable to hear of it.
void Run::attach() {
  Node& to = any();
  if (!to.up() || !cluster_.reg().available() || &to == &cluster_.gateway_node()) return;
  cluster_.note(fmt::format("the volume is attached to node {}", to.number()));
  cluster_.reg().change([&](replication::Record& record) {
    record.epoch = record.epoch.next();
    record.session.node = to.parts().node;
    ++record.session.generation;
  });
  cluster_.attach(to);
  if (to.has_replica()) to.gateway()->draw_primary(to.parts().replica, 3 * io::kSecond);
}

void Run::clients_go_on() {
  Node& node = cluster_.gateway_node();
  VolumeWorkload& work = cluster_.work();
  if (!node.up() || node.gateway() == nullptr || work.left() == 0) return;
  if (work.running() == 0) work.go_on(node, swarm_.clients);
}

// A hundredth of a second.
void Run::turn() {
  const FaultRates& rates = swarm_.rates;
  const auto hit = [&](uint32_t rate, const char* name) {
    if (!random().chance(rate, 100000)) return false;
    count(name);
    return true;
  };
  if (hit(rates.crash, "crashes")) crash(any(), io::SimReactor::Death::kProcess, 6 * io::kSecond);
  if (hit(rates.power, "power_losses"))
    crash(any(), io::SimReactor::Death::kMachine, 10 * io::kSecond);
  if (hit(rates.long_away, "long_absences"))
    crash(any(), io::SimReactor::Death::kMachine, 60 * io::kSecond);
  if (hit(rates.pause, "pauses")) pause(any());
  if (hit(rates.reset, "resets"))
    cluster_.world().reset_connections(any().number(), any().number());
  if (hit(rates.cut, "cuts")) cut(any(), any(), true);
  if (hit(rates.one_way, "one_way_cuts")) cut(any(), any(), false);
  if (hit(rates.slow_disk, "slow_disks")) slow_disk(any());
  if (hit(rates.delay, "delays")) delay(any(), any());
  if (hit(rates.damage, "damages")) damage();
  if (hit(rates.hand_over, "hand_overs")) hand_over();
  if (hit(rates.attach, "attachments")) attach();
  if (hit(rates.register_down, "register_outages")) {
    cluster_.note("the store is out of reach");
    cluster_.reg().set_available(false);
    later(8 * io::kSecond, [this] { cluster_.reg().set_available(true); });
  }
  if (hit(rates.register_cut, "register_cuts")) {
    Node& node = any();
    if (!node.down()) {
      node.register_client().set_cut(true);
      later(8 * io::kSecond, [&node] {
        if (!node.down()) node.register_client().set_cut(false);
      });
    }
  }
}

void Run::safety() {
  const io::Nanoseconds until = cluster_.world().now() + swarm_.safety;
  while (cluster_.world().now() < until && fine()) {
    cluster_.run_for(10 * io::kMillisecond);
    turn();
    bring_back();
    clients_go_on();
    if (random().chance(1, 50)) cluster_.tell_records();
  }
}

bool Run::settled() {
  clients_go_on();
  return !fine() || (cluster_.work().done() && cluster_.serving() && cluster_.all_in_sync() &&
                     cluster_.all_up());
}

void Run::liveness() {
  cluster_.heal();
  for (auto& [number, when] : back_at_) when = 0;
  bring_back();
  for (uint32_t number = 1; number <= cluster_.size(); ++number)
    cluster_.node(number).set_faults(nullptr);
  cluster_.reg().faults = SimRegister::Faults{};
  const io::Nanoseconds until = cluster_.world().now() + kFinishBound;
  while (!settled() && cluster_.world().now() < until) {
    cluster_.run_for(20 * io::kMillisecond);
    if (random().chance(1, 50)) {
      cluster_.heal_quietly();
      cluster_.tell_records();
    }
  }
  if (!fine()) return;
  if (!cluster_.work().done()) {
    result_.complaint = "operations do not end";
  } else if (!cluster_.serving()) {
    result_.complaint = "no primary serves with all members";
  } else if (!cluster_.all_in_sync()) {
    result_.complaint = "the in-sync set is not whole again";
  } else if (!cluster_.all_up()) {
    result_.complaint = "a node does not come up";
  }
}

}  // namespace

NodeResult run_node_swarm(const NodeSwarm& swarm) {
  Run run(swarm);
  return run.go();
}

}  // namespace cvol::sim
