// Transmission: one connection after the handshake. Reads requests, runs them on the device, many
// at once, and sends replies as they come ready, out of order.
//
// Payloads go from the socket to aligned buffers that the device takes as they are. While a payload
// is received, the same call also takes what follows it into a larger buffer: a burst of small
// writes costs one receive for several of them, and a copy, which is cheaper. A connection that
// waits for a request holds no such buffer. Runs on the shard that owns the device.
#pragma once

#include <array>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "nbd/protocol/protocol.h"
#include "nbd/server/server.h"
#include "nbd/server/shard_state.h"
#include "volumed/io/scope.h"

namespace cvol::nbd {

// What the client does with requests that were not answered when a connection ended.
enum class Resends {
  kBySession,  // nothing, or it fences by the session in the export's name
  // The kernel's nbd: hangs up, then sends them again on any other connection of the device.
  kAfterHangUp,
};

class Transmission {
 public:
  Transmission(ShardState& shard, io::Stream stream, std::shared_ptr<Export> target,
               Agreement agreement, ExportName name, uint32_t most_requests,
               Resends resends = Resends::kBySession);
  ~Transmission();

  // Returns when the connection has ended and everything admitted is done.
  Task<void> run();
  // Ends the connection: no further request is admitted.
  void shutdown();
  bool waits_for_memory() const { return waits_for_memory_; }
  // A send or an awaited payload has not moved since `before`.
  bool is_stuck(io::Nanoseconds before) const { return sends(before) || receives(before); }
  void cut_if_stuck(io::Nanoseconds before);

 private:
  struct Reply {
    ReplyHeader header;
    Buffer data;
    uint32_t data_bytes = 0;
    std::string payload;  // of BLOCK_STATUS
  };

  bool sends(io::Nanoseconds before) const { return send_started_ != 0 && send_started_ <= before; }
  bool receives(io::Nanoseconds before) const {
    return payload_progress_ != 0 && payload_progress_ <= before;
  }
  Task<void> receive_requests();
  // Makes at least `bytes` available at input_begin_; false at the end of the stream.
  Task<bool> fill(std::size_t bytes);
  std::byte* input() { return staging_.empty() ? scratch_.data() : staging_.data(); }
  std::size_t input_size() const { return staging_.empty() ? kScratchBytes : kStagingBytes; }
  Task<bool> receive_payload(Buffer& buffer, uint64_t bytes);
  bool is_given_up() const;
  Task<void> serve(Request request, Buffer payload);
  Task<void> serve_read(Request request);
  Task<Status> serve_change(const Request& request, const Buffer& payload);
  // The same, again and again while the pool is full, after a first attempt ended with `status`.
  Task<Status> change_patiently(const Request& request, const Buffer& payload, Status status);
  bool waits_for_space() const;
  void stop_waiting();
  Task<void> serve_block_status(Request request);
  void reply(Reply made);
  Task<void> send_replies();
  // Memory for a request, in the order of the calls. See MemoryShares; besides, one connection
  // holds no more than a quarter of the shard's memory, but for one large request.
  Task<Buffer> take(std::size_t bytes);
  void give_back(Buffer& buffer);
  void done_with(Reply& sent);
  void log_end(const std::string& why);
  std::string session_key() const { return name_.volume + "@" + name_.session; }

  ShardState& shard_;
  io::Stream stream_;
  std::shared_ptr<Export> export_;
  Agreement agreement_;
  ExportName name_;
  const Resends resends_;
  io::Semaphore places_;  // requests that may be under way

  // Received bytes that are not used yet: in staging_ if there is one, else in scratch_.
  static constexpr std::size_t kScratchBytes = 4096;
  static constexpr std::size_t kStagingBytes = 64 * 1024;
  std::array<std::byte, kScratchBytes> scratch_;
  Buffer staging_;
  std::size_t input_begin_ = 0;
  std::size_t input_end_ = 0;

  std::vector<Reply> queue_;
  std::vector<Reply> sending_;
  bool sender_runs_ = false;
  io::Nanoseconds send_started_ = 0;      // of the send under way; 0: none
  io::Nanoseconds payload_progress_ = 0;  // since when a payload has not moved; 0: none awaited
  MemoryShares::Share& share_;            // of the export
  uint64_t held_bytes_ = 0;               // of the share, by this connection's requests and replies
  io::Semaphore taking_{1};               // so that small requests do not overtake a large one
  io::Event returned_;                    // something of held_bytes_
  bool waits_for_memory_ = false;         // because of others
  bool broken_ = false;                   // the stream takes no more
  bool told_full_ = false;                // that writes wait for space
  bool ending_ = false;                   // nothing waits for space any more
  io::CancelToken over_;                  // of those who wait for it
  io::Scope requests_;
  io::Scope sender_;
};

}  // namespace cvol::nbd
