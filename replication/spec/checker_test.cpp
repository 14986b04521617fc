#include "replication/spec/checker.h"

#include <gtest/gtest.h>

#include <array>
#include <string>

namespace cvol::spec {
namespace {

// Two counters up to a limit, the sum of which must not reach a bound; exchanging them is a
// symmetry.
struct Counters {
  using State = std::array<uint64_t, 2>;
  using Action = int;

  uint64_t limit = 3;
  uint64_t bound = 100;
  bool symmetric = false;

  [[nodiscard]] State initial() const { return {0, 0}; }
  void successors(const State& state, std::vector<Step<State, Action>>* out) const {
    for (int which : {0, 1}) {
      State next = state;
      if (next[which]++ < limit) out->push_back({next, which});
    }
  }
  [[nodiscard]] State canonical(const State& state) const {
    return symmetric && state[0] > state[1] ? State{state[1], state[0]} : state;
  }
  [[nodiscard]] const char* violation(const State& state) const {
    return state[0] + state[1] >= bound ? "bound" : nullptr;
  }
  [[nodiscard]] std::string describe(Action which) const { return which == 0 ? "left" : "right"; }
};

TEST(Checker, visits_every_state_once) {
  const auto result = check(Counters{}, 1000);
  EXPECT_EQ(result.outcome, Outcome::kHolds);
  EXPECT_EQ(result.states, 16U);
  EXPECT_EQ(result.transitions, 24U);
  EXPECT_EQ(result.depth, 6U);
}

TEST(Checker, a_symmetry_leaves_one_state_of_each_kind) {
  EXPECT_EQ(check(Counters{.symmetric = true}, 1000).states, 10U);
}

TEST(Checker, finds_a_shortest_counterexample) {
  for (const bool symmetric : {false, true}) {
    const Counters model{.bound = 4, .symmetric = symmetric};
    const auto result = check(model, 1000);
    EXPECT_EQ(result.outcome, Outcome::kViolated);
    EXPECT_STREQ(result.invariant, "bound");
    EXPECT_EQ(result.path.size(), 4U);
    EXPECT_EQ(result.trace.size(), 4U);
    EXPECT_TRUE(confirms(model, result.path));
  }
}

TEST(Checker, says_when_the_bound_cut_it_short) {
  EXPECT_EQ(check(Counters{}, 5).outcome, Outcome::kBounded);
}

TEST(Checker, confirms_only_a_path_that_ends_in_the_first_violation) {
  const Counters model{.bound = 2};
  EXPECT_TRUE(confirms(model, {0, 1}));
  EXPECT_FALSE(confirms(model, {0}));
  EXPECT_FALSE(confirms(model, {0, 1, 0}));
  EXPECT_FALSE(confirms(model, {0, 7}));
}

}  // namespace
}  // namespace cvol::spec
