// Cluster: this node's part in a cluster: its place among the nodes, the replicas on its disks, the
// volumes' records as the metadata store has them, and repair of volumes whose primary is here.
//
// The one reconciler of wanted and actual state: what records say of replicas on this node's disks
// is made so (made, opened, removed), whenever a record changes and every few seconds: by workers,
// one for each disk, since a disk may hang. What is told of records and nodes waits for no disk and
// no store.
//
// Threading: any thread but a shard's, unless said; calls may block. Owner: VolumeManager; what it
// is given outlives it.
// Files: cluster.cpp (life, records, exchanges), cluster_nodes.cpp (liveness), cluster_replicas.cpp
// (the reconciler), cluster_records.cpp (what is heard of records), cluster_repair.cpp (placement,
// repair), cluster_register.cpp (replication's compare-and-swaps).
#pragma once

#include <cvol/v1/nodes.pb.h>

#include <atomic>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <unordered_set>
#include <utility>
#include <vector>

#include "replication/node/gateway.h"
#include "replication/node/replica_host.h"
#include "volumed/volume/catalog.h"
#include "volumed/volume/disk_set.h"
#include "volumed/volume/event_log.h"
#include "volumed/volume/keyed_workers.h"
#include "volumed/volume/placement.h"
#include "volumed/volume/record_map.h"
#include "volumed/volume/worker.h"

namespace cvol::volume {

struct ClusterOptions {
  std::string node_id, node_name, zone;
  std::string listen;     // "tcp:ADDRESS:PORT"; shard i listens on PORT + i
  std::string advertise;  // the same, as others reach it
  replication::Options replication;
  std::chrono::seconds rebuild_after{300};
  std::chrono::milliseconds alive_time{5000};  // of the lease
  const EventLog* events = nullptr;            // of this node, for others
  std::string boot_id;                         // of the host
  std::string data_place;                      // of the data directory there
  // The record of a volume is new or has changed, or (nullopt) is gone. On one thread, in order.
  std::function<void(const std::string& id, std::optional<VolumeEntry>)> on_volume;
  // The record of a volume that is known is lost or cannot be read any more, or (empty) is there
  // again, which on_volume follows, though perhaps with a lower revision. On the same thread.
  std::function<void(const std::string& id, const std::string& problem)> on_record_problem;
  std::function<void(const std::string& kind, const std::string& subject, const std::string& text)>
      on_event;
  // Every second or so, on a thread of its own that looks after volumes; short.
  std::function<void()> on_period;
  // Where this node's end has to be told, should it come suddenly; whenever that changes.
  std::function<void(const std::vector<std::string>& addresses)> on_peers;
};

struct ClusterNode {
  v1::NodeRecord record;
  std::optional<v1::AliveRecord> alive;
  // How far its clock is ahead of ours, as far as its last word tells; never less than nothing.
  std::chrono::seconds clock_ahead{0};
};

// How one replica does, as its node sees it.
struct LocalReplica {
  std::string replica_id;
  std::string disk_id;
  std::string role;  // "follower", "active", ...
  bool joining = false;
  bool trusted = false;
  uint64_t epoch = 0, commit_point = 0, last_seq = 0;
  uint64_t allocated_bytes = 0;
  uint64_t resync_sent_bytes = 0;
  std::vector<replication::ResyncProgress> resyncs;
  std::string waits_for;
  std::string problem;  // why it does not run
};

// Whether an alive record is worth a write, `since_last` after the last one. Pure.
bool is_news(const v1::AliveRecord& last, const v1::AliveRecord& now,
             std::chrono::steady_clock::duration since_last);

// Until etcd has ended a lease, and its watch has told.
constexpr std::chrono::seconds kLeaseSlack{5};

// What has to be the same on all nodes, by the names of the options.
std::map<std::string, std::string> shared_settings(const replication::Options& times,
                                                   std::chrono::seconds rebuild_after);
// Events for other nodes (nodes.proto): the newest that fit. Pure.
std::string answer_events(const EventLog& log, const v1::EventsQuestion& question);
// What another node has told; nothing of what cannot be read.
std::vector<Event> read_events(std::string_view text, uint64_t* last);
// Which folder a data directory is, on its host; "" if it is none.
std::string data_place(const std::string& data_dir);

class Cluster {
 public:
  Cluster(ClusterOptions options, Catalog& catalog, DiskSet& disks);
  ~Cluster();
  // Joins: says that this node lives, opens its replicas, follows the records.
  Status start();
  void stop();

  // A disk has come: replicas that belong on it are opened.
  void disk_added();
  // A disk has failed.
  void disk_failed(const std::string& disk_id);
  // Others hear that a disk of this node leaves the pool, or does not any more.
  void disk_leaves();
  // Volumes with a replica on the disk, as the records say.
  std::vector<VolumeEntry> volumes_on(const std::string& disk_id);

  const std::string& node_id() const { return options_.node_id; }
  const replication::Options& replication_options() const { return options_.replication; }
  std::vector<ClusterNode> nodes();
  bool is_alive(const std::string& node_id);
  // The same for a decision that hurts if it is wrong: a node whose lease runs but that does not
  // answer may be lost, so this waits until it answers or its lease has run out.
  bool is_surely_alive(const std::string& node_id);
  std::string node_name(const std::string& node_id);
  const Uuid& process() const { return process_; }
  const Uuid& cluster_id() const { return cluster_id_; }

  // The newest state that is known here.
  std::optional<VolumeEntry> entry(const std::string& volume_id);
  // Applies `change` to the record as it is now, again if it changes meanwhile; the answer is the
  // record after it. `change` may refuse.
  Result<VolumeEntry> update(const std::string& volume_id,
                             const std::function<Status(v1::VolumeRecord&)>& change);
  // Told at once, without waiting for the watch.
  void learned(const VolumeEntry& entry);
  void learned_gone(const std::string& volume_id);
  // Waits until `holds` is true of the record (nullopt: it is gone). False: time is over.
  bool wait_for(const std::string& volume_id, std::chrono::milliseconds time,
                const std::function<bool(const std::optional<VolumeEntry>&)>& holds);

  // Disks of living nodes that take new replicas; those of preferred nodes (ids) first, in order.
  // One replica of `existing` a node; those in `lost_replicas` do not count, so that the successor
  // of a lost one may lie on another disk of the same node.
  Result<std::vector<DiskChoice>> choose(uint32_t count, const v1::VolumeRecord* existing,
                                         bool zone_spread,
                                         const std::vector<std::string>& preferred_nodes = {},
                                         const std::set<std::string>& lost_replicas = {});

  // A gateway on the best shard, and that shard.
  struct OpenGateway {
    std::shared_ptr<replication::Gateway> gateway;
    io::Shard* shard = nullptr;
  };
  Result<OpenGateway> open_gateway(const VolumeEntry& entry,
                                   std::shared_ptr<VolumeMetrics> metrics);
  // R12: the attachment is complete when the primary runs this epoch with all members.
  Status confirm(const OpenGateway& gateway, uint64_t epoch, std::chrono::milliseconds patience);
  // The primary moves here soon, if this node has an in-sync replica, or has one within 3 s.
  void draw_primary(const OpenGateway& gateway, const VolumeEntry& entry);
  // Waits until the record says so. kUnavailable: it has not moved, or nobody answers.
  Status move_primary(const OpenGateway& gateway, const std::string& volume_id,
                      const replication::ReplicaId& to, std::chrono::milliseconds patience);
  std::optional<LocalReplica> local_replica(const std::string& volume_id);
  // The metadata store knows less of the volume than its replicas do (restored from a backup): the
  // record is made anew from what they claim. All nodes of the volume have to be there, unless
  // `accept_data_loss`.
  Status rebuild_record(const std::string& volume_id, bool accept_data_loss);
  // The record of a volume that this process has never known, from what all its replicas claim; one
  // of them has to be here. Its name is the one it had if that is known, or "recovered-" and the
  // beginning of its id.
  Status rebuild_lost(const std::string& volume_id, bool accept_data_loss);
  // The record of a volume, lost since this process has known it, is written again as it was.
  // kFailedPrecondition: it is there.
  Status put_back_record(const std::string& volume_id);
  // Why the record of a volume that is known cannot be used; empty: it can.
  std::string problem_of_record(const std::string& volume_id);
  // Events of the other nodes, in the order of their times: those after what `seen` (ids of nodes
  // -> sequence numbers) has, which is brought up to date. `silent`: names of nodes that did not
  // answer within a second.
  std::vector<Event> events_of_others(const EventFilter& filter,
                                      std::map<std::string, uint64_t>& seen,
                                      std::vector<std::string>& silent);
  // Another process has this node's id, and its key.
  bool is_twice() const { return taken_; }
  // Of records that cannot be used, other than those of volumes that are known.
  std::vector<std::string> record_problems();
  // All that records speak of.
  std::set<std::string> known_replicas();
  // A block is damaged at this node's replica.
  void mend(const std::string& volume_id, uint64_t block);

  // Replicas here that do not run: name of the volume, why.
  std::vector<std::pair<std::string, std::string>> stopped_copies();

 private:
  friend class StoreRegister;
  // Filled, used and emptied on the disk's shard; empty: it is being opened, or closed.
  using HostSlot = std::unique_ptr<replication::ReplicaHost>;
  struct Local {
    Disk* disk = nullptr;
    store::ReplicaNumber number = 0;
    std::string replica_id;
    std::shared_ptr<HostSlot> host;  // null: not open
    std::string problem;
  };
  // Of a volume that is to be reconciled: one turn at a time, and another if it is asked for during
  // one.
  enum class Turn : uint8_t { kQueued, kRuns, kRunsAndAgain };
  struct ShardPart;

  // cluster.cpp
  Result<ShardPart*> part_of(io::Shard* shard, uint16_t index);
  Status open_parts();
  void apply_volume(const std::string& id, std::optional<VolumeEntry> entry, bool stored = false);
  void publish(const std::string& id, const VolumeEntry& entry);
  void run_periodically();
  std::vector<ShardPart*> parts();
  static std::string with_port(const std::string& address, uint16_t index);

  // cluster_records.cpp
  void on_watch(const std::vector<meta::WatchEvent>& events);
  void hear_of_volume(const meta::WatchEvent& event, const std::set<std::string>& removed);
  void hear_of_node(const meta::WatchEvent& event);
  void hear_of_life(const meta::WatchEvent& event);
  void hear_of_claim(const meta::WatchEvent& event);
  void note_problem(const std::string& key, const std::string& problem);
  void lose_record(const std::string& id, const std::string& problem);
  bool is_unusable(const std::string& volume_id);

  // cluster_nodes.cpp
  Status announce();
  void keep_alive_loop();
  bool is_announced();
  bool is_taken();
  std::string answer_question(std::string_view text);
  // A sentence of replication with the names of nodes.
  std::string told_with_names(const std::string& volume_id, const std::string& text);
  void apply_alive(const std::string& node_id, std::optional<v1::AliveRecord> record,
                   meta::Revision revision);
  v1::AliveRecord describe_self();
  void publish_node(const v1::AliveRecord& record);
  void publish_nodes();
  void on_exchanges(const std::string& node_id,
                    void (replication::Exchange::*call)(const replication::NodeId&));
  void process_died(const std::string& node_id, const std::string& process);
  bool process_answers(const std::string& node_id, const std::string& process);
  void tell_peers();

  // cluster_replicas.cpp
  void reconcile_soon(const std::string& volume_id);
  void take_turn(const std::string& volume_id);
  void wait_for_turns(std::chrono::milliseconds time);
  std::string disk_of(const std::string& volume_id);
  std::optional<Local> local_of(const std::string& volume_id);
  void set_local(const std::string& volume_id, Local local);
  void reconcile(const std::string& volume_id);
  void reconcile_all();
  bool bring_about(const VolumeEntry& entry);
  Status make_local(const VolumeEntry& entry, const v1::MemberRecord& member);
  bool open_local(const VolumeEntry& entry, const v1::MemberRecord& member);
  Status open_host(const VolumeEntry& entry, const v1::MemberRecord& member, Local& local);
  void close_local(const std::string& volume_id);
  Status remove_local(const VolumeEntry& entry, const v1::MemberRecord& member);
  Status check_not_behind(const VolumeEntry& entry, Disk& disk, const store::ReplicaInfo& info);
  std::optional<store::ReplicaInfo> find_on_disk(Disk& disk, const std::string& replica_id);

  // cluster_rebuild.cpp
  void answer_claim(const v1::ClaimRecord& heard);
  void claim_soon(const std::string& volume_id, const std::string& disk_id,
                  const std::string& replica_id, replication::Record known);
  Status claim(const std::string& volume_id, const std::string& disk_id,
               const std::string& replica_id, replication::Record known);
  static v1::VolumeRecord record_of_claims(const v1::ClaimRecord& newest, const std::string& name,
                                           bool all_told);
  Status claim_own(const std::string& volume_id);
  Result<std::vector<v1::ClaimRecord>> claims_of_all(const VolumeEntry& entry, std::string& silent);

  // cluster_repair.cpp
  bool repair_all();  // true: there was nothing to be repaired
  std::unordered_set<std::string> steady_disks() const;
  static bool is_whole(const v1::VolumeRecord& record,
                       const std::unordered_set<std::string>& steady);
  void repair(const VolumeEntry& entry);
  struct Survey;
  Survey survey(const v1::VolumeRecord& record);
  bool add_successor(const v1::VolumeRecord& record, const Survey& found);
  void mark_removed(const v1::VolumeRecord& record, const std::string& replica);
  void put_out_removed(const v1::VolumeRecord& record);
  // `creating`: finished if all members are made, given up after a while if not.
  void settle_unfinished(const VolumeEntry& entry);

  ClusterOptions options_;
  Catalog& catalog_;
  DiskSet& disks_;
  Uuid cluster_id_;
  Uuid process_;
  std::chrono::system_clock::time_point started_;

  std::mutex parts_mutex_;
  std::map<io::Shard*, std::unique_ptr<ShardPart>> parts_;

  std::mutex mutex_;  // guards the next ones
  std::condition_variable changed_;
  std::atomic<bool> taken_{false};               // somebody else lives under this node's id
  std::map<std::string, VolumeEntry> entries_;   // by id
  std::map<std::string, std::string> unusable_;  // ids of entries_ -> why; their record is lost
  std::map<std::string, std::string> record_problems_;  // keys -> what is wrong
  std::map<std::string, uint64_t> settled_;  // ids -> revision that is brought about here
  std::map<std::string, uint64_t> gone_;     // ids -> revision at which they were erased
  std::map<std::string, v1::NodeRecord> node_records_;
  std::map<std::string, v1::AliveRecord> alive_;
  std::map<std::string, meta::Revision> alive_revisions_;
  std::map<std::string, std::chrono::seconds> clocks_ahead_;                         // by node
  std::map<std::string, std::chrono::steady_clock::time_point> missing_since_;       // nodes
  std::map<std::string, std::chrono::steady_clock::time_point> disk_missing_since_;  // of nodes
                                                                                     // that live
  meta::LeaseId lease_ = 0;
  bool stopping_ = false;
  bool repair_soon_ = false;
  uint64_t heard_ = 0;  // changes of volumes, nodes and who lives

  std::shared_ptr<std::atomic<int>> gateways_ = std::make_shared<std::atomic<int>>(0);

  std::mutex locals_mutex_;  // guards the next ones; nothing is waited for while it is held
  std::condition_variable turned_;
  std::map<std::string, Turn> turns_;    // by volume id, as the next
  std::map<std::string, Local> locals_;  // changed in the volume's turn

  std::vector<std::unique_ptr<Worker>> proposers_;  // compare-and-swaps of replication
  std::unique_ptr<KeyedWorkers> reconcilers_;       // by disk: they wait for it, and for the store
  std::unique_ptr<Worker> records_;                 // applies what watches tell, in order
  std::unique_ptr<meta::Watch> watch_;
  std::thread keeper_;  // of the lease
  std::thread periodic_;
};

}  // namespace cvol::volume
