#include "tests/sim/protocol/register.h"

#include <fmt/format.h>

#include <memory>

namespace cvol::sim {

void Register::create(Record record) {
  record_ = std::move(record);
  record_.revision = 1;
}

void Register::restore(Record backup) {
  record_ = std::move(backup);
  if (world_.tracing()) world_.trace("register: restored to " + replication::describe(record_));
  for (int who = 0; who < static_cast<int>(ends_.size()); ++who)
    tell(who, world_.around(times_.delay));
}

bool Register::apply(const Record& next) {
  if (next.revision != record_.revision) return false;
  const Record before = record_;
  record_ = next;
  ++record_.revision;
  world_.note(1, record_.revision, record_.epoch.value);
  if (world_.tracing()) {
    std::string line = "register: " + replication::describe(record_) + " members";
    for (const replication::Member& member : record_.members)
      line += " " + member.replica.to_string().substr(0, 8);
    world_.trace(line);
  }
  applied_(before, record_);
  for (int who = 0; who < static_cast<int>(ends_.size()); ++who) {
    if (world_.percent(faults_.watch_left_out)) {
      world_.count("watch_left_out");
      tell(who, world_.between(0, times_.latest));
    } else {
      tell(who, world_.around(times_.delay));
    }
  }
  return true;
}

// What it is then, so several changes may be told as one.
void Register::tell(int who, Nanoseconds delay) {
  world_.after(delay, [this, who] {
    if (reachable(who)) ends_[static_cast<std::size_t>(who)].watcher(record_);
  });
}

void Register::compare_and_swap(int who, const Record& next,
                                std::function<void(CasResult, uint64_t)> done) {
  End& end = ends_[static_cast<std::size_t>(who)];
  const auto answered = std::make_shared<bool>(false);
  const auto answer = [answered, done = std::move(done)](CasResult result, uint64_t revision) {
    if (*answered) return;
    *answered = true;
    done(result, revision);
  };
  world_.after(times_.timeout, [answer] { answer(CasResult::kUnknown, 0); });
  bool answers = true;
  Nanoseconds when = world_.around(times_.delay);
  const uint64_t drawn = world_.random().below(100);
  if (end.delay_next > 0) {
    when = end.delay_next;
    end.delay_next = 0;
    answers = false;
    world_.count("cas_late");
  } else if (drawn < faults_.lost) {
    world_.count("cas_lost");
    return;
  } else if (drawn < faults_.lost + faults_.late) {
    when = world_.between(0, times_.latest);
    answers = false;
    world_.count("cas_late");
  } else if (drawn < faults_.lost + faults_.late + faults_.answer_lost) {
    answers = false;
    world_.count("cas_answer_lost");
  }
  if (!reachable(who) && answers) {
    // It never leaves, or it is sent again below us when the way is there.
    if (world_.percent(50)) return;
    when = world_.between(0, times_.latest);
    answers = false;
  }
  ++under_way_;
  const bool left = reachable(who);
  const auto land = [this, who, next, answer, answers, left] {
    --under_way_;
    if (!left && !reachable(who)) return;
    const bool applied = apply(next);
    const uint64_t revision = record_.revision;
    if (!answers || !reachable(who)) return;
    world_.after(world_.around(times_.delay), [answer, applied, revision] {
      answer(applied ? CasResult::kApplied : CasResult::kConflict, revision);
    });
  };
  world_.after(when, land);
}

void Register::fetch(int who, std::function<void(const Record&)> done) {
  world_.after(world_.around(times_.delay), [this, who, done = std::move(done)] {
    if (!reachable(who)) return;
    world_.after(world_.around(times_.delay), [done, record = record_] { done(record); });
  });
}

void Register::list(int who) {
  tell(who, world_.around(times_.delay));
}

void Register::set_reachable(int who, bool is_reachable) {
  ends_[static_cast<std::size_t>(who)].reachable = is_reachable;
  if (is_reachable) list(who);
}

void Register::set_up(bool up) {
  up_ = up;
  if (!up) return;
  for (int who = 0; who < static_cast<int>(ends_.size()); ++who) list(who);
}

}  // namespace cvol::sim
