// A breadth-first explicit-state checker.
//
// check() visits every state that a model can reach, each once, in order of distance from the
// start, and stops at the first state that violates an invariant: the path to it is as short as
// any. States are stored whole (no state is lost to a hash collision). One thread; memory is
// sizeof(State) + 12 to 20 bytes a state.
//
// A model offers
//   State, Action                                 State: std::array<uint64_t, n>, equal exactly if
//   the same State initial() const void successors(const State&, std::vector<Step<State, Action>>*)
//   const      appends State canonical(const State&) const           the representative of all
//   states that differ only by a
//                                                 symmetry; the state itself if there is none
//   const char* violation(const State&) const     the invariant that the state breaks, or null
//   std::string describe(const Action&) const     one line for people
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace cvol::spec {

template <typename State, typename Action>
struct Step {
  State next;
  Action action;
};

enum class Outcome {
  kHolds,     // every reachable state was visited and none violates
  kViolated,  // see invariant, path and trace
  kBounded,   // max_states were visited without a violation; nothing is proved
};

template <typename Model>
struct Result {
  Outcome outcome = Outcome::kHolds;
  size_t states = 0;
  size_t transitions = 0;
  size_t depth = 0;                          // steps from the start to the last state visited
  const char* invariant = nullptr;           // kViolated: what broke
  std::vector<typename Model::Action> path;  // kViolated: the shortest way there
  std::vector<std::string> trace;            // the same for people, a line per step
};

// The states seen, numbered in order of discovery; each knows its parent.
template <typename State>
class StateTable {
 public:
  // The number of the state and whether it is new.
  std::pair<uint32_t, bool> insert(const State& state, uint32_t parent) {
    if ((states_.size() + 1) * 10 > slots_.size() * 7) grow();
    size_t slot = hash(state) & (slots_.size() - 1);
    while (slots_[slot] != kFree) {
      if (states_[slots_[slot]] == state) return {slots_[slot], false};
      slot = (slot + 1) & (slots_.size() - 1);
    }
    const auto number = static_cast<uint32_t>(states_.size());
    slots_[slot] = number;
    states_.push_back(state);
    parents_.push_back(parent);
    return {number, true};
  }

  [[nodiscard]] size_t size() const { return states_.size(); }
  [[nodiscard]] const State& at(size_t number) const { return states_[number]; }
  [[nodiscard]] uint32_t parent(uint32_t number) const { return parents_[number]; }

 private:
  static constexpr uint32_t kFree = UINT32_MAX;

  static size_t hash(const State& state) {
    uint64_t sum = 0x9e3779b97f4a7c15;
    for (const uint64_t word : state) {
      sum = (sum ^ word) * 0xff51afd7ed558ccd;
      sum ^= sum >> 32;
    }
    return sum;
  }

  void grow() {
    slots_.assign(std::max<size_t>(slots_.size() * 2, 1024), kFree);
    for (size_t number = 0; number < states_.size(); ++number) {
      size_t slot = hash(states_[number]) & (slots_.size() - 1);
      while (slots_[slot] != kFree) slot = (slot + 1) & (slots_.size() - 1);
      slots_[slot] = static_cast<uint32_t>(number);
    }
  }

  std::vector<State> states_;
  std::vector<uint32_t> parents_;
  std::vector<uint32_t> slots_;
};

// Walks from the start through the states of a path of representatives. With a symmetry the
// representatives rename things from step to step; the walk keeps one naming throughout.
template <typename Model>
void tell(const Model& model, const std::vector<typename Model::State>& path,
          Result<Model>* result) {
  auto now = model.initial();
  std::vector<Step<typename Model::State, typename Model::Action>> steps;
  for (size_t at = 1; at < path.size(); ++at) {
    steps.clear();
    model.successors(now, &steps);
    for (const auto& step : steps) {
      if (model.canonical(step.next) != path[at]) continue;
      now = step.next;
      result->path.push_back(step.action);
      result->trace.push_back(model.describe(step.action));
      break;
    }
  }
}

// Explores at most max_states states.
template <typename Model>
Result<Model> check(const Model& model, size_t max_states) {
  Result<Model> result;
  StateTable<typename Model::State> seen;
  std::vector<Step<typename Model::State, typename Model::Action>> steps;
  seen.insert(model.canonical(model.initial()), 0);
  size_t level_end = 1;
  const auto finish = [&](uint32_t last) {
    std::vector<typename Model::State> path{seen.at(last)};
    for (; last != 0; last = seen.parent(last)) path.push_back(seen.at(seen.parent(last)));
    std::reverse(path.begin(), path.end());
    tell(model, path, &result);
  };
  for (size_t at = 0; at < seen.size(); ++at) {
    if (at == level_end) {
      level_end = seen.size();
      ++result.depth;
    }
    steps.clear();
    const auto state = seen.at(at);
    model.successors(state, &steps);
    result.transitions += steps.size();
    for (const auto& step : steps) {
      const auto [number, is_new] =
          seen.insert(model.canonical(step.next), static_cast<uint32_t>(at));
      if (!is_new) continue;
      result.invariant = model.violation(step.next);
      result.states = seen.size();
      if (result.invariant != nullptr) {
        result.outcome = Outcome::kViolated;
        ++result.depth;
        finish(number);
        return result;
      }
      if (seen.size() >= max_states) {
        result.outcome = Outcome::kBounded;
        return result;
      }
    }
  }
  result.states = seen.size();
  return result;
}

// True if the actions, taken one by one from the start, are all possible, and the state after the
// last one, and no state before, breaks an invariant: the independent check of a counterexample.
template <typename Model>
bool confirms(const Model& model, const std::vector<typename Model::Action>& path) {
  auto now = model.initial();
  std::vector<Step<typename Model::State, typename Model::Action>> steps;
  for (const auto& action : path) {
    if (model.violation(now) != nullptr) return false;
    steps.clear();
    model.successors(now, &steps);
    const auto found = std::find_if(steps.begin(), steps.end(),
                                    [&](const auto& step) { return step.action == action; });
    if (found == steps.end()) return false;
    now = found->next;
  }
  return model.violation(now) != nullptr;
}

}  // namespace cvol::spec
