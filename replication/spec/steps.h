// The steps that the protocol can take from one state: each function below is one kind of action,
// offers every instance of it that the rules allow, and cites them.
#pragma once

#include <vector>

#include "replication/spec/world.h"

namespace cvol::spec {

class Steps {
 public:
  Steps(const Config& config, const World& now, std::vector<Step<Model::State, Action>>* out)
      : config_(config), now_(now), out_(out) {}

  void all();

 private:
  void client();
  void writes(int r);
  void reads(int r);
  void members(int r);
  void joins(int r);
  void records(int r);
  void promotes(int r);
  void reconciles(int r);
  void crashes(int r);
  void register_lands();
  void operator_detaches();

  [[nodiscard]] bool mutant(Mutant which) const { return config_.mutant == which; }
  [[nodiscard]] bool accepts(const Replica& replica, int epoch) const;
  [[nodiscard]] bool trusts_itself(int r, int epoch) const;
  [[nodiscard]] bool may_read(int r) const;
  [[nodiscard]] bool grace_is_over(int r) const;
  [[nodiscard]] bool can_propose() const;
  [[nodiscard]] bool has_incarnation(int r, const Record& record) const;
  void start_write(World& world, int r, int value, bool current) const;
  void adopt(World& world, int r, int epoch) const;
  void step_down(World& world, int r) const;
  void lose_volatile(World& world, int r) const;
  void propose(World& world, const Record& record) const;
  void emit(World& world, Action action) const;
  void normalise(World& world) const;

  const Config& config_;
  const World& now_;
  std::vector<Step<Model::State, Action>>* out_;
};

}  // namespace cvol::spec
