#include "tests/sim/node/register.h"

#include <fmt/format.h>

#include <algorithm>

namespace cvol::sim {

using replication::CasResult;
using replication::Record;

CasResult SimRegister::apply(const Record& next, uint64_t* revision) {
  if (next.revision != record_.revision) return CasResult::kConflict;
  const Record before = record_;
  record_ = next;
  record_.revision = before.revision + 1;
  *revision = record_.revision;
  stored(before);
  return CasResult::kApplied;
}

void SimRegister::change(const std::function<void(Record&)>& how) {
  const Record before = record_;
  how(record_);
  record_.revision = before.revision + 1;
  stored(before);
}

void SimRegister::stored(const Record& before) {
  const auto complain = [&](const std::string& what) {
    if (complaint_.empty())
      complaint_ = what + ": " + describe(before) + " became " + describe(record_);
  };
  if (record_.epoch < before.epoch || record_.epoch > before.epoch.next())
    complain("the epoch did not rise by one");
  if (record_.in_sync.empty()) complain("the in-sync set is empty");
  for (const replication::InSync& entry : record_.in_sync) {
    if (record_.find_member(entry.replica) == nullptr) complain("a replica in sync is no member");
  }
  if (record_.find_in_sync(record_.primary) == nullptr) complain("the primary is not in sync");
  if (record_.primary != before.primary && before.find_in_sync(record_.primary) == nullptr)
    complain("a replica out of sync became the primary");
  if (on_change) on_change(before, record_);
  for (RegisterClient* client : clients_) {
    if (!lost(faults.watch_lost)) client->tell();
  }
}

RegisterClient::RegisterClient(SimRegister& reg, io::SimReactor& node,
                               std::function<void(const Record&)> watch)
    : reg_(reg), node_(node), watch_(std::move(watch)) {
  reg_.clients_.push_back(this);
}

RegisterClient::~RegisterClient() {
  *alive_ = false;
  std::erase(reg_.clients_, this);
}

// On the node's thread, if it still runs.
void RegisterClient::answer(io::Nanoseconds when, std::function<void()> what) {
  reg_.world_.at(when, [this, alive = alive_, what = std::move(what)] {
    if (!*alive || node_.dead()) return;
    node_.post([this, alive, what] {
      if (*alive && !node_.dead()) what();
    });
  });
}

void RegisterClient::tell() {
  io::SimWorld& world = reg_.world_;
  world.at(world.now() + reg_.draw(), [this, alive = alive_, record = reg_.record_] {
    if (!*alive || !reaches()) return;
    answer(reg_.world_.now(), [this, record] { watch_(record); });
  });
}

void RegisterClient::propose(const Uuid&, const Record& next,
                             std::function<void(CasResult, uint64_t)> done) {
  io::SimWorld& world = reg_.world_;
  const io::Nanoseconds now = world.now();
  const auto unknown = [&](io::Nanoseconds when) {
    answer(when, [done] { done(CasResult::kUnknown, 0); });
  };
  if (!reaches() || reg_.lost(reg_.faults.never))
    return unknown(now + world.draw(reg_.faults.timeout / 4, reg_.faults.timeout));
  const bool unanswered = reg_.lost(reg_.faults.unanswered);
  const bool later = reg_.lost(reg_.faults.later);
  io::Nanoseconds arrives = now + reg_.draw();
  if (later) arrives += world.draw(0, 5 * io::kSecond);
  if (later || unanswered) unknown(now + world.draw(reg_.faults.timeout / 4, reg_.faults.timeout));
  // It arrives whatever becomes of whoever sent it.
  world.at(arrives, [this, reg = &reg_, alive = alive_, next, done, silent = later || unanswered] {
    uint64_t revision = 0;
    const CasResult result = reg->apply(next, &revision);
    if (silent || !*alive) return;
    answer(reg->world_.now() + reg->draw(), [done, result, revision] { done(result, revision); });
  });
}

void RegisterClient::fetch(const Uuid&, std::function<void(Result<Record>)> done) {
  io::SimWorld& world = reg_.world_;
  if (!reaches()) {
    return answer(world.now() + world.draw(reg_.faults.timeout / 4, reg_.faults.timeout), [done] {
      done(Status(Code::kUnavailable, "the metadata store does not answer"));
    });
  }
  world.at(world.now() + reg_.draw(), [this, alive = alive_, done] {
    if (!*alive) return;
    answer(reg_.world_.now() + reg_.draw(), [done, record = reg_.record_] { done(record); });
  });
}

}  // namespace cvol::sim
