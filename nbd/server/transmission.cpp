#include "nbd/server/transmission.h"

#include <fmt/format.h>
#include <poll.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>

#include "nbd/protocol/device_session.h"
#include "volumed/base/assert.h"
#include "volumed/base/log.h"
#include "volumed/base/units.h"

namespace cvol::nbd {
namespace {

constexpr std::size_t kMostVectors = 512;    // of one send
constexpr std::size_t kMostSessions = 1024;  // that are remembered
constexpr std::size_t kMostSendBytes = 4 * kMiB;
constexpr uint64_t kStagingPoolBytes = 8 * kMiB;
constexpr io::Nanoseconds kStuckTime = 20 * io::kSecond;
constexpr io::Nanoseconds kSpaceTurn = 500 * io::kMillisecond;  // a write for which there was none

}  // namespace

Transmission::Transmission(ShardState& shard, io::Stream stream, std::shared_ptr<Export> target,
                           Agreement agreement, ExportName name, uint32_t most_requests,
                           Resends resends)
    : shard_(shard),
      stream_(std::move(stream)),
      export_(std::move(target)),
      agreement_(agreement),
      name_(std::move(name)),
      resends_(resends),
      places_(most_requests),
      share_(shard_.memory().join(export_->name)) {
  shard_.add(this);
}

Transmission::~Transmission() {
  shard_.remove(this);
  shard_.memory().leave(export_->name);
}

Task<Buffer> Transmission::take(std::size_t bytes) {
  MemoryShares& memory = shard_.memory();
  co_await taking_.acquire();
  while (held_bytes_ != 0 &&
         held_bytes_ + BufferPool::capacity_of(bytes) > memory.most_bytes() / 4) {
    returned_.reset();
    co_await returned_.wait();
  }
  Buffer buffer = memory.try_take(share_, bytes);
  if (buffer.empty()) {
    waits_for_memory_ = true;
    shard_.watch_memory();
    buffer = co_await memory.wait_and_take(share_, bytes);
    waits_for_memory_ = false;
    if (is_given_up()) broken_ = true;
  }
  held_bytes_ += buffer.capacity();
  if (memory.is_overdrawn()) shard_.watch_memory();
  taking_.release();
  co_return buffer;
}

void Transmission::give_back(Buffer& buffer) {
  if (buffer.empty()) return;
  held_bytes_ -= buffer.capacity();
  shard_.memory().give_back(share_, buffer);
  returned_.set();
}

void Transmission::shutdown() {
  broken_ = true;
  stop_waiting();
  stream_.shutdown();
}

// The request's place is free when its reply is sent: a client that does not read stops itself.
void Transmission::done_with(Reply& sent) {
  give_back(sent.data);
  places_.release();
}

void Transmission::cut_if_stuck(io::Nanoseconds before) {
  if (!is_stuck(before)) return;
  log_end(sends(before) ? "the client does not read its replies while others need the memory"
                        : "the client does not send its payload while others need the memory");
  shutdown();
}

Task<void> Transmission::run() {
  bool admitted = true;
  if (!name_.session.empty()) {
    admitted = co_await shard_.enter_session(session_key(), name_.generation, this);
    if (!admitted) log_end("a newer connection of its session is there");
  }
  if (admitted) co_await receive_requests();
  stop_waiting();  // nobody is there for the answers
  staging_.reset();
  co_await requests_.join();
  co_await sender_.join();
  stream_.shutdown();
  if (!name_.session.empty()) shard_.leave_session(session_key(), this);
}

void Transmission::log_end(const std::string& why) {
  log::warning("nbd", "closing a connection", {{"volume", export_->name}, {"why", why}});
}

Task<bool> Transmission::fill(std::size_t bytes) {
  if (input_end_ - input_begin_ >= bytes) co_return true;
  std::memmove(input(), input() + input_begin_, input_end_ - input_begin_);
  input_end_ -= input_begin_;
  input_begin_ = 0;
  if (input_end_ == 0) staging_.reset();
  while (input_end_ < bytes) {
    const int64_t got = co_await stream_.recv(input() + input_end_, input_size() - input_end_);
    if (got <= 0) {
      if (input_end_ != 0) log_end("the stream ended within a request");
      co_return false;
    }
    input_end_ += static_cast<std::size_t>(got);
  }
  co_return true;
}

// Fills `buffer`, from what is here first; asks for what follows along with the rest.
Task<bool> Transmission::receive_payload(Buffer& buffer, uint64_t bytes) {
  const std::size_t here = std::min<std::size_t>(bytes, input_end_ - input_begin_);
  std::memcpy(buffer.data(), input() + input_begin_, here);
  input_begin_ += here;
  uint64_t have = here;
  if (have == bytes) co_return true;
  input_begin_ = input_end_ = 0;
  if (staging_.empty()) staging_ = shard_.take_staging(kStagingBytes);
  while (have < bytes) {
    const iovec iov[2] = {{buffer.data() + have, bytes - have}, {input(), input_size()}};
    payload_progress_ = shard_.reactor().now();
    const int64_t got = co_await stream_.recvv(iov, 2);
    payload_progress_ = 0;
    if (got <= 0) {
      log_end("the stream ended within a payload");
      co_return false;
    }
    const uint64_t part = std::min<uint64_t>(static_cast<uint64_t>(got), bytes - have);
    have += part;
    input_end_ = static_cast<uint64_t>(got) - part;
  }
  co_return true;
}

Task<void> Transmission::receive_requests() {
  while (!broken_) {
    const bool more = co_await fill(agreement_.request_bytes());
    if (!more) co_return;
    Result<Request> request =
        parse_request({input() + input_begin_, agreement_.request_bytes()}, agreement_);
    if (!request) {
      log_end(request.message());
      co_return;
    }
    input_begin_ += agreement_.request_bytes();
    Result<uint64_t> bytes = payload_bytes(*request, agreement_);
    if (!bytes) {
      log_end(bytes.message());
      co_return;
    }
    if (request->command() == Command::kDisconnect && *bytes == 0) co_return;
    co_await places_.acquire();
    Buffer payload;
    if (*bytes != 0) {
      payload = co_await take(*bytes);
      const bool whole = co_await receive_payload(payload, *bytes);
      if (!whole) {
        give_back(payload);
        places_.release();
        co_return;
      }
    }
    if (broken_ || is_given_up()) {
      give_back(payload);
      places_.release();
      if (!broken_) log_end("the kernel gave it up; what was unread comes again on another one");
      co_return;
    }
    requests_.spawn(serve(*request, std::move(payload)));
  }
}

// A hang-up leaves what was sent before it readable. Such a request may have been sent again
// already, answered, and overwritten by a later one: admitted now, it would undo that. The device
// takes its place in the order of writes in the same turn in which this was asked, so a request
// that is admitted stands before its second copy. (Rule R12, for a client without sessions.)
bool Transmission::is_given_up() const {
  if (resends_ != Resends::kAfterHangUp) return false;
  pollfd state{stream_.handle(), 0, 0};
  return ::poll(&state, 1, 0) == 1 && (state.revents & (POLLHUP | POLLERR)) != 0;
}

Task<void> Transmission::serve(Request request, Buffer payload) {
  const WireError wrong = check_request(request, agreement_, export_->device->size(),
                                        export_->read_only || agreement_.read_only);
  if (wrong != WireError::kNone) {
    log::debug("nbd", "refused a request",
               {{"volume", export_->name},
                {"type", request.type},
                {"offset", request.offset},
                {"length", request.length}});
    reply({encode_done(request, agreement_, wrong), {}, 0, {}});
  } else if (request.command() == Command::kRead) {
    co_await serve_read(request);
  } else if (request.command() == Command::kBlockStatus) {
    co_await serve_block_status(request);
  } else {
    Status status = co_await serve_change(request, payload);
    if (status.code() == Code::kNoSpace && waits_for_space())
      status = co_await change_patiently(request, payload, std::move(status));
    give_back(payload);
    reply({encode_done(request, agreement_, wire_error(status.code())), {}, 0, {}});
  }
  give_back(payload);
}

void Transmission::stop_waiting() {
  if (std::exchange(ending_, true)) return;
  over_.cancel();
}

bool Transmission::waits_for_space() const {
  if (ending_ || export_->on_full == nullptr) return false;
  const OnFull how = export_->on_full->load(std::memory_order_relaxed);
  const bool device = resends_ == Resends::kAfterHangUp || is_device_session(name_.session);
  return how == OnFull::kWait || (how == OnFull::kDevicesWait && device);
}

// A file system that is told of a lack of space while it writes back turns read-only, or shuts
// down, and stays so. A write that found no space has changed nothing: it is made again. Between
// two attempts it holds its payload and its place among the connection's requests, no more.
Task<Status> Transmission::change_patiently(const Request& request, const Buffer& payload,
                                            Status status) {
  if (!std::exchange(told_full_, true))
    log::warning("nbd", "writes wait until there is space in the pool",
                 {{"volume", export_->name}, {"why", status.message()}});
  std::optional<WaitingRequests::Mark> mark;  // from the first attempt on
  if (export_->for_space != nullptr) mark.emplace(*export_->for_space, shard_.reactor().now());
  while (status.code() == Code::kNoSpace && waits_for_space()) {
    const int64_t slept = co_await shard_.reactor().sleep(kSpaceTurn, &over_);
    if (slept < 0 || is_given_up()) break;
    status = co_await serve_change(request, payload);
  }
  if (status.is_ok()) told_full_ = false;
  co_return status;
}

Task<Status> Transmission::serve_change(const Request& request, const Buffer& payload) {
  BlockDevice& device = *export_->device;
  const bool fua = request.has(kCommandFua);
  switch (request.command()) {
    case Command::kWrite:
      co_return co_await device.write(request.offset, payload.first(request.length), fua);
    case Command::kTrim:
      co_return co_await device.trim(request.offset, request.length, fua);
    case Command::kWriteZeroes:
      co_return co_await device.write_zeroes(request.offset, request.length,
                                             request.has(kCommandNoHole), fua);
    case Command::kFlush:
      co_return co_await device.flush();
    case Command::kCache:
      co_return Status::ok();  // a hint; there is nothing to be gained
    default:
      co_return Status(Code::kInvalidArgument, "no such command");
  }
}

Task<void> Transmission::serve_read(Request request) {
  Buffer data = co_await take(request.length);
  if (broken_) {  // nobody is there for the answer
    give_back(data);
    places_.release();
    co_return;
  }
  const Status status = co_await export_->device->read(request.offset, data.first(request.length));
  if (status) {
    reply({encode_read(request, agreement_),
           std::move(data),
           static_cast<uint32_t>(request.length),
           {}});
  } else {
    give_back(data);
    reply({encode_done(request, agreement_, wire_error(status.code())), {}, 0, {}});
  }
}

Task<void> Transmission::serve_block_status(Request request) {
  Result<std::vector<Extent>> extents =
      co_await export_->device->block_status(request.offset, request.length);
  if (!extents || extents->empty()) {
    const Code code = extents ? Code::kInternal : extents.code();
    reply({encode_done(request, agreement_, wire_error(code)), {}, 0, {}});
    co_return;
  }
  Reply made;
  made.header = encode_block_status(request, agreement_, *extents, made.payload);
  reply(std::move(made));
}

void Transmission::reply(Reply made) {
  if (broken_) {
    done_with(made);
    return;
  }
  queue_.push_back(std::move(made));
  if (!sender_runs_) {
    sender_runs_ = true;
    sender_.spawn(send_replies());
  }
}

// Sends what is queued, everything that is ready in one call.
Task<void> Transmission::send_replies() {
  co_await io::yield(shard_.reactor());  // what else becomes ready in this turn goes along
  std::vector<iovec> iov;
  while (!queue_.empty() && !broken_) {
    sending_.swap(queue_);
    std::size_t next = 0;
    while (next < sending_.size() && !broken_) {
      iov.clear();
      std::size_t bytes = 0;
      for (; next < sending_.size() && iov.size() + 2 < kMostVectors && bytes < kMostSendBytes;
           ++next) {
        Reply& one = sending_[next];
        iov.push_back({one.header.bytes.data(), one.header.size});
        if (one.data_bytes != 0) iov.push_back({one.data.data(), one.data_bytes});
        if (!one.payload.empty()) iov.push_back({one.payload.data(), one.payload.size()});
        bytes += one.header.size + one.data_bytes + one.payload.size();
      }
      send_started_ = shard_.reactor().now();
      const int64_t sent = co_await stream_.sendv(iov.data(), static_cast<uint32_t>(iov.size()));
      send_started_ = 0;
      if (sent != static_cast<int64_t>(bytes)) {
        shutdown();
      }
    }
    for (Reply& one : sending_) done_with(one);
    sending_.clear();
  }
  for (Reply& one : queue_) done_with(one);
  queue_.clear();
  sender_runs_ = false;
}

// --- ShardState ---

ShardState::ShardState(io::Reactor& reactor, uint64_t buffer_bytes)
    : reactor_(reactor),
      memory_(buffer_bytes, std::min<uint64_t>(buffer_bytes, 32 * kMiB)),
      staging_(kStagingPoolBytes, kStagingPoolBytes / 8) {}

void ShardState::watch_memory() {
  if (watching_) return;
  watching_ = true;
  scope_.spawn(cut_stuck_clients());
}

// A client that has stopped with all of its connections waits for nobody but itself; it is cut off
// for others only.
Task<void> ShardState::cut_stuck_clients() {
  do {
    const int64_t slept = co_await reactor_.sleep(kStuckTime / 4, &closing_);
    if (slept != 0) break;
    const io::Nanoseconds before = reactor_.now() - kStuckTime;
    const bool needed = memory_.is_overdrawn() ||
                        std::any_of(connections_.begin(), connections_.end(), [&](auto* one) {
                          return one->waits_for_memory() && !one->is_stuck(before);
                        });
    if (!needed) continue;
    for (Transmission* connection : connections_) connection->cut_if_stuck(before);
  } while (memory_.anyone_waits() || memory_.is_overdrawn());
  watching_ = false;
}

Task<void> ShardState::close(std::function<void()> closed) {
  closing_.cancel();
  co_await scope_.join();
  closed();
}

Task<bool> ShardState::enter_session(std::string name, uint64_t generation,
                                     Transmission* connection) {
  Session& session = sessions_[name];
  session.members[connection] = generation;
  if (generation < session.generation) co_return false;
  session.generation = generation;
  for (;;) {
    bool older = false;
    for (const auto& [member, of] : sessions_[name].members) {
      if (of >= generation) continue;
      older = true;
      member->shutdown();
    }
    if (!older) break;
    co_await session_waiters_.wait();
  }
  co_return sessions_[name].generation == generation;
}

void ShardState::leave_session(const std::string& name, Transmission* connection) {
  Session& session = sessions_[name];
  session.members.erase(connection);
  // Old generations are remembered, but not for ever more sessions.
  if (session.members.empty() && sessions_.size() > kMostSessions) sessions_.erase(name);
  session_waiters_.wake_all();
}

}  // namespace cvol::nbd
