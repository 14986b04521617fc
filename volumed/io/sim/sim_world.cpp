#include "volumed/io/sim/sim_world.h"

#include "volumed/base/assert.h"

namespace cvol::io {

void SimWorld::at(Nanoseconds when, std::function<void()> event) {
  CVOL_ASSERT(when >= now_);
  queue_.push(Event{when, random_.next(), next_number_++, std::move(event)});
}

bool SimWorld::step() {
  if (queue_.empty()) return false;
  Event event = queue_.top();
  queue_.pop();
  now_ = event.when;
  ++events_run_;
  event.run();
  return true;
}

bool SimWorld::run_until(const std::function<bool()>& done) {
  while (!done()) {
    if (!step()) return done();
  }
  return true;
}

uint64_t SimWorld::allocated_bytes() const {
  uint64_t total = 0;
  for (const auto& [path, file] : files) total += file->size();
  return total;
}

}  // namespace cvol::io
