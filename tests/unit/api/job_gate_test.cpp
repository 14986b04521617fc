#include "volumed/api/job_gate.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

namespace cvol::api {
namespace {

using namespace std::chrono_literals;
using Turns = JobGate::Turns;

Status stay() {
  return Status::ok();
}

// What holds jobs until it is opened.
class Door {
 public:
  void pass() {
    ++inside;
    while (!open) std::this_thread::sleep_for(1ms);
  }
  std::atomic<int> inside{0};
  std::atomic<bool> open{false};
};

bool wait_for(const std::function<bool()>& done) {
  for (int i = 0; i < 5000 && !done(); ++i) std::this_thread::sleep_for(1ms);
  return done();
}

JobGate::Limits small() {
  JobGate::Limits limits;
  limits.callers = 4;
  limits.jobs = 6;
  limits.jobs_per_key = 2;
  limits.turn = 50ms;
  limits.look = 2ms;
  return limits;
}

TEST(JobGate, RunsAJobAndReturnsWhenItIsDone) {
  JobGate gate(small());
  int done = 0;
  EXPECT_TRUE(gate.run(
      "v", Turns::kByKey, [&] { ++done; }, stay));
  EXPECT_TRUE(gate.run(
      "v", Turns::kNone, [&] { ++done; }, stay));
  EXPECT_EQ(done, 2);
  EXPECT_EQ(gate.running(), 0u);
}

TEST(JobGate, ACallerThatLeavesGivesItsThreadBackAndTheJobGoesOn) {
  Door door;
  JobGate gate(small());
  std::atomic<bool> leaves{false};
  std::thread caller([&] {
    const Status left = gate.run(
        "v", Turns::kByKey, [&] { door.pass(); },
        [&] { return leaves ? Status(Code::kCancelled, "gone") : Status::ok(); });
    EXPECT_EQ(left.code(), Code::kCancelled);
  });
  ASSERT_TRUE(wait_for([&] { return door.inside == 1; }));
  leaves = true;
  caller.join();
  EXPECT_EQ(gate.running(), 1u);
  door.open = true;
  EXPECT_TRUE(wait_for([&] { return gate.running() == 0; }));
}

TEST(JobGate, AnotherOperationOnTheSameVolumeIsBusyAfterABoundedWait) {
  Door door;
  JobGate gate(small());
  std::thread caller([&] {
    EXPECT_TRUE(gate.run(
        "v", Turns::kByKey, [&] { door.pass(); }, stay));
  });
  ASSERT_TRUE(wait_for([&] { return door.inside == 1; }));
  bool ran = false;
  const auto began = std::chrono::steady_clock::now();
  EXPECT_EQ(gate.run(
                    "v", Turns::kByKey, [&] { ran = true; }, stay)
                .code(),
            Code::kBusy);
  EXPECT_GE(std::chrono::steady_clock::now() - began, 50ms);
  EXPECT_FALSE(ran);
  EXPECT_TRUE(gate.run(
      "w", Turns::kByKey, [&] { ran = true; }, stay));  // others go on
  EXPECT_TRUE(ran);
  door.open = true;
  caller.join();
  EXPECT_TRUE(gate.run(
      "v", Turns::kByKey, [] {}, stay));
}

TEST(JobGate, HungJobsOfOneVolumeAreBounded) {
  Door door;
  JobGate gate(small());
  const auto leave = [&] {
    return door.inside > 0 ? Status(Code::kCancelled, "gone") : Status::ok();
  };
  for (int i = 1; i <= 2; ++i) {
    EXPECT_EQ(gate.run(
                      "v", Turns::kNone, [&] { door.pass(); }, leave)
                  .code(),
              Code::kCancelled);
    ASSERT_TRUE(wait_for([&] { return door.inside == i; }));
  }
  const auto began = std::chrono::steady_clock::now();
  EXPECT_EQ(gate.run(
                    "v", Turns::kNone, [&] { door.pass(); }, stay)
                .code(),
            Code::kBusy);
  EXPECT_LT(std::chrono::steady_clock::now() - began, 5s);
  EXPECT_EQ(door.inside, 2);
  EXPECT_TRUE(gate.run(
      "w", Turns::kNone, [] {}, stay));
  door.open = true;
}

TEST(JobGate, CallersOfManyVolumesAreBounded) {
  Door door;
  JobGate gate(small());
  std::vector<std::thread> callers;
  for (int i = 0; i < 4; ++i) {
    callers.emplace_back([&, i] {
      EXPECT_TRUE(gate.run(
          "v" + std::to_string(i), Turns::kByKey, [&] { door.pass(); }, stay));
    });
  }
  ASSERT_TRUE(wait_for([&] { return door.inside == 4; }));
  EXPECT_EQ(gate.run(
                    "other", Turns::kByKey, [] {}, stay)
                .code(),
            Code::kBusy);
  door.open = true;
  for (std::thread& caller : callers) caller.join();
  EXPECT_TRUE(gate.run(
      "other", Turns::kByKey, [] {}, stay));
}

}  // namespace
}  // namespace cvol::api
