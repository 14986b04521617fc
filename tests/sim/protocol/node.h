// Node: one machine with one disk and one replica: the driver of the real replication::Replica.
//
// Its process can crash and start again, and be stopped: then whatever happens to it waits, while
// I/O that was submitted completes. Its clock runs at its own rate. Appends, reads and persisted
// state go to the model disk, messages to the simulated network, proposals to the register.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "replication/core/replica.h"
#include "tests/sim/protocol/copier.h"
#include "tests/sim/protocol/invariants.h"
#include "tests/sim/protocol/network.h"
#include "tests/sim/protocol/register.h"

namespace cvol::sim {

using replication::Message;
using replication::OpId;
using replication::OpKind;
using replication::Outcome;
using replication::Replica;
using replication::ReplicaId;

std::string describe_message(int from, const Message& message);

// Where replicas are; the cluster knows.
class Directory {
 public:
  virtual ~Directory() = default;
  virtual int node_of(const ReplicaId& replica) const = 0;  // -1: nowhere (any more)
  virtual ReplicaId replica_at(int node) const = 0;
};

class Node : public Network::End, private replication::Driver {
 public:
  struct Settings {
    replication::Options options;
    Nanoseconds tick = 50 * kMillisecond;
    int64_t clock_error = 0;  // of the rate, parts per million
    uint64_t blocks = 16;
    Disk::Times disk;
    bool compare_copies = true;  // R10: at the end of a resync
  };
  struct Ground {  // what a node stands on
    World& world;
    Network& network;
    Register& record;
    Invariants& invariants;
    const Directory& directory;
  };
  Node(const Ground& on, int index, const Settings& settings);

  // --- the process ---
  void start();
  void crash(bool kernel_lives);
  void stop();  // like SIGSTOP
  void go_on();
  bool alive() const override { return replica_ != nullptr; }
  bool stopped() const { return stopped_; }
  uint64_t process() const override { return process_; }

  // --- the disk ---
  Disk& disk() { return *disk_; }
  const Disk& disk() const { return *disk_; }
  const ReplicaId& id() const { return id_; }
  // Another, empty disk with a new replica; the process must not run.
  void replace_disk(const ReplicaId& id, uint64_t incarnation, const Record& record);
  void fail_disk();

  // A read as a front end of the present session would send it; its answer is checked, and goes
  // nowhere. Of a replica that does not serve, nothing.
  void probe(BlockRange range);

  // nullptr: the process does not run.
  const Replica* replica() const { return replica_.get(); }
  int index() const { return index_; }
  // Does something with the replica as an event of this node, when it runs.
  void run(const std::function<void(Replica&, Nanoseconds now)>& what);

  // --- events from outside ---
  void on_packet(int from, const PacketPointer& packet) override;
  void on_link(int peer, bool up, uint64_t process) override;
  void on_record(const Record& record);
  // That life of the peer's process has ended, says its watcher.
  void on_death_notice(int peer, const ReplicaId& replica, uint64_t process);

  std::string describe() const;

 private:
  friend class Copier;
  struct Work {  // an operation of the replica
    bool client = false;
    int front_end = -1;
    Packet request;
    BlockRange range;
    std::vector<uint64_t> values;  // to be written
    std::vector<Block> data;       // that was read
    std::vector<Block> asked;      // a read may not show less
    Version version;
    WriteKind kind = WriteKind::kData;
  };

  Nanoseconds clock() const;
  void enter(const std::function<void(Replica&, Nanoseconds)>& what);
  // An event of this life of the process.
  void later(Nanoseconds delay, std::function<void(Replica&, Nanoseconds)> what);
  std::function<void()> of_this_life(std::function<void(Replica&, Nanoseconds)> what);
  void beat(uint64_t process);
  void announce_peers();
  void take_request(int from, const Packet& request);
  void take_open(int from, const Packet& request);
  void answer(const Work& work, Outcome outcome);
  std::vector<Block> content(BlockRange range) const;
  void transmit(const ReplicaId& to, Packet packet);

  // replication::Driver
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

  World& world_;
  Network& network_;
  Register& register_;
  Invariants& invariants_;
  const Directory& directory_;
  const int index_;
  const Settings settings_;
  ReplicaId id_;
  std::unique_ptr<Disk> disk_;
  std::vector<std::unique_ptr<Disk>> old_disks_;  // events of theirs may be on their way

  uint64_t process_ = 0;
  uint64_t incarnation_ = 0;
  std::unique_ptr<Replica> replica_;
  bool stopped_ = false;
  std::deque<std::function<void()>> waiting_;  // for go_on()
  Nanoseconds last_beacons_ = 0;
  std::map<OpId, Work> works_;
  OpId next_op_ = 1;
  std::map<uint64_t, std::vector<Block>> prepared_;  // by ticket
  uint64_t next_ticket_ = 1;
  std::map<int, uint64_t> peer_process_;
  std::vector<ReplicaId> announced_;  // peers whose links the replica was told of
  Copier copier_;
};

}  // namespace cvol::sim
