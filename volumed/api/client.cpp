#include "volumed/api/client.h"

#include <cvol/v1/cvol.grpc.pb.h>

#include "volumed/api/channel.h"
#include "volumed/api/daemon_mark.h"
#include "volumed/api/grpc_status.h"

namespace cvol::api {
namespace {

class GrpcClient final : public ApiClient {
 public:
  GrpcClient(std::string address, std::shared_ptr<grpc::Channel> channel)
      : address_(std::move(address)), stub_(v1::Cvol::NewStub(std::move(channel))) {}

  Result<v1::GetStatusResponse> get_status() override {
    return call<v1::GetStatusResponse>(&v1::Cvol::Stub::GetStatus, v1::GetStatusRequest());
  }
  Result<v1::ListNodesResponse> list_nodes() override {
    return call<v1::ListNodesResponse>(&v1::Cvol::Stub::ListNodes, v1::ListNodesRequest());
  }
  Result<v1::ListDisksResponse> list_disks() override {
    return call<v1::ListDisksResponse>(&v1::Cvol::Stub::ListDisks, v1::ListDisksRequest());
  }
  Result<v1::AddDiskResponse> add_disk(const v1::AddDiskRequest& request) override {
    return call<v1::AddDiskResponse>(&v1::Cvol::Stub::AddDisk, request);
  }
  Result<v1::MoveDiskResponse> move_disk(const v1::MoveDiskRequest& request) override {
    return call<v1::MoveDiskResponse>(&v1::Cvol::Stub::MoveDisk, request);
  }
  Result<v1::ScrubDiskResponse> scrub_disk(const v1::ScrubDiskRequest& request) override {
    return call<v1::ScrubDiskResponse>(&v1::Cvol::Stub::ScrubDisk, request);
  }
  Result<v1::StopScrubResponse> stop_scrub(const v1::StopScrubRequest& request) override {
    return call<v1::StopScrubResponse>(&v1::Cvol::Stub::StopScrub, request);
  }
  Result<v1::VerifyDiskResponse> verify_disk(const v1::VerifyDiskRequest& request) override {
    return call<v1::VerifyDiskResponse>(&v1::Cvol::Stub::VerifyDisk, request);
  }
  Result<v1::RemoveDiskResponse> remove_disk(const v1::RemoveDiskRequest& request) override {
    return call<v1::RemoveDiskResponse>(&v1::Cvol::Stub::RemoveDisk, request);
  }
  Result<v1::CreateVolumeResponse> create_volume(const v1::CreateVolumeRequest& request) override {
    return call<v1::CreateVolumeResponse>(&v1::Cvol::Stub::CreateVolume, request);
  }
  Result<v1::ListVolumesResponse> list_volumes() override {
    return call<v1::ListVolumesResponse>(&v1::Cvol::Stub::ListVolumes, v1::ListVolumesRequest());
  }
  Result<v1::GetVolumeResponse> get_volume(const v1::GetVolumeRequest& request) override {
    return call<v1::GetVolumeResponse>(&v1::Cvol::Stub::GetVolume, request);
  }
  Result<v1::ResizeVolumeResponse> resize_volume(const v1::ResizeVolumeRequest& request) override {
    return call<v1::ResizeVolumeResponse>(&v1::Cvol::Stub::ResizeVolume, request);
  }
  Result<v1::RemoveVolumeResponse> remove_volume(const v1::RemoveVolumeRequest& request) override {
    return call<v1::RemoveVolumeResponse>(&v1::Cvol::Stub::RemoveVolume, request);
  }
  Result<v1::AttachVolumeResponse> attach_volume(const v1::AttachVolumeRequest& request) override {
    return call<v1::AttachVolumeResponse>(&v1::Cvol::Stub::AttachVolume, request);
  }
  Result<v1::DetachVolumeResponse> detach_volume(const v1::DetachVolumeRequest& request) override {
    return call<v1::DetachVolumeResponse>(&v1::Cvol::Stub::DetachVolume, request);
  }
  Result<v1::MountVolumeResponse> mount_volume(const v1::MountVolumeRequest& request) override {
    return call<v1::MountVolumeResponse>(&v1::Cvol::Stub::MountVolume, request);
  }
  Result<v1::UnmountVolumeResponse> unmount_volume(
      const v1::UnmountVolumeRequest& request) override {
    return call<v1::UnmountVolumeResponse>(&v1::Cvol::Stub::UnmountVolume, request);
  }

  Result<v1::AttachVolumeResponse> force_attach_volume(
      const v1::AttachVolumeRequest& request) override {
    return call<v1::AttachVolumeResponse>(&v1::Cvol::Stub::ForceAttachVolume, request);
  }
  Result<v1::ModifyVolumeResponse> modify_volume(const v1::ModifyVolumeRequest& request) override {
    return call<v1::ModifyVolumeResponse>(&v1::Cvol::Stub::ModifyVolume, request);
  }
  Result<v1::TrimVolumeResponse> trim_volume(const v1::TrimVolumeRequest& request) override {
    return call<v1::TrimVolumeResponse>(&v1::Cvol::Stub::TrimVolume, request);
  }
  Result<v1::MoveVolumeResponse> move_volume(const v1::MoveVolumeRequest& request) override {
    return call<v1::MoveVolumeResponse>(&v1::Cvol::Stub::MoveVolume, request);
  }
  Result<v1::ExplainVolumeResponse> explain_volume(
      const v1::ExplainVolumeRequest& request) override {
    return call<v1::ExplainVolumeResponse>(&v1::Cvol::Stub::ExplainVolume, request);
  }
  Result<v1::ChangeNodeResponse> change_node(const v1::ChangeNodeRequest& request) override {
    return call<v1::ChangeNodeResponse>(&v1::Cvol::Stub::ChangeNode, request);
  }

  Result<v1::RebuildRecordResponse> rebuild_record(
      const v1::RebuildRecordRequest& request) override {
    return call<v1::RebuildRecordResponse>(&v1::Cvol::Stub::RebuildRecord, request);
  }
  Result<v1::MigrateClusterResponse> migrate_cluster(
      const v1::MigrateClusterRequest& request) override {
    return call<v1::MigrateClusterResponse>(&v1::Cvol::Stub::MigrateCluster, request);
  }
  Status verify_volume(const v1::VerifyVolumeRequest& request,
                       const std::function<void(const v1::VerifyVolumeProgress&)>& each) override {
    grpc::ClientContext context;
    auto stream = stub_->VerifyVolume(&context, request);
    for (v1::VerifyVolumeProgress progress; stream->Read(&progress);) each(progress);
    const grpc::Status ended = stream->Finish();
    return checked(context, ended);
  }

  Status watch_events(const v1::WatchEventsRequest& request,
                      const std::function<void(const v1::Event&)>& each) override {
    grpc::ClientContext context;
    auto stream = stub_->WatchEvents(&context, request);
    for (v1::Event event; stream->Read(&event);) each(event);
    const grpc::Status ended = stream->Finish();
    return checked(context, ended);
  }

 private:
  template <typename Response, typename Request>
  using Method = grpc::Status (v1::Cvol::Stub::*)(grpc::ClientContext*, const Request&, Response*);

  template <typename Response, typename Request>
  Result<Response> call(Method<Response, Request> method, const Request& request) {
    grpc::ClientContext context;
    Response response;
    const grpc::Status ended = (stub_.get()->*method)(&context, request, &response);
    CVOL_TRY(checked(context, ended));
    return response;
  }

  // A daemon that cannot be reached is the error that users meet most. Only where no daemon answers
  // is starting it of any help: what a daemon itself says is passed on as it is (daemon_said).
  Status checked(const grpc::ClientContext& context, const grpc::Status& status) const {
    if (status.error_code() != grpc::StatusCode::UNAVAILABLE || daemon_said(context))
      return from_grpc(status);
    return Status(Code::kUnavailable,
                  "cannot reach volumed at " + address_ + " (" + status.error_message() +
                      "); start it ('systemctl start volumed'), or say where it is with --api or "
                      "CVOL_API");
  }

  std::string address_;
  std::unique_ptr<v1::Cvol::Stub> stub_;
};

}  // namespace

Result<std::unique_ptr<ApiClient>> ApiClient::open(const std::string& address) {
  auto channel = make_channel(address);
  if (!channel) return channel.status();
  return std::unique_ptr<ApiClient>(std::make_unique<GrpcClient>(address, std::move(*channel)));
}

}  // namespace cvol::api
