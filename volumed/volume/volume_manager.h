// VolumeManager: the volumes of this node, from record to mount.
//
// It owns the metadata store, the shards with their disks, the NBD server, the attacher and the
// mounts, keeps them in step, and brings them back in step at start (volume_reconcile.cpp).
//
// Threading: any thread but a shard's; calls block. One volume's operations are serialised; those
// of different volumes run side by side. open() and list() of ExportDirectory do not block.
// Durability: what a call changed is on stable storage when it returns.
// Idle volumes: a record in memory and nothing else; a device is made when somebody opens it.
#pragma once

#include <cvol/v1/records.pb.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "nbd/attach/attach.h"
#include "nbd/server/server.h"
#include "volumed/meta/metadata_store.h"
#include "volumed/meta/store_health.h"
#include "volumed/volume/catalog.h"
#include "volumed/volume/cluster.h"
#include "volumed/volume/conditions.h"
#include "volumed/volume/disk_set.h"
#include "volumed/volume/event_log.h"
#include "volumed/volume/file_systems.h"
#include "volumed/volume/host_space.h"
#include "volumed/volume/keyed_workers.h"
#include "volumed/volume/local_primary.h"
#include "volumed/volume/mount_keeper.h"
#include "volumed/volume/mount_users.h"
#include "volumed/volume/pool_space.h"
#include "volumed/volume/worker.h"

namespace cvol::volume {

class ReplicaIndex;

struct ManagerOptions {
  std::string data_dir;
  std::string run_dir;
  std::string node_name;
  std::string cluster = "default";
  std::string metadata;                    // "rocksdb:PATH", for displays
  std::vector<std::string> nbd_addresses;  // besides RUN_DIR/nbd.sock
  store::FormatOptions first_disk;
  store::EngineOptions engine;
  nbd::ServerOptions nbd;
  std::string attach_method = "auto";  // "auto", "kernel", "fuse", "none"
  std::string no_attach_because;       // not empty: why there is no attaching and mounting
  std::string holder_binary;
  std::string boot_id;  // of the host
  // Does dockerd have a container with this volume? Nothing: it cannot be asked. May be empty.
  std::function<std::optional<bool>(const std::string& volume)> docker_knows;
  MountKeeper::Times mount_times;
  bool privileged_mounts = false;  // set-user-id files and devices in volumes have their rights
  // From the end of a scrub to the next one of the disk; 0: no scrub unless told.
  std::chrono::seconds scrub_interval = std::chrono::hours(24 * 14);
  // From one trim of a mounted file system to the next; 0: only when told.
  std::chrono::seconds trim_interval = std::chrono::hours(24);
  // Sizes whose replicas could hold more than this many times all disks are refused; 0: none are.
  uint32_t overcommit_limit = 0;
  // A cluster on a shared metadata store. Not set: this node is alone.
  struct ClusterMode {
    std::string listen;     // "tcp:ADDRESS:PORT", for the replication of other nodes
    std::string advertise;  // as others reach it; empty: `listen`
    std::string zone;
    replication::Options replication;
    std::chrono::seconds rebuild_after{300};
    bool accept_other_times = false;  // than those of the nodes that live: they are being changed
    // Where a sudden end of this process has to be told, and by which name.
    std::function<void(const Uuid& cluster, const Uuid& node, const Uuid& process,
                       const std::vector<std::string>& addresses)>
        on_peers;
  };
  std::optional<ClusterMode> cluster_mode;
  // Moves all records into another metadata store, and lets nothing change them from then on.
  std::function<Status(const std::string& uri)> migrate;
  DiskMaker disks = DiskMaker::real();
  // Where the records are copied to when they have changed; empty, or in a cluster: nowhere.
  std::string records_copy;
  // Called every few seconds while the start waits for disks to open.
  std::function<void()> on_waiting;
  std::unique_ptr<FileSystems> file_systems;  // null: the real ones
  HostSpaces::Read host_space = read_host_space;
  // null: the real one. A test's attacher.
  std::function<Result<std::unique_ptr<attach::Attacher>>(attach::AttachOptions)> make_attacher;
};

struct CreateRequest {
  std::string name;
  uint64_t size_bytes = 0;
  uint32_t replicas = 1;
  uint32_t min_in_sync = 1;
  bool zone_spread = false;
  std::vector<std::string> preferred_nodes;  // replicas go there first; empty: this node
  std::string id;                            // the volume's UUID; empty: a new one
  std::string fs = "ext4";
  std::map<std::string, std::string> labels;
  std::string on_full;  // VolumeRecord.on_full
};

// What may be changed while a volume is used; not set: stays as it is.
struct ModifyRequest {
  std::optional<uint32_t> replicas;
  std::optional<uint32_t> min_in_sync;
  std::optional<std::string> on_full;  // "wait", "error", or "default"
};

// As the messages of the same name (proto/cvol/v1/cvol.proto).
struct StageRequest {
  std::string path;
  bool block = false;
  std::string fs;  // empty: the volume's
  std::vector<std::string> mkfs_options;
  std::vector<std::string> mount_flags;
  bool read_only = false;
  std::string group;
};

struct ShowRequest {
  std::string path;
  std::string target;
  bool read_only = false;
  bool alone = false;
  std::string use;
};

enum class VolumeState { kAvailable, kAttached, kMounted, kDamaged };

struct VolumeView {
  v1::VolumeRecord record;
  VolumeState state = VolumeState::kAvailable;
  std::string problem;
  uint64_t allocated_bytes = 0;
  std::string device;         // empty: none
  std::string attach_method;  // "kernel", "fuse"
  std::string mountpoint;     // empty: not mounted
  std::string attached_node;  // name; empty: not attached
  bool mounted_here = false;  // the users in the record are this node's
  std::string waits;          // an unmount that is not finished, and what it waits for
  uint64_t connections = 0;
  std::optional<LocalReplica> local;             // the replica of this node, in a cluster
  std::shared_ptr<const VolumeMetrics> metrics;  // null: never opened since the start
  std::vector<std::string> warnings;             // of the change that this answers
};

struct UsageView {
  VolumeView volume;
  mount::Usage usage;   // of a block volume: its size only
  std::string trouble;  // of its file system, as mount::trouble_of(); empty: none
};

// Where a disk is damaged, as people call it.
struct DamageView {
  std::string volume;  // name, or its id if no volume here has it; empty for the chunk table
  store::Damage damage;
};

struct DiskView {
  std::string id;
  std::string path;
  std::string problem;                            // empty: it works
  bool leaving = false;                           // it is being taken out of the pool
  store::DiskInfo info;                           // if it is open
  const store::EngineMetrics* metrics = nullptr;  // valid as long as the manager; null: not open
  store::ScrubInfo scrub;                         // if it is open
  std::vector<DamageView> damage;                 // of the scrub
  uint64_t next_scrub = 0;                        // seconds since 1970; 0: none is planned
};

struct NodeView {
  std::string id;
  std::string name;
  std::chrono::system_clock::time_point started;
};

class VolumeManager final : public nbd::ExportDirectory {
 public:
  // Opens everything, serves NBD, and takes up again what a process before it left.
  static Result<std::unique_ptr<VolumeManager>> start(ManagerOptions options,
                                                      std::unique_ptr<meta::MetadataStore> store);
  ~VolumeManager() override;
  // Ends NBD connections and closes the disks; attached devices and mounts stay, and wait for the
  // next process. Idempotent.
  void stop();

  // The name of the volume with this id, or the text itself.
  std::string resolve(const std::string& name_or_id);
  Result<VolumeView> create(CreateRequest request);
  std::vector<VolumeView> volumes();
  Result<VolumeView> get(const std::string& name);
  // 0: as it is; the device and file system here follow the record.
  Result<VolumeView> resize(const std::string& name, uint64_t size_bytes);
  Status remove(const std::string& name, bool force);
  Result<VolumeView> attach(const std::string& name);
  // The same, taking the volume from a node that still has it. What that one has not had answered
  // may be lost to it; nothing of it lands any more.
  Result<VolumeView> force_attach(const std::string& name);
  Result<VolumeView> modify(const std::string& name, const ModifyRequest& request);
  // The primary moves to the node, which must have an in-sync replica.
  Result<VolumeView> move_primary(const std::string& name, const std::string& node);
  // See Cluster::rebuild_record.
  Status rebuild_record(const std::string& name, bool accept_data_loss);
  // Compares all in-sync replicas, block by block, while the volume is used. `progress`: bytes of
  // the volume that are done, and sentences about what differs. The answer: how much differs.
  Result<uint64_t> verify(const std::string& name,
                          const std::function<bool(uint64_t, const std::string&)>& progress);
  // Sentences: which copy is newest, who waits for whom, what each way out costs.
  Result<std::vector<std::string>> explain(const std::string& name);
  // Gives back what the volume's file system does not use: answers how much it told to discard.
  // kFailedPrecondition if it is not mounted here for writing.
  Result<uint64_t> trim(const std::string& name);
  Result<VolumeView> detach(const std::string& name);
  // `target` empty: none. Returns the volume; the path for the caller is `target` or mountpoint.
  Result<VolumeView> mount(const std::string& name, const std::string& caller_id,
                           const std::string& target, const std::string& use = "");
  // kBusy, with nothing changed, while something else on this host has the device;
  // kFailedPrecondition if the mount is another node's. See Leave.
  Result<VolumeView> unmount(const std::string& name, const std::string& caller_id,
                             const Leave& how = {});

  // For orchestrators; the rules are those of the API. kBusy at once if another operation on the
  // volume is under way. `node`: name or id.
  Result<VolumeView> reserve(const std::string& name, const std::string& node, bool read_only);
  Result<VolumeView> release(const std::string& name, const std::string& node);
  Result<VolumeView> stage(const std::string& name, const StageRequest& request);
  Result<VolumeView> unstage(const std::string& name, const std::string& path);
  Result<VolumeView> show(const std::string& name, const ShowRequest& request);
  Result<VolumeView> hide(const std::string& name, const std::string& target);
  Result<UsageView> usage(const std::string& name, const std::string& path);

  // `force`: although its file system is not fit for a disk, or has another one.
  Result<DiskView> add_disk(const std::string& path, store::FormatOptions format,
                            bool force = false);
  // Of a disk that is not open: it is at `path` now. `accept_data_loss`: an older copy is taken.
  Result<DiskView> move_disk(const std::string& name, const std::string& path,
                             bool accept_data_loss);
  std::vector<DiskView> disks();
  // Takes a disk out of the pool, or (cancel) keeps it after all; returns when that has begun. The
  // rules are those of the API's RemoveDisk.
  struct DiskRemoval {
    bool in_place = false;
    bool cancel = false;
  };
  Result<DiskView> remove_disk(const std::string& name, const DiskRemoval& how);
  // Disks are named by path, or by at least four digits of their id. `rate`: bytes per second, 0:
  // the configured one. The calls return when the work has begun.
  Result<DiskView> scrub_disk(const std::string& name, uint64_t rate);
  Result<DiskView> stop_scrub(const std::string& name);
  Result<DiskView> verify_disk(const std::string& name, bool accept_damage);
  NodeView node() const { return node_; }
  // All nodes of the cluster; empty if this node is alone.
  std::vector<ClusterNode> nodes();
  std::string node_name(const std::string& id);
  // `change`: "cordon", "uncordon", "drain", "rm".
  Status change_node(const std::string& name, const std::string& change);
  bool clustered() const { return cluster_ != nullptr; }
  // `cvol cluster migrate`.
  Status migrate(const std::string& uri);
  const ManagerOptions& options() const { return options_; }
  // All that is not as it should be, the most severe first. Waits neither for the metadata store
  // nor for an operation.
  std::vector<Condition> conditions();
  // The same as sentences.
  std::vector<std::string> problems();
  // Why the volume's requests wait, if they do; a sentence.
  std::optional<Condition> waiting_for_space(const std::string& name);
  std::optional<Condition> waiting_requests(const std::string& name);
  const meta::StoreHealth& store_health() const { return *store_health_; }
  EventLog& events() { return events_; }
  // As Cluster::events_of_others(); a node that is alone has no others.
  std::vector<Event> events_of_others(const EventFilter& filter,
                                      std::map<std::string, uint64_t>& seen,
                                      std::vector<std::string>& silent);

  // nbd::ExportDirectory; on the server's shard.
  void open(std::string name,
            std::function<void(Result<std::shared_ptr<nbd::Export>>)> done) override;
  // Clients that may write make the volume one that is used as a block device (FormatState).
  void open_for(std::string name, std::string session,
                std::function<void(Result<std::shared_ptr<nbd::Export>>)> done) override;
  void list(std::function<void(std::vector<std::string>)> done) override;
  bool is_in_use(const std::string& name) override;

 private:
  struct Hosted;
  using HostedPtr = std::shared_ptr<Hosted>;

  explicit VolumeManager(ManagerOptions options, std::unique_ptr<meta::MetadataStore> store);

  // Start (volume_reconcile.cpp).
  // Who this node is (volume_identity.cpp).
  Status open_node();
  Status check_cluster(const std::string& known);
  Status check_not_removed(const std::string& id);
  // volume_joining.cpp
  Result<std::optional<v1::AliveRecord>> alive_record(const std::string& id);
  Status check_alone(const std::string& id);
  Status check_times(const std::string& id);
  Status load_volumes();
  void settle_volume(VolumeEntry entry, const ReplicaIndex& index);
  bool drop_unfinished(const VolumeEntry& entry, const ReplicaIndex& index);
  std::string find_replica(Hosted& hosted, const ReplicaIndex& index);
  Status serve_nbd();
  Status open_attacher();
  void settle_attachments();
  void settle_mounts(Hosted& hosted, bool device_lives);
  void settle_session(const HostedPtr& hosted);

  // Records.
  HostedPtr find(const std::string& name);
  Result<HostedPtr> require(const std::string& name);
  v1::VolumeRecord record_of(Hosted& hosted);
  // Changes the record by compare-and-swap; a changed session or replica set raises the epoch.
  template <typename Change>
  Status update(Hosted& hosted, Change change);
  void forget(const std::string& name);
  VolumeView view_of(Hosted& hosted, const std::vector<attach::Device>& devices);
  Result<VolumeView> view_after(Hosted& hosted);
  Status make_replica(Hosted& hosted);
  Result<VolumeView> existing(Hosted& hosted, const CreateRequest& request);
  Result<Disk*> choose_disk();
  Status remove_replica(Hosted& hosted);
  Status release_for_removal(Hosted& hosted, bool force);

  // In a cluster (volume_cluster.cpp).
  Status start_cluster();
  void on_volume(const std::string& id, std::optional<VolumeEntry> entry);
  Status create_clustered(Hosted& hosted, const CreateRequest& request);

  // volume_unfinished.cpp. The caller of those that take a volume holds hosted.operation.
  // As require(); one that is being made or removed is waited for, and is no answer.
  Result<HostedPtr> require_ready(const std::string& name);
  // Goes on with a creation or removal that was cut off. OK: it is ready, or is gone from volumes_.
  Status finish_unfinished(Hosted& hosted);
  Status finish_creation(Hosted& hosted);
  Status finish_removal(Hosted& hosted);
  // Removes what is still "creating", and nothing else.
  Status give_up_creation(Hosted& hosted);
  void forget_if(const Hosted& hosted);

  Status remove_clustered(Hosted& hosted);
  Status resize_clustered(Hosted& hosted, uint64_t size_bytes);
  Status take_session(Hosted& hosted, bool force);
  void settle_holder(const v1::VolumeRecord& record);
  Result<std::shared_ptr<nbd::Export>> make_gateway_export(Hosted& hosted);
  Result<Cluster::OpenGateway> gateway_of(Hosted& hosted);
  Status confirm_epoch(Hosted& hosted, std::chrono::milliseconds patience);
  bool attached_elsewhere(const v1::VolumeRecord& record) const;
  void evict(Hosted& hosted, bool taken);
  bool is_left_over(Hosted& hosted);
  void discard_of_removed(const std::string& name);
  // Records that are lost, and replicas without one (volume_lost_records.cpp).
  void on_record_problem(const std::string& id, const std::string& problem);
  Status refuse_without_record(Hosted& hosted);
  std::string volume_of_device(const std::string& name) const;
  void look_for_unknown_replicas();
  std::optional<Condition> all_copies_away(const v1::VolumeRecord& record);
  void add_lost_records(std::vector<Condition>& found);
  // Sources of conditions (volume_conditions.cpp).
  void add_store_conditions(std::vector<Condition>& found);
  void add_record_conditions(std::vector<Condition>& found);
  void add_disk_conditions(std::vector<Condition>& found);
  void add_host_conditions(std::vector<Condition>& found);
  void add_io_conditions(std::vector<Condition>& found);
  void add_node_conditions(std::vector<Condition>& found);
  void add_copy_conditions(std::vector<Condition>& found);
  std::string waits_for(const v1::VolumeRecord& record);
  void explain_conditions(const std::string& name, std::vector<std::string>& lines);
  void fill_cluster_view(VolumeView& view);

  // Reservations, and what ended attachments leave (volume_reservations.cpp).
  static Status busy(const std::string& name);
  Status change_record(Hosted& hosted, const std::function<Status(v1::VolumeRecord&)>& change);
  Result<std::string> find_node_id(const std::string& node);
  bool is_node_alive(const std::string& id);
  Status reserve_for(Hosted& hosted, const std::string& node_id, bool read_only);
  std::string session_file(const std::string& name) const;
  Status note_device_session(Hosted& hosted);
  void forget_device_session(const std::string& name);
  bool is_device_over(Hosted& hosted);
  Status clear_away(Hosted& hosted);

  // Staging (volume_staging.cpp).
  Status note_stage(Hosted& hosted, const StageRequest& request);
  Status make_stage(Hosted& hosted, const StageRequest& request);
  Status undo_stage(Hosted& hosted);
  Status end_cut_stage(Hosted& hosted);
  Status note_target(Hosted& hosted, const ShowRequest& request);
  void unmount_lost_stage(const std::string& name, const v1::StageRecord& stage);
  Status check_sound(const v1::StageRecord& stage);
  Status make_target(Hosted& hosted, const ShowRequest& request);
  Status undo_target(Hosted& hosted, const std::string& target);
  // What this node itself knows of targets (volume_shown.cpp).
  std::string shown_file(const Hosted& hosted) const;
  Status note_shown(const Hosted& hosted, const std::string& target);
  bool was_shown(const Hosted& hosted, const std::string& target) const;
  void forget_shown(const Hosted& hosted, const std::string& target);
  Status refresh(Hosted& hosted);
  bool settle_stage(Hosted& hosted, bool device_lives);

  // Disks that open, and what waits for them (volume_disk_opening.cpp).
  Status open_disks();
  Status note_opened(const std::string& id, uint64_t generation);
  static DiskSet::Admit admit_by(const std::vector<v1::DiskRecord>& records,
                                 const std::map<std::string, std::string>& unreadable,
                                 const std::string& path);
  void keep_opening();
  void copy_records();
  void disk_came(Disk& disk);
  void settle_volumes_of(Disk& disk);
  static bool works(Disk* disk);
  Status note_removed(const v1::VolumeRecord& record, const std::string& disk_id);
  void finish_removed(Disk& disk);
  Status remove_noted(Disk& disk, const ReplicaIndex& index, const v1::RemovedRecord& record);

  // Disks (volume_disks.cpp).
  store::EngineHooks hooks_for(const std::string& path);
  void report(std::function<void()> job);
  void open_reports();
  void tell_damage(const std::string& path, const store::Damage& damage);
  std::string volume_name(const Uuid& volume);
  Result<Disk*> find_disk(const std::string& name);
  DiskView look_at(Disk& disk);
  static std::string failure_of(Disk* disk);
  static void apply_failure(VolumeView& view, const std::string& failure);
  uint64_t next_scrub(const Disk& disk, const store::ScrubInfo& scrub);
  void keep_scrubbing();

  // Taking disks out (volume_disk_removal.cpp).
  Status check_disk_may_leave(Disk& disk, const DiskRemoval& how);
  Status note_leaving(Disk& disk, bool leaving, bool in_place);
  void finish_leaving_disks();
  bool has_replicas(Disk& disk);
  void finish_leaving(Disk& disk);
  void close_gone_disks();
  bool wait_until_closed(const Disk& disk);
  void stop_keeper();

  // Devices and exports (volume_exports.cpp).
  Status refuse_failed(const std::string& name);
  Result<std::shared_ptr<nbd::Export>> open_now(const std::string& name);
  Result<std::shared_ptr<nbd::Export>> make_export(Hosted& hosted);
  std::shared_ptr<nbd::Export> show_export(Hosted& hosted, std::unique_ptr<nbd::Export> made);
  Status ensure_session(Hosted& hosted);
  void drop_session_if_unused(Hosted& hosted);
  void end_requests(Hosted& hosted);
  bool close_exports(Hosted& hosted);
  std::vector<attach::Device> devices();
  Result<attach::Device> attach_device(Hosted& hosted, bool force = false, bool for_user = false);
  Status detach_device(Hosted& hosted);

  // What is made into a file system, and what never (volume_format.cpp).
  Status note_block_use(Hosted& hosted);
  Result<std::shared_ptr<nbd::Export>> open_for_client(const std::string& name);
  Result<bool> is_all_empty(Hosted& hosted);
  Status begin_formatting(Hosted& hosted);
  void end_formatting(Hosted& hosted);
  Status prepare_file_system(Hosted& hosted, const std::string& device,
                             const std::vector<std::string>& mkfs_options = {});
  Status format(Hosted& hosted, const std::string& device,
                const std::vector<std::string>& mkfs_options, bool cut_off);
  Status note_formatted(Hosted& hosted);

  // What there is room for (volume_space.cpp).
  uint64_t pool_capacity();
  Status check_promise(uint64_t size_bytes, uint32_t replicas, std::vector<std::string>& warnings);
  static Result<VolumeView> with_warnings(Result<VolumeView> view,
                                          std::vector<std::string> warnings);
  Status change_on_full(Hosted& hosted, const std::string& on_full);
  void watch_space();

  // Trims (volume_trim.cpp).
  Result<uint64_t> trim_piece(Hosted& hosted, uint64_t offset, uint64_t length);
  Result<uint64_t> trim_patiently(Hosted& hosted, uint64_t offset, uint64_t length);
  Result<uint64_t> trim_all(Hosted& hosted, bool paced);
  void keep_up();
  void trim_what_is_due();
  bool rest_upkeep(std::chrono::milliseconds time);

  // File systems follow their volumes (volume_growth.cpp).
  Status grow_file_system(Hosted& hosted, const std::string& device, const std::string& path);
  void grow_after_mount(Hosted& hosted, const std::string& device, const std::string& path);
  std::string writable_mount(Hosted& hosted);
  Status follow_size(Hosted& hosted);
  void hear_of_growth(Hosted& hosted);
  Status grow_gateway(Hosted& hosted);

  // Mounts (volume_mounts.cpp).
  std::string mount_path(const std::string& name) const;
  std::string data_path(const std::string& name) const { return mount_path(name) + "/data"; }
  Status mount_file_system(Hosted& hosted);
  static Status validate_caller(const std::string& id);
  Status add_caller(Hosted& hosted, const std::string& caller_id, const std::string& target,
                    const std::string& use);
  Status note_caller(Hosted& hosted, const std::string& caller_id, const std::string& target,
                     const std::string& use);

  // Unmounts, and what is finished later (volume_unmounts.cpp).
  Result<std::string> other_users(Hosted& hosted);
  Status remove_caller(Hosted& hosted, const std::string& caller_id, const Leave& how = {});
  Status note_leave(Hosted& hosted, const std::string& caller_id, const Leave& how,
                    const std::function<void(v1::MountRecord&)>& change);
  Status leave_later(Hosted& hosted, const std::string& caller_id, const Leave& how,
                     const std::string& users);
  void set_waits(Hosted& hosted, const std::string& text);
  void tell_lost_device(const std::string& name, const std::string& device);
  Status give_device_back(Hosted& hosted);
  Status unmount_file_system(Hosted& hosted);
  bool apply_pending(Hosted& hosted);
  Status check_removable(Hosted& hosted, bool force);
  bool finish_mount(const std::string& name);
  bool finish(Hosted& hosted);
  void doubt_users();
  Status check_is_lost(const std::string& name, const std::string& caller_id);
  void doubt_users_of(Hosted& hosted);

  ManagerOptions options_;
  std::shared_ptr<meta::StoreHealth> store_health_ = std::make_shared<meta::StoreHealth>();
  std::unique_ptr<meta::MetadataStore> store_;
  Catalog catalog_;
  DiskSet disk_set_;
  EventLog events_;
  std::unique_ptr<Cluster> cluster_;  // null: this node is alone
  NodeView node_;
  std::shared_ptr<FileSystems> file_systems_;   // shared with trims that stop() does not wait for
  std::unique_ptr<attach::Attacher> attacher_;  // null: see no_attach_because
  std::unique_ptr<nbd::Server> server_;         // made, used and destroyed on the first shard
  // By volume: one whose holder, primary or disk is silent does not keep others from being opened.
  std::shared_ptr<KeyedWorkers> opener_;
  // Takes away what attachments that are over have left, by volume. Not the opener: an operation
  // that is waited for may itself be waiting for an export.
  std::shared_ptr<KeyedWorkers> evictor_;
  // Gives attachments back that the process before left, by volume. Not the evictor, for which an
  // operation may wait.
  std::shared_ptr<KeyedWorkers> settler_;
  std::unique_ptr<MountKeeper> keeper_of_mounts_;
  std::atomic<bool> attacher_is_there_{false};  // and does not change any more
  std::atomic<bool> stopped_{false};

  // What shards report waits until the volumes are known, then for the worker.
  std::shared_ptr<Worker> reporter_;
  std::mutex reports_mutex_;
  std::vector<std::function<void()>> early_reports_;
  bool reports_open_ = false;

  std::mutex keeper_mutex_;  // guards the next four
  std::condition_variable keeper_wake_;
  bool keeper_stops_ = false;
  bool close_gone_ = false;                     // a disk has left the pool since this was looked at
  std::map<std::string, uint64_t> disk_since_;  // id -> when it came, seconds since 1970
  std::thread keeper_;                          // starts scrubs when it is time
  std::thread disk_opener_;                     // tries disks that are not open
  std::atomic<bool> records_changed_{true};     // since they were copied
  bool copy_fails_ = false;                     // and it was said
  std::unique_ptr<meta::Watch> copy_watch_;     // null in a cluster
  std::thread upkeeper_;                        // trims, and looks how full disks are
  FullnessWatch fullness_;                      // the upkeeper's, as trim_slots_
  std::map<std::string, uint64_t> trim_slots_;  // id of a volume -> of its last trim

  std::mutex mutex_;                          // guards the next ones, and what Hosted says
  std::map<std::string, HostedPtr> volumes_;  // by name
  std::vector<std::string> problems_;
  struct UnknownReplica {
    std::string disk, volume_id, replica_id, why;
  };
  std::vector<UnknownReplica> unknown_replicas_;

  ConditionBook condition_book_;
  HostSpaces host_spaces_{options_.host_space};
};

}  // namespace cvol::volume
