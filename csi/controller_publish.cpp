// Publishing volumes to nodes, and what there is.
#include <algorithm>

#include "csi/condition.h"
#include "csi/controller.h"
#include "volumed/base/crash_point.h"
#include "volumed/base/units.h"
#include "volumed/base/uuid.h"

namespace cvol::csi {
namespace {

Status invalid(const std::string& text) {
  return Status(Code::kInvalidArgument, text);
}

template <typename VolumeStatus>
void fill_status(const v1::Volume& volume, VolumeStatus& status) {
  if (volume.reserved()) status.add_published_node_ids(volume.node());
  *status.mutable_volume_condition() = condition_of(volume);
}

Texts context_of(const v1::Volume& volume) {
  return to_texts(to_wire(volume).volume_context());
}

}  // namespace

// --- ControllerPublishVolume, ControllerUnpublishVolume ---

grpc::Status Controller::ControllerPublishVolume(
    Context* context, const wire::ControllerPublishVolumeRequest* request,
    wire::ControllerPublishVolumeResponse* response) {
  if (Status bad = check_text(request->volume_id(), "volume_id"); !bad)
    return refuse(__func__, *request, bad);
  if (Status bad = check_text(request->node_id(), "node_id", kMostNodeIdBytes); !bad)
    return refuse(__func__, *request, bad);
  if (!request->has_volume_capability())
    return refuse(__func__, *request, invalid("volume_capability is required"));
  if (Status bad = check_capability(request->volume_capability()); !bad)
    return refuse(__func__, *request, bad);
  grpc::Status status = operations_.run(context, "ControllerPublishVolume", request->volume_id(),
                                        [this, all = *request] { return publish(all); });
  if (!status.ok()) return status;
  const bool read_only = request->readonly() || is_reader(request->volume_capability());
  (*response->mutable_publish_context())["readonly"] = read_only ? "true" : "false";
  return status;
}

grpc::Status Controller::publish(const wire::ControllerPublishVolumeRequest& request) {
  v1::Volume volume;
  grpc::Status status = api_.get(request.volume_id(), volume);
  if (!status.ok()) return status;
  v1::ReserveVolumeRequest reserve;
  v1::ReserveVolumeResponse reserved;
  reserve.set_name(request.volume_id());
  reserve.set_node(request.node_id());
  reserve.set_read_only(request.readonly() || is_reader(request.volume_capability()));
  crash_point("csi-publish-before");
  status = api_.call(&v1::Cvol::Stub::ReserveVolume, reserve, reserved);
  crash_point("csi-publish-after");
  return status;
}

grpc::Status Controller::ControllerUnpublishVolume(
    Context* context, const wire::ControllerUnpublishVolumeRequest* request,
    wire::ControllerUnpublishVolumeResponse*) {
  if (Status bad = check_text(request->volume_id(), "volume_id"); !bad)
    return refuse(__func__, *request, bad);
  v1::ReleaseVolumeRequest release;
  release.set_name(request->volume_id());
  release.set_node(request->node_id());
  return operations_.run(
      context, "ControllerUnpublishVolume", request->volume_id(), [this, release] {
        v1::ReleaseVolumeResponse released;
        crash_point("csi-unpublish-before");
        grpc::Status status = api_.call(&v1::Cvol::Stub::ReleaseVolume, release, released);
        crash_point("csi-unpublish-after");
        // A volume that is gone is published nowhere.
        const bool gone = status.error_code() == grpc::StatusCode::NOT_FOUND;
        return gone ? grpc::Status::OK : status;
      });
}

// --- what there is ---

grpc::Status Controller::ValidateVolumeCapabilities(
    Context*, const wire::ValidateVolumeCapabilitiesRequest* request,
    wire::ValidateVolumeCapabilitiesResponse* response) {
  if (Status bad = check_text(request->volume_id(), "volume_id"); !bad)
    return refuse(__func__, *request, bad);
  if (request->volume_capabilities().empty())
    return refuse(__func__, *request, invalid("volume_capabilities is required"));
  v1::Volume volume;
  grpc::Status found = api_.get(request->volume_id(), volume);
  if (!found.ok()) return found;
  Status possible = check_capabilities(request->volume_capabilities());
  if (possible)
    possible =
        parse_parameters(to_texts(request->parameters()), to_texts(request->mutable_parameters()))
            .status();
  if (possible && !request->volume_context().empty() &&
      to_texts(request->volume_context()) != context_of(volume))
    possible = Status(Code::kInvalidArgument, "volume_context is not that of the volume");
  auto fs = wanted_file_system(request->volume_capabilities());
  if (possible && fs && !fs->empty() && volume.formatted() && *fs != volume.fs())
    possible = Status(Code::kInvalidArgument, "the volume has file system " + volume.fs());
  if (!possible) {
    response->set_message(possible.message());
    return grpc::Status::OK;
  }
  auto& confirmed = *response->mutable_confirmed();
  *confirmed.mutable_volume_context() = request->volume_context();
  *confirmed.mutable_volume_capabilities() = request->volume_capabilities();
  *confirmed.mutable_parameters() = request->parameters();
  *confirmed.mutable_mutable_parameters() = request->mutable_parameters();
  return grpc::Status::OK;
}

// In the order of ids; a token is the last id that was shown. So it stays good whatever is made or
// removed meanwhile, and no volume that was there all the time is left out or shown twice.
grpc::Status Controller::ListVolumes(Context*, const wire::ListVolumesRequest* request,
                                     wire::ListVolumesResponse* response) {
  if (request->max_entries() < 0)
    return refuse(__func__, *request, invalid("max_entries cannot be negative"));
  const std::string& after = request->starting_token();
  if (!after.empty() && !Uuid::parse(after))
    return {grpc::StatusCode::ABORTED, "starting_token is none that was given; begin without one"};
  v1::ListVolumesResponse all;
  grpc::Status status = api_.call(&v1::Cvol::Stub::ListVolumes, v1::ListVolumesRequest(), all);
  if (!status.ok()) return status;
  std::vector<const v1::Volume*> volumes;
  for (const v1::Volume& volume : all.volumes()) {
    if (volume.id() > after) volumes.push_back(&volume);
  }
  std::sort(volumes.begin(), volumes.end(),
            [](const auto* a, const auto* b) { return a->id() < b->id(); });
  const auto most = static_cast<std::size_t>(request->max_entries());
  if (most > 0 && volumes.size() > most) {
    volumes.resize(most);
    response->set_next_token(volumes.back()->id());
  }
  for (const v1::Volume* volume : volumes) {
    wire::ListVolumesResponse::Entry& entry = *response->add_entries();
    *entry.mutable_volume() = to_wire(*volume);
    fill_status(*volume, *entry.mutable_status());
  }
  return grpc::Status::OK;
}

grpc::Status Controller::ControllerGetVolume(Context*,
                                             const wire::ControllerGetVolumeRequest* request,
                                             wire::ControllerGetVolumeResponse* response) {
  if (Status bad = check_text(request->volume_id(), "volume_id"); !bad)
    return refuse(__func__, *request, bad);
  v1::Volume volume;
  grpc::Status status = api_.get(request->volume_id(), volume);
  if (!status.ok()) return status;
  *response->mutable_volume() = to_wire(volume);
  fill_status(volume, *response->mutable_status());
  return grpc::Status::OK;
}

// Volumes can be reached from every node: a topology has all the room there is, or none if it is
// none of this cluster's.
grpc::Status Controller::GetCapacity(Context*, const wire::GetCapacityRequest* request,
                                     wire::GetCapacityResponse* response) {
  auto parameters = parse_parameters(to_texts(request->parameters()), {});
  if (!parameters) return refuse(__func__, *request, parameters.status());
  response->mutable_minimum_volume_size()->set_value(static_cast<int64_t>(kMiB));
  for (const wire::VolumeCapability& capability : request->volume_capabilities()) {
    if (!check_capability(capability)) return grpc::Status::OK;
  }
  std::vector<v1::Node> nodes;
  grpc::Status status = api_.nodes(nodes);
  if (!status.ok()) return status;
  const std::vector<Place> places = to_places(nodes);
  const bool ours = std::any_of(nodes.begin(), nodes.end(), [&](const v1::Node& node) {
    return is_at({node.name(), node.zone(), 0}, request->accessible_topology());
  });
  if (!ours) return grpc::Status::OK;
  const Capacity capacity = capacity_of(places, parameters->replicas, parameters->zone_spread);
  response->set_available_capacity(static_cast<int64_t>(capacity.available));
  response->mutable_maximum_volume_size()->set_value(static_cast<int64_t>(capacity.largest));
  return grpc::Status::OK;
}

grpc::Status Controller::ControllerGetCapabilities(
    Context*, const wire::ControllerGetCapabilitiesRequest*,
    wire::ControllerGetCapabilitiesResponse* response) {
  using Rpc = wire::ControllerServiceCapability::RPC;
  for (Rpc::Type type : {Rpc::CREATE_DELETE_VOLUME, Rpc::PUBLISH_UNPUBLISH_VOLUME,
                         Rpc::LIST_VOLUMES, Rpc::LIST_VOLUMES_PUBLISHED_NODES, Rpc::GET_CAPACITY,
                         Rpc::PUBLISH_READONLY, Rpc::EXPAND_VOLUME, Rpc::GET_VOLUME,
                         Rpc::VOLUME_CONDITION, Rpc::SINGLE_NODE_MULTI_WRITER, Rpc::MODIFY_VOLUME})
    response->add_capabilities()->mutable_rpc()->set_type(type);
  return grpc::Status::OK;
}

}  // namespace cvol::csi
