// A pipeline of NBD requests that survives its server: many under way, answered in any order; when
// the connection breaks it is made again, for ever, and every unanswered request is sent once more
// in the order in which it was submitted. Nothing is answered with an error because the server was
// away.
//
// With a session (rule R12) each connection carries a higher generation in the export name
// ("NAME@SESSION/GENERATION"), so that the server ends what an older one left behind before it
// takes the requests again.
//
// Threading: submit() on one thread, submit_from_answer() within answered(); replies come on the
// pipeline's own receive thread. submit() blocks while the server is alive but does not read; it
// never waits for one that is away. Ownership: a Payload's memory stays with the pipeline until the
// request is answered.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "nbd/client/codec.h"
#include "nbd/client/connection.h"
#include "volumed/base/result.h"

namespace cvol::nbd::client {

// Bytes to be written, with the memory that holds them.
struct Payload {
  std::span<const std::byte> bytes;
  std::shared_ptr<void> memory;
};

// What the pipeline tells its user.
class PipelineEvents {
 public:
  virtual ~PipelineEvents() = default;
  // The answer to one request: `error` is 0 or an errno (positive). `data` is what a read got; it
  // is valid until the call returns.
  virtual void answered(const Request& request, void* context, int error,
                        std::span<const std::byte> data) = 0;
  // A connection was lost or made; for the log.
  virtual void connection_changed(const std::string& text) = 0;
};

struct PipelineOptions {
  std::string socket_path;
  std::string export_name;
  bool with_session = true;            // add "@SESSION/GENERATION"
  std::string session_prefix;          // letters and digits, up to 40: what SESSION begins with
  int handshake_timeout_seconds = 30;  // the server may first have to end the session's past
  uint32_t largest_read_bytes = 1 << 20;
};

class Pipeline {
 public:
  // Connects once; an error here is final (nobody listens, no such export). The threads start with
  // start(), so that a process can fork in between.
  static Result<std::unique_ptr<Pipeline>> open(PipelineOptions options, PipelineEvents& events);
  ~Pipeline();

  const ExportInfo& export_info() const { return info_; }

  void start();
  // The request's cookie is set here. `context` comes back with the answer.
  void submit(Request request, Payload payload, void* context);
  // The same, for a request without payload, from within answered(). That thread never sends: a
  // server whose answers nobody takes stops reading, and both would wait for ever.
  void submit_from_answer(Request request, void* context);
  // Ends the connection and the threads. What is unanswered stays unanswered.
  void stop();

 private:
  struct Pending {
    Request request;
    Payload payload;
    void* context = nullptr;
    uint64_t sent_on = 0;  // generation of the connection that carried it last
  };
  struct ResendCursor {
    uint64_t generation = 0;
    uint64_t cookie = 0;  // of the last request that was looked at
  };
  enum class State { kDown, kResending, kUp };

  Pipeline(PipelineOptions options, PipelineEvents& events);
  std::string next_export_name();
  void run_receiver();
  void run_resender();
  bool reconnect();
  void receive_replies();
  Status receive_one();
  void mark_down();
  bool resend_next(ResendCursor& cursor);
  void send_pending(Pending& pending);

  const PipelineOptions options_;
  PipelineEvents& events_;
  ExportInfo info_;
  std::string session_;
  std::vector<std::byte> read_buffer_;
  std::atomic<bool> stopping_{false};

  // Order of locks: send_mutex_ before table_mutex_.
  std::mutex send_mutex_;  // one message at a time on the socket; the connection is not replaced
  Connection connection_;
  std::mutex table_mutex_;  // everything below
  std::condition_variable changed_;
  State state_ = State::kDown;
  uint64_t generation_ = 0;
  uint64_t next_cookie_ = 1;
  std::map<uint64_t, std::shared_ptr<Pending>> pending_;  // by cookie: the order of submission

  std::thread receiver_;
  std::thread resender_;
};

}  // namespace cvol::nbd::client
