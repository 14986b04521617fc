#include "csi/identity.h"

#include "volumed/base/log.h"

namespace cvol::csi {
namespace {

constexpr std::chrono::seconds kProbeTime{2};

}  // namespace

grpc::Status Identity::GetPluginInfo(grpc::ServerContext*, const wire::GetPluginInfoRequest*,
                                     wire::GetPluginInfoResponse* response) {
  response->set_name(kDriverName);
  response->set_vendor_version(version_);
  return grpc::Status::OK;
}

grpc::Status Identity::GetPluginCapabilities(grpc::ServerContext*,
                                             const wire::GetPluginCapabilitiesRequest*,
                                             wire::GetPluginCapabilitiesResponse* response) {
  using Kind = wire::PluginCapability::Service;
  if (controller_)
    response->add_capabilities()->mutable_service()->set_type(Kind::CONTROLLER_SERVICE);
  response->add_capabilities()->mutable_service()->set_type(Kind::VOLUME_ACCESSIBILITY_CONSTRAINTS);
  response->add_capabilities()->mutable_volume_expansion()->set_type(
      wire::PluginCapability::VolumeExpansion::ONLINE);
  return grpc::Status::OK;
}

grpc::Status Identity::Probe(grpc::ServerContext*, const wire::ProbeRequest*,
                             wire::ProbeResponse* response) {
  v1::GetStatusResponse status;
  grpc::Status asked =
      api_.call(&v1::Cvol::Stub::GetStatus, v1::GetStatusRequest(), status, kProbeTime);
  if (!asked.ok())
    log::warning("csi", "not ready: volumed does not answer", {{"error", asked.error_message()}});
  response->mutable_ready()->set_value(asked.ok());
  return grpc::Status::OK;
}

}  // namespace cvol::csi
