#include "tests/sim/protocol/world.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "volumed/base/assert.h"

namespace cvol::sim {

namespace {
constexpr std::size_t kLines = 300;
}

World::World(uint64_t seed, bool tracing, bool loud)
    : seed_(seed), tracing_(tracing || loud), loud_(loud), random_(seed) {}

void World::at(Nanoseconds when, std::function<void()> what) {
  uint32_t slot = 0;
  if (free_.empty()) {
    slot = static_cast<uint32_t>(slots_.size());
    slots_.push_back(std::move(what));
  } else {
    slot = free_.back();
    free_.pop_back();
    slots_[slot] = std::move(what);
  }
  queue_.push({std::max(when, now_), random_.next(), ++number_, slot});
}

bool World::run_until(Nanoseconds when) {
  while (!failed() && !queue_.empty() && queue_.top().when <= when) {
    const Entry entry = queue_.top();
    queue_.pop();
    CVOL_ASSERT(entry.when >= now_);
    now_ = entry.when;
    ++ran_;
    const std::function<void()> what = std::move(slots_[entry.slot]);
    slots_[entry.slot] = nullptr;
    free_.push_back(entry.slot);
    what();
  }
  if (!failed()) now_ = std::max(now_, when);
  return !failed();
}

bool World::run_until(Nanoseconds limit, Nanoseconds step, const std::function<bool()>& done) {
  while (!done()) {
    if (now_ >= limit || !run_until(std::min(limit, now_ + step))) return false;
  }
  return !failed();
}

Nanoseconds World::between(Nanoseconds low, Nanoseconds high) {
  CVOL_ASSERT(low <= high);
  return low + static_cast<Nanoseconds>(random_.below(static_cast<uint64_t>(high - low) + 1));
}

Nanoseconds World::around(Nanoseconds mean) {
  const double uniform = static_cast<double>(random_.below(1 << 24) + 1) / (1 << 24);
  const double drawn = -std::log(uniform) * static_cast<double>(mean);
  return std::min(static_cast<Nanoseconds>(drawn), 20 * mean) + 1;
}

void World::note(uint64_t what, uint64_t a, uint64_t b, uint64_t c) {
  for (const uint64_t word : {static_cast<uint64_t>(now_), what, a, b, c}) {
    hash_ = (hash_ ^ word) * 0x9e3779b97f4a7c15u;
    hash_ ^= hash_ >> 29;
  }
}

void World::trace(std::string line) {
  line = fmt::format("{:>12} {}", seconds(now_), line);
  if (loud_) std::fprintf(stderr, "%s\n", line.c_str());
  lines_.push_back(std::move(line));
  if (lines_.size() > kLines) lines_.pop_front();
}

std::string World::last_events() const {
  std::string all;
  for (const std::string& line : lines_) all += line + "\n";
  return all;
}

void World::fail(const std::string& why) {
  if (tracing_) trace("FAILED: " + why);
  if (failure_.empty()) failure_ = fmt::format("at {} s: {}", seconds(now_), why);
}

std::string seconds(Nanoseconds time) {
  return fmt::format("{}.{:06}", time / kSecond, time % kSecond / 1000);
}

}  // namespace cvol::sim
