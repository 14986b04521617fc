// CSI's Node service: volumes as devices and file systems of this node. All of it happens in
// volumed; this says what.
//
// Threading: gRPC's threads. One operation per volume at a time (operations.h).
#pragma once

#include <csi/csi.grpc.pb.h>

#include "csi/api_calls.h"
#include "csi/operations.h"

namespace cvol::csi {

class Node final : public wire::Node::Service {
 public:
  Node(ApiCalls& api, Operations& operations) : api_(api), operations_(operations) {}

  using Context = grpc::ServerContext;
  grpc::Status NodeStageVolume(Context* context, const wire::NodeStageVolumeRequest* request,
                               wire::NodeStageVolumeResponse* response) override;
  grpc::Status NodeUnstageVolume(Context* context, const wire::NodeUnstageVolumeRequest* request,
                                 wire::NodeUnstageVolumeResponse* response) override;
  grpc::Status NodePublishVolume(Context* context, const wire::NodePublishVolumeRequest* request,
                                 wire::NodePublishVolumeResponse* response) override;
  grpc::Status NodeUnpublishVolume(Context* context,
                                   const wire::NodeUnpublishVolumeRequest* request,
                                   wire::NodeUnpublishVolumeResponse* response) override;
  grpc::Status NodeGetVolumeStats(Context* context, const wire::NodeGetVolumeStatsRequest* request,
                                  wire::NodeGetVolumeStatsResponse* response) override;
  grpc::Status NodeExpandVolume(Context* context, const wire::NodeExpandVolumeRequest* request,
                                wire::NodeExpandVolumeResponse* response) override;
  grpc::Status NodeGetCapabilities(Context* context,
                                   const wire::NodeGetCapabilitiesRequest* request,
                                   wire::NodeGetCapabilitiesResponse* response) override;
  grpc::Status NodeGetInfo(Context* context, const wire::NodeGetInfoRequest* request,
                           wire::NodeGetInfoResponse* response) override;

 private:
  template <typename Request, typename Response>
  grpc::Status change(Context* context, const char* call, const Request& request,
                      ApiCalls::Method<Request, Response> method);
  grpc::Status grow(const wire::NodeExpandVolumeRequest& request,
                    wire::NodeExpandVolumeResponse& into);
  // NOT_FOUND if the volume is not at the path on this node.
  grpc::Status find_at(const std::string& id, const std::string& path, v1::Volume& into);

  ApiCalls& api_;
  Operations& operations_;
};

}  // namespace cvol::csi
