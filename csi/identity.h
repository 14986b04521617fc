// CSI's Identity service.
//
// Threading: gRPC's threads.
#pragma once

#include <csi/csi.grpc.pb.h>

#include "csi/api_calls.h"

namespace cvol::csi {

constexpr char kDriverName[] = "csi.cvol.io";

class Identity final : public wire::Identity::Service {
 public:
  Identity(ApiCalls& api, bool controller, std::string version)
      : api_(api), controller_(controller), version_(std::move(version)) {}

  grpc::Status GetPluginInfo(grpc::ServerContext*, const wire::GetPluginInfoRequest*,
                             wire::GetPluginInfoResponse* response) override;
  grpc::Status GetPluginCapabilities(grpc::ServerContext*,
                                     const wire::GetPluginCapabilitiesRequest*,
                                     wire::GetPluginCapabilitiesResponse* response) override;
  // Ready: the daemon answers.
  grpc::Status Probe(grpc::ServerContext*, const wire::ProbeRequest*,
                     wire::ProbeResponse* response) override;

 private:
  ApiCalls& api_;
  const bool controller_;
  const std::string version_;
};

}  // namespace cvol::csi
