// Gateway: a volume as this node uses it: requests go to the primary, wherever that is, are kept
// until they are answered, and sent again to the next primary after a failover (R12).
//
// Threading: the shard's thread, except size(). Ownership: the exchange outlives it; close() first.
// Errors: only what the request itself brings (kNoSpace, kDamaged, kInvalidArgument), or kCancelled
// when the gateway is closed, or kPermission when another session has the volume now. Everything
// else is a pause: requests wait for as long as it takes, but for no node that is silent while
// another one serves.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <unordered_map>

#include "replication/node/exchange.h"
#include "replication/node/replica_host.h"
#include "volumed/base/block_device.h"
#include "volumed/base/metrics.h"

namespace cvol::replication {

class Gateway final : public BlockDevice {
 public:
  struct Parts {
    Exchange* exchange = nullptr;
    Uuid volume;
    Record record;  // as known
    uint64_t session_generation = 0;
    std::shared_ptr<VolumeMetrics> metrics;
  };

  explicit Gateway(Parts parts);
  ~Gateway() override;
  // Requests under way end with kCancelled, at the latest when a disk here has let go of their
  // memory.
  Task<void> close();

  const Uuid& volume() const { return parts_.volume; }
  // A newer record: where the primary is, the size.
  void set_record(const Record& record);
  // Another session has the volume: requests end with kPermission.
  void fence();
  // Why requests wait; empty if they do not.
  std::string waits_for() const;

  uint64_t size() const override { return size_.load(std::memory_order_relaxed); }
  Task<Status> read(uint64_t offset, std::span<std::byte> into) override;
  Task<Status> write(uint64_t offset, std::span<const std::byte> data, bool fua) override;
  Task<Status> flush() override;
  Task<Status> write_zeroes(uint64_t offset, uint64_t length, bool keep_allocated,
                            bool fua) override;
  Task<Status> trim(uint64_t offset, uint64_t length, bool fua) override;
  Task<Result<std::vector<Extent>>> block_status(uint64_t offset, uint64_t length) override;

  // Asks the primary, and waits: to run `epoch` with all members; to move to `replica`.
  // kUnavailable if it has not answered when the patience is over (for a move: 1 s).
  Task<Status> confirm(Epoch epoch, io::Nanoseconds patience);
  Task<Status> move_primary(ReplicaId replica);
  // The primary is to come to `replica`: asks for that in the background until it has, or the
  // patience is over, while the replica is in sync. Requests need not wait for it.
  void draw_primary(ReplicaId replica, io::Nanoseconds patience);
  // One part of a comparison of all in-sync replicas (ReplicaHost::verify).
  Task<ClientResult> verify(uint64_t offset);

  // --- of the Exchange ---
  bool waits_for_answer(const Endpoint& from, uint64_t number) const;
  void on_answer(const Endpoint& from, Frame frame);
  void on_down(const Endpoint& peer);
  void wake();

 private:
  struct Call;
  struct Request {
    wire::FrameType type = wire::FrameType::kRead;
    wire::Request body;
    std::span<const std::byte> data;
    uint64_t after = 0;  // bytes of a write that come after this piece of it
    std::span<std::byte> into;
    std::vector<Extent> extents;
    Call* call = nullptr;  // while another node is asked
  };
  struct Call {
    Endpoint to;
    io::Nanoseconds asked = 0;
    bool ended = false;
    ClientResult result;
    std::span<std::byte> into;
    std::vector<Extent>* extents = nullptr;
    std::coroutine_handle<> waiter;
  };
  struct CallDone {
    Call& call;
    bool await_ready() const noexcept { return call.ended; }
    void await_suspend(std::coroutine_handle<> handle) noexcept { call.waiter = handle; }
    void await_resume() const noexcept {}
  };

  io::Reactor& reactor() const { return parts_.exchange->reactor(); }
  static void cut(Request& request, uint64_t length, const std::byte* data);
  static void next_piece(Request& request);
  Task<Status> run(Request& request);
  Task<ClientResult> ask(Request& request, const ReplicaId& replica);
  Task<ClientResult> ask_local(Request& request, ReplicaHost& host);
  Task<ClientResult> ask_remote(Request& request, const Endpoint& to);
  Task<ClientResult> ask_primary(Request& request, io::Nanoseconds patience);
  Task<ClientResult> ask_within(Request& request, const ReplicaId& replica,
                                io::Nanoseconds patience);
  Task<void> end_in_time(Request& request, io::Nanoseconds patience, io::CancelToken& over);
  Task<void> draw(ReplicaId replica, io::Nanoseconds patience);
  Task<void> open_loop();
  Task<void> watch_primary();
  Task<bool> ready();
  void lose_primary();
  void end_call(Call& call, const ClientResult& result);
  void end_calls(const std::function<bool(const Call&)>& which);
  Status over() const;

  Parts parts_;
  std::atomic<uint64_t> size_;
  uint64_t connection_ = 0;
  bool open_ = false;
  bool opening_ = false;
  bool watching_ = false;
  bool closing_ = false;
  bool fenced_ = false;
  ReplicaId primary_;  // where the connection is open
  std::size_t candidate_ = 0;
  uint64_t under_way_ = 0;
  uint64_t next_number_;  // from anywhere: late answers to a life before fit no request
  std::unordered_map<uint64_t, Call*> calls_;
  io::WaitList opened_;
  io::WaitList woken_;
  io::WaitList ended_;
  FrontEnd front_end_;  // at the replica that lives here
  io::CancelToken cancel_;
  io::Scope scope_;
};

}  // namespace cvol::replication
