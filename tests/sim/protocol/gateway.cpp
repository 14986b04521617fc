#include "tests/sim/protocol/gateway.h"

#include <fmt/format.h>

#include <algorithm>

#include "volumed/base/assert.h"

namespace cvol::sim {

Gateway::Gateway(const Ground& on, int index, const Settings& settings)
    : world_(on.world),
      network_(on.network),
      register_(on.record),
      history_(on.history),
      directory_(on.directory),
      index_(index),
      settings_(settings) {}

// --- finding the primary ---

void Gateway::open_session(uint64_t generation) {
  drop_all();
  session_ = generation;
  connection_ = 0;
  state_ = State::kLooking;
  look_again();
  for (uint64_t worker = 0; worker < work_.workers; ++worker)
    next(static_cast<int>(worker), session_);
}

void Gateway::handle(const std::function<void()>& what) {
  if (stopped_) {
    waiting_.push_back(what);
  } else {
    what();
  }
}

void Gateway::go_on() {
  stopped_ = false;
  std::deque<std::function<void()>> waiting;
  waiting.swap(waiting_);
  for (const auto& what : waiting) what();
}

void Gateway::on_record(const Record& record) {
  handle([this, record] {
    if (record.epoch <= record_.epoch) return;
    record_ = record;
    if (session_ == 0) return;
    if (record.session.generation > session_) {  // fenced
      if (world_.tracing()) world_.trace(fmt::format("gateway {}: is fenced", index_));
      drop_all();
      session_ = 0;
      state_ = State::kIdle;
      return;
    }
    if (directory_.node_of(record.primary) != target_ || state_ == State::kLooking) connect();
  });
}

void Gateway::look_again() {
  state_ = State::kLooking;
  if (looking_) return;
  looking_ = true;
  world_.after(world_.around(settings_.retry), [this] {
    handle([this] {
      looking_ = false;
      if (session_ == 0 || state_ != State::kLooking) return;
      register_.fetch(index_, [this](const Record& record) { on_record(record); });
      connect();
    });
  });
}

void Gateway::connect() {
  target_ = directory_.node_of(record_.primary);
  if (target_ < 0 || !network_.is_up(index_, target_)) return look_again();
  state_ = State::kOpening;
  Packet open;
  open.kind = Packet::Kind::kOpen;
  open.session = session_;
  open.connection = ++connection_;
  network_.send(index_, target_, std::make_shared<Packet>(open));
  last_heard_ = world_.now();
  watch(connection_);
}

void Gateway::reconnect() {
  if (session_ != 0 && state_ == State::kReady) connect();
}

// No answer for long: the way there or the primary may be gone without a sign.
void Gateway::watch(uint64_t connection) {
  world_.after(settings_.patience, [this, connection] {
    handle([this, connection] {
      if (connection != connection_ || session_ == 0) return;
      const bool waits = state_ == State::kOpening || !requests_.empty();
      if (!waits) last_heard_ = world_.now();
      if (waits && world_.now() - last_heard_ >= settings_.patience) return look_again();
      watch(connection);
    });
  });
}

void Gateway::on_link(int peer, bool up, uint64_t) {
  handle([this, peer, up] {
    if (session_ == 0 || peer != target_) return;
    if (!up) return look_again();
    if (state_ == State::kLooking) connect();
  });
}

// --- requests ---

bool Gateway::writes_overlap(BlockRange range) const {
  return std::any_of(requests_.begin(), requests_.end(), [&](const auto& each) {
    return each.second.operation != Operation::kRead && each.second.range.overlaps(range);
  });
}

uint64_t Gateway::submit(Operation operation, BlockRange range) {
  CVOL_ASSERT(session_ != 0);
  const bool overlaps = operation != Operation::kRead && writes_overlap(range);
  CVOL_ASSERT(settings_.overlapping || !overlaps);
  const uint64_t number = next_number_++;
  Request& request = requests_[number];
  request.operation = operation;
  request.range = range;
  request.since = world_.now();
  const bool zero = operation == Operation::kZero || operation == Operation::kZeroKeep;
  for (uint64_t i = range.begin; i < range.end; ++i) {
    if (operation == Operation::kRead) {
      request.begins.push_back(history_.begin_read());
      continue;
    }
    const uint64_t unique = value_of(session_, number, i - range.begin) | (zero ? kZeroBit : 0);
    request.blocks.push_back({unique, {}});
    history_.begin_write(i, unique, session_);
  }
  if (state_ == State::kReady) send(number, request);
  return number;
}

void Gateway::send(uint64_t number, Request& request) {
  ++request.sent;
  if (request.sent > 1) world_.count("requests_sent_again");
  Packet packet;
  packet.kind = Packet::Kind::kRequest;
  packet.session = session_;
  packet.connection = connection_;
  packet.number = number;
  packet.operation = request.operation;
  packet.range = request.range;
  packet.blocks = request.blocks;
  if (world_.tracing())
    world_.trace(fmt::format("gateway {}: sends {} kind {} blocks {} to {} on {}.{}", index_,
                             number, static_cast<int>(request.operation), request.range.begin,
                             request.range.end, session_, connection_));
  network_.send(index_, target_, std::make_shared<Packet>(std::move(packet)));
}

void Gateway::on_packet(int from, const PacketPointer& packet) {
  handle([this, from, packet] {
    if (from != target_ || packet->session != session_ || packet->connection != connection_) return;
    last_heard_ = world_.now();
    if (packet->kind == Packet::Kind::kOpened) return on_opened(*packet);
    if (packet->kind == Packet::Kind::kAnswer) return on_answer(*packet);
  });
}

void Gateway::on_opened(const Packet& packet) {
  if (state_ != State::kOpening) return;
  if (world_.tracing())
    world_.trace(fmt::format("gateway {}: connection {}.{} to {}: outcome {}", index_, session_,
                             connection_, target_, static_cast<int>(packet.outcome)));
  // Every connection has a higher number than those of its session before it.
  const bool mine = register_.record().session.generation == session_;
  if (packet.outcome == Outcome::kFenced && mine)
    return world_.fail("R12: a front end is fenced in its own session");
  if (packet.outcome != Outcome::kDone) return look_again();
  state_ = State::kReady;
  std::vector<uint64_t> lost;
  for (auto& [number, request] : requests_) {
    if (settings_.overlapping && request.sent > 0) {
      lost.push_back(number);
    } else {
      send(number, request);
    }
  }
  for (const uint64_t number : lost) {
    const int worker = requests_[number].worker;
    requests_.erase(number);
    if (worker >= 0) next(worker, session_);
  }
}

void Gateway::on_answer(const Packet& packet) {
  if (state_ != State::kReady || !requests_.contains(packet.number)) return;
  switch (packet.outcome) {
    case Outcome::kNotPrimary:
    case Outcome::kFenced:
      return look_again();
    case Outcome::kFailed:
      return world_.fail("I13: a request failed");
    case Outcome::kDone:
    case Outcome::kNoSpace:
      return complete(packet.number, packet);
  }
}

void Gateway::complete(uint64_t number, const Packet& packet) {
  const Request request = std::move(requests_[number]);
  requests_.erase(number);
  last_outcome_ = packet.outcome;
  ++answered_;
  world_.note(8, number, static_cast<uint64_t>(packet.outcome));
  if (world_.tracing()) world_.trace(fmt::format("gateway {}: {} is answered", index_, number));
  longest_stall_ = std::max(longest_stall_, world_.now() - request.since);
  for (uint64_t i = request.range.begin; i < request.range.end; ++i) {
    const uint64_t at = i - request.range.begin;
    if (request.operation == Operation::kRead) {
      world_.note(9, i, packet.blocks[at].value);
      const std::string bad = history_.end_read(i, packet.blocks[at].value, request.begins[at]);
      if (!bad.empty()) world_.fail("I1, I2: " + bad + "\n" + history_.describe(i));
    } else if (packet.outcome == Outcome::kDone) {
      history_.end_write(i, request.blocks[at].value);
    } else if (request.sent == 1) {  // sent more than once: one of them may have been written
      history_.never_was(i, request.blocks[at].value);
    }
  }
  if (request.operation == Operation::kRead) last_read_ = packet.blocks;
  if (packet.outcome == Outcome::kNoSpace) world_.count("answers_no_space");
  if (request.worker >= 0) next(request.worker, session_);
}

void Gateway::drop_all() {
  requests_.clear();
}

// --- workers ---

void Gateway::work(const Work& work) {
  const uint64_t before = work_.workers;
  work_ = work;
  if (session_ == 0) return;
  for (uint64_t worker = before; worker < work.workers; ++worker)
    next(static_cast<int>(worker), session_);
}

void Gateway::next(int worker, uint64_t session) {
  world_.after(world_.around(work_.think), [this, worker, session] {
    handle([this, worker, session] {
      if (session != session_ || static_cast<uint64_t>(worker) >= work_.workers) return;
      const uint64_t blocks = work_.hot_blocks != 0 ? work_.hot_blocks : settings_.blocks;
      const uint64_t length = 1 + world_.random().below(std::min(work_.most_blocks, blocks));
      const uint64_t begin = world_.random().below(blocks - length + 1);
      const BlockRange range{begin, begin + length};
      const uint64_t drawn = world_.random().below(100);
      Operation operation = Operation::kWrite;
      if (drawn < work_.reads) {
        operation = Operation::kRead;
      } else if (drawn < work_.reads + work_.zeroes) {
        operation = world_.percent(50) ? Operation::kZero : Operation::kZeroKeep;
      } else if (drawn < work_.reads + work_.zeroes + work_.partial) {
        operation = Operation::kPartialWrite;
      }
      if (operation != Operation::kRead && !settings_.overlapping && writes_overlap(range))
        operation = Operation::kRead;
      requests_[submit(operation, range)].worker = worker;
    });
  });
}

Nanoseconds Gateway::oldest() const {
  Nanoseconds oldest = world_.now();
  for (const auto& [number, request] : requests_) oldest = std::min(oldest, request.since);
  return oldest;
}

std::string Gateway::describe() const {
  std::string text =
      fmt::format("gateway {}: session {} connection {} to node {} state {}{}", index_, session_,
                  connection_, target_, static_cast<int>(state_), stopped_ ? " STOPPED" : "");
  for (const auto& [number, request] : requests_) {
    text += fmt::format("\n  {} kind {} blocks {} to {} sent {} times, waits since {}", number,
                        static_cast<int>(request.operation), request.range.begin, request.range.end,
                        request.sent, seconds(request.since));
  }
  return text;
}

}  // namespace cvol::sim
