// Every mutant of replication/core (options.h) must be caught within a bounded number of seeds, or
// the simulator is not good enough. Each runs in a process of its own, since an assertion of the
// code under test catches it as well.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>

#include "tests/sim/protocol/swarm.h"

namespace cvol::sim {
namespace {

struct Found {
  uint64_t seed = 0;
  char complaint[300] = {};
};

// Shared with the child.
Found& found() {
  static Found* const shared = static_cast<Found*>(
      mmap(nullptr, sizeof(Found), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  return *shared;
}

using Runner = Result (*)(uint64_t seed, Mutant mutant);

Result run_drawn(uint64_t seed, Mutant mutant) {
  return run_swarm(draw_swarm(seed, mutant));
}

// A write that waits at the old primary locks its block; others can be read there.
constexpr Gateway::Work kOneWriter = {
    .workers = 1, .reads = 0, .zeroes = 0, .hot_blocks = 4, .most_blocks = 1};

void probe_each(Cluster& cluster) {
  for (uint64_t block = 0; block < 4; ++block) cluster.node(0).probe({block, block + 1});
}

// Random faults hardly ever find the way that the promise is for (R8): a candidate loses power when
// its compare-and-swap has left, comes back before it lands, and is heard by the old primary first.
Result run_candidate_crash(uint64_t seed, Mutant mutant) {
  Shape shape;
  shape.seed = seed;
  shape.nodes = 2;
  shape.tracing = false;
  shape.options.mutant = mutant;
  Cluster cluster(shape);
  Result result;
  const auto look = [&] {
    probe_each(cluster);
    return cluster.world().failed();
  };
  cluster.gateway().work(kOneWriter);
  cluster.run(5 * kSecond);
  cluster.record().set_reachable(0, false);
  cluster.cut_nodes(0, 1);
  cluster.record().delay_next_of(1, 6 * kSecond);
  const auto proposes = [&] { return !cluster.record().delays_next_of(1); };
  cluster.run_until(10 * kSecond, proposes);
  cluster.lose_power(1);
  cluster.restart(1);
  cluster.network().cut_both(0, 1, false);
  cluster.run_until(15 * kSecond, look);
  result.complaint = cluster.world().failure();
  return result;
}

// And hardly ever the one that a joiner's lease is for (R10): the record takes it in late, it is
// cut off from the primary, promotes itself, and the primary has not learned of any of it.
Result run_joiner_promotes(uint64_t seed, Mutant mutant) {
  Shape shape;
  shape.seed = seed;
  shape.nodes = 2;
  shape.tracing = false;
  shape.options.mutant = mutant;
  Cluster cluster(shape);
  cluster.gateway().work(kOneWriter);
  cluster.run(5 * kSecond);
  cluster.kill(1);
  cluster.run_until(20 * kSecond, [&] { return cluster.set_is({0}); });
  cluster.record().delay_next_of(0, 3 * kSecond);
  cluster.restart(1);
  cluster.run_until(20 * kSecond, [&] { return !cluster.record().delays_next_of(0); });
  cluster.record().set_reachable(0, false);
  cluster.cut_nodes(0, 1);
  cluster.run_until(20 * kSecond, [&] {
    probe_each(cluster);
    return cluster.world().failed();
  });
  Result result;
  result.complaint = cluster.world().failure();
  return result;
}

// Of three replicas one takes over and puts out another, which goes on granting leases to the
// primary of before (R6): neither of these two hears of it.
Result run_removed_member_grants(uint64_t seed, Mutant mutant) {
  Shape shape;
  shape.seed = seed;
  shape.nodes = 3;
  shape.tracing = false;
  shape.options.mutant = mutant;
  Cluster cluster(shape);
  cluster.gateway().work(kOneWriter);
  cluster.run(5 * kSecond);
  cluster.record().set_reachable(0, false);
  cluster.record().set_reachable(2, false);
  cluster.cut_nodes(0, 1);
  cluster.cut_nodes(1, 2);
  cluster.run_until(8 * kSecond, [&] {
    probe_each(cluster);
    return cluster.world().failed();
  });
  Result result;
  result.complaint = cluster.world().failure();
  return result;
}

// The primary's disk is an older copy of itself, of before a burst of writes. Node 1 has the burst
// but not its commit point, and answers first; node 2 knows, and answers last (R9).
Result run_taken_back(uint64_t seed, Mutant mutant) {
  Shape shape;
  shape.seed = seed;
  shape.nodes = 3;
  shape.tracing = false;
  shape.options.mutant = mutant;
  Cluster cluster(shape);
  Gateway& gateway = cluster.gateway();
  const auto burst = [&] {
    for (uint64_t block = 0; block < 8; ++block)
      gateway.submit(Gateway::Operation::kWrite, {block, block + 1});
  };
  Result result;
  cluster.run(2 * kSecond);
  burst();
  cluster.run(5 * kSecond);
  if (!cluster.serves(0) || gateway.unanswered() > 0) return result;
  cluster.node(0).disk().take_image();
  const uint64_t whole = cluster.node(0).replica()->last_seq().value + 8;
  burst();
  cluster.run_until(kSecond, [&] { return cluster.node(1).replica()->last_seq().value >= whole; });
  cluster.network().cut(0, 1, true);
  cluster.run_until(800 * kMillisecond, [&] {
    return gateway.unanswered() == 0 && cluster.node(2).replica()->commit_point().value >= whole;
  });
  cluster.lose_power(0);
  cluster.take_back(0);
  cluster.network().cut(0, 1, false);
  cluster.network().clog(2, 0, cluster.world().now() + 800 * kMillisecond);
  cluster.restart(0);
  cluster.run(3 * kSecond);
  for (uint64_t block = 0; block < 8; ++block)
    gateway.submit(Gateway::Operation::kRead, {block, block + 1});
  cluster.run(10 * kSecond);
  const bool failed = cluster.world().failed();
  result.complaint = failed ? cluster.world().failure() : cluster.history().check();
  return result;
}

// A write is on its way; node 1 has acknowledged it, comes back with an older copy of its disk, and
// is all that is left (R3).
Result run_member_comes_back_older(uint64_t seed, Mutant mutant) {
  Shape shape;
  shape.seed = seed;
  shape.nodes = 3;
  shape.tracing = false;
  shape.options.mutant = mutant;
  Cluster cluster(shape);
  Gateway& gateway = cluster.gateway();
  const auto answered = [&] { return gateway.unanswered() == 0; };
  Result result;
  cluster.run(2 * kSecond);
  gateway.submit(Gateway::Operation::kWrite, {2, 3});
  cluster.run(5 * kSecond);
  if (!cluster.serves(0) || !answered()) return result;
  cluster.node(1).disk().take_image();
  const uint64_t before = cluster.node(1).replica()->last_seq().value;
  cluster.node(2).disk().stick_until(cluster.world().now() + 4 * kSecond);
  gateway.submit(Gateway::Operation::kWrite, {2, 3});
  cluster.run_until(kSecond, [&] { return cluster.node(1).replica()->last_seq().value > before; });
  cluster.run(100 * kMillisecond);
  cluster.kill(1);
  cluster.take_back(1);
  cluster.restart(1);
  cluster.run_until(10 * kSecond, answered);
  if (!answered() || !cluster.all_in_set()) return result;
  cluster.kill(0);
  cluster.kill(2);
  cluster.run_until(20 * kSecond, [&] { return cluster.serves(1); });
  gateway.submit(Gateway::Operation::kRead, {2, 3});
  cluster.run_until(10 * kSecond, answered);
  const bool failed = cluster.world().failed();
  result.complaint = failed ? cluster.world().failure() : cluster.history().check();
  return result;
}

// The register is restored from a backup in which node 1 was in the set; node 0 runs (R8).
Result run_restored_register(uint64_t seed, Mutant mutant) {
  Shape shape;
  shape.seed = seed;
  shape.nodes = 2;
  shape.tracing = false;
  shape.options.mutant = mutant;
  Cluster cluster(shape);
  cluster.gateway().work(kOneWriter);
  cluster.run(5 * kSecond);
  const replication::Record backup = cluster.record().record();
  cluster.kill(1);
  cluster.run_until(20 * kSecond, [&] { return cluster.set_is({0}); });
  cluster.run(kSecond);
  cluster.record().restore(backup);
  cluster.restart(1);
  cluster.run_until(20 * kSecond, [&] {
    probe_each(cluster);
    cluster.node(1).probe({0, 4});
    return cluster.world().failed();
  });
  Result result;
  result.complaint = cluster.world().failure();
  return result;
}

// A primary with strict reads is cut off from its members and from the register (R6).
Result run_cut_off_with_strict_reads(uint64_t seed, Mutant mutant) {
  Shape shape;
  shape.seed = seed;
  shape.nodes = 3;
  shape.tracing = false;
  shape.options.mutant = mutant;
  shape.options.strict_reads = true;
  Cluster cluster(shape);
  cluster.gateway().work(kOneWriter);
  cluster.run(5 * kSecond);
  cluster.record().set_reachable(0, false);
  cluster.cut_nodes(0, 1);
  cluster.cut_nodes(0, 2);
  cluster.run_until(15 * kSecond, [&] {
    probe_each(cluster);
    return cluster.world().failed();
  });
  Result result;
  result.complaint = cluster.world().failure();
  return result;
}

// A piece of a resync that is slow in the joiner's disk (R10): its join ends, the block is written
// again, the next join copies what is new, and then the piece lands.
Result run_piece_outlives_its_join(uint64_t seed, Mutant mutant) {
  Shape shape;
  shape.seed = seed;
  shape.nodes = 2;
  shape.tracing = false;
  shape.options.mutant = mutant;
  Cluster cluster(shape);
  Gateway& gateway = cluster.gateway();
  const auto write = [&] {
    const uint64_t number = gateway.submit(Gateway::Operation::kWrite, {3, 4});
    cluster.run_until(20 * kSecond, [&] { return gateway.is_answered(number); });
  };
  cluster.run(5 * kSecond);
  cluster.kill(1);
  cluster.run_until(20 * kSecond, [&] { return cluster.set_is({0}); });
  write();
  cluster.network().set_delay(0, 1, 100 * kMillisecond);
  cluster.restart(1);
  cluster.run_until(20 * kSecond, [&] {
    return cluster.node(1).replica() != nullptr && cluster.node(1).replica()->ready_join() != 0;
  });
  cluster.node(1).disk().set_slowness(6000);  // of what it is given now
  cluster.run_until(5 * kSecond, [&] { return cluster.node(1).disk().under_way({3, 4}); });
  cluster.node(1).disk().set_slowness(1);
  write();  // waits until the join has ended
  cluster.run_until(20 * kSecond, [&] { return cluster.set_is({0, 1}); });
  cluster.run(20 * kSecond);
  cluster.kill(0);
  cluster.run_until(20 * kSecond, [&] { return cluster.serves(1) || cluster.world().failed(); });
  Result result;
  result.complaint = cluster.world().failure();
  return result;
}

void hunt(Runner run, Mutant mutant, uint64_t seeds) {
  for (uint64_t seed = 1; seed <= seeds; ++seed) {
    found().seed = seed;
    const Result result = run(seed, mutant);
    const bool slow = result.complaint.starts_with("I14");  // safety is what mutants break
    if (result.complaint.empty() || slow) continue;
    std::strncpy(found().complaint, result.complaint.c_str(), sizeof found().complaint - 1);
    const char* line = std::strchr(found().complaint, '\n');
    if (line != nullptr) found().complaint[line - found().complaint] = 0;
    return;
  }
  found().seed = 0;
}

void expect_caught(const char* name, Runner run, Mutant mutant, uint64_t seeds) {
  found() = Found{};
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    std::freopen("/dev/null", "w", stderr);
    hunt(run, mutant, seeds);
    _exit(0);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  if (WIFSIGNALED(status)) std::strcpy(found().complaint, "an assertion of replication/core");
  EXPECT_NE(found().seed, 0u) << name << " is not caught by " << seeds << " seeds";
  std::printf("%-26s seed %4llu of %4llu: %s\n", name,
              static_cast<unsigned long long>(found().seed), static_cast<unsigned long long>(seeds),
              found().complaint);
}

struct Case {
  const char* name;
  Mutant mutant;
  uint64_t seeds;
  Runner run = run_drawn;
};
constexpr Case kCases[] = {
    {"acknowledge_before_removal", Mutant::kAcknowledgeBeforeRemoval, 100},
    {"joiner_required_after_cas", Mutant::kJoinerRequiredAfterCas, 100},
    {"outcome_by_reading", Mutant::kOutcomeByReading, 1000},
    {"no_grace", Mutant::kNoGrace, 1000},
    {"no_leases", Mutant::kNoLeases, 1000},
    {"read_in_flight", Mutant::kReadInFlight, 100},
    {"no_reconcile", Mutant::kNoReconcile, 1000},
    {"anyone_may_promote", Mutant::kAnyoneMayPromote, 100},
    {"one_lease_is_enough", Mutant::kOneLeaseIsEnough, 60, run_removed_member_grants},
    {"acknowledge_before_durable", Mutant::kAcknowledgeBeforeDurable, 100},
    {"no_epoch_check", Mutant::kNoEpochCheck, 1000},
    {"tail_rolled_back", Mutant::kTailRolledBack, 100},
    {"promise_not_persisted", Mutant::kPromiseNotPersisted, 60, run_candidate_crash},
    {"joiner_lease_not_needed", Mutant::kJoinerLeaseNotNeeded, 60, run_joiner_promotes},
    {"old_generation_admitted", Mutant::kOldGenerationAdmitted, 1000},
    {"join_without_own_tail", Mutant::kJoinWithoutOwnTail, 3000},
    {"reconcile_own_tail_only", Mutant::kReconcileOwnTailOnly, 6000},
    {"serve_before_reconciled", Mutant::kServeBeforeReconciled, 1000},
    {"commit_point_too_early", Mutant::kCommitPointTooEarly, 1000},
    {"pieces_outlive_their_join", Mutant::kPiecesOutliveTheirJoin, 60, run_piece_outlives_its_join},
    {"strict_reads_unconfirmed", Mutant::kStrictReadsUnconfirmed, 60,
     run_cut_off_with_strict_reads},
    {"propose_unasked", Mutant::kProposeUnasked, 60, run_restored_register},
    {"judged_by_the_first_answer", Mutant::kJudgedByTheFirstAnswer, 60, run_taken_back},
};

class EachMutant : public ::testing::TestWithParam<Case> {};

TEST_P(EachMutant, is_caught) {
  expect_caught(GetParam().name, GetParam().run, GetParam().mutant, GetParam().seeds);
}

TEST(ProtocolMutants, without_one_the_chosen_ways_do_no_harm) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    EXPECT_EQ(run_candidate_crash(seed, Mutant::kNone).complaint, "");
    EXPECT_EQ(run_joiner_promotes(seed, Mutant::kNone).complaint, "");
    EXPECT_EQ(run_piece_outlives_its_join(seed, Mutant::kNone).complaint, "");
    EXPECT_EQ(run_taken_back(seed, Mutant::kNone).complaint, "");
    EXPECT_EQ(run_cut_off_with_strict_reads(seed, Mutant::kNone).complaint, "");
    EXPECT_EQ(run_restored_register(seed, Mutant::kNone).complaint, "");
    EXPECT_EQ(run_member_comes_back_older(seed, Mutant::kNone).complaint, "");
    if (seed > 5) continue;  // it takes its time
    EXPECT_EQ(run_removed_member_grants(seed, Mutant::kNone).complaint, "");
  }
}

INSTANTIATE_TEST_SUITE_P(ProtocolMutants, EachMutant, ::testing::ValuesIn(kCases),
                         [](const auto& each) { return std::string(each.param.name); });

}  // namespace
}  // namespace cvol::sim
