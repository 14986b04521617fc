#include "volumed/daemon/daemon.h"

#include <unistd.h>

#include <chrono>
#include <ctime>
#include <filesystem>
#include <fstream>

#include "nbd/attach/holders.h"
#include "volumed/api/http_server.h"
#include "volumed/api/metrics_text.h"
#include "volumed/api/service.h"
#include "volumed/base/descriptors.h"
#include "volumed/base/log.h"
#include "volumed/daemon/docker.h"
#include "volumed/daemon/dockerd.h"
#include "volumed/daemon/host.h"
#include "volumed/daemon/watcher.h"
#include "volumed/meta/freezable_store.h"
#include "volumed/meta/migrate.h"
#include "volumed/meta/open_store.h"
#include "volumed/meta/store_copy.h"
#include "volumed/volume/volume_manager.h"

namespace cvol::daemon {
namespace {

api::HttpResponse ready(volume::VolumeManager& manager) {
  using volume::ConditionKind;
  std::string text;
  std::string not_ready;
  bool any = false;
  for (const auto& disk : manager.disks()) any = any || disk.problem.empty();
  if (!any) not_ready = "no disk works\n";
  for (const volume::Condition& condition : manager.conditions()) {
    text += std::string(volume::severity_name(condition.severity())) + ": " + condition.sentence() +
            "\n";
    if (condition.kind == ConditionKind::kStoreAway || condition.kind == ConditionKind::kStoreFull)
      not_ready += "the metadata store takes no changes\n";
    if (condition.kind == ConditionKind::kIoWaits) not_ready += "requests wait\n";
  }
  if (!not_ready.empty()) return {503, "text/plain; charset=utf-8", not_ready + text};
  return {200, "text/plain; charset=utf-8", text.empty() ? "ready\n" : "ready, but:\n" + text};
}

api::HttpResponse serve_http(volume::VolumeManager& manager, const api::HttpRequest& request) {
  if (request.method != "GET" && request.method != "HEAD")
    return {405, "text/plain; charset=utf-8", "only GET is served here\n"};
  const std::string path = request.target.substr(0, request.target.find('?'));
  if (path == "/metrics") return {200, api::kMetricsContentType, api::metrics_text(manager)};
  if (path == "/healthz") return {200, "text/plain; charset=utf-8", "ok\n"};
  if (path == "/readyz") return ready(manager);
  return {404, "text/plain; charset=utf-8", "served here: /metrics, /healthz, /readyz\n"};
}

std::string why_no_attach(const Config& config) {
  if (config.attach_method == "none") return "attach-method is none";
  if (::geteuid() != 0) return "volumed does not run as root; use its NBD socket instead";
  return "";
}

// "" of a data directory that never was a node's.
std::string node_id_of(const std::string& data_dir) {
  std::ifstream file(data_dir + "/node-id");
  std::string id;
  std::getline(file, id);
  return id;
}

// Beside this program, where the build and the packages put it.
std::string find_helper(const std::string& name) {
  std::error_code ignored;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", ignored);
  return (self.parent_path() / name).string();
}

class RealDaemon final : public Daemon {
 public:
  explicit RealDaemon(Config config) : config_(std::move(config)) {}
  ~RealDaemon() override;

  Status start();

 private:
  Status open_folders();
  Status start_manager();
  Status say_how_to_restore(const Status& why, const std::string& copy) const;
  Status restore_records(meta::MetadataStore& store, const std::string& copy) const;
  Status start_fronts();

  Config config_;
  const ConnectionBudgets budgets_ = connection_budgets(descriptor_limit(), 1);
  std::unique_ptr<FolderLock> data_lock_;
  std::unique_ptr<FolderLock> run_lock_;
  std::unique_ptr<Watcher> watcher_;  // null: this node is alone
  std::unique_ptr<volume::VolumeManager> manager_;
  std::unique_ptr<api::ApiServer> api_;
  std::unique_ptr<api::HttpServer> http_;
  std::unique_ptr<CsiFront> csi_;
};

RealDaemon::~RealDaemon() {
  csi_.reset();
  http_.reset();
  if (manager_) manager_->events().close();  // ends followers
  api_.reset();
  manager_.reset();
}

Status RealDaemon::start() {
  CVOL_TRY(open_folders());
  CVOL_TRY(start_manager());
  return start_fronts();
}

Status RealDaemon::open_folders() {
  // Users of a mount pass through the data directory, and see nothing else in it.
  CVOL_TRY(make_folder(config_.data_dir, 0711));
  CVOL_TRY(make_folder(config_.run_dir, 0755));
  auto data = FolderLock::take(config_.data_dir);
  if (!data) return data.status();
  data_lock_ = std::make_unique<FolderLock>(std::move(*data));
  if (config_.run_dir != config_.data_dir) {
    auto run = FolderLock::take(config_.run_dir);
    if (!run) return run.status();
    run_lock_ = std::make_unique<FolderLock>(std::move(*run));
  }
  CVOL_TRY(attach::check_run_dir(config_.run_dir, node_id_of(config_.data_dir)));
  CVOL_TRY(make_folder(config_.data_dir + "/mounts", 0711));
  return make_folder(config_.data_dir + "/disks", 0700);
}

Status RealDaemon::say_how_to_restore(const Status& why, const std::string& copy) const {
  std::error_code error;
  const bool broken = why.code() == Code::kDamaged || why.code() == Code::kIo;
  if (!broken || !std::filesystem::exists(copy, error)) return why;
  return Status(why.code(), why.message() + ". Its records are in " + copy +
                                ": move the folder of " + config_.metadata +
                                " away, and start volumed again");
}

Status RealDaemon::restore_records(meta::MetadataStore& store, const std::string& copy) const {
  auto restored = meta::restore_store_copy(store, meta::Keys(config_.cluster), copy);
  if (!restored) return restored.status();
  if (*restored != 0)
    log::warning("daemon", "the metadata store was empty; its records were taken from their copy",
                 {{"copy", copy}, {"records", *restored}});
  return Status::ok();
}

Status RealDaemon::start_manager() {
  constexpr std::string_view kRocksDb = "rocksdb:";
  if (config_.metadata.starts_with(kRocksDb))
    CVOL_TRY(make_folder(config_.metadata.substr(kRocksDb.size()), 0700));
  auto store = meta::open_store(config_.metadata);
  const bool embedded = config_.metadata.starts_with(kRocksDb);
  const std::string copy = embedded ? config_.data_dir + "/metadata.copy" : "";
  if (!store) return embedded ? say_how_to_restore(store.status(), copy) : store.status();
  if (embedded) CVOL_TRY(restore_records(**store, copy));
  CVOL_TRY(meta::check_not_migrating(**store, meta::Keys(config_.cluster)));
  auto freezable = std::make_unique<meta::FreezableStore>(std::move(*store));
  volume::ManagerOptions options;
  options.records_copy = copy;
  options.migrate = [this, from = freezable.get()](const std::string& uri) {
    auto to = meta::open_store(uri);
    if (!to) return to.status();
    return from->freeze(
        "the records of this node have moved to " + uri + "; start volumed again with --metadata " +
            uri,
        [&](meta::MetadataStore& source) {
          return meta::migrate_store(source, **to, {config_.cluster, config_.metadata, uri});
        });
  };
  options.data_dir = config_.data_dir;
  options.run_dir = config_.run_dir;
  options.node_name = config_.node_name;
  options.cluster = config_.cluster;
  options.metadata = config_.metadata;
  options.nbd_addresses = config_.nbd_listen;
  options.first_disk.capacity_bytes = config_.disk_capacity;
  options.first_disk.journal_bytes = config_.journal_size;
  options.engine.buffer_bytes = config_.buffer_size;
  options.engine.scrub_rate = config_.scrub_rate;
  options.engine.wall_clock = [] { return static_cast<uint64_t>(std::time(nullptr)); };
  options.scrub_interval = std::chrono::seconds(config_.scrub_interval);
  options.trim_interval = std::chrono::seconds(config_.trim_interval);
  options.overcommit_limit = config_.overcommit_limit;
  options.nbd.buffer_bytes = config_.buffer_size;
  options.nbd.tcp_connections = budgets_.nbd_tcp;
  options.nbd.unix_connections = budgets_.nbd_unix;
  options.engine.read_cache = config_.read_cache == "page";
  if (config_.metadata.starts_with("etcd:")) {
    volume::ManagerOptions::ClusterMode mode;
    mode.listen = config_.replication_listen;
    mode.advertise = config_.replication_advertise;
    mode.zone = config_.zone;
    const auto ms = [](uint64_t value) {
      return static_cast<replication::Nanoseconds>(value) * replication::kMillisecond;
    };
    mode.replication.beacon = ms(config_.beacon_ms);
    mode.replication.lease = ms(config_.lease_ms);
    mode.replication.grace = ms(config_.grace_ms);
    mode.replication.replica_timeout = ms(config_.replica_timeout_ms);
    mode.replication.strict_reads = config_.strict_reads;
    mode.accept_other_times = config_.accept_other_times;
    mode.rebuild_after = std::chrono::seconds(config_.rebuild_after);
    watcher_ = std::make_unique<Watcher>(find_helper("cvol-watcher"));
    mode.on_peers = [watcher = watcher_.get()](const Uuid& cluster, const Uuid& node,
                                               const Uuid& process,
                                               const std::vector<std::string>& addresses) {
      watcher->tell({cluster, node, process}, addresses);
    };
    options.cluster_mode = std::move(mode);
  }
  options.on_waiting = [] { notify_systemd("STATUS=opening disks\nEXTEND_TIMEOUT_USEC=60000000"); };
  options.attach_method = config_.attach_method;
  options.no_attach_because = why_no_attach(config_);
  options.boot_id = read_boot_id();
  options.privileged_mounts = config_.privileged_mounts;
  if (config_.docker_plugin_dir != "off")
    options.docker_knows =
        [dockerd = std::make_shared<Dockerd>(Dockerd::find_socket())](const std::string& volume) {
          return dockerd->has_container_with(volume);
        };
  auto manager = volume::VolumeManager::start(std::move(options), std::move(freezable));
  if (!manager) return manager.status();
  manager_ = std::move(*manager);
  return Status::ok();
}

Status RealDaemon::start_fronts() {
  std::vector<std::string> addresses = {"unix:" + config_.run_dir + "/api.sock"};
  addresses.insert(addresses.end(), config_.listen.begin(), config_.listen.end());
  auto api = api::ApiServer::start(*manager_, addresses);
  if (!api) return api.status();
  api_ = std::move(*api);
  if (config_.http != "off") {
    api::HttpOptions bounds;
    bounds.connections = budgets_.http;
    bounds.first_time = std::chrono::seconds(10);
    bounds.idle_time = std::chrono::seconds(120);
    auto http = api::HttpServer::start(
        config_.http,
        [this](const api::HttpRequest& request) { return serve_http(*manager_, request); }, bounds);
    if (!http)
      return http.status().with_context(
          "serve metrics (choose another address with --http, or "
          "--http off)");
    http_ = std::move(*http);
  }
  if (config_.csi_endpoint != "off") {
    auto csi = CsiFront::start(config_.csi_endpoint, config_.csi_mode, addresses.front());
    if (!csi) return csi.status();
    csi_ = std::move(*csi);
  }
  return Status::ok();
}

}  // namespace

Result<std::unique_ptr<Daemon>> Daemon::start(Config config) {
  auto daemon = std::make_unique<RealDaemon>(std::move(config));
  CVOL_TRY(daemon->start());
  return std::unique_ptr<Daemon>(std::move(daemon));
}

}  // namespace cvol::daemon
