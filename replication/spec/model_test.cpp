// The protocol holds in every bounded configuration below, and each mutant falls. README.md has the
// figures.
#include "replication/spec/model.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <string>

namespace cvol::spec {
namespace {

constexpr size_t kMostStates = 6'000'000;  // far above every configuration here

struct Case {
  const char* name;
  Config config;
  const char* invariant = nullptr;  // the beginning of what must break
};

void PrintTo(const Case& which, std::ostream* out) {
  *out << which.name;
}

std::string name_of(const testing::TestParamInfo<Case>& info) {
  return info.param.name;
}

std::string tell(const Result<Model>& result) {
  std::string text = result.invariant == nullptr ? "" : result.invariant;
  for (const auto& line : result.trace) text += "\n  " + line;
  return text;
}

void print(const Case& which, const Result<Model>& result) {
  std::printf("%s: %zu states, %zu transitions, depth %zu%s%s\n", which.name, result.states,
              result.transitions, result.depth, result.invariant == nullptr ? "" : ", ",
              result.invariant == nullptr ? "" : result.invariant);
}

class ProtocolHolds : public testing::TestWithParam<Case> {};

TEST_P(ProtocolHolds, in_every_reachable_state) {
  const auto result = check(Model(GetParam().config), kMostStates);
  print(GetParam(), result);
  EXPECT_EQ(result.outcome, Outcome::kHolds) << tell(result);
}

class MutantFalls : public testing::TestWithParam<Case> {};

TEST_P(MutantFalls, with_a_counterexample_that_the_protocol_does_not_allow) {
  Config config = GetParam().config;
  const auto result = check(Model(config), kMostStates);
  print(GetParam(), result);
  ASSERT_EQ(result.outcome, Outcome::kViolated);
  EXPECT_EQ(std::string(result.invariant).rfind(GetParam().invariant, 0), 0U) << tell(result);
  EXPECT_EQ(result.path.size(), result.depth);
  EXPECT_TRUE(confirms(Model(config), result.path)) << tell(result);
  // It is the mutant, not the configuration: the same steps are impossible, or harmless, without
  // it.
  config.mutant = Mutant::kNone;
  EXPECT_FALSE(confirms(Model(config), result.path)) << tell(result);
}

// A client sees it: a read that breaks the promise.
TEST_P(MutantFalls, in_a_read_of_the_client) {
  Config config = GetParam().config;
  config.watch = Watch::kClient;
  const auto result = check(Model(config), kMostStates);
  print(GetParam(), result);
  ASSERT_EQ(result.outcome, Outcome::kViolated);
  EXPECT_TRUE(confirms(Model(config), result.path)) << tell(result);
  EXPECT_EQ(result.path.back().kind, Action::kRead);
}

Config two(int epochs, int writes, int crashes) {
  return {.replicas = 2, .epochs = epochs, .writes = writes, .crashes = crashes};
}
Config three(int epochs, int writes, int crashes) {
  return {.replicas = 3,
          .epochs = epochs,
          .writes = writes,
          .crashes = crashes,
          .in_sync = 0b111,
          .resend = false};
}
Config plain(Config config) {
  config.resend = false;
  return config;
}
Config rolled_back(Config config) {
  config.unclean = 1;
  return config;
}
Config detached(Config config) {
  config.force_detach = true;
  return config;
}
Config alone(Config config) {
  config.in_sync = 0b01;
  return config;
}
Config equal(Config config) {
  config.equal_is_served = true;
  return config;
}
Config with(Mutant mutant, Config config) {
  config.mutant = mutant;
  return config;
}

INSTANTIATE_TEST_SUITE_P(
    spec, ProtocolHolds,
    testing::Values(Case{"two_replicas", two(3, 2, 1)},                                         //
                    Case{"two_replicas_two_crashes", plain(two(3, 2, 2))},                      //
                    Case{"two_replicas_four_epochs", plain(two(4, 2, 1))},                      //
                    Case{"two_replicas_one_joins", plain(alone(two(4, 2, 1)))},                 //
                    Case{"two_replicas_a_disk_rolled_back", plain(rolled_back(two(3, 2, 2)))},  //
                    Case{"two_replicas_a_force_detach", detached(two(2, 2, 1))},                //
                    Case{"two_replicas_a_force_detach_five_epochs", plain(detached(two(5, 1, 0)))},
                    Case{"two_replicas_equal_epochs_served", equal(two(3, 2, 1))},  //
                    Case{"three_replicas", three(3, 1, 1)},                         //
                    Case{"three_replicas_two_writes", three(3, 2, 0)}),
    name_of);

INSTANTIATE_TEST_SUITE_P(
    spec, MutantFalls,
    testing::Values(
        Case{"m01_acknowledge_before_removal",
             with(Mutant::kAcknowledgeBeforeRemoval, two(3, 2, 1)), "I6"},
        Case{"m02_joiner_required_after_cas", with(Mutant::kJoinerRequiredAfterCas, two(4, 2, 1)),
             "I6"},
        Case{"m03_outcome_by_reading", with(Mutant::kOutcomeByReading, plain(two(4, 2, 1))), "I6"},
        Case{"m04_no_grace", with(Mutant::kNoGrace, two(3, 2, 1)), "I1"},
        Case{"m05_no_leases", with(Mutant::kNoLeases, two(3, 2, 1)), "I1"},
        Case{"m06_read_in_flight", with(Mutant::kReadInFlight, two(3, 2, 1)), "I2"},
        Case{"m07_no_reconcile", with(Mutant::kNoReconcile, two(3, 2, 1)), "I2"},
        Case{"m08_anyone_may_promote", with(Mutant::kAnyoneMayPromote, two(3, 2, 1)), "I5"},
        Case{"m09_one_lease_is_enough", with(Mutant::kOneLeaseIsEnough, three(3, 1, 0)), "I1"},
        Case{"m10_acknowledge_before_durable",
             with(Mutant::kAcknowledgeBeforeDurable, two(3, 2, 1)), "I6"},
        Case{"m11_no_epoch_check", with(Mutant::kNoEpochCheck, two(3, 2, 1)), "I6"},
        Case{"m12_tail_rolled_back", with(Mutant::kTailRolledBack, two(3, 2, 1)), "I6"},
        Case{"m14_promise_not_persisted", with(Mutant::kPromiseNotPersisted, two(3, 2, 1)), "I1"},
        Case{"m15_joiner_lease_not_needed",
             with(Mutant::kJoinerLeaseNotNeeded, alone(two(3, 2, 1))), "I1"},
        Case{"a_one_acknowledgement_is_enough",
             with(Mutant::kOneAcknowledgementIsEnough, three(3, 1, 1)), "I6"},
        Case{"b_restart_without_grace", with(Mutant::kRestartWithoutGrace, two(3, 2, 1)), "I1"},
        Case{"c_incarnation_ignored", with(Mutant::kIncarnationIgnored, rolled_back(two(3, 2, 1))),
             "I5"},
        Case{"d_old_generation_admitted", with(Mutant::kOldGenerationAdmitted, two(3, 2, 1)), "I6"},
        Case{"e_session_not_checked", with(Mutant::kSessionNotChecked, detached(two(3, 2, 1))),
             "I11"},
        Case{"f_join_without_own_tail",
             with(Mutant::kJoinWithoutOwnTail, plain(detached(two(5, 1, 0)))), "I11"},
        Case{"g_reconcile_own_tail_only",
             with(Mutant::kReconcileOwnTailOnly, detached(three(4, 1, 0))), "I11"},
        Case{"h_serve_before_reconciled", with(Mutant::kServeBeforeReconciled, two(3, 2, 1)), "I2"},
        Case{"i_commit_point_too_early", with(Mutant::kCommitPointTooEarly, two(3, 2, 1)), "I6"},
        Case{"j_rolled_back_member_grants",
             with(Mutant::kRolledBackMemberGrants, rolled_back(two(3, 2, 1))), "I1"}),
    name_of);

}  // namespace
}  // namespace cvol::spec
