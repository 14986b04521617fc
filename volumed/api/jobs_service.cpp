#include "volumed/api/jobs_service.h"

#include <fmt/format.h>

#include "volumed/api/daemon_mark.h"
#include "volumed/api/grpc_status.h"
#include "volumed/api/job_gate.h"

namespace cvol::api {
namespace {

using grpc::ServerContext;
using Turns = JobGate::Turns;

constexpr auto kStorePatience = std::chrono::seconds(10);
constexpr auto kStoreSurelyAway = std::chrono::seconds(5);

class JobsService final : public v1::Cvol::Service {
 public:
  JobsService(v1::Cvol::Service& inner, volume::VolumeManager& manager)
      : inner_(inner), manager_(manager) {}

  // --- what looks at memory only ---

  grpc::Status GetStatus(ServerContext* context, const v1::GetStatusRequest* request,
                         v1::GetStatusResponse* response) override {
    return marked(context, inner_.GetStatus(context, request, response));
  }
  grpc::Status ListNodes(ServerContext* context, const v1::ListNodesRequest* request,
                         v1::ListNodesResponse* response) override {
    return marked(context, inner_.ListNodes(context, request, response));
  }
  grpc::Status ListDisks(ServerContext* context, const v1::ListDisksRequest* request,
                         v1::ListDisksResponse* response) override {
    return marked(context, inner_.ListDisks(context, request, response));
  }
  grpc::Status ListVolumes(ServerContext* context, const v1::ListVolumesRequest* request,
                           v1::ListVolumesResponse* response) override {
    return marked(context, inner_.ListVolumes(context, request, response));
  }
  grpc::Status GetVolume(ServerContext* context, const v1::GetVolumeRequest* request,
                         v1::GetVolumeResponse* response) override {
    return marked(context, inner_.GetVolume(context, request, response));
  }
  grpc::Status ExplainVolume(ServerContext* context, const v1::ExplainVolumeRequest* request,
                             v1::ExplainVolumeResponse* response) override {
    return marked(context, inner_.ExplainVolume(context, request, response));
  }

  // --- operations on a volume, one after the other ---

  grpc::Status CreateVolume(ServerContext* context, const v1::CreateVolumeRequest* request,
                            v1::CreateVolumeResponse* response) override {
    return job(context, request->name(), Turns::kByKey, *request, response,
               &v1::Cvol::Service::CreateVolume);
  }
  grpc::Status ResizeVolume(ServerContext* context, const v1::ResizeVolumeRequest* request,
                            v1::ResizeVolumeResponse* response) override {
    return job(context, request->name(), Turns::kByKey, *request, response,
               &v1::Cvol::Service::ResizeVolume);
  }
  grpc::Status RemoveVolume(ServerContext* context, const v1::RemoveVolumeRequest* request,
                            v1::RemoveVolumeResponse* response) override {
    return job(context, request->name(), Turns::kByKey, *request, response,
               &v1::Cvol::Service::RemoveVolume);
  }
  grpc::Status AttachVolume(ServerContext* context, const v1::AttachVolumeRequest* request,
                            v1::AttachVolumeResponse* response) override {
    return job(context, request->name(), Turns::kByKey, *request, response,
               &v1::Cvol::Service::AttachVolume);
  }
  grpc::Status DetachVolume(ServerContext* context, const v1::DetachVolumeRequest* request,
                            v1::DetachVolumeResponse* response) override {
    return job(context, request->name(), Turns::kByKey, *request, response,
               &v1::Cvol::Service::DetachVolume);
  }
  grpc::Status MountVolume(ServerContext* context, const v1::MountVolumeRequest* request,
                           v1::MountVolumeResponse* response) override {
    return job(context, request->name(), Turns::kByKey, *request, response,
               &v1::Cvol::Service::MountVolume);
  }
  grpc::Status UnmountVolume(ServerContext* context, const v1::UnmountVolumeRequest* request,
                             v1::UnmountVolumeResponse* response) override {
    return job(context, request->name(), Turns::kByKey, *request, response,
               &v1::Cvol::Service::UnmountVolume);
  }
  grpc::Status ForceAttachVolume(ServerContext* context, const v1::AttachVolumeRequest* request,
                                 v1::AttachVolumeResponse* response) override {
    return job(context, request->name(), Turns::kByKey, *request, response,
               &v1::Cvol::Service::ForceAttachVolume);
  }

  // --- what has an order of its own, or needs none ---

  grpc::Status AddDisk(ServerContext* context, const v1::AddDiskRequest* request,
                       v1::AddDiskResponse* response) override {
    return job(context, request->path(), Turns::kNone, *request, response,
               &v1::Cvol::Service::AddDisk);
  }
  grpc::Status RemoveDisk(ServerContext* context, const v1::RemoveDiskRequest* request,
                          v1::RemoveDiskResponse* response) override {
    return job(context, request->disk(), Turns::kNone, *request, response,
               &v1::Cvol::Service::RemoveDisk);
  }
  grpc::Status MoveDisk(ServerContext* context, const v1::MoveDiskRequest* request,
                        v1::MoveDiskResponse* response) override {
    return job(context, request->disk(), Turns::kNone, *request, response,
               &v1::Cvol::Service::MoveDisk);
  }
  grpc::Status TrimVolume(ServerContext* context, const v1::TrimVolumeRequest* request,
                          v1::TrimVolumeResponse* response) override {
    return job(context, request->name(), Turns::kNone, *request, response,
               &v1::Cvol::Service::TrimVolume);
  }
  grpc::Status ScrubDisk(ServerContext* context, const v1::ScrubDiskRequest* request,
                         v1::ScrubDiskResponse* response) override {
    return job(context, request->disk(), Turns::kNone, *request, response,
               &v1::Cvol::Service::ScrubDisk);
  }
  grpc::Status StopScrub(ServerContext* context, const v1::StopScrubRequest* request,
                         v1::StopScrubResponse* response) override {
    return job(context, request->disk(), Turns::kNone, *request, response,
               &v1::Cvol::Service::StopScrub);
  }
  grpc::Status VerifyDisk(ServerContext* context, const v1::VerifyDiskRequest* request,
                          v1::VerifyDiskResponse* response) override {
    return job(context, request->disk(), Turns::kNone, *request, response,
               &v1::Cvol::Service::VerifyDisk);
  }
  grpc::Status ModifyVolume(ServerContext* context, const v1::ModifyVolumeRequest* request,
                            v1::ModifyVolumeResponse* response) override {
    return job(context, request->name(), Turns::kNone, *request, response,
               &v1::Cvol::Service::ModifyVolume);
  }
  grpc::Status MoveVolume(ServerContext* context, const v1::MoveVolumeRequest* request,
                          v1::MoveVolumeResponse* response) override {
    return job(context, request->name(), Turns::kNone, *request, response,
               &v1::Cvol::Service::MoveVolume);
  }
  grpc::Status RebuildRecord(ServerContext* context, const v1::RebuildRecordRequest* request,
                             v1::RebuildRecordResponse* response) override {
    return job(context, request->name(), Turns::kNone, *request, response,
               &v1::Cvol::Service::RebuildRecord);
  }
  grpc::Status MigrateCluster(ServerContext* context, const v1::MigrateClusterRequest* request,
                              v1::MigrateClusterResponse* response) override {
    return job(context, request->to(), Turns::kNone, *request, response,
               &v1::Cvol::Service::MigrateCluster);
  }
  grpc::Status ChangeNode(ServerContext* context, const v1::ChangeNodeRequest* request,
                          v1::ChangeNodeResponse* response) override {
    return job(context, request->node(), Turns::kNone, *request, response,
               &v1::Cvol::Service::ChangeNode);
  }
  grpc::Status ReserveVolume(ServerContext* context, const v1::ReserveVolumeRequest* request,
                             v1::ReserveVolumeResponse* response) override {
    return job(context, request->name(), Turns::kNone, *request, response,
               &v1::Cvol::Service::ReserveVolume);
  }
  grpc::Status ReleaseVolume(ServerContext* context, const v1::ReleaseVolumeRequest* request,
                             v1::ReleaseVolumeResponse* response) override {
    return job(context, request->name(), Turns::kNone, *request, response,
               &v1::Cvol::Service::ReleaseVolume);
  }
  grpc::Status StageVolume(ServerContext* context, const v1::StageVolumeRequest* request,
                           v1::StageVolumeResponse* response) override {
    return job(context, request->name(), Turns::kNone, *request, response,
               &v1::Cvol::Service::StageVolume);
  }
  grpc::Status UnstageVolume(ServerContext* context, const v1::UnstageVolumeRequest* request,
                             v1::UnstageVolumeResponse* response) override {
    return job(context, request->name(), Turns::kNone, *request, response,
               &v1::Cvol::Service::UnstageVolume);
  }
  grpc::Status ShowVolume(ServerContext* context, const v1::ShowVolumeRequest* request,
                          v1::ShowVolumeResponse* response) override {
    return job(context, request->name(), Turns::kNone, *request, response,
               &v1::Cvol::Service::ShowVolume);
  }
  grpc::Status HideVolume(ServerContext* context, const v1::HideVolumeRequest* request,
                          v1::HideVolumeResponse* response) override {
    return job(context, request->name(), Turns::kNone, *request, response,
               &v1::Cvol::Service::HideVolume);
  }
  grpc::Status GetVolumeUsage(ServerContext* context, const v1::GetVolumeUsageRequest* request,
                              v1::GetVolumeUsageResponse* response) override {
    return job(context, request->name(), Turns::kNone, *request, response,
               &v1::Cvol::Service::GetVolumeUsage);
  }

  // --- streams: each looks for its client itself ---

  grpc::Status VerifyVolume(ServerContext* context, const v1::VerifyVolumeRequest* request,
                            grpc::ServerWriter<v1::VerifyVolumeProgress>* writer) override {
    return marked(context, inner_.VerifyVolume(context, request, writer));
  }
  grpc::Status WatchEvents(ServerContext* context, const v1::WatchEventsRequest* request,
                           grpc::ServerWriter<v1::Event>* writer) override {
    return marked(context, inner_.WatchEvents(context, request, writer));
  }

 private:
  template <typename Request, typename Response>
  using Handler = grpc::Status (v1::Cvol::Service::*)(ServerContext*, const Request*, Response*);

  // What a job works on outlives its call.
  template <typename Request, typename Response>
  struct Call {
    explicit Call(const Request& asked) : request(asked) {}
    const Request request;
    Response response;
    grpc::Status status;
  };

  static grpc::Status marked(ServerContext* context, grpc::Status status) {
    if (!status.ok()) mark_answer(*context);
    return status;
  }

  template <typename Request, typename Response>
  grpc::Status job(ServerContext* context, const std::string& key, Turns turns,
                   const Request& request, Response* response, Handler<Request, Response> handler) {
    auto call = std::make_shared<Call<Request, Response>>(request);
    auto work = [this, call, handler] {
      call->status = (inner_.*handler)(nullptr, &call->request, &call->response);
    };
    const auto began = std::chrono::steady_clock::now();
    const Status waited = gate_.run(key, turns, std::move(work), [&] {
      return why_leave(*context, std::chrono::steady_clock::now() - began);
    });
    if (!waited) return marked(context, to_grpc(waited));
    *response = std::move(call->response);
    return marked(context, call->status);
  }

  Status why_leave(const ServerContext& context, std::chrono::steady_clock::duration waited) {
    if (context.IsCancelled()) return Status(Code::kCancelled, "the client has gone");
    if (waited < kStorePatience) return Status::ok();
    const auto away = manager_.store_health().away();
    const auto now = std::chrono::system_clock::now();
    if (!away || now - away->since < kStoreSurelyAway) return Status::ok();
    return Status(
        Code::kUnavailable,
        fmt::format("the metadata store {} has not answered {}; the operation waits for "
                    "it, and may still be done when it is back. Bring it back ('cvol "
                    "status' says more), and ask again",
                    manager_.options().metadata, volume::for_how_long(now - away->since)));
  }

  v1::Cvol::Service& inner_;
  volume::VolumeManager& manager_;
  JobGate gate_{JobGate::Limits{}};  // the last one: it waits for jobs, which use the others
};

}  // namespace

std::unique_ptr<v1::Cvol::Service> make_jobs_service(v1::Cvol::Service& inner,
                                                     volume::VolumeManager& manager) {
  return std::make_unique<JobsService>(inner, manager);
}

}  // namespace cvol::api
