// Nemesis: injects faults into a cluster, each kind at its own drawn rate, each for a drawn time.
#pragma once

#include <array>
#include <string_view>

#include "tests/sim/protocol/cluster.h"

namespace cvol::sim {

enum class Fault : uint8_t {
  // network
  kReset,
  kCutOneWay,
  kCutBothWays,
  kIsolate,
  kHalves,
  kClog,
  kSlowLink,
  kCutFrontEnd,
  kCutRegister,
  // processes
  kKill,
  kKillTold,
  kPower,
  kAllAtOnce,
  kStop,
  // disks
  kSlowDisk,
  kStuckDisk,
  kFullDisk,
  kFailDisk,
  kRollBack,
  kReplaceDisk,
  kImage,  // takes the image that kRollBack goes back to
  // the register
  kRegisterDown,
  // operators and front ends
  kRepair,
  kHandOver,
  kPutOut,
  kAttach,
  kDetach,
  kReconnect,
  kStopFrontEnd,
  kCount
};
constexpr std::size_t kFaults = static_cast<std::size_t>(Fault::kCount);
std::string_view name_of(Fault fault);

struct Rates {
  std::array<Nanoseconds, kFaults> every{};  // mean; 0: never
  Nanoseconds lasts = 2 * kSecond;           // mean, of what ends by itself
  Nanoseconds& operator[](Fault fault) { return every[static_cast<std::size_t>(fault)]; }
};

class Nemesis {
 public:
  Nemesis(Cluster& cluster, const Rates& rates) : cluster_(cluster), rates_(rates) {}
  void begin();
  // From now on it injects nothing, and what it would end stays as it is.
  void end() { ++round_; }

 private:
  void arm(Fault fault);
  void inject(Fault fault);
  // In a drawn time, if it is still at work.
  void later(std::function<void()> what);
  int any_node();
  int running_node();  // -1: none
  // Of this one's data nothing may be left: another that the register trusts has it.
  bool can_spare(int node) const;
  void down(int node);  // and up again
  void inject_network(Fault fault);
  void inject_process(Fault fault);
  void inject_disk(Fault fault);
  void inject_operator(Fault fault);

  Cluster& cluster_;
  Rates rates_;
  uint64_t round_ = 0;
};

}  // namespace cvol::sim
