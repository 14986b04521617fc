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
#include "volumed/volume/catalog.h"
#include "volumed/volume/cluster.h"
#include "volumed/volume/disk_set.h"
#include "volumed/volume/event_log.h"
#include "volumed/volume/file_systems.h"
#include "volumed/volume/keyed_workers.h"
#include "volumed/volume/local_primary.h"
#include "volumed/volume/worker.h"

namespace cvol::volume {

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
  // From the end of a scrub to the next one of the disk; 0: no scrub unless told.
  std::chrono::seconds scrub_interval = std::chrono::hours(24 * 14);
  // A cluster on a shared metadata store. Not set: this node is alone.
  struct ClusterMode {
    std::string listen;     // "tcp:ADDRESS:PORT", for the replication of other nodes
    std::string advertise;  // as others reach it; empty: `listen`
    std::string zone;
    replication::Options replication;
    std::chrono::seconds rebuild_after{300};
    // Where a sudden end of this process has to be told, and by which name.
    std::function<void(const Uuid& cluster, const Uuid& node, const Uuid& process,
                       const std::vector<std::string>& addresses)>
        on_peers;
  };
  std::optional<ClusterMode> cluster_mode;
  // Moves all records into another metadata store, and lets nothing change them from then on.
  std::function<Status(const std::string& uri)> migrate;
  DiskMaker disks = DiskMaker::real();
  std::unique_ptr<FileSystems> file_systems;  // null: the real ones
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
  std::string fs = "ext4";
  std::map<std::string, std::string> labels;
};

// What may be changed while a volume is used; not set: stays as it is.
struct ModifyRequest {
  std::optional<uint32_t> replicas;
  std::optional<uint32_t> min_in_sync;
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
  uint64_t connections = 0;
  std::optional<LocalReplica> local;             // the replica of this node, in a cluster
  std::shared_ptr<const VolumeMetrics> metrics;  // null: never opened since the start
};

struct UsageView {
  VolumeView volume;
  mount::Usage usage;  // of a block volume: its size only
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
  Result<VolumeView> detach(const std::string& name);
  // `target` empty: none. Returns the volume; the path for the caller is `target` or mountpoint.
  Result<VolumeView> mount(const std::string& name, const std::string& caller_id,
                           const std::string& target);
  Result<VolumeView> unmount(const std::string& name, const std::string& caller_id);

  // For orchestrators; the rules are those of the API. kBusy at once if another operation on the
  // volume is under way. `node`: name or id.
  Result<VolumeView> reserve(const std::string& name, const std::string& node, bool read_only);
  Result<VolumeView> release(const std::string& name, const std::string& node);
  Result<VolumeView> stage(const std::string& name, const StageRequest& request);
  Result<VolumeView> unstage(const std::string& name, const std::string& path);
  Result<VolumeView> show(const std::string& name, const ShowRequest& request);
  Result<VolumeView> hide(const std::string& name, const std::string& target);
  Result<UsageView> usage(const std::string& name, const std::string& path);

  Result<DiskView> add_disk(const std::string& path, store::FormatOptions format);
  std::vector<DiskView> disks();
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
  std::vector<std::string> problems();
  EventLog& events() { return events_; }

  // nbd::ExportDirectory; on the server's shard.
  void open(std::string name,
            std::function<void(Result<std::shared_ptr<nbd::Export>>)> done) override;
  void list(std::function<void(std::vector<std::string>)> done) override;

 private:
  struct Hosted;
  using HostedPtr = std::shared_ptr<Hosted>;

  explicit VolumeManager(ManagerOptions options, std::unique_ptr<meta::MetadataStore> store);

  // Start (volume_reconcile.cpp).
  Status open_node();
  Status open_disks();
  Status load_volumes();
  void settle_volume(VolumeEntry entry);
  bool drop_unfinished(const VolumeEntry& entry);
  std::string find_replica(Hosted& hosted);
  void report_unknown_replicas();
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
  void add_cluster_problems(std::vector<std::string>& all);
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
  Status note_target(Hosted& hosted, const ShowRequest& request);
  Status make_target(Hosted& hosted, const ShowRequest& request);
  Status undo_target(Hosted& hosted, const std::string& target);
  Status refresh(Hosted& hosted);
  bool settle_stage(Hosted& hosted, bool device_lives);

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
  Result<attach::Device> attach_device(Hosted& hosted, bool force = false);
  Status detach_device(Hosted& hosted);

  // Mounts (volume_mounts.cpp).
  std::string mount_path(const std::string& name) const;
  std::string data_path(const std::string& name) const { return mount_path(name) + "/data"; }
  Status mount_file_system(Hosted& hosted);
  Status prepare_file_system(Hosted& hosted, const std::string& device,
                             const std::vector<std::string>& mkfs_options = {});
  Status add_caller(Hosted& hosted, const std::string& caller_id, const std::string& target);
  Status note_caller(Hosted& hosted, const std::string& caller_id, const std::string& target);
  Status remove_caller(Hosted& hosted, const std::string& caller_id);
  Status unmount_file_system(Hosted& hosted);

  ManagerOptions options_;
  std::unique_ptr<meta::MetadataStore> store_;
  Catalog catalog_;
  DiskSet disk_set_;
  EventLog events_;
  std::unique_ptr<Cluster> cluster_;  // null: this node is alone
  NodeView node_;
  std::unique_ptr<FileSystems> file_systems_;
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
  std::atomic<bool> attacher_is_there_{false};  // and does not change any more
  std::atomic<bool> stopped_{false};

  // What shards report waits until the volumes are known, then for the worker.
  std::shared_ptr<Worker> reporter_;
  std::mutex reports_mutex_;
  std::vector<std::function<void()>> early_reports_;
  bool reports_open_ = false;

  std::mutex keeper_mutex_;  // guards the next three
  std::condition_variable keeper_wake_;
  bool keeper_stops_ = false;
  std::map<std::string, uint64_t> disk_since_;  // id -> when it came, seconds since 1970
  std::thread keeper_;                          // starts scrubs when it is time

  std::mutex mutex_;                          // guards volumes_, problems_, and what Hosted says
  std::map<std::string, HostedPtr> volumes_;  // by name
  std::vector<std::string> problems_;
};

}  // namespace cvol::volume
