#include "nbd/client/pipeline.h"

#include <algorithm>
#include <array>
#include <chrono>

#include "volumed/base/assert.h"
#include "volumed/base/random.h"

namespace cvol::nbd::client {
namespace {

constexpr std::chrono::milliseconds kFirstPause{10};
constexpr std::chrono::milliseconds kLongestPause{250};

// Letters and digits, as the server's session names want them.
std::string make_session(const std::string& prefix) {
  Random random = Random::from_system();
  std::string text = prefix;
  for (int i = 0; i < 16; ++i) text.push_back("0123456789abcdef"[random.below(16)]);
  return text;
}

}  // namespace

Pipeline::Pipeline(PipelineOptions options, PipelineEvents& events)
    : options_(std::move(options)),
      events_(events),
      session_(make_session(options_.session_prefix)),
      read_buffer_(options_.largest_read_bytes) {}

Pipeline::~Pipeline() {
  stop();
}

Result<std::unique_ptr<Pipeline>> Pipeline::open(PipelineOptions options, PipelineEvents& events) {
  std::unique_ptr<Pipeline> pipeline(new Pipeline(std::move(options), events));
  Result<Connection> connection =
      connect_export(pipeline->options_.socket_path, pipeline->next_export_name(),
                     pipeline->options_.handshake_timeout_seconds);
  if (!connection) return connection.status();
  pipeline->info_ = connection->info();
  pipeline->connection_ = std::move(*connection);
  pipeline->state_ = State::kUp;
  return pipeline;
}

std::string Pipeline::next_export_name() {
  std::lock_guard lock(table_mutex_);
  ++generation_;
  if (!options_.with_session) return options_.export_name;
  return options_.export_name + "@" + session_ + "/" + std::to_string(generation_);
}

void Pipeline::start() {
  receiver_ = std::thread(&Pipeline::run_receiver, this);
  resender_ = std::thread(&Pipeline::run_resender, this);
}

void Pipeline::stop() {
  if (stopping_.exchange(true)) return;
  {
    std::lock_guard lock(table_mutex_);
    state_ = State::kDown;
    changed_.notify_all();
  }
  connection_.shut_down();  // wakes a receiver, and a sender that the server keeps waiting
  if (receiver_.joinable()) receiver_.join();
  if (resender_.joinable()) resender_.join();
}

void Pipeline::submit(Request request, Payload payload, void* context) {
  CVOL_ASSERT(request.command != Command::kRead || request.length <= read_buffer_.size());
  auto pending = std::make_shared<Pending>();
  pending->payload = std::move(payload);
  pending->context = context;
  {
    std::lock_guard lock(table_mutex_);
    request.cookie = next_cookie_++;
    pending->request = request;
    pending_.emplace(request.cookie, pending);
    // While the server is away, or what it missed is being sent again, the resender takes it.
    if (state_ != State::kUp) return;
  }
  std::lock_guard send_lock(send_mutex_);
  {
    std::lock_guard lock(table_mutex_);
    if (state_ != State::kUp || pending->sent_on == generation_) return;
    pending->sent_on = generation_;
  }
  send_pending(*pending);
}

void Pipeline::submit_from_answer(Request request, void* context) {
  CVOL_ASSERT(request.command != Command::kRead && request.command != Command::kWrite);
  auto pending = std::make_shared<Pending>();
  pending->context = context;
  std::lock_guard lock(table_mutex_);
  request.cookie = next_cookie_++;
  pending->request = request;
  pending_.emplace(request.cookie, std::move(pending));
  // The resender sends what the connection has not carried yet.
  if (state_ == State::kUp) state_ = State::kResending;
  changed_.notify_all();
}

// A failed send is not an event of its own: the receiver sees the same broken connection.
void Pipeline::send_pending(Pending& pending) {
  auto header = encode_request(pending.request);
  if (Status sent = connection_.send(header, pending.payload.bytes); !sent) connection_.shut_down();
}

void Pipeline::run_receiver() {
  while (!stopping_) {
    receive_replies();
    mark_down();
    if (!reconnect()) return;
  }
}

void Pipeline::receive_replies() {
  for (;;) {
    if (Status status = receive_one(); !status) {
      if (!stopping_) events_.connection_changed("connection lost: " + status.message());
      return;
    }
  }
}

// One reply. An error means that the connection cannot be used any more; nothing is then removed.
Status Pipeline::receive_one() {
  std::array<std::byte, kSimpleReplyBytes> bytes;
  CVOL_TRY(connection_.receive(bytes));
  Result<SimpleReply> reply = parse_simple_reply(bytes);
  if (!reply) return reply.status();
  std::shared_ptr<Pending> pending;
  {
    std::lock_guard lock(table_mutex_);
    auto found = pending_.find(reply->cookie);
    if (found == pending_.end() || found->second->sent_on != generation_) {
      return Status(Code::kIo, "a reply to a request that was not sent");
    }
    pending = found->second;
  }
  if (is_transient_nbd_error(reply->error)) {
    return Status(Code::kUnavailable, "the server says that it cannot serve now");
  }
  std::span<std::byte> data;
  if (pending->request.command == Command::kRead && reply->error == 0) {
    data = std::span(read_buffer_).first(pending->request.length);
    CVOL_TRY(connection_.receive(data));
  }
  {
    std::lock_guard lock(table_mutex_);
    pending_.erase(reply->cookie);
  }
  events_.answered(pending->request, pending->context, errno_of_nbd_error(reply->error), data);
  return Status::ok();
}

void Pipeline::mark_down() {
  connection_.shut_down();  // first, so that a blocked sender leaves send_mutex_
  std::lock_guard send_lock(send_mutex_);
  std::lock_guard lock(table_mutex_);
  state_ = State::kDown;
}

// False when the pipeline is being stopped.
bool Pipeline::reconnect() {
  auto pause = kFirstPause;
  std::string last_error;
  while (!stopping_) {
    Result<Connection> made = connect_export(options_.socket_path, next_export_name(),
                                             options_.handshake_timeout_seconds);
    if (made) {
      std::lock_guard send_lock(send_mutex_);
      std::lock_guard lock(table_mutex_);
      if (stopping_) return false;
      connection_ = std::move(*made);
      state_ = State::kResending;
      changed_.notify_all();
      events_.connection_changed("connected again, unanswered requests: " +
                                 std::to_string(pending_.size()));
      return true;
    }
    if (made.message() != last_error) events_.connection_changed(made.message());
    last_error = made.message();
    std::unique_lock lock(table_mutex_);
    changed_.wait_for(lock, pause, [this] { return stopping_.load(); });
    pause = std::min(pause * 2, kLongestPause);
  }
  return false;
}

// The resender has its own thread because replies must be received while requests are sent: a
// server whose replies nobody takes stops reading.
void Pipeline::run_resender() {
  for (;;) {
    {
      std::unique_lock lock(table_mutex_);
      changed_.wait(lock, [this] { return stopping_ || state_ == State::kResending; });
      if (stopping_) return;
    }
    ResendCursor cursor;
    while (resend_next(cursor)) {
    }
  }
}

// Sends the first request after the cursor that this connection has not carried. False when there
// is none left, or the connection is gone.
bool Pipeline::resend_next(ResendCursor& cursor) {
  std::lock_guard send_lock(send_mutex_);
  std::shared_ptr<Pending> pending;
  {
    std::lock_guard lock(table_mutex_);
    if (state_ != State::kResending) return false;
    if (cursor.generation != generation_) cursor = {generation_, 0};  // yet another connection
    auto next = pending_.upper_bound(cursor.cookie);
    while (next != pending_.end() && next->second->sent_on == generation_) ++next;
    if (next == pending_.end()) {
      state_ = State::kUp;
      return false;
    }
    pending = next->second;
    cursor.cookie = next->first;
    pending->sent_on = generation_;
  }
  send_pending(*pending);
  return true;
}

}  // namespace cvol::nbd::client
