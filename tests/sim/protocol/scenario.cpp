#include "tests/sim/protocol/scenario.h"

#include "tests/sim/protocol/converge.h"

namespace cvol::sim {

Cluster& Scenario::begin(const Shape& shape) {
  cluster_ = std::make_unique<Cluster>(shape);
  finished_ = false;
  wait_until_serves(0);
  return *cluster_;
}

void Scenario::check() {
  if (!cluster_->world().failed()) return;
  FAIL() << cluster_->world().failure() << "\n"
         << cluster_->world().last_events() << cluster_->status();
}

void Scenario::run(Nanoseconds time) {
  cluster_->run(time);
  check();
}

void Scenario::wait_until(const std::string& what, const std::function<bool()>& holds,
                          Nanoseconds limit) {
  const bool held = cluster_->run_until(limit, holds);
  check();
  ASSERT_TRUE(held) << "waited in vain: " << what << "\n"
                    << cluster_->world().last_events() << cluster_->status();
}

void Scenario::wait_until_set_is(const std::vector<int>& nodes) {
  wait_until("the in-sync set", [&] { return cluster_->set_is(nodes); });
}

void Scenario::wait_until_serves(int index) {
  wait_until("node " + std::to_string(index) + " serves",
             [&] { return cluster_->primary() == index && cluster_->serves(index); });
}

void Scenario::wait_until_all_in_set() {
  wait_until(
      "all are in sync", [&] { return cluster_->all_in_set(); }, 60 * kSecond);
}

uint64_t Scenario::write(uint64_t block, int gateway) {
  const uint64_t number =
      cluster_->gateway(gateway).submit(Gateway::Operation::kWrite, {block, block + 1});
  sessions_[number] = cluster_->gateway(gateway).session();
  return number;
}

uint64_t Scenario::read(uint64_t block, int gateway) {
  return cluster_->gateway(gateway).submit(Gateway::Operation::kRead, {block, block + 1});
}

void Scenario::expect_answered(uint64_t request, int gateway) {
  wait_until("request " + std::to_string(request) + " is answered",
             [&] { return cluster_->gateway(gateway).is_answered(request); });
}

void Scenario::expect_unanswered(uint64_t request, Nanoseconds time, int gateway) {
  run(time);
  ASSERT_FALSE(cluster_->gateway(gateway).is_answered(request)) << cluster_->status();
}

void Scenario::expect_reads(uint64_t block, uint64_t request, int gateway) {
  expect_answered(read(block, gateway), gateway);
  ASSERT_EQ(cluster_->gateway(gateway).last_read().front().value,
            Gateway::value_of(sessions_[request], request, 0))
      << cluster_->status();
}

void Scenario::probe(int index, Nanoseconds time) {
  const Nanoseconds end = cluster_->world().now() + time;
  while (cluster_->world().now() < end) {
    node(index).probe({0, cluster_->shape().blocks});
    run(20 * kMillisecond);
  }
}

void Scenario::load(uint64_t workers, uint64_t hot_blocks, uint64_t zeroes) {
  Gateway::Work work;
  work.workers = workers;
  work.hot_blocks = hot_blocks;
  work.zeroes = zeroes;
  cluster_->gateway().work(work);
}

void Scenario::finish() {
  finished_ = true;
  const std::string complaint = converge(*cluster_, 120 * kSecond);
  ASSERT_EQ(complaint, "") << cluster_->world().last_events() << cluster_->status();
}

void Scenario::TearDown() {
  if (cluster_ != nullptr && !finished_ && !HasFailure()) finish();
}

}  // namespace cvol::sim
