// Replica: the replication protocol of one volume at one of its replicas (rules R1 to R16).
//
// A pure state machine: events in (the on_... functions, with the time they happened), actions out
// (Driver, driver.h). It reads no clock, file, socket or random source, and never blocks. The same
// code runs in volumed and in the simulators.
//
// Threading: one thread. A driver's calls come back as events later, never from within.
// Time: Nanoseconds of CLOCK_BOOTTIME of this node; only differences count.
// Files: replica.cpp (records, roles, timers), member.cpp (what a member does for its primary),
// primary.cpp (writes, acknowledgements, removal), promote.cpp (R8, R9), join.cpp (R10),
// ask.cpp (registers that went back), client.cpp (operations and their range locks). README.md
// numbers the invariants.
#pragma once

#include <array>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "replication/core/driver.h"
#include "replication/core/options.h"
#include "replication/core/slow_members.h"

namespace cvol::replication {

class Replica {
 public:
  struct Start {
    ReplicaId self;
    Durable durable;   // as last persisted; its record may be behind the register's
    Seq commit_point;  // as last noted, durably
    Seq last_seq;      // highest seq that is durable here
    Nanoseconds now = 0;
  };

  Replica(Driver& driver, const Options& options, Start start);
  Replica(const Replica&) = delete;
  Replica& operator=(const Replica&) = delete;

  // --- events ---

  // To be called every 50 ms or so while the volume has more than one replica or work under way;
  // being late costs time, nothing else.
  void tick(Nanoseconds now);
  void on_message(Nanoseconds now, const Message& message);
  // The way to a peer was lost (what was under way in both directions may be lost) or is there
  // again. Known to be up only once told so.
  void on_link(Nanoseconds now, const ReplicaId& peer, bool up);
  // The process in which the peer ran last is proven dead: it serves no reads any more.
  void on_peer_dead(Nanoseconds now, const ReplicaId& peer);
  // A state of the register's record: a watch, a list. It may be an old one.
  void on_record(Nanoseconds now, const Record& record);
  // The answer to fetch_record(); `known`: this replica's epoch when the read began.
  void on_fetched(Nanoseconds now, const Record& record, Epoch known);
  void on_persisted(Nanoseconds now, uint64_t ticket);
  void on_payload(Nanoseconds now, OpId op, PayloadResult result, WriteKind kind);
  void on_appended(Nanoseconds now, Seq seq, AppendResult result);
  void on_read(Nanoseconds now, OpId op, bool ok);
  void on_tail(Nanoseconds now, uint64_t ticket, std::vector<BlockRange> ranges);
  void on_proposed(Nanoseconds now, uint64_t ticket, CasResult result, uint64_t revision);
  void on_copied(Nanoseconds now, OpId op, bool ok);
  // R10, as the joiner: the driver has a piece of this join for the local disk. True: the piece
  // goes there now, and on_stored() follows when the disk has let go of it, whatever became of the
  // join. False: that join is over, and so is the piece.
  bool begin_store(Nanoseconds now, uint64_t join);
  void on_stored(Nanoseconds now);
  // The difference is copied, and checksums agree; or (not ok) the join cannot go on.
  void on_copy_done(Nanoseconds now, const ReplicaId& joiner, uint64_t join, bool ok);
  // The local disk fails everything from now on (R11).
  void on_disk_failed(Nanoseconds now);
  // It works again: this replica goes on as one that has just started.
  void on_disk_mended(Nanoseconds now);

  // --- client operations (R12); each ends with one Driver::finish ---

  struct Caller {
    uint64_t session = 0;     // generation of the record's session
    uint64_t connection = 0;  // generation of the front end's connection within it
  };
  // A front end has (re)connected: requests of older connections that were not admitted are
  // discarded (finished as fenced), admitted ones end first; then `barrier` is finished and
  // requests of this connection are admitted.
  void open_connection(Nanoseconds now, OpId barrier, Caller caller);
  void read(Nanoseconds now, OpId op, Caller caller, BlockRange range);
  // `needs_payload`: the payload is no whole blocks: Driver::make_payload before it is written.
  void write(Nanoseconds now, OpId op, Caller caller, WriteKind kind, BlockRange range,
             bool needs_payload);

  // --- internal operations ---

  // R14: the driver has found damaged blocks, and got good ones from a peer (Driver::make_payload
  // asks for them). Ends with finish.
  OpId repair(Nanoseconds now, BlockRange range);
  // R10: one piece; Driver::copy is called when its range is locked. 0: the join is over.
  OpId copy_piece(Nanoseconds now, const ReplicaId& joiner, uint64_t join, BlockRange range);
  // Driver::copy is called when nothing writes to the range any more; until on_copied() nothing
  // does. For looking at all replicas at one moment. 0: not the primary.
  OpId hold(Nanoseconds now, BlockRange range);
  // Planned move: stop admitting, drain, hand over. False if `to` is no in-sync peer or this
  // replica is not active.
  bool hand_over(Nanoseconds now, const ReplicaId& to);
  // R16 and operators: put the member out of the set, if enough are left.
  bool put_out(Nanoseconds now, const ReplicaId& peer, const std::string& why);

  // --- state, for drivers, status and tests ---

  Role role() const { return role_; }
  const Record& record() const { return durable_.record; }
  const Durable& durable() const { return durable_; }
  Epoch epoch() const { return durable_.record.epoch; }
  bool is_primary() const { return role_ != Role::kFollower; }
  // The primary runs this epoch with all members of the set (R12: an attach or detach is complete).
  bool confirmed() const;
  // In the set of the record that is known, as it is now, with all it needs.
  bool trusts_itself() const;
  // Waits for its turn to take over.
  bool is_candidate() const {
    return candidate_since_ != 0 || promising_ || primary_dead_ || asked_at_ != 0;
  }
  // The register knows less of the volume than this replica: it was restored from a backup.
  bool is_ahead_of_register() const {
    return ahead_since_.value != 0 && ahead_since_ == durable_.record.epoch;
  }
  // Nothing is to be looked at before two beacons' time is over, unless something comes: a quiet
  // primary that has just sent its beacons, or a member that hears one of a volume that nobody
  // writes.
  bool rests() const;
  Seq commit_point() const { return commit_point_; }
  Seq last_seq() const { return last_seq_; }
  const ReplicaId& self() const { return self_; }
  // Replicas that acknowledgements wait for, this one included.
  std::vector<ReplicaId> required() const;
  bool has_leases(Nanoseconds now) const;
  bool disk_failed() const { return disk_failed_; }
  std::size_t in_flight() const { return in_flight_.size(); }
  std::size_t operations() const { return ops_.size(); }
  bool has_other_than_pieces() const;  // of resyncs
  // When the last one came, pieces of resyncs aside.
  Nanoseconds last_operation() const { return last_op_; }
  bool joining() const { return member_join_ != 0; }
  // The join in which this replica may be copied to now; 0: none.
  uint64_t ready_join() const { return member_join_ready_ ? member_join_ : 0; }
  // The highest connection of the session that was opened (R12).
  uint64_t connection() const { return connection_; }
  // Why client operations wait, for people; empty if they do not.
  std::string waits_for(Nanoseconds now) const;
  // False if this replica sends none.
  bool wants_beacons() const;
  // To be called every Options::beacon: a beacon to each peer that needs one. Every second call
  // does nothing while the volume is quiet.
  // `with_all`: those of a volume that rests() are due.
  void send_beacons(Nanoseconds now, bool with_all = false);

 private:
  using Slot = uint32_t;  // index of a peer; bit of a mask. 0 is this replica.
  using Mask = uint32_t;
  static constexpr Slot kSelf = 0;
  static constexpr Slot kMostPeers = 31;
  static constexpr std::size_t kRecent = 4096;    // seqs that are told from ones sent again
  static constexpr uint64_t kSeqGap = 4096;       // of a new primary, above all that it knows
  static constexpr std::size_t kRewrites = 16;    // of a reconcile at one time
  static constexpr uint64_t kRewriteBlocks = 16;  // of one of them: a chunk

  struct Peer {
    ReplicaId id;
    bool up = false;
    bool dead = false;  // its process is known to be
    Epoch reached;      // the epoch it has adopted from us
    Nanoseconds reach_sent = 0;
    Nanoseconds asked_again = 0;  // for what it had acknowledged in a life before
    Nanoseconds heard = 0;
    Nanoseconds lease_until = 0;  // R7: from the sending of the beacon
    Nanoseconds granted = 0;      // when the newest beacon was sent that it has granted
    uint64_t incarnation = 0;     // as it says
    std::string failed;           // why it has to leave the set; empty: it has not
    // R10, this replica being primary:
    uint64_t join = 0;  // 0: none
    enum class JoinState {
      kNone,
      kAccepted,
      kCopying,
      kEntered,
      kCompleting,
      kComplete
    } state = JoinState::kNone;
    Seq join_commit_point;
    Seq join_wait;  // kEntered: everything up to it has to be acknowledged first
    struct Unacked {
      Nanoseconds since = 0;
      BlockRange range;
    };
    std::map<uint64_t, Unacked> unacked;  // PREPAREs to a joiner, by seq
    Nanoseconds join_refused_until = 0;
    Nanoseconds join_backoff = 0;
    Nanoseconds slow_backoff = 0;  // R16
  };

  struct Op {
    OpId id = 0;
    OpKind kind = OpKind::kRead;
    WriteKind write_kind = WriteKind::kData;
    enum class State : uint8_t {
      kWaiting,
      kPayload,
      kInFlight,
      kReading,
      kHeld,
      kCopying
    } state = State::kWaiting;
    bool needs_payload = false;
    bool failed = false;     // read: damaged. write: no space here
    bool exclusive = false;  // others that come later wait for it
    BlockRange range;
    uint64_t order = 0;  // of arrival
    bool client = false;
    uint64_t session = 0;  // the client's
    uint64_t connection = 0;
    Mask undo_to = 0;   // kUndo: who has to take the write back
    Slot joiner = 0;    // kCopy; kRewrite for a joiner (rewrite_for)
    uint64_t join = 0;  // kCopy, kRewrite for a joiner
    Seq instead_of;     // kRewrite for a joiner: of the write that it has refused
    Seq seq;            // in flight; its version
    Epoch epoch;        // of the version
    Mask sent = 0, acked = 0, refused = 0;
    Mask again = 0;                // acknowledged once, by a life of the peer that is over
    Nanoseconds since = 0;         // when it was sent
    std::vector<uint64_t> behind;  // kHeld read: orders of writes that it waits for
  };

  struct Proposal {
    Record next;  // revision: the expected one
    uint64_t ticket = 0;
    Nanoseconds sent = 0;
    bool under_way = false;
    bool promotes = false;
    Slot joiner = 0;
  };

  struct Recent {
    uint64_t seq = 0;
    bool done = false;
  };

  bool mutant(Mutant which) const;

  // replica.cpp
  bool is_sound(const Record& record);
  void adopt(const Record& record);
  void become(Role role);
  void step_down();
  void rebuild_masks();
  Slot slot_of(const ReplicaId& id) const;  // kMostPeers + 1: unknown
  Slot make_slot(const ReplicaId& id);
  void persist();
  bool known_persisted() const { return persisted_epoch_ >= durable_.record.epoch; }
  Message make(MessageType type, Slot to) const;
  void send(Slot to, const Message& message);
  Mask mask_of_set(const Record& record) const;
  void propose(Record next, bool promotes, Slot joiner);
  void send_proposal();
  void forget_proposal();
  void go_on_handing_over();
  void serve_no_more(Slot successor);
  Nanoseconds own_delay() const;
  Nanoseconds own_disk_delay() const;
  Nanoseconds delay_of(Slot slot) const;
  void leave_if_stuck();

  // member.cpp
  bool accepts(const Message& message) const;
  void refuse(const Message& message, Refusal why);
  void on_reach(const Message& message);
  void answer_reach();
  void on_prepare(const Message& message);
  void on_beacon(const Message& message);
  void on_join_accept(const Message& message);
  void on_join_complete(const Message& message);
  void on_join_abort(const Message& message);
  void on_hand_over(const Message& message);
  void member_appended(Seq seq, AppendResult result);
  void send_ack(uint64_t seq, Slot to, uint64_t join);
  void flush_gated();
  void hear_commit_point(Seq seq);
  bool lacks(Seq committed) const;
  void distrust_itself(Seq committed);
  void raise_commit_point(Seq seq);
  void say_hello();
  void begin_joining();
  void leave_join();
  bool disk_holds_writes() const;

  // primary.cpp
  void on_reached(const Message& message);
  void on_ack(const Message& message);
  void on_refuse(const Message& message);
  void rewrite_for(Slot joiner, Seq refused);
  void on_grant(const Message& message);
  void reach(Slot peer);
  void reach_all();
  void resend(Slot peer);
  Op* in_flight(Seq seq) const;
  bool is_active_joiner(Slot peer) const;
  void begin_write(Op& op);
  void send_prepare(Op& op, Slot peer);
  void settle(Op& op);
  void settle_all();
  void forget_acknowledgements(Slot peer);
  void advance_commit_point();
  bool acknowledgements_wait() const;
  bool is_quiet() const;
  Nanoseconds beacon_interval() const;
  void check_members();
  void check_slow_members();
  Mask lease_mask() const;
  bool granted_since(Nanoseconds when) const;
  bool may_answer(const Op& read);
  void send_beacon(Slot peer);
  void undo(Op& op);

  // promote.cpp
  void consider_promotion();
  void begin_promotion();
  void promoted();
  void begin_recovering();
  void recover();
  void collect_own_tail();
  void begin_reconcile();
  void next_rewrites();
  void rewrite_around_damage(Op& op);
  void activated();

  // ask.cpp
  void ask_members();
  void ask(Slot member);
  bool members_answered() const;
  void on_ask(const Message& message);
  void on_known(const Message& message);
  void look_for_fall();
  void register_fell(const Record& there);

  // join.cpp
  void on_join_hello(const Message& message);
  void on_join_ready(const Message& message);
  void on_join_completed(const Message& message);
  void end_join(Slot peer, bool tell);
  void abort_join(Slot peer, uint64_t join);
  void advance_join(Slot peer);
  void enter(Slot peer);
  void begin_above(Seq seq);

  // client.cpp
  Op& make_op(OpId id, OpKind kind, BlockRange range);
  Op* find_op(OpId id);
  bool admit(OpId op, Caller caller);
  void start_ready_ops();
  bool may_start(const Op& op) const;
  void start(Op& op);
  void end_op(OpId id, Outcome outcome);
  void try_answer_read(Op& op);
  void answer_held_reads();
  void drop_all_ops();
  void fence_waiting_ops();
  bool is_fenced(const Op& op) const;
  void cancel_copies(Slot joiner, uint64_t join);
  bool is_started(const Op& op) const { return op.state != Op::State::kWaiting; }
  // Blocks that count against most_in_flight_blocks.
  static uint64_t weight(const Op& op) {
    return op.write_kind == WriteKind::kData ? op.range.blocks() : 1;
  }
  bool blocks(const Op& earlier, const Op& later) const;

  Driver& driver_;
  const Options options_;
  const ReplicaId self_;
  Nanoseconds now_ = 0;

  // Durable, and what of it is on its way to the disk.
  Durable durable_;
  Epoch persisted_epoch_;
  Epoch persisted_promise_;
  bool persisted_rebuilding_ = false;
  uint64_t persist_ticket_ = 0;
  struct Persisting {
    uint64_t ticket;
    Epoch epoch, promised;
    bool rebuilding;
    Nanoseconds since;
  };
  std::deque<Persisting> persisting_;

  Role role_ = Role::kFollower;
  bool disk_failed_ = false;
  std::vector<Peer> peers_;  // [0] is this replica
  Mask set_ = 1;             // of the record
  Mask required_ = 1;        // who must acknowledge (R3)
  Seq last_seq_;             // highest that is known of: new ones are above it
  Seq held_seq_;  // highest that this replica has made durable, or was copied to; never hearsay
  Seq commit_point_;
  Seq highest_done_;  // of the writes of this life as the primary that all of `required` have
  Seq noted_commit_point_;

  Epoch unsound_;      // of a record that was ignored, and told of
  Epoch ahead_since_;  // the epoch in which the register was seen to have gone back
  bool fall_suspected_ = false;
  Nanoseconds fall_looked_ = 0;  // when it was asked for that last

  // As a member.
  Nanoseconds grace_until_ = 0;
  bool primary_dead_ = false;
  bool handed_to_me_ = false;
  std::array<Recent, kRecent> recent_{};
  uint64_t appending_ = 0;  // writes on their way to the disk, own ones too
  uint64_t storing_ = 0;    // pieces of joins on their way to it, of joins that are over too
  struct Gated {
    uint64_t seq;
    ReplicaId to;
    uint64_t join;
    Epoch epoch;
  };
  std::map<uint64_t, Gated> prepares_;  // by seq: being appended
  std::vector<Gated> gated_;            // durable, but the epoch's record is not yet
  struct Reach {
    bool waits = false, tail_asked = false, wants_tail = false;
    ReplicaId from;
    Epoch epoch;
    uint64_t ticket = 0;
  } reach_;
  uint64_t member_join_ = 0;  // join number; 0: none
  bool member_join_persisting_ = false;
  bool member_join_ready_ = false;
  bool member_join_completing_ = false;
  Nanoseconds join_heard_ = 0;
  Nanoseconds hello_sent_ = 0;

  // As a candidate or primary.
  bool promising_ = false;
  Nanoseconds candidate_since_ = 0;
  const Nanoseconds started_;
  Nanoseconds asked_at_ = 0;  // when members were asked which record they know; 0: they were not
  Mask told_ = 0;             // who has answered: nothing later
  std::optional<Proposal> proposal_;
  uint64_t next_ticket_ = 0;
  Nanoseconds fetch_sent_ = 0;
  bool fetching_ = false;
  std::vector<BlockRange> tail_;  // R9: the union
  bool tail_ready_ = false;
  uint64_t tail_ticket_ = 0;
  std::size_t tail_next_ = 0;
  uint64_t tail_offset_ = 0;
  std::size_t rewriting_ = 0;
  Nanoseconds round_ = 0;  // strict reads: when the last round of confirmation began
  Nanoseconds last_beacon_ = 0;
  Nanoseconds beacon_gap_ = 0;  // before the last one
  Nanoseconds last_op_ = 0;     // when the last operation came that is no piece of a resync
  Nanoseconds last_prepare_ = 0;
  SlowMembers slow_members_;
  Nanoseconds slow_checked_ = 0;
  Nanoseconds epoch_since_ = 0;  // when this replica, as the primary, began the present epoch
  uint64_t next_join_ = 0;
  Slot handing_to_ = 0;
  Nanoseconds handed_at_ = 0;
  bool handing_ = false;

  // Operations.
  uint64_t connection_ = 0;
  uint64_t next_order_ = 0;
  OpId next_internal_ = kFirstInternalOp;
  std::unordered_map<OpId, std::unique_ptr<Op>> ops_;  // looked up, never iterated
  std::vector<Op*> order_;                             // all of ops_, by arrival
  // Writes that have a seq, consecutive; nullptr: finished, but an earlier one is not.
  std::deque<Op*> in_flight_;
  Seq first_in_flight_;
  uint64_t in_flight_blocks_ = 0;
  std::size_t waiting_ = 0;  // operations that wait for others
  std::size_t held_ = 0;     // reads that have their data, and wait to be answered
};

}  // namespace cvol::replication
