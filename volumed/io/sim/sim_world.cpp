#include "volumed/io/sim/sim_world.h"

#include "volumed/base/assert.h"
#include "volumed/io/sim/sim_reactor.h"

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

uint64_t SimWorld::allocated_bytes(const std::string& root) const {
  uint64_t total = 0;
  for (const auto& [path, file] : files) {
    if (path.starts_with(root)) total += file->size() - file->hole_bytes();
  }
  return total;
}

// --- the network ---

Nanoseconds SimWorld::draw_delay(SimHost from, SimHost to) {
  const auto own = delays_.find({from, to});
  if (own != delays_.end()) return draw(own->second.first, own->second.second);
  return draw(faults.net_low, faults.net_high);
}

std::pair<std::shared_ptr<SimPipe>, std::shared_ptr<SimPipe>> SimWorld::make_pipes(
    SimHost dialer, SimHost listener) {
  auto there = std::make_shared<SimPipe>();
  there->from = dialer;
  there->to = listener;
  there->dialed = true;
  auto back = std::make_shared<SimPipe>();
  back->from = listener;
  back->to = dialer;
  std::erase_if(pipes_, [](const auto& pipe) { return pipe.expired(); });
  pipes_.push_back(there);
  pipes_.push_back(back);
  return {there, back};
}

void SimWorld::carry(SimHost from, SimHost to, Nanoseconds when, std::function<void()> effect) {
  const Way way{from, to};
  at(when, [this, way, effect = std::move(effect)]() mutable { arrive(way, std::move(effect)); });
}

void SimWorld::arrive(Way way, std::function<void()> effect) {
  const auto held = held_.find(way);
  if (cuts_.contains(way) || (held != held_.end() && !held->second.empty())) {
    held_[way].push_back(std::move(effect));
  } else {
    effect();
  }
}

void SimWorld::heal(SimHost from, SimHost to) {
  const Way way{from, to};
  if (cuts_.erase(way) == 0) return;
  at(now_ + draw_delay(from, to), [this, way] {
    std::deque<std::function<void()>>& held = held_[way];
    while (!held.empty() && !cuts_.contains(way)) {
      const std::function<void()> effect = std::move(held.front());
      held.pop_front();
      effect();
    }
  });
}

void SimWorld::heal_all() {
  const std::set<Way> all = cuts_;
  for (const Way& way : all) heal(way.first, way.second);
}

void SimWorld::end_pipe(const std::shared_ptr<SimPipe>& pipe) {
  pipe->closed = true;
  pipe->broken = true;
  at(now_, [pipe] {
    if (pipe->receiver != nullptr) pipe->receiver_node->deliver(pipe);
  });
}

void SimWorld::reset_connections(SimHost a, SimHost b) {
  for (const std::weak_ptr<SimPipe>& known : pipes_) {
    const std::shared_ptr<SimPipe> pipe = known.lock();
    if (pipe == nullptr) continue;
    const bool between = (pipe->from == a && pipe->to == b) || (pipe->from == b && pipe->to == a);
    if (between) end_pipe(pipe);
  }
}

void SimWorld::forget_connections(SimHost host) {
  for (const std::weak_ptr<SimPipe>& known : pipes_) {
    const std::shared_ptr<SimPipe> pipe = known.lock();
    if (pipe != nullptr && (pipe->from == host || pipe->to == host)) end_pipe(pipe);
  }
}

// What is sent must be taken soon.
void SimWorld::notice_cut(const std::shared_ptr<SimPipe>& out, const std::shared_ptr<SimPipe>& in) {
  at(now_ + kCutNoticed, [this, out, in] {
    if (out->broken || !is_cut(out->from, out->to)) return;
    out->broken = true;
    in->closed = true;
    if (in->receiver != nullptr) in->receiver_node->deliver(in);
  });
}

}  // namespace cvol::io
