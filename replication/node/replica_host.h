// ReplicaHost: one replica at work: drives the state machine of replication/core on a disk engine,
// the connections of an Exchange and the register.
//
// Threading: the shard's thread that owns the disk.
// Ownership: engine, exchange and register outlive it; close() before destruction.
// Durability: what core asks for (driver.h); a client operation that ended with kDone is on stable
// storage of every required replica.
// Files: replica_host.cpp (life, driver calls, links), host_client.cpp (operations of front ends),
// host_member.cpp (what a member does for a resync and a repair), host_damage.cpp (blocks that
// cannot be read here), host_verify.cpp (comparing, mending), copier.cpp (a resync's source).
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "replication/core/replica.h"
#include "replication/node/exchange.h"
#include "volumed/base/block_device.h"
#include "volumed/io/range_lock.h"
#include "volumed/store/aligned.h"
#include "volumed/store/disk_engine.h"

namespace cvol::replication {

class Copier;

// How an operation of a front end ended.
struct ClientResult {
  Outcome outcome = Outcome::kDone;
  Status status;            // of kFailed and kNoSpace
  uint64_t connection = 0;  // of a fenced open(): the highest that was opened
  uint64_t next = 0;        // of verify(): where to go on; UINT64_MAX: that was all
};

// How many bytes of a write, from its beginning, are one operation: done as a whole, in one step.
// `data`: nullptr for zeroes. A longer one is several, which may be done, seen and overwritten
// before the last; whoever repeats a write must not repeat those. `keep`: zeroes that keep their
// space may find none, and then be taken back, with what was there as data: no more than a payload.
uint64_t one_operation(uint64_t offset, uint64_t length, const std::byte* data, bool keep = false);

// Somebody on this shard whose operations have to end when it goes: ReplicaHost::abandon().
struct FrontEnd {
  bool gone = false;
};
inline bool is_gone(const FrontEnd* front_end) {
  return front_end != nullptr && front_end->gone;
}

// A resync that this replica is the source of.
struct ResyncProgress {
  ReplicaId target;
  uint64_t total_bytes = 0;  // of chunks that have to be looked at
  uint64_t done_bytes = 0;   // of those
  uint64_t sent_bytes = 0;   // that differed
  bool verifying = false;
  Nanoseconds started = 0;
  uint64_t seconds_left = 0;  // at the rate so far; 0: not known yet
};

class ReplicaHost final : public Driver {
 public:
  struct Parts {
    Exchange* exchange = nullptr;
    store::DiskEngine* engine = nullptr;
    store::ReplicaNumber number = 0;
    Uuid volume;
    ReplicaId self;
    uint64_t incarnation = 0;  // at least; raised if the disk's content was taken back
    // On the shard's thread, soon after it happened; may be empty.
    std::function<void()> changed;
    std::function<void(const std::string&)> event;
    // The metadata store has gone back to before this record, which this replica knows.
    std::function<void(const Record& known)> claim;
  };

  // `record`: the register's, if it is known; a replica that was never used needs one.
  static Result<std::unique_ptr<ReplicaHost>> open(Parts parts, const Record* record);
  ~ReplicaHost() override;
  // Ends everything that is under way; front ends are told kNotPrimary.
  Task<void> close();

  const Uuid& volume() const { return parts_.volume; }
  const ReplicaId& self() const { return parts_.self; }
  Replica& core() { return *core_; }
  const Replica& core() const { return *core_; }
  const std::vector<ResyncProgress>& resyncs() const { return resyncs_; }
  uint64_t resync_sent_bytes() const { return resync_sent_; }  // since open

  void set_record(const Record& record);

  // --- front ends (host_client.cpp); bytes, any alignment ---
  Task<ClientResult> open_connection(Replica::Caller caller, FrontEnd* front_end = nullptr);
  Task<ClientResult> read(Replica::Caller caller, uint64_t offset, std::span<std::byte> into,
                          FrontEnd* front_end = nullptr);
  Task<ClientResult> write(Replica::Caller caller, uint64_t offset, std::span<const std::byte> data,
                           FrontEnd* front_end = nullptr);
  Task<ClientResult> zero(Replica::Caller caller, uint64_t offset, uint64_t length, bool keep,
                          FrontEnd* front_end = nullptr);
  // What this front end has under way ends with kNotPrimary, now, or when the disk has let go of
  // its memory. Its outcome is not known: as if it came from another node that has gone, it goes on
  // with memory of this host's.
  void abandon(FrontEnd& front_end);
  // Like a read (R6): of what is committed, and under the same leases. `extents`: with kDone.
  Task<ClientResult> status(Replica::Caller caller, uint64_t offset, uint64_t length,
                            std::vector<Extent>* extents, FrontEnd* front_end = nullptr);
  bool hand_over(const ReplicaId& to);
  // True when this replica is the primary and runs `epoch` or a later one with all members; waits a
  // while for it.
  Task<bool> confirm(Epoch epoch, io::Nanoseconds patience);

  // Compares the checksums of all in-sync replicas for a part of the volume from `offset` (bytes)
  // on. kDone with a status of kDamaged says which blocks differ, and where.
  Task<ClientResult> verify(uint64_t offset, const FrontEnd* front_end = nullptr);
  // The block is damaged here: it is written again, by whoever has it good.
  void mend(uint64_t block);

  // --- of the Exchange ---
  void on_frame(const Endpoint& from, Frame frame);
  void on_link(const Endpoint& peer, bool up);
  void on_process_dead(const Endpoint& peer);
  void wake_links();
  void tick(io::Nanoseconds now);
  void send_beacons(io::Nanoseconds now, bool all) { core_->send_beacons(now, all); }
  // To be looked at 50 times a second.
  bool busy() const;
  // To be looked at every second time that beacons are sent.
  bool rests() const;

  // Driver
  void send(const Message& message) override;
  void persist(const Durable& state, uint64_t ticket) override;
  void make_payload(OpId op, OpKind kind, BlockRange range) override;
  void append(OpId op, WriteKind kind, Epoch epoch, Seq seq, BlockRange range) override;
  void append_prepared(const Message& prepare) override;
  void drop_prepared(const Message& prepare) override;
  void read(OpId op, BlockRange range) override;
  void copy(OpId op, BlockRange range) override;
  void finish(OpId op, Outcome outcome) override;
  void collect_tail(Seq after, uint64_t ticket) override;
  void note_commit_point(Seq seq) override;
  void propose(const Record& next, uint64_t ticket) override;
  void fetch_record() override;
  void claim(const Record& known) override;
  void start_copy(const ReplicaId& joiner, uint64_t join, Seq joiner_commit_point) override;
  void stop_copy(const ReplicaId& joiner, uint64_t join) override;
  void changed() override;
  void event(const std::string& text) override;

 private:
  friend class Copier;

  // An operation between its begin and its end. Lives in the caller's frame, or (internal ones) on
  // the heap; memory that it names outlives what is `pending`.
  struct Work {
    OpId op = 0;
    OpKind kind = OpKind::kRead;
    FrontEnd* front_end = nullptr;
    uint64_t offset = 0;                 // bytes, of the front end
    std::span<const std::byte> data;     // a write's
    uint64_t length = 0;                 // of the operation
    std::span<std::byte> into;           // a read's
    bool zero_edge = false;              // a write of zeroes that are no whole blocks
    Buffer whole;                        // whole blocks, where the front end's memory cannot serve
    store::AlignedBytes kept;            // instead of the memory of a front end that is gone
    std::span<const std::byte> payload;  // what is written
    std::vector<uint64_t> checksums;     // of its blocks
    uint32_t pending = 0;                // tasks that use this
    bool finished = false;
    bool on_heap = false;
    Outcome outcome = Outcome::kDone;
    Status status;
    std::coroutine_handle<> waiter;
    bool held = false;         // of hold_range()
    bool asks_status = false;  // a read that wants to know of `extents` only
    std::vector<Extent> extents;
    Copier* copier = nullptr;  // kCopy
  };
  struct Done {
    Work& work;
    bool await_ready() const noexcept { return work.finished && work.pending == 0; }
    void await_suspend(std::coroutine_handle<> handle) noexcept { work.waiter = handle; }
    void await_resume() const noexcept {}
  };
  // Of those that work here in a coroutine of their own, a gateway's: close() waits for them.
  struct Guest {
    explicit Guest(ReplicaHost& at) : host(at) { ++host.guests_; }
    Guest(const Guest&) = delete;
    Guest& operator=(const Guest&) = delete;
    ~Guest() {
      if (--host.guests_ == 0) host.guests_left_.wake_all();
    }
    ReplicaHost& host;
  };
  // A question to another replica.
  struct Call {
    Endpoint to;
    const FrontEnd* front_end = nullptr;
    Nanoseconds until = INT64_MAX;  // then it counts as lost; looked at by tick()
    ReplicaId while_in_sync;        // not nil: lost as soon as this one is not in the set
    bool answered = false, lost = false;
    wire::FrameHeader header;
    std::vector<std::byte> body;
    Buffer payload;
    std::coroutine_handle<> waiter;
  };
  // Of questions whose answer takes a disk's work; longer than a write may take (R4).
  Nanoseconds disk_patience() const { return 2 * parts_.exchange->options().stuck_write; }
  struct CallDone {
    Call& call;
    bool await_ready() const noexcept { return call.answered || call.lost; }
    void await_suspend(std::coroutine_handle<> handle) noexcept { call.waiter = handle; }
    void await_resume() const noexcept {}
  };
  struct Prepared {
    Buffer payload;
    std::vector<uint64_t> checksums;
  };

  ReplicaHost(Parts parts, Durable durable, const store::ReplicaInfo& info);

  io::Reactor& reactor() const { return parts_.exchange->reactor(); }
  Nanoseconds now() const { return reactor().now(); }
  uint64_t size_bytes() const { return core_->record().size_bytes; }
  // Blocks that there are here, and are to be: the replica grows before its record is persisted.
  uint64_t blocks_here() const;
  // Until the replica has grown to what the record says, if the range needs it.
  Task<void> grown(uint64_t end_bytes, const FrontEnd* front_end = nullptr);
  void grew();
  void take_prepare(Message prepare);
  void look_at_disk(Nanoseconds now);
  void cut_tail(Message& reached) const;
  const Member* member(const ReplicaId& id) const { return core_->record().find_member(id); }
  std::optional<Endpoint> endpoint_of(const ReplicaId& id) const;
  ReplicaId id_from_tag(uint64_t tag, const Record* record) const;
  Task<Buffer> take(std::size_t bytes);
  // A task that a call of core begins. Before it calls core itself it leaves that call, if what it
  // waits for was done at once (`if (inside_core_ > 0) co_await io::yield(reactor())`).
  void begin_for_core(Task<void> task);
  void release(Work* work);
  void sum_payload(Work& work, BlockRange range) const;
  Work* find_work(OpId op) const;
  OpId begin(Work& work);
  void detach(Work& work);
  Task<ClientResult> run_write(Replica::Caller caller, Work& work, WriteKind kind, BlockRange range,
                               bool needs_payload);

  Task<void> links_soon();
  Task<void> persist_loop();
  Task<void> append_own(Work* work, WriteKind kind, Epoch epoch, Seq seq, BlockRange range);
  Task<void> append_for_primary(Message prepare, Prepared prepared);
  Task<void> read_own(OpId op, Work* work, BlockRange range);
  Task<void> look_at_status(OpId op, Work* work);
  Result<std::vector<Extent>> extents_of(uint64_t offset, uint64_t length) const;
  Task<Status> read_blocks(BlockRange range, std::span<std::byte> into);
  Task<Status> repair_damage(BlockRange range, const FrontEnd* front_end);
  Task<void> make_own_payload(OpId op, Work* work, OpKind kind, BlockRange range);
  Task<Status> overlay_client_data(Work* work, BlockRange range);
  // R14: what cannot be read here comes from another in-sync replica. The range is locked. One that
  // does not answer is asked again until it does, or leaves the set. If none has it, it comes from
  // one outside the set that still has the very content that the checksum here speaks of.
  // kCancelled: the front end goes.
  // Not `patient`: one outside the set that does not answer at once is not waited for.
  Task<Status> read_or_fetch(BlockRange range, std::span<std::byte> into,
                             const FrontEnd* front_end = nullptr, bool patient = true);
  Task<Status> fetch_from_peers(BlockRange range, std::span<std::byte> into,
                                const FrontEnd* front_end, bool patient);
  enum class Fetched : uint8_t { kGood, kDamaged, kFailed, kNoAnswer };
  Task<Fetched> fetch_from(ReplicaId peer, wire::FrameType type, BlockRange range,
                           std::span<std::byte> into, const FrontEnd* front_end);
  Task<Fetched> seek_outside(BlockRange block, std::span<std::byte> into, const FrontEnd* front_end,
                             Nanoseconds until);
  Task<void> tail_task(Seq after, uint64_t ticket);
  Task<OpId> hold_range(BlockRange range, const FrontEnd* front_end);
  void let_go(OpId op);
  Task<bool> list_replica(ReplicaId replica, uint64_t list, std::map<uint64_t, uint64_t>& chunks);
  Task<Status> list_chunks();
  Task<Result<std::string>> compare(BlockRange range, const FrontEnd* front_end);
  Task<void> mend_task(uint64_t block);
  Task<bool> call(Call& call, const ReplicaId& to, wire::FrameType type,
                  std::span<const std::byte> body, std::span<const std::byte> payload = {});

  void on_core_frame(const Endpoint& from, Frame frame);
  Task<void> serve_request(Endpoint from, wire::FrameHeader header, wire::Request request,
                           Buffer payload);
  void answer(const Endpoint& to, uint64_t number, const ClientResult& result,
              std::span<const std::byte> payload, std::vector<wire::WireExtent> extents);
  Task<void> serve_list(Endpoint from, wire::FrameHeader header, wire::CopyRequest request);
  Task<void> serve_sums(Endpoint from, wire::FrameHeader header, wire::CopyRequest request);
  Task<void> serve_digest(Endpoint from, wire::FrameHeader header, wire::CopyRequest request);
  Task<void> serve_copy(Endpoint from, wire::FrameHeader header, wire::CopyRequest request,
                        Buffer payload);
  Task<void> serve_fetch(Endpoint from, wire::FrameHeader header, wire::CopyRequest request);
  void reply(const Endpoint& to, const wire::FrameHeader& question, wire::FrameType type,
             std::span<const std::byte> body, std::span<const std::byte> payload = {});
  bool may_be_copied_to(const wire::FrameHeader& header, const wire::CopyRequest& request) const;
  wire::Digested digest(BlockRange range, std::span<const std::byte> data) const;
  wire::Digested expected_content(BlockRange range) const;

  Parts parts_;
  const uint64_t salt_;
  uint64_t local_size_;
  Nanoseconds disk_looked_ = 0;  // while it has failed; 0: it has not
  std::vector<Message> beyond_;  // PREPAREs that wait until the replica has grown, by arrival
  std::unique_ptr<Replica> core_;
  bool closing_ = false;
  bool links_pending_ = false;
  std::map<ReplicaId, bool> told_links_;
  OpId next_op_ = 1;
  std::unordered_map<OpId, Work*> works_;
  uint64_t next_call_;  // from anywhere: late answers to a life before fit no question
  std::unordered_map<uint64_t, Call*> calls_;
  uint64_t next_prepared_ = 1;
  std::unordered_map<uint64_t, Prepared> prepared_;
  std::map<ReplicaId, Nanoseconds> not_sought_until_;
  io::RangeLock member_lock_;
  std::optional<std::pair<Durable, uint64_t>> persist_next_;
  bool persisting_ = false;
  BufferPool buffers_;
  io::WaitList buffer_waiters_;
  io::WaitList changed_;
  uint32_t guests_ = 0;
  io::WaitList guests_left_;
  std::map<uint64_t, std::unique_ptr<Copier>> copiers_;  // by join
  Copier* beginning_ = nullptr;                          // of a piece
  uint32_t inside_core_ = 0;
  std::vector<ResyncProgress> resyncs_;
  uint64_t resync_sent_ = 0;
  std::map<uint64_t, uint64_t> verified_chunks_;  // of a verify that goes on
  Epoch verified_epoch_;                          // in which they were listed
  std::vector<store::ChunkVersion> listed_;       // for a source that asks page by page
  uint64_t listed_join_ = 0;
  io::Scope scope_;
};

}  // namespace cvol::replication
