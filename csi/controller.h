// CSI's Controller service: volumes of the cluster, and the nodes that they are published to.
//
// A volume's id is that of its record; publishing reserves its attachment for the node, which
// fences whoever had it before. Snapshots and clones are answered UNIMPLEMENTED.
//
// Threading: gRPC's threads. One operation per volume at a time (operations.h).
#pragma once

#include <csi/csi.grpc.pb.h>

#include "csi/api_calls.h"
#include "csi/operations.h"

namespace cvol::csi {

class Controller final : public wire::Controller::Service {
 public:
  Controller(ApiCalls& api, Operations& operations) : api_(api), operations_(operations) {}

  using Context = grpc::ServerContext;
  grpc::Status CreateVolume(Context* context, const wire::CreateVolumeRequest* request,
                            wire::CreateVolumeResponse* response) override;
  grpc::Status DeleteVolume(Context* context, const wire::DeleteVolumeRequest* request,
                            wire::DeleteVolumeResponse* response) override;
  grpc::Status ControllerPublishVolume(Context* context,
                                       const wire::ControllerPublishVolumeRequest* request,
                                       wire::ControllerPublishVolumeResponse* response) override;
  grpc::Status ControllerUnpublishVolume(
      Context* context, const wire::ControllerUnpublishVolumeRequest* request,
      wire::ControllerUnpublishVolumeResponse* response) override;
  grpc::Status ValidateVolumeCapabilities(
      Context* context, const wire::ValidateVolumeCapabilitiesRequest* request,
      wire::ValidateVolumeCapabilitiesResponse* response) override;
  grpc::Status ListVolumes(Context* context, const wire::ListVolumesRequest* request,
                           wire::ListVolumesResponse* response) override;
  grpc::Status GetCapacity(Context* context, const wire::GetCapacityRequest* request,
                           wire::GetCapacityResponse* response) override;
  grpc::Status ControllerGetCapabilities(
      Context* context, const wire::ControllerGetCapabilitiesRequest* request,
      wire::ControllerGetCapabilitiesResponse* response) override;
  grpc::Status ControllerExpandVolume(Context* context,
                                      const wire::ControllerExpandVolumeRequest* request,
                                      wire::ControllerExpandVolumeResponse* response) override;
  grpc::Status ControllerGetVolume(Context* context,
                                   const wire::ControllerGetVolumeRequest* request,
                                   wire::ControllerGetVolumeResponse* response) override;
  grpc::Status ControllerModifyVolume(Context* context,
                                      const wire::ControllerModifyVolumeRequest* request,
                                      wire::ControllerModifyVolumeResponse* response) override;

 private:
  struct Wanted;
  static Status understand(const wire::CreateVolumeRequest& request, Wanted& wanted);
  grpc::Status create(const wire::CreateVolumeRequest& request, const Wanted& wanted,
                      wire::Volume& into);
  grpc::Status place(const wire::TopologyRequirement& topology, v1::CreateVolumeRequest& into);
  grpc::Status publish(const wire::ControllerPublishVolumeRequest& request);
  grpc::Status expand(const wire::ControllerExpandVolumeRequest& request, uint64_t size,
                      wire::ControllerExpandVolumeResponse& into);

  ApiCalls& api_;
  Operations& operations_;
};

// The volume as an orchestrator sees it; its context goes to the nodes.
wire::Volume to_wire(const v1::Volume& volume);

// What is wrong with the request itself; kNoSpace: OUT_OF_RANGE.
grpc::Status refusal(const Status& status);

// A call that was refused before it became an operation, with a line in the log. Texts of requests
// in it are names and paths, never secrets.
void log_refusal(const char* call, const std::string& volume, const grpc::Status& status);
template <typename Request>
grpc::Status refuse(const char* call, const Request& request, const Status& status) {
  const grpc::Status answer = refusal(status);
  if constexpr (requires { request.volume_id(); }) {
    log_refusal(call, request.volume_id(), answer);
  } else if constexpr (requires { request.name(); }) {
    log_refusal(call, request.name(), answer);
  } else {
    log_refusal(call, "", answer);
  }
  return answer;
}

}  // namespace cvol::csi
