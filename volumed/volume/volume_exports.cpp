// Devices and exports: who opens a volume, and who holds its attachment.
#include <chrono>
#include <thread>

#include "nbd/protocol/device_session.h"
#include "volumed/base/log.h"
#include "volumed/volume/hosted.h"
#include "volumed/volume/pool_space.h"

namespace cvol::volume {
namespace {

using namespace std::chrono_literals;
constexpr auto kCloseTime = 3s;  // for requests under way when a volume is removed by force

Task<void> close_gateway(std::shared_ptr<replication::Gateway> gateway) {
  co_await gateway->close();
}

std::string new_session() {
  Random random = Random::from_system();
  return Uuid::make(random).to_string();
}

}  // namespace

void VolumeManager::open(std::string name,
                         std::function<void(Result<std::shared_ptr<nbd::Export>>)> done) {
  open_for(std::move(name), "", std::move(done));
}

void VolumeManager::open_for(std::string name, std::string session,
                             std::function<void(Result<std::shared_ptr<nbd::Export>>)> done) {
  auto shared = std::make_shared<decltype(done)>(std::move(done));
  const bool device = nbd::is_device_session(session);
  const bool taken = opener_->post(name, [this, name, device, shared] {
    const Status refused = refuse_failed(name);
    if (!refused) return (*shared)(refused);
    (*shared)(device ? open_now(name) : open_for_client(name));
  });
  if (!taken) (*shared)(Status(Code::kUnavailable, "volumed is stopping"));
}

void VolumeManager::list(std::function<void(std::vector<std::string>)> done) {
  std::vector<std::string> names;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [name, hosted] : volumes_) {
      if (hosted->entry.record.state() == "ready") names.push_back(name);
    }
  }
  done(std::move(names));
}

// Clients are told of a failed disk at once. Devices that are attached are served, with errors:
// they go on when the disk does.
Status VolumeManager::refuse_failed(const std::string& name) {
  HostedPtr hosted = find(name);
  if (!hosted || hosted->disk == nullptr) return Status::ok();
  const std::string failure = failure_of(hosted->disk);
  if (failure.empty()) return Status::ok();
  for (const attach::Device& device : devices()) {
    if (device.volume == name) return Status::ok();
  }
  return Status(Code::kIo, "volume '" + name + "': " + failure);
}

Result<std::shared_ptr<nbd::Export>> VolumeManager::open_now(const std::string& name) {
  auto hosted = require(name);
  if (!hosted) return hosted.status();
  Hosted& volume = **hosted;
  if (record_of(volume).state() != "ready")
    return Status(Code::kNotFound, "there is no volume '" + name + "'");
  {
    std::lock_guard lock(mutex_);
    if (!volume.problem.empty())
      return Status(Code::kDamaged, "volume '" + name + "' is damaged: " + volume.problem);
  }
  std::lock_guard opening(volume.opening);
  if (volume.removing) return Status(Code::kNotFound, "volume '" + name + "' is being removed");
  if (auto shown = volume.open_export.lock()) return shown;
  if (is_device_over(volume))
    return Status(Code::kFailedPrecondition,
                  "the attachment of volume '" + name + "' to this node has ended");
  CVOL_TRY(ensure_session(volume));
  return cluster_ ? make_gateway_export(volume) : make_export(volume);
}

// The caller holds hosted.opening.
Result<std::shared_ptr<nbd::Export>> VolumeManager::make_export(Hosted& hosted) {
  const v1::VolumeRecord record = record_of(hosted);
  Disk& disk = *hosted.disk;
  const auto info =
      disk.invoke([&](store::DiskEngine& engine) { return engine.replica(hosted.replica); });
  if (!info) return info.status();
  std::shared_ptr<VolumeMetrics> metrics;
  {
    std::lock_guard lock(mutex_);
    if (!hosted.metrics) hosted.metrics = std::make_shared<VolumeMetrics>();
    metrics = hosted.metrics;
  }
  LocalPrimary::Parts parts;
  parts.reactor = &disk.shard->reactor();
  parts.engine = disk.engine.get();
  parts.bounce = disk.bounce;
  parts.metrics = std::move(metrics);
  parts.replica = hosted.replica;
  parts.epoch = record.epoch();
  parts.last_seq = info->last_seq;
  parts.size = record.size_bytes();
  auto made = std::make_unique<nbd::Export>();
  made->name = hosted.name;
  made->device = std::make_shared<LocalPrimary>(std::move(parts));
  made->reactor = &disk.shard->reactor();
  return show_export(hosted, std::move(made));
}

// The last connection to go gives the attachment back, if no device holds it. The caller holds
// hosted.opening.
std::shared_ptr<nbd::Export> VolumeManager::show_export(Hosted& hosted,
                                                        std::unique_ptr<nbd::Export> made) {
  auto closed = [this, opener = std::weak_ptr<KeyedWorkers>(opener_),
                 name = hosted.name](nbd::Export* gone) {
    delete gone;
    if (auto workers = opener.lock()) {
      workers->post(name, [this, name] {
        if (HostedPtr volume = find(name)) drop_session_if_unused(*volume);
      });
    }
  };
  hosted.on_full->store(on_full_of(record_of(hosted)));
  made->on_full = hosted.on_full;
  {
    std::lock_guard lock(mutex_);
    if (!hosted.metrics) hosted.metrics = std::make_shared<VolumeMetrics>();
    made->for_space = {hosted.metrics, &hosted.metrics->for_space};
  }
  std::shared_ptr<nbd::Export> shown(made.release(), std::move(closed));
  hosted.open_export = shown;
  return shown;
}

Status VolumeManager::ensure_session(Hosted& hosted) {
  if (cluster_) return take_session(hosted, /*force=*/false);
  if (!record_of(hosted).session().id().empty()) return Status::ok();
  return update(hosted, [&](v1::VolumeRecord& next) {
    v1::SessionRecord& session = *next.mutable_session();
    session.set_id(new_session());
    session.set_node_id(node_.id);
    session.set_generation(session.generation() + 1);
    next.set_epoch(next.epoch() + 1);
  });
}

void VolumeManager::drop_session_if_unused(Hosted& hosted) {
  if (stopped_) return;  // the next process finds out what is left
  for (const attach::Device& device : devices()) {
    if (device.volume == hosted.name) return;
  }
  std::lock_guard opening(hosted.opening);
  const v1::VolumeRecord record = record_of(hosted);
  if (record.session().id().empty() || !hosted.open_export.expired()) return;
  if (cluster_ && attached_elsewhere(record)) return;
  if (record.session().reserved()) return;
  if (record.mount().caller_ids_size() > 0) return;
  const Status dropped = update(hosted, [](v1::VolumeRecord& next) {
    next.mutable_session()->clear_id();
    next.mutable_session()->clear_node_id();
    next.set_epoch(next.epoch() + 1);
  });
  if (dropped.is_ok() && cluster_) {
    // R12: complete when nothing of the session can land any more.
    if (Status done = confirm_epoch(hosted, 5s); !done.is_ok())
      log::warning("volume", "a detach is not confirmed by the volume's primary yet",
                   {{"volume", hosted.name}, {"error", done.message()}});
  }
  if (!dropped.is_ok())
    log::warning("volume", "cannot note that a volume is no longer attached",
                 {{"volume", hosted.name}, {"error", dropped.message()}});
}

// Requests that wait for a primary, perhaps for ever, end with errors.
void VolumeManager::end_requests(Hosted& hosted) {
  std::shared_ptr<replication::Gateway> gateway;
  io::Shard* shard = nullptr;
  {
    std::lock_guard lock(mutex_);
    gateway = hosted.gateway.lock();
    shard = hosted.gateway_shard;
  }
  if (gateway) shard->spawn([gateway] { return close_gateway(gateway); });
}

// Ends connections and waits a while until nothing holds the export: a disk that does not answer
// may keep it for ever. The caller holds hosted.operation and has set hosted.removing.
bool VolumeManager::close_exports(Hosted& hosted) {
  const auto until = std::chrono::steady_clock::now() + kCloseTime;
  if (!hosted.open_export.expired() && server_) {
    end_requests(hosted);
    disk_set_.first_shard().spawn(
        [server = server_.get(), name = hosted.name] { return server->disconnect(name); });
  }
  while (!hosted.open_export.expired()) {
    if (std::chrono::steady_clock::now() > until) return false;
    std::this_thread::sleep_for(5ms);
  }
  return true;
}

std::vector<attach::Device> VolumeManager::devices() {
  return attacher_ ? attacher_->list() : std::vector<attach::Device>();
}

// The caller holds hosted.operation.
Result<attach::Device> VolumeManager::attach_device(Hosted& hosted, bool force, bool for_user) {
  if (!attacher_)
    return Status(Code::kUnsupported,
                  "volumes cannot be attached or mounted here: " + options_.no_attach_because);
  {
    std::lock_guard lock(mutex_);
    if (!hosted.problem.empty())
      return Status(Code::kDamaged, "volume '" + hosted.name + "' is damaged: " + hosted.problem);
  }
  if (is_device_over(hosted)) CVOL_TRY(clear_away(hosted));
  const bool was_attached = !view_of(hosted, devices()).device.empty();
  const std::string failure = hosted.disk == nullptr ? "" : failure_of(hosted.disk);
  if (!was_attached && !failure.empty())
    return Status(Code::kFailedPrecondition, "volume '" + hosted.name + "': " + failure);
  {
    std::lock_guard opening(hosted.opening);
    CVOL_TRY(cluster_ ? take_session(hosted, force) : ensure_session(hosted));
  }
  if (const Status noted = for_user ? note_block_use(hosted) : Status::ok(); !noted.is_ok()) {
    if (!was_attached) drop_session_if_unused(hosted);
    return noted;
  }
  if (cluster_ && !was_attached) CVOL_TRY(confirm_epoch(hosted, 15s));
  CVOL_TRY(note_device_session(hosted));
  auto device = attacher_->attach(hosted.name, record_of(hosted).size_bytes());
  if (!device) {
    if (!was_attached) forget_device_session(hosted.name);
    drop_session_if_unused(hosted);
    return device.status().with_context("attach volume '" + hosted.name + "'");
  }
  if (!was_attached)
    events_.add("volume_attached", hosted.name, "attached volume as " + device->path);
  return device;
}

// The caller holds hosted.operation.
Status VolumeManager::detach_device(Hosted& hosted) {
  if (view_of(hosted, devices()).device.empty()) return Status::ok();
  CVOL_TRY(attacher_->detach(hosted.name).with_context("detach volume '" + hosted.name + "'"));
  forget_device_session(hosted.name);
  drop_session_if_unused(hosted);
  events_.add("volume_detached", hosted.name, "detached volume");
  return Status::ok();
}

Result<VolumeView> VolumeManager::attach(const std::string& name) {
  auto hosted = require_ready(name);
  if (!hosted) return hosted.status();
  std::lock_guard operation((*hosted)->operation);
  if (find(name) != *hosted)
    return Status(Code::kNotFound, "volume '" + name + "' was removed meanwhile");
  const bool was_attached = !view_of(**hosted, devices()).device.empty();
  if (auto device = attach_device(**hosted, /*force=*/false, /*for_user=*/true); !device)
    return device.status();
  // It is the user's now: a mount that comes and goes leaves it to him.
  if (!was_attached)
    CVOL_TRY(update(**hosted, [](v1::VolumeRecord& next) {
      next.mutable_session()->set_attached_by_user(next.session().id());
    }));
  return view_after(**hosted);
}

Result<VolumeView> VolumeManager::force_attach(const std::string& name) {
  if (!cluster_) return attach(name);
  auto hosted = require_ready(name);
  if (!hosted) return hosted.status();
  std::lock_guard operation((*hosted)->operation);
  if (find(name) != *hosted)
    return Status(Code::kNotFound, "volume '" + name + "' was removed meanwhile");
  if (!attacher_) {
    // Without devices here (its NBD socket is used): only the attachment moves.
    std::lock_guard opening((*hosted)->opening);
    CVOL_TRY(take_session(**hosted, /*force=*/true));
  } else if (auto device = attach_device(**hosted, /*force=*/true, /*for_user=*/true); !device) {
    return device.status();
  }
  return view_after(**hosted);
}

Result<VolumeView> VolumeManager::detach(const std::string& name) {
  auto hosted = require_ready(name);
  if (!hosted) return hosted.status();
  Hosted& volume = **hosted;
  std::lock_guard operation(volume.operation);
  if (find(name) != *hosted)
    return Status(Code::kNotFound, "volume '" + name + "' was removed meanwhile");
  if (volume.mounted)
    return Status(
        Code::kFailedPrecondition,
        "volume '" + name + "' is mounted; unmount it first ('cvol volume unmount " + name + "')");
  if (const v1::VolumeRecord record = record_of(volume); cluster_ && attached_elsewhere(record))
    return Status(Code::kFailedPrecondition, "volume '" + name + "' is attached on node " +
                                                 node_name(record.session().node_id()) +
                                                 "; detach it there");
  if (record_of(volume).has_stage()) {
    CVOL_TRY(end_cut_stage(volume));
    return view_after(volume);
  }
  CVOL_TRY(detach_device(volume));
  if (record_of(volume).mount().detaching()) {
    CVOL_TRY(update(volume, [](v1::VolumeRecord& next) { next.clear_mount(); }));
    drop_session_if_unused(volume);
    set_waits(volume, "");
  }
  return view_after(volume);
}

}  // namespace cvol::volume
