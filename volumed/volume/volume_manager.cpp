#include "volumed/volume/volume_manager.h"

#include <google/protobuf/util/time_util.h>
#include <sys/stat.h>
#include <unistd.h>

#include <ctime>
#include <filesystem>

#include "volumed/base/log.h"
#include "volumed/base/units.h"
#include "volumed/mount/mount.h"
#include "volumed/volume/hosted.h"
#include "volumed/volume/pool_space.h"

namespace cvol::volume {
namespace {

using google::protobuf::util::TimeUtil;

constexpr std::size_t kMostLabels = 64;
constexpr std::size_t kMostLabelBytes = 1024;
// Volumes that may be blocked at once before others are: they may be all those of a dead node.
constexpr std::size_t kMostWorkers = 64;

Status not_found(const std::string& name) {
  return Status(Code::kNotFound,
                "there is no volume '" + name + "'; 'cvol volume ls' shows those there are");
}

Status validate(const CreateRequest& request, bool clustered) {
  CVOL_TRY(validate_name(request.name, "volume"));
  CVOL_TRY(validate_volume_size(request.size_bytes));
  if (!request.id.empty()) CVOL_TRY(Uuid::parse(request.id).status().with_context("id"));
  if (request.replicas < 1 || request.replicas > kMostReplicas)
    return Status(Code::kInvalidArgument,
                  "a volume has 1 to " + std::to_string(kMostReplicas) + " replicas");
  if (request.replicas != 1 && !clustered)
    return Status(Code::kInvalidArgument,
                  std::to_string(request.replicas) +
                      " replicas are not possible on a single node; create it with 1, or make this "
                      "node part of a cluster (--metadata etcd:...)");
  if (request.min_in_sync < 1 || request.min_in_sync > request.replicas)
    return Status(Code::kInvalidArgument, "min_in_sync is between 1 and the number of replicas");
  CVOL_TRY(mount::validate_file_system(request.fs));
  CVOL_TRY(mount::validate_size_for(request.fs, request.size_bytes));
  CVOL_TRY(validate_on_full(request.on_full));
  if (request.labels.size() > kMostLabels)
    return Status(Code::kInvalidArgument, "a volume has at most 64 labels");
  for (const auto& [key, value] : request.labels) {
    if (key.empty() || key.size() > kMostLabelBytes || value.size() > kMostLabelBytes)
      return Status(Code::kInvalidArgument,
                    "label keys have 1 to 1024 bytes, their values up to 1024");
  }
  return Status::ok();
}

std::string new_id() {
  Random random = Random::from_system();
  return Uuid::make(random).to_string();
}

v1::VolumeRecord new_record(const CreateRequest& request, const std::string& node_id,
                            const std::string& disk_id) {
  v1::VolumeRecord record;
  record.set_id(request.id.empty() ? new_id() : request.id);
  record.set_name(request.name);
  *record.mutable_created() = TimeUtil::GetCurrentTime();
  record.set_size_bytes(request.size_bytes);
  record.set_replicas(request.replicas);
  record.set_durability("durable");
  record.set_min_in_sync(1);
  record.set_fs(request.fs);
  record.set_on_full(request.on_full);
  for (const auto& [key, value] : request.labels) (*record.mutable_labels())[key] = value;
  v1::MemberRecord& member = *record.add_members();
  member.set_replica_id(new_id());
  member.set_node_id(node_id);
  member.set_disk_id(disk_id);
  member.set_wanted("present");
  record.set_epoch(1);
  record.set_primary(member.replica_id());
  record.add_in_sync()->set_replica_id(member.replica_id());
  record.set_state("creating");
  return record;
}

bool same_labels(const v1::VolumeRecord& record, const CreateRequest& request) {
  if (record.labels().size() != request.labels.size()) return false;
  for (const auto& [key, value] : request.labels) {
    const auto found = record.labels().find(key);
    if (found == record.labels().end() || found->second != value) return false;
  }
  return true;
}

Task<Status> create_on(store::DiskEngine& engine, Uuid volume, Uuid replica, uint64_t size,
                       store::ReplicaNumber* number) {
  auto info = co_await engine.create_replica(volume, replica, size);
  if (!info) co_return info.status();
  *number = info->number;
  co_return Status::ok();
}

}  // namespace

VolumeManager::VolumeManager(ManagerOptions options, std::unique_ptr<meta::MetadataStore> store)
    : options_(std::move(options)),
      store_(std::make_unique<meta::HealthyStore>(std::move(store), store_health_)),
      catalog_(*store_, options_.cluster),
      disk_set_(
          options_.disks, options_.engine,
          [this](const std::string& path) { return hooks_for(path); },
          [this](const std::string& id, uint64_t generation) {
            return note_opened(id, generation);
          }),
      file_systems_(options_.file_systems ? std::move(options_.file_systems)
                                          : FileSystems::real(options_.run_dir + "/attach/locks")),
      opener_(std::make_shared<KeyedWorkers>(kMostWorkers)),
      evictor_(std::make_shared<KeyedWorkers>(kMostWorkers)),
      settler_(std::make_shared<KeyedWorkers>(kMostWorkers / 4)),
      keeper_of_mounts_(std::make_unique<MountKeeper>(
          options_.mount_times, [this](const std::string& name) { return finish_mount(name); },
          [this] { doubt_users(); })),
      reporter_(std::make_shared<Worker>()) {
  node_.started = std::chrono::system_clock::now();
}

VolumeManager::~VolumeManager() {
  stop();
}

Result<std::unique_ptr<VolumeManager>> VolumeManager::start(
    ManagerOptions options, std::unique_ptr<meta::MetadataStore> store) {
  std::unique_ptr<VolumeManager> manager(new VolumeManager(std::move(options), std::move(store)));
  CVOL_TRY(manager->open_node());
  CVOL_TRY(manager->disk_set_.start());
  CVOL_TRY(manager->open_disks());
  if (manager->options_.cluster_mode) {
    CVOL_TRY(manager->start_cluster());
  } else {
    CVOL_TRY(manager->load_volumes());
  }
  manager->open_reports();
  CVOL_TRY(manager->serve_nbd());
  CVOL_TRY(manager->open_attacher());
  manager->attacher_is_there_ = true;
  manager->settle_attachments();
  manager->keeper_ = std::thread([raw = manager.get()] { raw->keep_scrubbing(); });
  manager->disk_opener_ = std::thread([raw = manager.get()] { raw->keep_opening(); });
  manager->upkeeper_ = std::thread([raw = manager.get()] { raw->keep_up(); });
  return manager;
}

VolumeManager::HostedPtr VolumeManager::find(const std::string& name) {
  std::lock_guard lock(mutex_);
  const auto found = volumes_.find(name);
  return found == volumes_.end() ? nullptr : found->second;
}

Result<VolumeManager::HostedPtr> VolumeManager::require(const std::string& name) {
  CVOL_TRY(validate_name(name, "volume"));
  HostedPtr hosted = find(name);
  if (!hosted) return not_found(name);
  return hosted;
}

v1::VolumeRecord VolumeManager::record_of(Hosted& hosted) {
  std::lock_guard lock(mutex_);
  return hosted.entry.record;
}

void VolumeManager::forget(const std::string& name) {
  std::lock_guard lock(mutex_);
  volumes_.erase(name);
}

Result<Disk*> VolumeManager::choose_disk() {
  Disk* best = nullptr;
  uint64_t most_free = 0;
  for (Disk* disk : disk_set_.all()) {
    if (disk->engine == nullptr || disk->leaving) continue;
    const store::DiskInfo info = disk->invoke([](auto& engine) { return engine.info(); });
    if (info.failed) continue;
    const uint64_t free = info.capacity_bytes - std::min(info.capacity_bytes, info.allocated_bytes);
    if (best == nullptr || free > most_free) {
      best = disk;
      most_free = free;
    }
  }
  if (best == nullptr)
    return Status(Code::kFailedPrecondition,
                  "no disk of this node works; 'cvol disk ls' says why, 'cvol disk add PATH' adds "
                  "one");
  return best;
}

Result<VolumeView> VolumeManager::existing(Hosted& hosted, const CreateRequest& request) {
  const v1::VolumeRecord record = record_of(hosted);
  const char* other = nullptr;
  if (record.size_bytes() != request.size_bytes) other = "another size";
  if (record.fs() != request.fs) other = "another file system";
  if (record.replicas() != request.replicas) other = "another number of replicas";
  if (!same_labels(record, request)) other = "other labels";
  if (!request.on_full.empty() && record.on_full() != request.on_full)
    other = "another policy for a full pool";
  if (other != nullptr)
    return Status(Code::kAlreadyExists, "volume '" + request.name + "' exists with " + other +
                                            " (" + format_size(record.size_bytes()) + ", " +
                                            record.fs() + "); choose another name, or remove it");
  return view_after(hosted);
}

Result<VolumeView> VolumeManager::create(CreateRequest request) {
  CVOL_TRY(validate(request, cluster_ != nullptr));
  if (resolve(request.name) != request.name)
    return Status(Code::kInvalidArgument, "'" + request.name + "' is the id of a volume");
  std::vector<std::string> warnings;
  CVOL_TRY(check_promise(request.size_bytes, request.replicas, warnings));
  while (true) {
    auto hosted = std::make_shared<Hosted>();
    std::lock_guard operation(hosted->operation);
    HostedPtr other;
    {
      std::lock_guard lock(mutex_);
      auto [at, inserted] = volumes_.emplace(request.name, hosted);
      if (!inserted) other = at->second;
    }
    if (other) {  // wait until it is there, or gone again
      std::lock_guard waited(other->operation);
      if (find(request.name) != other) continue;
      CVOL_TRY(finish_unfinished(*other).with_context("create volume '" + request.name + "'"));
      if (find(request.name) != other) continue;
      return existing(*other, request);
    }
    hosted->name = request.name;
    Status made = Status::ok();
    if (cluster_) {
      made = create_clustered(*hosted, request);
      if (made.code() == Code::kAlreadyExists && find(request.name) != hosted) continue;
      if (made.is_ok() && find(request.name) != hosted) continue;  // given up, or told otherwise
    } else if (auto disk = choose_disk(); !disk) {
      made = disk.status();
    } else {
      hosted->disk = *disk;
      {
        std::lock_guard lock(mutex_);
        hosted->entry.record = new_record(request, node_.id, (*disk)->id);
        hosted->id = hosted->entry.record.id();
      }
      made = make_replica(*hosted);
    }
    if (!made.is_ok()) {
      if (find(request.name) == hosted) forget(request.name);
      return made.with_context("create volume '" + request.name + "'");
    }
    events_.add("volume_created", request.name,
                "created volume of " + format_size(request.size_bytes));
    return with_warnings(view_after(*hosted), std::move(warnings));
  }
}

// Record "creating", replica, record "ready": a crash in between is rolled back at start.
Status VolumeManager::make_replica(Hosted& hosted) {
  VolumeEntry entry = hosted.entry;
  CVOL_TRY(catalog_.insert_volume(entry));
  {
    std::lock_guard lock(mutex_);
    hosted.entry = entry;
  }
  const auto volume = Uuid::parse(entry.record.id());
  const auto replica = Uuid::parse(entry.record.primary());
  CVOL_ASSERT(volume && replica);
  store::ReplicaNumber number = 0;
  Status made = hosted.disk->run<Status>([&](store::DiskEngine& engine) {
    return create_on(engine, *volume, *replica, entry.record.size_bytes(), &number);
  });
  if (!made.is_ok()) {
    if (Status erased = catalog_.erase_volume(entry); !erased.is_ok())
      log::warning("volume", "the record of a volume that could not be made stays until a restart",
                   {{"volume", hosted.name}, {"error", erased.message()}});
    return made;
  }
  {
    std::lock_guard opening(hosted.opening);
    hosted.replica = number;
  }
  return update(hosted, [&](v1::VolumeRecord& next) {
    next.mutable_members(0)->set_replica_number(number);
    next.set_state("ready");
  });
}

std::vector<VolumeView> VolumeManager::volumes() {
  std::vector<HostedPtr> all;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [name, hosted] : volumes_) {
      if (hosted->entry.record.state() == "ready") all.push_back(hosted);
    }
  }
  // One question per disk, not per volume.
  std::map<std::pair<Disk*, store::ReplicaNumber>, uint64_t> allocated;
  std::map<Disk*, std::string> failures;
  for (Disk* disk : disk_set_.all()) {
    if (disk->engine == nullptr) continue;
    failures[disk] = failure_of(disk);
    for (const auto& info : disk->invoke([](auto& engine) { return engine.replicas(); }))
      allocated[{disk, info.number}] = info.allocated_bytes;
  }
  const std::vector<attach::Device> attached = devices();
  std::vector<VolumeView> views;
  for (const HostedPtr& hosted : all) {
    views.push_back(view_of(*hosted, attached));
    if (cluster_) fill_cluster_view(views.back());
    if (hosted->disk == nullptr) continue;
    views.back().allocated_bytes = allocated[{hosted->disk, hosted->replica.load()}];
    apply_failure(views.back(), failures[hosted->disk]);
  }
  return views;
}

Result<VolumeView> VolumeManager::get(const std::string& name) {
  auto hosted = require(name);
  if (!hosted) return hosted.status();
  // Another node that has just made it may have been told so already.
  if (record_of(**hosted).state() == "creating") (void)refresh(**hosted).is_ok();
  if (record_of(**hosted).state() != "ready") return not_found(name);
  return view_after(**hosted);
}

Result<VolumeView> VolumeManager::view_after(Hosted& hosted) {
  VolumeView view = view_of(hosted, devices());
  if (cluster_) fill_cluster_view(view);
  if (hosted.disk != nullptr && hosted.disk->engine != nullptr) {
    const auto info = hosted.disk->invoke(
        [&](store::DiskEngine& engine) { return engine.replica(hosted.replica); });
    if (info.is_ok()) view.allocated_bytes = info->allocated_bytes;
    apply_failure(view, failure_of(hosted.disk));
  }
  return view;
}

VolumeView VolumeManager::view_of(Hosted& hosted, const std::vector<attach::Device>& attached) {
  VolumeView view;
  view.connections = server_ ? server_->connections(hosted.name) : 0;
  for (const attach::Device& device : attached) {
    if (device.volume != hosted.name) continue;
    view.device = device.path;
    view.attach_method = device.method;
  }
  std::lock_guard lock(mutex_);
  view.record = hosted.entry.record;
  view.problem = hosted.problem.empty() ? hosted.record_problem : hosted.problem;
  view.mounted_here = is_mount_of(view.record, node_.id);
  view.waits = hosted.waits;
  view.metrics = hosted.metrics;
  if (hosted.mounted) view.mountpoint = data_path(hosted.name);
  if (!view.problem.empty()) {
    view.state = VolumeState::kDamaged;
  } else if (hosted.mounted) {
    view.state = VolumeState::kMounted;
  } else if (!view.device.empty() || view.connections > 0) {
    view.state = VolumeState::kAttached;
  }
  return view;
}

Result<VolumeView> VolumeManager::resize(const std::string& name, uint64_t size_bytes) {
  if (size_bytes != 0) CVOL_TRY(validate_volume_size(size_bytes));
  auto hosted = require_ready(name);
  if (!hosted) return hosted.status();
  Hosted& volume = **hosted;
  std::lock_guard operation(volume.operation);
  if (find(name) != *hosted) return not_found(name);
  CVOL_TRY(refresh(volume));
  const uint64_t old = record_of(volume).size_bytes();
  if (size_bytes == 0) size_bytes = old;
  if (size_bytes < old)
    return Status(Code::kInvalidArgument, "volume '" + name + "' has " + format_size(old) +
                                              "; volumes only grow: create a smaller one and copy");
  std::vector<std::string> warnings;
  if (size_bytes > old) CVOL_TRY(check_promise(size_bytes, record_of(volume).replicas(), warnings));
  const bool no_disk = volume.disk == nullptr || volume.disk->engine == nullptr;
  if ((!cluster_ && no_disk) || !volume.problem.empty())
    return Status(Code::kFailedPrecondition, "volume '" + name + "' is damaged: " + volume.problem);
  if (cluster_) {
    CVOL_TRY(resize_clustered(volume, size_bytes));
  } else {
    // The replica first: one that is larger than its record does no harm after a crash.
    CVOL_TRY(volume.disk->run<Status>([&](store::DiskEngine& engine) {
      return engine.resize_replica(volume.replica, size_bytes);
    }));
    CVOL_TRY(update(volume, [&](v1::VolumeRecord& next) { next.set_size_bytes(size_bytes); }));
    {
      std::lock_guard opening(volume.opening);
      if (auto shown = volume.open_export.lock()) {
        auto& device = static_cast<LocalPrimary&>(*shown->device);
        volume.disk->shard->invoke([&] { device.grow(size_bytes); });
      }
    }
  }
  CVOL_TRY(follow_size(volume));
  if (size_bytes > old)
    events_.add("volume_resized", name,
                "grew volume from " + format_size(old) + " to " + format_size(size_bytes));
  return with_warnings(view_after(volume), std::move(warnings));
}

Status VolumeManager::remove(const std::string& name, bool force) {
  auto hosted = require(name);
  if (!hosted) return hosted.status();
  Hosted& volume = **hosted;
  std::lock_guard operation(volume.operation);
  if (find(name) != *hosted) return not_found(name);
  CVOL_TRY(refuse_without_record(volume));
  CVOL_TRY(release_for_removal(volume, force));
  if (cluster_) {
    CVOL_TRY(remove_clustered(volume).with_context("remove volume '" + name + "'"));
    forget(name);
    ::rmdir(mount_path(name).c_str());
    events_.add("volume_removed", name, "removed volume");
    return Status::ok();
  }
  // From here on nobody opens it. Record "removing", replica, record: finished at start if a crash
  // comes in between.
  Status gone = update(volume, [](v1::VolumeRecord& next) { next.set_state("removing"); });
  if (gone.is_ok()) gone = remove_replica(volume);
  if (gone.is_ok()) gone = catalog_.erase_volume(volume.entry);
  if (!gone.is_ok()) {
    log::warning("volume", "a removal is not finished", {{"volume", name}});
    return gone.with_context("remove volume '" + name + "' (try again, or restart volumed)");
  }
  forget(name);
  ::rmdir(mount_path(name).c_str());
  events_.add("volume_removed", name, "removed volume");
  return Status::ok();
}

Status VolumeManager::release_for_removal(Hosted& hosted, bool force) {
  const v1::VolumeRecord record = record_of(hosted);
  const std::string& name = hosted.name;
  if (cluster_ && attached_elsewhere(record) && !force)
    return Status(Code::kFailedPrecondition, "volume '" + name + "' is attached on node " +
                                                 node_name(record.session().node_id()) +
                                                 "; detach it there, or remove it with --force");
  if (!force && record.session().reserved())
    return Status(Code::kFailedPrecondition, "volume '" + name + "' is reserved (published) for " +
                                                 "node " + node_name(record.session().node_id()) +
                                                 "; let its orchestrator release it first");
  CVOL_TRY(check_removable(hosted, force));
  if (record.has_stage() && record.session().node_id() == node_.id) {
    for (const auto& [target, how] : record.stage().targets())
      CVOL_TRY(file_systems_->hide(name, target, view_of(hosted, devices()).device));
    CVOL_TRY(undo_stage(hosted));
  }
  const std::string problem = view_of(hosted, {}).problem;
  const bool lost = hosted.disk == nullptr || (works(hosted.disk) && !problem.empty());
  if (!cluster_ && !force && lost)
    return Status(Code::kFailedPrecondition,
                  "volume '" + name + "' is damaged: " + problem +
                      ". With --force its record is removed, and what is left of it on the disk "
                      "stays there");
  const v1::MountRecord mount = record_of(hosted).mount();
  if (!force && mount.caller_ids_size() > 0)
    return Status(Code::kFailedPrecondition,
                  "volume '" + name + "' is mounted for " + mount.caller_ids(0) +
                      (mount.caller_ids_size() > 1 ? " and others" : "") +
                      "; unmount it first ('cvol volume unmount'), or remove it with --force");
  // Those of another node go with the record.
  if (is_mount_of(record, node_.id)) {
    for (const std::string& caller : mount.caller_ids()) CVOL_TRY(remove_caller(hosted, caller));
  }
  const bool was_mounted = hosted.mounted;
  CVOL_TRY(unmount_file_system(hosted));
  const VolumeView view = view_of(hosted, devices());
  if (!view.device.empty()) {
    if (!force && !was_mounted)
      return Status(Code::kFailedPrecondition, "volume '" + name + "' is attached as " +
                                                   view.device +
                                                   "; detach it first ('cvol volume detach " +
                                                   name + "'), or remove it with --force");
    CVOL_TRY(detach_device(hosted));
  }
  {
    std::lock_guard opening(hosted.opening);
    if (!force && !hosted.open_export.expired() && view.device.empty())
      return Status(Code::kFailedPrecondition,
                    "volume '" + name +
                        "' is in use by an NBD client; disconnect it, or remove "
                        "the volume with --force");
    hosted.removing = true;
  }
  if (close_exports(hosted)) return Status::ok();
  std::lock_guard opening(hosted.opening);
  hosted.removing = false;
  if (cluster_) {  // its gateway is closed; whoever comes now gets another one
    hosted.open_export.reset();
    std::lock_guard lock(mutex_);
    hosted.gateway.reset();
  }
  return Status(Code::kBusy, "requests to volume '" + name + "' are still under way; try again");
}

// On a disk that does not work it is noted, and removed when the disk does.
Status VolumeManager::remove_replica(Hosted& hosted) {
  if (hosted.disk == nullptr) return Status::ok();
  if (!works(hosted.disk)) return note_removed(record_of(hosted), hosted.disk->id);
  Status gone = hosted.disk->run<Status>(
      [&](store::DiskEngine& engine) { return engine.remove_replica(hosted.replica); });
  if (gone.is_ok() || gone.code() == Code::kNotFound) return Status::ok();
  return works(hosted.disk) ? gone : note_removed(record_of(hosted), hosted.disk->id);
}

std::vector<DiskView> VolumeManager::disks() {
  std::vector<DiskView> views;
  for (Disk* disk : disk_set_.all()) views.push_back(look_at(*disk));
  return views;
}

}  // namespace cvol::volume
