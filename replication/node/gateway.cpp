#include "replication/node/gateway.h"

#include <algorithm>
#include <cstring>

#include "volumed/base/assert.h"
#include "volumed/base/checksum.h"
#include "volumed/base/log.h"
#include "volumed/base/units.h"

namespace cvol::replication {
namespace {

constexpr io::Nanoseconds kTryAgain = 5 * io::kMillisecond;
constexpr io::Nanoseconds kLongestWait = 50 * io::kMillisecond;
// Of one replica that is asked whether it is the primary; twice as long when all were asked in
// vain.
constexpr io::Nanoseconds kOpenWithin = io::kSecond;
constexpr io::Nanoseconds kMostOpenWithin = 8 * io::kSecond;
// A request that waits so long lets the primary's process be asked whether it is there.
constexpr io::Nanoseconds kLate = io::kSecond;
constexpr io::Nanoseconds kSilent = 2 * io::kSecond;
constexpr io::Nanoseconds kDrawAgain = 100 * io::kMillisecond;
constexpr io::Nanoseconds kVerifyPatience = 60 * io::kSecond;  // of a part: 64 MiB of each replica

Status status_of(const ClientResult& result) {
  if (result.outcome == Outcome::kDone) return Status::ok();
  return Status(Code::kUnavailable, "no primary of the volume answers");
}

}  // namespace

Gateway::Gateway(Parts parts)
    : parts_(std::move(parts)),
      size_(parts_.record.size_bytes),
      next_number_(reactor().random().next() >> 1) {
  CVOL_ASSERT(parts_.metrics != nullptr);
  parts_.exchange->add(this);
}

Gateway::~Gateway() {
  CVOL_ASSERT(scope_.running() == 0 && calls_.empty());
}

Task<void> Gateway::close() {
  closing_ = true;
  parts_.exchange->remove(this);
  cancel_.cancel();
  std::vector<Call*> all;
  for (const auto& [number, call] : calls_) all.push_back(call);
  for (Call* call : all) end_call(*call, {Outcome::kNotPrimary, {}, 0, 0});
  if (ReplicaHost* host = parts_.exchange->host_of(parts_.volume)) host->abandon(front_end_);
  opened_.wake_all();
  woken_.wake_all();
  while (under_way_ > 0) co_await ended_.wait();
  co_await scope_.join();
}

void Gateway::set_record(const Record& record) {
  if (record.epoch < parts_.record.epoch) return;
  const bool moved = record.primary != parts_.record.primary;
  parts_.record = record;
  // It never shrinks, and grows when the primary runs the record that says so.
  if (record.size_bytes > size()) size_.store(record.size_bytes, std::memory_order_relaxed);
  if (record.session.generation > parts_.session_generation) fence();
  if (moved && open_ && primary_ != record.primary) {
    lose_primary();
  } else if (moved && !open_) {
    // Whoever is asked now may never become the primary, and not answer.
    const Member* member = record.find_member(record.primary);
    const auto there =
        member != nullptr ? parts_.exchange->endpoint_of(*member) : std::optional<Endpoint>();
    end_calls([&](const Call& call) { return !there || call.to != *there; });
  }
  wake();
}

void Gateway::fence() {
  if (fenced_) return;
  fenced_ = true;
  log::warning("replication", "another session has the volume now; requests are refused",
               {{"volume", parts_.volume.to_string()}});
  lose_primary();
  opened_.wake_all();
}

void Gateway::wake() {
  woken_.wake_all();
}

std::string Gateway::waits_for() const {
  if (open_ || under_way_ == 0) return "";
  return "no primary of the volume answers";
}

Status Gateway::over() const {
  if (fenced_)
    return Status(Code::kPermission,
                  "the volume is attached elsewhere now; this attachment is over");
  return Status(Code::kCancelled, "the volume is being closed");
}

// --- the way to the primary ---

// In the order of the questions, which are asked again in that order.
void Gateway::end_calls(const std::function<bool(const Call&)>& which) {
  std::vector<std::pair<uint64_t, Call*>> ended;
  for (const auto& [number, call] : calls_) {
    if (which(*call)) ended.emplace_back(number, call);
  }
  std::sort(ended.begin(), ended.end());
  for (const auto& [number, call] : ended) end_call(*call, {Outcome::kNotPrimary, {}, 0, 0});
}

void Gateway::lose_primary() {
  open_ = false;
  end_calls([](const Call&) { return true; });
  wake();
}

void Gateway::on_down(const Endpoint& peer) {
  end_calls([&](const Call& call) { return call.to == peer; });
  if (!open_) return wake();
  const Member* member = parts_.record.find_member(primary_);
  const auto endpoint =
      member != nullptr ? parts_.exchange->endpoint_of(*member) : std::optional<Endpoint>();
  if (!endpoint || *endpoint == peer) lose_primary();
}

Task<bool> Gateway::ready() {
  while (!open_) {
    if (closing_ || fenced_) co_return false;
    if (!opening_) {
      opening_ = true;
      scope_.spawn(open_loop());
    }
    if (open_) break;
    co_await opened_.wait();
  }
  co_return !closing_ && !fenced_;
}

// Asks one replica after the other, the recorded primary first, until one opens the connection.
Task<void> Gateway::open_loop() {
  io::Nanoseconds wait = kTryAgain;
  io::Nanoseconds patience = kOpenWithin;
  candidate_ = 0;
  while (!open_ && !closing_ && !fenced_) {
    std::vector<ReplicaId> order{parts_.record.primary};
    for (const InSync& entry : parts_.record.in_sync) {
      if (entry.replica != parts_.record.primary) order.push_back(entry.replica);
    }
    for (const ReplicaId& replica : order) {
      Request request;
      request.type = wire::FrameType::kOpen;
      request.body.session = parts_.session_generation;
      request.body.connection = ++connection_;
      const uint64_t connection = connection_;
      const ClientResult result = co_await ask_within(request, replica, patience);
      if (closing_ || fenced_) break;
      if (result.outcome == Outcome::kDone && connection == connection_) {
        primary_ = replica;
        open_ = true;
        break;
      }
      if (result.outcome == Outcome::kFenced)
        connection_ = std::max(connection_, result.connection);
    }
    if (open_ || closing_ || fenced_) break;
    const int64_t slept = co_await reactor().sleep(wait, &cancel_);
    if (slept < 0) break;
    wait = std::min(wait * 2, kLongestWait);
    patience = std::min(patience * 2, kMostOpenWithin);
  }
  opening_ = false;
  opened_.wake_all();
}

// --- requests ---

void Gateway::end_call(Call& call, const ClientResult& result) {
  if (call.ended) return;
  call.ended = true;
  call.result = result;
  if (call.waiter) reactor().schedule(std::exchange(call.waiter, {}));
}

Task<ClientResult> Gateway::ask(Request& request, const ReplicaId& replica) {
  if (ReplicaHost* host = parts_.exchange->host_of(parts_.volume);
      host != nullptr && host->self() == replica)
    co_return co_await ask_local(request, *host);
  const Member* member = parts_.record.find_member(replica);
  const auto endpoint =
      member != nullptr ? parts_.exchange->endpoint_of(*member) : std::optional<Endpoint>();
  if (!endpoint || *endpoint == parts_.exchange->self())
    co_return ClientResult{Outcome::kNotPrimary, {}, 0, 0};
  parts_.exchange->mesh().want(*endpoint);
  if (!parts_.exchange->is_up(*endpoint)) co_return ClientResult{Outcome::kNotPrimary, {}, 0, 0};
  co_return co_await ask_remote(request, *endpoint);
}

Task<ClientResult> Gateway::ask_local(Request& request, ReplicaHost& host) {
  const Replica::Caller caller{request.body.session, request.body.connection};
  const wire::Request& body = request.body;
  switch (request.type) {
    case wire::FrameType::kOpen:
      co_return co_await host.open_connection(caller, &front_end_);
    case wire::FrameType::kRead:
      co_return co_await host.read(caller, body.offset, request.into, &front_end_);
    case wire::FrameType::kWrite:
      if (body.kind == WriteKind::kData)
        co_return co_await host.write(caller, body.offset, request.data, &front_end_);
      co_return co_await host.zero(caller, body.offset, body.length,
                                   body.kind == WriteKind::kZeroKeep, &front_end_);
    case wire::FrameType::kStatus:
      co_return co_await host.status(caller, body.offset, body.length, &request.extents,
                                     &front_end_);
    case wire::FrameType::kConfirm: {
      const bool confirmed = co_await host.confirm(Epoch{body.offset}, io::kSecond);
      co_return ClientResult{confirmed ? Outcome::kDone : Outcome::kNotPrimary, {}, 0, 0};
    }
    case wire::FrameType::kVerify:
      co_return co_await host.verify(body.offset, &front_end_);
    case wire::FrameType::kMove:
      co_return ClientResult{
          host.hand_over(body.to_replica) ? Outcome::kDone : Outcome::kNotPrimary, {}, 0, 0};
    default:
      break;
  }
  co_return ClientResult{Outcome::kNotPrimary, {}, 0, 0};
}

Task<ClientResult> Gateway::ask_remote(Request& request, const Endpoint& to) {
  Call call;
  call.to = to;
  call.into = request.into;
  call.extents = &request.extents;
  const uint64_t number = next_number_++;
  call.asked = reactor().now();
  calls_[number] = &call;
  request.call = &call;
  if (open_ && !watching_) {
    watching_ = true;
    scope_.spawn(watch_primary());
  }
  wire::FrameHeader header;
  header.type = static_cast<uint8_t>(request.type);
  header.volume = wire::tag_of(parts_.volume);
  header.epoch =
      request.type == wire::FrameType::kConfirm ? request.body.offset : parts_.record.epoch.value;
  header.seq = number;
  header.payload_bytes = static_cast<uint32_t>(request.data.size());
  if (!request.data.empty()) request.body.payload_checksum = plain_checksum(request.data);
  parts_.exchange->send(to, header, wire::encode_request(request.body), request.data);
  co_await CallDone{call};
  calls_.erase(number);
  request.call = nullptr;
  co_return call.result;
}

// Whoever is paused, or was cut off without this end being told, does not answer.
Task<void> Gateway::end_in_time(Request& request, io::Nanoseconds patience, io::CancelToken& over) {
  const int64_t slept = co_await reactor().sleep(patience, &over);
  if (slept == 0 && request.call != nullptr)
    end_call(*request.call, {Outcome::kNotPrimary, {}, 0, 0});
}

Task<ClientResult> Gateway::ask_within(Request& request, const ReplicaId& replica,
                                       io::Nanoseconds patience) {
  io::CancelToken over;
  io::Scope timer;
  timer.spawn(end_in_time(request, patience, over));
  const ClientResult result = co_await ask(request, replica);
  over.cancel();
  co_await timer.join();
  co_return result;
}

// Runs while a primary elsewhere is asked. One that is silent keeps its connection for as long as
// it is paused, and the record that names the next one may not come: the way to the store may be
// cut.
Task<void> Gateway::watch_primary() {
  bool used = true;
  while (used) {
    const int64_t slept = co_await reactor().sleep(kLate, &cancel_);
    if (slept < 0 || closing_ || fenced_) break;
    used = !calls_.empty();
    if (!open_) continue;  // whoever is asked then has his time
    uint64_t late = 0;
    Endpoint to;
    for (const auto& [number, call] : calls_) {
      if (reactor().now() - call->asked < kLate) continue;
      late = number;
      to = call->to;
      break;
    }
    if (late == 0) continue;
    const bool answers = co_await parts_.exchange->ping(to, kSilent);
    if (closing_ || fenced_) break;
    if (answers || !open_ || !waits_for_answer(to, late)) continue;
    log::warning("replication", "the primary is silent; others are asked",
                 {{"volume", parts_.volume.to_string()}});
    lose_primary();
  }
  watching_ = false;
}

bool Gateway::waits_for_answer(const Endpoint& from, uint64_t number) const {
  const auto at = calls_.find(number);
  return at != calls_.end() && at->second->to == from;
}

void Gateway::on_answer(const Endpoint& from, Frame frame) {
  const auto at = calls_.find(frame.header.seq);
  if (at == calls_.end() || at->second->to != from) return;
  Call& call = *at->second;
  auto answer = wire::decode_answer(frame.body);
  if (!answer || answer->outcome > static_cast<uint8_t>(Outcome::kFailed))
    return end_call(call, {Outcome::kNotPrimary, {}, 0, 0});
  ClientResult result;
  result.outcome = static_cast<Outcome>(answer->outcome);
  result.connection = answer->connection;
  result.next = answer->next;
  if (answer->code != 0 && answer->code <= static_cast<uint8_t>(Code::kInternal))
    result.status = Status(static_cast<Code>(answer->code), answer->text);
  if (result.outcome == Outcome::kDone && !call.into.empty()) {
    const std::span<const std::byte> data = frame.payload_bytes();
    // Changed on the way, or not what was asked for: asked again.
    if (data.size() != call.into.size() || plain_checksum(data) != answer->payload_checksum)
      return end_call(call, {Outcome::kNotPrimary, {}, 0, 0});
    std::memcpy(call.into.data(), data.data(), data.size());
  }
  if (call.extents != nullptr) {
    for (const wire::WireExtent& extent : answer->extents)
      call.extents->push_back({extent.length, (extent.flags & 1) != 0, (extent.flags & 2) != 0});
  }
  end_call(call, result);
}

// The first of the pieces of a write that are done in one step each.
void Gateway::cut(Request& request, uint64_t length, const std::byte* data) {
  request.body.length =
      one_operation(request.body.offset, length, data, request.body.kind == WriteKind::kZeroKeep);
  request.after = length - request.body.length;
  if (data != nullptr) request.data = {data, request.body.length};
}

// What is done may have been seen, and overwritten since: only the rest may be asked for again.
void Gateway::next_piece(Request& request) {
  const std::byte* data = request.data.empty() ? nullptr : request.data.data();
  const uint64_t done = request.body.length;
  request.body.offset += done;
  cut(request, request.after, data == nullptr ? nullptr : data + done);
}

// Until it is answered.
Task<Status> Gateway::run(Request& request) {
  const WaitingRequests::Mark mark(parts_.metrics->requests, reactor().now());
  ++under_way_;
  Status status = Status::ok();
  while (true) {
    const bool open = co_await ready();
    if (!open) {
      status = over();
      break;
    }
    request.body.session = parts_.session_generation;
    request.body.connection = connection_;
    const uint64_t connection = connection_;
    request.extents.clear();
    const ClientResult result = co_await ask(request, primary_);
    if (result.outcome == Outcome::kDone) {
      if (request.after == 0) break;
      next_piece(request);
      continue;
    }
    if (result.outcome == Outcome::kNoSpace) {
      status = result.status.is_ok() ? Status(Code::kNoSpace, "the disks of the volume are full")
                                     : Status(Code::kNoSpace, result.status.message());
      break;
    }
    if (result.outcome == Outcome::kFailed) {
      status = result.status.is_ok() ? Status(Code::kDamaged, "every copy of a block is damaged")
                                     : result.status;
      break;
    }
    // Not the primary any more, or the connection is an older one: begin anew, once for all.
    if (connection == connection_ && open_) lose_primary();
  }
  if (--under_way_ == 0) ended_.wake_all();
  co_return status;
}

Task<Status> Gateway::read(uint64_t offset, std::span<std::byte> into) {
  if (into.empty()) co_return Status::ok();
  const io::Nanoseconds started = reactor().now();
  Request request;
  request.type = wire::FrameType::kRead;
  request.body.offset = offset;
  request.body.length = into.size();
  request.into = into;
  Status status = co_await run(request);
  VolumeMetrics& metrics = *parts_.metrics;
  metrics.read_operations.add(1);
  metrics.read_latency.record(reactor().now() - started);
  status.is_ok() ? metrics.read_bytes.add(into.size()) : metrics.errors.add(1);
  co_return status;
}

Task<Status> Gateway::write(uint64_t offset, std::span<const std::byte> data, bool) {
  if (data.empty()) co_return Status::ok();
  const io::Nanoseconds started = reactor().now();
  Request request;
  request.type = wire::FrameType::kWrite;
  request.body.offset = offset;
  cut(request, data.size(), data.data());
  Status status = co_await run(request);
  VolumeMetrics& metrics = *parts_.metrics;
  metrics.write_operations.add(1);
  metrics.write_latency.record(reactor().now() - started);
  status.is_ok() ? metrics.write_bytes.add(data.size()) : metrics.errors.add(1);
  co_return status;
}

// What was answered is on stable storage of every required replica: class `durable`.
Task<Status> Gateway::flush() {
  parts_.metrics->flush_operations.add(1);
  co_return Status::ok();
}

Task<Status> Gateway::write_zeroes(uint64_t offset, uint64_t length, bool keep_allocated, bool) {
  if (length == 0) co_return Status::ok();
  Request request;
  request.type = wire::FrameType::kWrite;
  request.body.offset = offset;
  request.body.kind = keep_allocated ? WriteKind::kZeroKeep : WriteKind::kZero;
  cut(request, length, nullptr);
  Status status = co_await run(request);
  parts_.metrics->write_operations.add(1);
  if (!status.is_ok()) parts_.metrics->errors.add(1);
  co_return status;
}

Task<Status> Gateway::trim(uint64_t offset, uint64_t length, bool) {
  if (length == 0) co_return Status::ok();
  Request request;
  request.type = wire::FrameType::kWrite;
  request.body.offset = offset;
  request.body.kind = WriteKind::kZero;
  cut(request, length, nullptr);
  Status status = co_await run(request);
  parts_.metrics->trim_operations.add(1);
  if (!status.is_ok()) parts_.metrics->errors.add(1);
  co_return status;
}

Task<Result<std::vector<Extent>>> Gateway::block_status(uint64_t offset, uint64_t length) {
  Request request;
  request.type = wire::FrameType::kStatus;
  request.body.offset = offset;
  request.body.length = length;
  Status status = co_await run(request);
  if (!status) co_return status;
  if (request.extents.empty())
    co_return Status(Code::kInternal, "the primary gave no allocation state");
  co_return std::move(request.extents);
}

// --- the primary itself ---

Task<ClientResult> Gateway::ask_primary(Request& request, io::Nanoseconds patience) {
  const io::Nanoseconds until = reactor().now() + patience;
  ++under_way_;
  ClientResult result;
  result.outcome = Outcome::kNotPrimary;
  while (!closing_ && reactor().now() < until) {
    result = co_await ask_within(request, parts_.record.primary, until - reactor().now());
    if (result.outcome == Outcome::kDone || closing_) break;
    const int64_t slept = co_await reactor().sleep(2 * kTryAgain, &cancel_);
    if (slept < 0) break;
  }
  if (--under_way_ == 0) ended_.wake_all();
  co_return result;
}

Task<Status> Gateway::confirm(Epoch epoch, io::Nanoseconds patience) {
  Request request;
  request.type = wire::FrameType::kConfirm;
  request.body.offset = epoch.value;
  const ClientResult result = co_await ask_primary(request, patience);
  co_return status_of(result);
}

Task<ClientResult> Gateway::verify(uint64_t offset) {
  Request request;
  request.type = wire::FrameType::kVerify;
  request.body.offset = offset;
  co_return co_await ask_primary(request, kVerifyPatience);
}

Task<Status> Gateway::move_primary(ReplicaId replica) {
  Request request;
  request.type = wire::FrameType::kMove;
  request.body.to_replica = replica;
  const ClientResult result = co_await ask_primary(request, io::kSecond);
  co_return status_of(result);
}

void Gateway::draw_primary(ReplicaId replica, io::Nanoseconds patience) {
  if (!closing_) scope_.spawn(draw(replica, patience));
}

// A primary that begins another epoch meanwhile, as an attachment makes it do, forgets what it was
// asked for: it is asked again, but not after it has had the time to take a move back that failed.
Task<void> Gateway::draw(ReplicaId replica, io::Nanoseconds patience) {
  io::Nanoseconds until = reactor().now() + patience;
  bool begun = false;
  while (!closing_ && !fenced_ && reactor().now() < until) {
    if (parts_.record.primary == replica) break;
    if (parts_.record.find_in_sync(replica) != nullptr) {
      const Status asked = co_await move_primary(replica);
      if (asked && !begun) {
        begun = true;
        until = std::min(until, reactor().now() + parts_.exchange->options().hand_over);
      }
    }
    const int64_t slept = co_await reactor().sleep(kDrawAgain, &cancel_);
    if (slept < 0) break;
  }
}

}  // namespace cvol::replication
