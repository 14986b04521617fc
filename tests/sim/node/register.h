// The metadata store of a simulated cluster: one record, changed by compare-and-swap only, reached
// over a network of its own.
//
// An answer may be lost although the change was made, or is made later, or never (R5). Watches are
// hints: they may be late or lost. Every change is checked: epochs rise by one at most, the in-sync
// set is never empty and never holds a replica that the record does not list (I4, I7).
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "replication/node/register.h"
#include "volumed/io/sim/sim_reactor.h"

namespace cvol::sim {

class RegisterClient;

class SimRegister {
 public:
  struct Faults {
    io::Nanoseconds low = 200 * io::kMicrosecond, high = 3 * io::kMillisecond;  // each way
    io::Nanoseconds timeout = 2 * io::kSecond;
    // Chances in a million per change.
    uint64_t never = 0, unanswered = 0, later = 0;
    uint64_t watch_lost = 0;
  };

  SimRegister(io::SimWorld& world, const Uuid& volume, replication::Record record)
      : world_(world), volume_(volume), record_(std::move(record)) {
    record_.revision = 1;
  }

  Faults faults;
  void set_available(bool available) { available_ = available; }
  bool available() const { return available_; }
  const replication::Record& record() const { return record_; }
  const Uuid& volume() const { return volume_; }
  // A change by an operator, made at once.
  void change(const std::function<void(replication::Record&)>& how);
  // Broken rules, if any.
  const std::string& complaint() const { return complaint_; }
  uint64_t changes() const { return record_.revision; }
  // Of every change, before anybody is told.
  std::function<void(const replication::Record& before, const replication::Record& after)>
      on_change;

 private:
  friend class RegisterClient;
  replication::CasResult apply(const replication::Record& next, uint64_t* revision);
  void stored(const replication::Record& before);
  bool lost(uint64_t chance) { return world_.random().chance(chance, 1000000); }
  io::Nanoseconds draw() { return world_.draw(faults.low, faults.high); }

  io::SimWorld& world_;
  const Uuid volume_;
  replication::Record record_;
  bool available_ = true;
  std::string complaint_;
  std::vector<RegisterClient*> clients_;
};

// What one life of a node sees of it.
class RegisterClient final : public replication::Register {
 public:
  RegisterClient(SimRegister& reg, io::SimReactor& node,
                 std::function<void(const replication::Record&)> watch);
  ~RegisterClient() override;
  void propose(const Uuid& volume, const replication::Record& next,
               std::function<void(replication::CasResult, uint64_t revision)> done) override;
  void fetch(const Uuid& volume, std::function<void(Result<replication::Record>)> done) override;
  // The way to the store is cut; requests under way still arrive.
  void set_cut(bool cut) { cut_ = cut; }
  // As a watch that was made anew: tells the record as it is, soon.
  void tell();

 private:
  friend class SimRegister;
  void answer(io::Nanoseconds when, std::function<void()> what);
  bool reaches() const { return reg_.available_ && !cut_; }

  SimRegister& reg_;
  io::SimReactor& node_;
  std::function<void(const replication::Record&)> watch_;
  bool cut_ = false;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace cvol::sim
