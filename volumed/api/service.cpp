#include "volumed/api/service.h"

#include <cvol/v1/cvol.grpc.pb.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/resource_quota.h>
#include <grpcpp/server_builder.h>
#include <health/v1/health.grpc.pb.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <map>
#include <set>

#include "volumed/api/convert.h"
#include "volumed/api/grpc_status.h"
#include "volumed/api/jobs_service.h"
#include "volumed/base/units.h"

namespace cvol::api {
namespace {

using volume::VolumeManager;
using volume::VolumeView;

constexpr uint64_t kDefaultVolumeBytes = 10 * kGiB;
// Of these JobsService takes 192 at most for calls that may wait, followers of events 32: the rest
// is for those who look.
constexpr int kMostThreads = 256;
constexpr int kMostFollowers = 32;
constexpr int kIdleConnection = 300'000;  // milliseconds without a call
constexpr int kHandshakeTime = 10'000;    // milliseconds until HTTP/2 is spoken
constexpr int kMostRequestBytes = 1024 * 1024;

// Who uses the mount: as given, or named after the target.
std::string caller_of(const std::string& caller_id, const std::string& target) {
  if (!caller_id.empty()) return caller_id;
  return target.empty() ? "cli" : "cli:" + target;
}

// One who follows the events holds a thread for as long as it does.
class Follower {
 public:
  Follower(std::atomic<int>& count, bool follows) : count_(count), follows_(follows) {
    if (follows_) admitted_ = ++count_ <= kMostFollowers;
  }
  ~Follower() {
    if (follows_) --count_;
  }
  Follower(const Follower&) = delete;
  Follower& operator=(const Follower&) = delete;
  bool admitted() const { return admitted_; }

 private:
  std::atomic<int>& count_;
  const bool follows_;
  bool admitted_ = true;
};

class Service final : public v1::Cvol::Service {
 public:
  explicit Service(VolumeManager& manager) : manager_(manager) {}

  grpc::Status GetStatus(grpc::ServerContext*, const v1::GetStatusRequest*,
                         v1::GetStatusResponse* response) override {
    fill_status(manager_, *response);
    return grpc::Status::OK;
  }

  grpc::Status ListNodes(grpc::ServerContext*, const v1::ListNodesRequest*,
                         v1::ListNodesResponse* response) override {
    fill_nodes(manager_, *response);
    return grpc::Status::OK;
  }

  grpc::Status ChangeNode(grpc::ServerContext*, const v1::ChangeNodeRequest* request,
                          v1::ChangeNodeResponse*) override {
    return to_grpc(manager_.change_node(request->node(), request->change()));
  }

  grpc::Status ModifyVolume(grpc::ServerContext*, const v1::ModifyVolumeRequest* request,
                            v1::ModifyVolumeResponse* response) override {
    volume::ModifyRequest modify;
    if (request->replicas() != 0) modify.replicas = request->replicas();
    if (request->min_in_sync() != 0) modify.min_in_sync = request->min_in_sync();
    if (!request->on_full().empty()) modify.on_full = request->on_full();
    return answer(manager_.modify(named(*request), modify), response);
  }

  grpc::Status TrimVolume(grpc::ServerContext*, const v1::TrimVolumeRequest* request,
                          v1::TrimVolumeResponse* response) override {
    auto trimmed = manager_.trim(named(*request));
    if (!trimmed) return to_grpc(trimmed.status());
    response->set_trimmed_bytes(*trimmed);
    return answer(manager_.get(named(*request)), response);
  }

  grpc::Status MoveVolume(grpc::ServerContext*, const v1::MoveVolumeRequest* request,
                          v1::MoveVolumeResponse* response) override {
    return answer(manager_.move_primary(named(*request), request->node()), response);
  }

  grpc::Status ExplainVolume(grpc::ServerContext*, const v1::ExplainVolumeRequest* request,
                             v1::ExplainVolumeResponse* response) override {
    auto sentences = manager_.explain(named(*request));
    if (!sentences) return to_grpc(sentences.status());
    for (const std::string& sentence : *sentences) response->add_sentences(sentence);
    return grpc::Status::OK;
  }

  grpc::Status VerifyVolume(grpc::ServerContext* context, const v1::VerifyVolumeRequest* request,
                            grpc::ServerWriter<v1::VerifyVolumeProgress>* writer) override {
    auto volume = manager_.get(named(*request));
    if (!volume) return to_grpc(volume.status());
    v1::VerifyVolumeProgress message;
    message.set_size_bytes(volume->record.size_bytes());
    auto done = manager_.verify(named(*request), [&](uint64_t bytes, const std::string& text) {
      message.set_done_bytes(bytes);
      message.set_differences(text);
      return writer->Write(message) && !context->IsCancelled();
    });
    if (!done) return to_grpc(done.status());
    message.set_finished(true);
    message.clear_differences();
    message.set_differing_blocks(*done);
    writer->Write(message);
    return grpc::Status::OK;
  }

  grpc::Status RebuildRecord(grpc::ServerContext*, const v1::RebuildRecordRequest* request,
                             v1::RebuildRecordResponse*) override {
    return to_grpc(manager_.rebuild_record(named(*request), request->accept_data_loss()));
  }

  grpc::Status MigrateCluster(grpc::ServerContext*, const v1::MigrateClusterRequest* request,
                              v1::MigrateClusterResponse*) override {
    return to_grpc(manager_.migrate(request->to()));
  }

  grpc::Status ForceAttachVolume(grpc::ServerContext*, const v1::AttachVolumeRequest* request,
                                 v1::AttachVolumeResponse* response) override {
    return answer(manager_.force_attach(named(*request)), response);
  }

  grpc::Status ListDisks(grpc::ServerContext*, const v1::ListDisksRequest*,
                         v1::ListDisksResponse* response) override {
    for (const auto& disk : manager_.disks())
      *response->add_disks() = to_proto(disk, manager_.node().name);
    return grpc::Status::OK;
  }

  grpc::Status AddDisk(grpc::ServerContext*, const v1::AddDiskRequest* request,
                       v1::AddDiskResponse* response) override {
    store::FormatOptions format;
    format.capacity_bytes = request->capacity_bytes();
    format.journal_bytes = request->journal_bytes();
    auto disk = manager_.add_disk(request->path(), format, request->force());
    if (!disk) return to_grpc(disk.status());
    *response->mutable_disk() = to_proto(*disk, manager_.node().name);
    return grpc::Status::OK;
  }

  grpc::Status MoveDisk(grpc::ServerContext*, const v1::MoveDiskRequest* request,
                        v1::MoveDiskResponse* response) override {
    return answer_disk(
        manager_.move_disk(request->disk(), request->path(), request->accept_data_loss()),
        response);
  }

  grpc::Status ScrubDisk(grpc::ServerContext*, const v1::ScrubDiskRequest* request,
                         v1::ScrubDiskResponse* response) override {
    return answer_disk(manager_.scrub_disk(request->disk(), request->rate()), response);
  }

  grpc::Status StopScrub(grpc::ServerContext*, const v1::StopScrubRequest* request,
                         v1::StopScrubResponse* response) override {
    return answer_disk(manager_.stop_scrub(request->disk()), response);
  }

  grpc::Status VerifyDisk(grpc::ServerContext*, const v1::VerifyDiskRequest* request,
                          v1::VerifyDiskResponse* response) override {
    return answer_disk(manager_.verify_disk(request->disk(), request->accept_damage()), response);
  }

  grpc::Status RemoveDisk(grpc::ServerContext*, const v1::RemoveDiskRequest* request,
                          v1::RemoveDiskResponse* response) override {
    return answer_disk(
        manager_.remove_disk(request->disk(), {request->in_place(), request->cancel()}), response);
  }

  grpc::Status CreateVolume(grpc::ServerContext*, const v1::CreateVolumeRequest* request,
                            v1::CreateVolumeResponse* response) override {
    volume::CreateRequest create;
    create.name = request->name();
    // A volume of an earlier cvol keeps its name; asked for again, it is answered.
    if (!manager_.get(create.name)) {
      if (const Status valid = validate_new_volume_name(create.name); !valid) return to_grpc(valid);
    }
    if (request->on_full() != "default") create.on_full = request->on_full();
    create.id = request->id();
    create.size_bytes = request->size_bytes() == 0 ? kDefaultVolumeBytes : request->size_bytes();
    create.replicas = request->replicas() == 0 ? 1 : request->replicas();
    create.min_in_sync = request->min_in_sync() == 0 ? 1 : request->min_in_sync();
    create.zone_spread = request->zone_spread();
    create.preferred_nodes.assign(request->preferred_nodes().begin(),
                                  request->preferred_nodes().end());
    create.fs = request->fs().empty() ? "ext4" : request->fs();
    create.labels.insert(request->labels().begin(), request->labels().end());
    return answer(manager_.create(std::move(create)), response);
  }

  grpc::Status ListVolumes(grpc::ServerContext*, const v1::ListVolumesRequest*,
                           v1::ListVolumesResponse* response) override {
    for (const VolumeView& view : manager_.volumes())
      *response->add_volumes() = to_proto(view, manager_);
    return grpc::Status::OK;
  }

  grpc::Status GetVolume(grpc::ServerContext*, const v1::GetVolumeRequest* request,
                         v1::GetVolumeResponse* response) override {
    return answer(manager_.get(named(*request)), response);
  }

  grpc::Status ResizeVolume(grpc::ServerContext*, const v1::ResizeVolumeRequest* request,
                            v1::ResizeVolumeResponse* response) override {
    return answer(manager_.resize(named(*request), request->size_bytes()), response);
  }

  grpc::Status RemoveVolume(grpc::ServerContext*, const v1::RemoveVolumeRequest* request,
                            v1::RemoveVolumeResponse*) override {
    return to_grpc(manager_.remove(named(*request), request->force()));
  }

  grpc::Status AttachVolume(grpc::ServerContext*, const v1::AttachVolumeRequest* request,
                            v1::AttachVolumeResponse* response) override {
    return answer(manager_.attach(named(*request)), response);
  }

  grpc::Status DetachVolume(grpc::ServerContext*, const v1::DetachVolumeRequest* request,
                            v1::DetachVolumeResponse* response) override {
    return answer(manager_.detach(named(*request)), response);
  }

  grpc::Status MountVolume(grpc::ServerContext*, const v1::MountVolumeRequest* request,
                           v1::MountVolumeResponse* response) override {
    auto view = manager_.mount(named(*request), caller_of(request->caller_id(), request->target()),
                               request->target(), request->use());
    if (view)
      response->set_mountpoint(request->target().empty() ? view->mountpoint : request->target());
    return answer(std::move(view), response);
  }

  grpc::Status UnmountVolume(grpc::ServerContext*, const v1::UnmountVolumeRequest* request,
                             v1::UnmountVolumeResponse* response) override {
    return answer(
        manager_.unmount(named(*request), caller_of(request->caller_id(), request->target()),
                         {request->use(), request->undo(), request->stale()}),
        response);
  }

  grpc::Status ReserveVolume(grpc::ServerContext*, const v1::ReserveVolumeRequest* request,
                             v1::ReserveVolumeResponse* response) override {
    return answer(manager_.reserve(named(*request), request->node(), request->read_only()),
                  response);
  }

  grpc::Status ReleaseVolume(grpc::ServerContext*, const v1::ReleaseVolumeRequest* request,
                             v1::ReleaseVolumeResponse* response) override {
    return answer(manager_.release(named(*request), request->node()), response);
  }

  grpc::Status StageVolume(grpc::ServerContext*, const v1::StageVolumeRequest* request,
                           v1::StageVolumeResponse* response) override {
    return answer(manager_.stage(named(*request), to_request(*request)), response);
  }

  grpc::Status UnstageVolume(grpc::ServerContext*, const v1::UnstageVolumeRequest* request,
                             v1::UnstageVolumeResponse* response) override {
    return answer(manager_.unstage(named(*request), request->path()), response);
  }

  grpc::Status ShowVolume(grpc::ServerContext*, const v1::ShowVolumeRequest* request,
                          v1::ShowVolumeResponse* response) override {
    return answer(manager_.show(named(*request), to_request(*request)), response);
  }

  grpc::Status HideVolume(grpc::ServerContext*, const v1::HideVolumeRequest* request,
                          v1::HideVolumeResponse* response) override {
    return answer(manager_.hide(named(*request), request->target()), response);
  }

  grpc::Status GetVolumeUsage(grpc::ServerContext*, const v1::GetVolumeUsageRequest* request,
                              v1::GetVolumeUsageResponse* response) override {
    auto usage = manager_.usage(named(*request), request->path());
    if (!usage) return to_grpc(usage.status());
    fill_usage(usage->usage, *response);
    response->set_trouble(usage->trouble);
    *response->mutable_volume() = to_proto(usage->volume, manager_);
    return grpc::Status::OK;
  }

  grpc::Status WatchEvents(grpc::ServerContext* context, const v1::WatchEventsRequest* request,
                           grpc::ServerWriter<v1::Event>* writer) override {
    volume::EventLog& log = manager_.events();
    const Follower follower(followers_, request->follow());
    if (!follower.admitted())
      return grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED,
                          "too many follow the events of this volumed already (" +
                              std::to_string(kMostFollowers) +
                              "); end one of them, or ask without --follow");
    const volume::EventFilter filter = to_filter(*request);
    uint64_t seen = request->after();
    std::map<std::string, uint64_t> seen_of_others;
    std::set<std::string> missing;  // named once
    while (!context->IsCancelled()) {
      std::vector<volume::Event> events;
      std::vector<std::string> silent;
      if (request->all_nodes()) events = manager_.events_of_others(filter, seen_of_others, silent);
      for (volume::Event& event : log.after(seen)) {
        seen = event.sequence;
        if (filter.takes(event)) events.push_back(std::move(event));
      }
      std::stable_sort(events.begin(), events.end(),
                       [](const auto& a, const auto& b) { return a.time < b.time; });
      for (const std::string& name : silent) {
        if (missing.insert(name).second)
          events.push_back({0, std::chrono::system_clock::now(), "events_missing", name,
                            "the node does not answer: its events are not here", name});
      }
      for (const volume::Event& event : events) {
        if (!writer->Write(to_proto(event))) return grpc::Status::CANCELLED;
      }
      if (!request->follow() || log.closed()) break;
      // Wakes now and then to see a client go, only while one is there.
      log.wait_after(seen, std::chrono::seconds(1));
    }
    return grpc::Status::OK;
  }

 private:
  // Volumes are asked for by name or by id.
  template <typename Request>
  std::string named(const Request& request) {
    return manager_.resolve(request.name());
  }

  template <typename Response>
  grpc::Status answer(Result<VolumeView> view, Response* response) {
    if (!view) return to_grpc(view.status());
    *response->mutable_volume() = to_proto(*view, manager_);
    return grpc::Status::OK;
  }

  template <typename Response>
  grpc::Status answer_disk(Result<volume::DiskView> view, Response* response) {
    if (!view) return to_grpc(view.status());
    *response->mutable_disk() = to_proto(*view, manager_.node().name);
    return grpc::Status::OK;
  }

  VolumeManager& manager_;
  std::atomic<int> followers_{0};
};

// A server that answers is well. gRPC's own service brings threads along that look for work twice a
// second for ever; this one costs nothing until it is asked. Watch() is not served: a call of it
// would hold a thread for as long as it lasts.
class HealthService final : public grpc::health::v1::Health::Service {
 public:
  grpc::Status Check(grpc::ServerContext*, const grpc::health::v1::HealthCheckRequest* request,
                     grpc::health::v1::HealthCheckResponse* response) override {
    if (!request->service().empty() && request->service() != v1::Cvol::service_full_name())
      return grpc::Status(grpc::StatusCode::NOT_FOUND,
                          "there is no service '" + request->service() + "' here");
    response->set_status(grpc::health::v1::HealthCheckResponse::SERVING);
    return grpc::Status::OK;
  }

  grpc::Status Watch(grpc::ServerContext*, const grpc::health::v1::HealthCheckRequest*,
                     grpc::ServerWriter<grpc::health::v1::HealthCheckResponse>*) override {
    return grpc::Status(grpc::StatusCode::UNIMPLEMENTED, "ask with Check");
  }
};

Result<std::string> grpc_address(const std::string& address) {
  if (address.starts_with("unix:/")) return address;
  if (address.starts_with("tcp:")) return address.substr(4);
  return Status(Code::kInvalidArgument, "'" + address +
                                            "' is no address to listen on; write it "
                                            "like unix:/run/cvol/api.sock or tcp:127.0.0.1:9481");
}

class GrpcServer final : public ApiServer {
 public:
  explicit GrpcServer(VolumeManager& manager)
      : service_(manager), jobs_(make_jobs_service(service_, manager)) {}
  ~GrpcServer() override {
    if (server_) server_->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(1));
    server_.reset();
  }

  Status listen(const std::vector<std::string>& addresses) {
    grpc::EnableDefaultHealthCheckService(false);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    grpc::ServerBuilder builder;
    builder.SetResourceQuota(grpc::ResourceQuota("api").SetMaxThreads(kMostThreads));
    builder.SetMaxReceiveMessageSize(kMostRequestBytes);
    // Connections have no bound of their own: those that do nothing end, and so their descriptors
    // come back. (gRPC stops accepting for good when there are none.)
    builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_IDLE_MS, kIdleConnection);
    builder.AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, kHandshakeTime);
    // Waiting threads have nothing to look for: let them sleep.
    builder.SetSyncServerOption(grpc::ServerBuilder::SyncServerOption::CQ_TIMEOUT_MSEC, 3'600'000);
    builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
    for (const std::string& address : addresses) {
      auto target = grpc_address(address);
      if (!target) return target.status();
      builder.AddListeningPort(*target, grpc::InsecureServerCredentials());
    }
    builder.RegisterService(jobs_.get());
    builder.RegisterService(&health_);
    server_ = builder.BuildAndStart();
    if (!server_)
      return Status(Code::kUnavailable, "cannot serve the API on " + addresses.front() +
                                            (addresses.size() > 1 ? " and others" : "") +
                                            "; is the address in use, or its folder missing?");
    for (const std::string& address : addresses) {
      if (address.starts_with("unix:")) ::chmod(address.c_str() + 5, 0600);
    }
    return Status::ok();
  }

 private:
  Service service_;
  std::unique_ptr<v1::Cvol::Service> jobs_;  // what is served: service_, with bounds
  HealthService health_;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace

Result<std::unique_ptr<ApiServer>> ApiServer::start(VolumeManager& manager,
                                                    const std::vector<std::string>& addresses) {
  auto server = std::make_unique<GrpcServer>(manager);
  CVOL_TRY(server->listen(addresses));
  return std::unique_ptr<ApiServer>(std::move(server));
}

}  // namespace cvol::api
