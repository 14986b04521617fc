// Volumes: made, removed, grown, changed. Their publishing and listing: controller_publish.cpp.
#include "csi/controller.h"

#include <fmt/format.h>

#include "csi/condition.h"
#include "volumed/base/crash_point.h"
#include "volumed/base/log.h"
#include "volumed/base/units.h"

namespace cvol::csi {
namespace {

constexpr uint64_t kDefaultBytes = 10 * kGiB;

std::string join(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : " ") + word;
  return text;
}

std::string label_of(const v1::Volume& volume, const char* key) {
  const auto found = volume.labels().find(key);
  return found == volume.labels().end() ? "" : found->second;
}

}  // namespace

struct Controller::Wanted {
  std::string name;   // ours
  uint64_t size = 0;  // 0: not said
  CreateParameters parameters;
  std::string fs;  // empty: not said
};

grpc::Status refusal(const Status& status) {
  if (status.code() == Code::kNoSpace) return {grpc::StatusCode::OUT_OF_RANGE, status.message()};
  return {grpc::StatusCode::INVALID_ARGUMENT, status.message()};
}

void log_refusal(const char* call, const std::string& volume, const grpc::Status& status) {
  log::warning("csi", "refused",
               {{"call", call},
                {"volume", volume.substr(0, kMostTextBytes)},
                {"code", static_cast<int>(status.error_code())},
                {"error", status.error_message().substr(0, kMostMapBytes)}});
}

wire::Volume to_wire(const v1::Volume& volume) {
  wire::Volume shown;
  shown.set_volume_id(volume.id());
  shown.set_capacity_bytes(static_cast<int64_t>(volume.size_bytes()));
  const std::string options = label_of(volume, kMkfsLabel);
  if (!options.empty()) (*shown.mutable_volume_context())[kMkfsContext] = options;
  return shown;
}

// --- CreateVolume ---

Status Controller::understand(const wire::CreateVolumeRequest& request, Wanted& wanted) {
  auto name = volume_name(request.name());
  if (!name) return name.status();
  wanted.name = *name;
  CVOL_TRY(check_capabilities(request.volume_capabilities()));
  auto parameters =
      parse_parameters(to_texts(request.parameters()), to_texts(request.mutable_parameters()));
  if (!parameters) return parameters.status();
  wanted.parameters = *parameters;
  auto fs = wanted_file_system(request.volume_capabilities());
  if (!fs) return fs.status();
  if (!fs->empty() && !parameters->fs.empty() && *fs != parameters->fs)
    return Status(Code::kInvalidArgument, "the capability asks for " + *fs +
                                              " and the parameter fsType for " + parameters->fs);
  wanted.fs = fs->empty() ? parameters->fs : *fs;
  auto size = choose_size(request.capacity_range());
  if (!size) return size.status();
  wanted.size = *size;
  return Status::ok();
}

grpc::Status Controller::CreateVolume(Context* context, const wire::CreateVolumeRequest* request,
                                      wire::CreateVolumeResponse* response) {
  auto wanted = std::make_shared<Wanted>();
  if (Status status = understand(*request, *wanted); !status)
    return refuse(__func__, *request, status);
  if (request->has_volume_content_source())
    return refuse(__func__, *request,
                  Status(Code::kInvalidArgument,
                         "volume_content_source: volumes are made empty; cvol has no snapshots and "
                         "clones yet"));
  auto made = std::make_shared<wire::Volume>();
  grpc::Status status =
      operations_.run(context, "CreateVolume", wanted->name,
                      [this, wanted, made, all = *request] { return create(all, *wanted, *made); });
  if (status.ok()) *response->mutable_volume() = *made;
  return status;
}

grpc::Status Controller::create(const wire::CreateVolumeRequest& request, const Wanted& wanted,
                                wire::Volume& into) {
  const std::string options = join(wanted.parameters.mkfs_options);
  v1::Volume known;
  grpc::Status found = api_.get(wanted.name, known);
  if (found.ok()) {
    // Made by this driver for this very name: neither by hand nor for another one of our checksum.
    if (label_of(known, kNameLabel) != request.name())
      return {grpc::StatusCode::ALREADY_EXISTS,
              "volume '" + wanted.name + "' exists and was not made for this request's name"};
    const char* other = nullptr;
    if (!fits(known.size_bytes(), request.capacity_range())) other = "size";
    if (known.replicas() != wanted.parameters.replicas) other = "number of replicas";
    if (known.min_in_sync() != wanted.parameters.min_in_sync) other = "minInSync";
    if (known.zone_spread() != wanted.parameters.zone_spread) other = "zoneSpread";
    if (!wanted.fs.empty() && known.fs() != wanted.fs) other = "file system";
    if (label_of(known, kMkfsLabel) != options) other = "mkfsOptions";
    if (other != nullptr)
      return {grpc::StatusCode::ALREADY_EXISTS,
              "volume '" + request.name() + "' exists with another " + other};
    into = to_wire(known);
    return grpc::Status::OK;
  }
  if (found.error_code() != grpc::StatusCode::NOT_FOUND) return found;
  v1::CreateVolumeRequest create;
  create.set_name(wanted.name);
  create.set_size_bytes(wanted.size == 0 ? kDefaultBytes : wanted.size);
  create.set_replicas(wanted.parameters.replicas);
  create.set_min_in_sync(wanted.parameters.min_in_sync);
  create.set_zone_spread(wanted.parameters.zone_spread);
  create.set_fs(wanted.fs.empty() ? "ext4" : wanted.fs);
  if (!options.empty()) (*create.mutable_labels())[kMkfsLabel] = options;
  (*create.mutable_labels())[kNameLabel] = request.name();
  grpc::Status placed = place(request.accessibility_requirements(), create);
  if (!placed.ok()) return placed;
  crash_point("csi-create-before");
  v1::CreateVolumeResponse made;
  grpc::Status status = api_.call(&v1::Cvol::Stub::CreateVolume, create, made);
  crash_point("csi-create-after");
  // No room, or too few nodes: the orchestrator may try another topology.
  if (status.error_code() == grpc::StatusCode::FAILED_PRECONDITION)
    return {grpc::StatusCode::RESOURCE_EXHAUSTED, status.error_message()};
  // Somebody else made it this moment: the next call compares.
  if (status.error_code() == grpc::StatusCode::ALREADY_EXISTS)
    return {grpc::StatusCode::ABORTED, status.error_message()};
  if (status.ok()) into = to_wire(made.volume());
  return status;
}

grpc::Status Controller::place(const wire::TopologyRequirement& topology,
                               v1::CreateVolumeRequest& into) {
  std::vector<v1::Node> nodes;
  grpc::Status status = api_.nodes(nodes);
  if (!status.ok()) return status;
  auto order = order_nodes(to_places(nodes), topology);
  if (!order) return {grpc::StatusCode::RESOURCE_EXHAUSTED, order.message()};
  for (const std::string& name : *order) into.add_preferred_nodes(name);
  return grpc::Status::OK;
}

// --- DeleteVolume, ControllerExpandVolume, ControllerModifyVolume ---

grpc::Status Controller::DeleteVolume(Context* context, const wire::DeleteVolumeRequest* request,
                                      wire::DeleteVolumeResponse*) {
  if (Status bad = check_text(request->volume_id(), "volume_id"); !bad)
    return refuse(__func__, *request, bad);
  return operations_.run(
      context, "DeleteVolume", request->volume_id(), [this, id = request->volume_id()] {
        v1::RemoveVolumeRequest remove;
        v1::RemoveVolumeResponse removed;
        v1::Volume volume;
        grpc::Status status = api_.get(id, volume);
        if (status.ok() && volume.id() == id) {
          remove.set_name(id);
          crash_point("csi-delete-before");
          status = api_.call(&v1::Cvol::Stub::RemoveVolume, remove, removed);
          crash_point("csi-delete-after");
        }
        // Gone is gone.
        return status.error_code() == grpc::StatusCode::NOT_FOUND ? grpc::Status::OK : status;
      });
}

grpc::Status Controller::ControllerExpandVolume(Context* context,
                                                const wire::ControllerExpandVolumeRequest* request,
                                                wire::ControllerExpandVolumeResponse* response) {
  if (Status bad = check_text(request->volume_id(), "volume_id"); !bad)
    return refuse(__func__, *request, bad);
  if (!request->has_capacity_range())
    return refuse(__func__, *request, Status(Code::kInvalidArgument, "capacity_range is required"));
  if (request->has_volume_capability()) {
    if (Status bad = check_capability(request->volume_capability()); !bad)
      return refuse(__func__, *request, bad);
  }
  auto size = choose_size(request->capacity_range());
  if (!size) return refuse(__func__, *request, size.status());
  auto grown = std::make_shared<wire::ControllerExpandVolumeResponse>();
  grpc::Status status = operations_.run(
      context, "ControllerExpandVolume", request->volume_id(),
      [this, grown, size = *size, all = *request] { return expand(all, size, *grown); });
  if (status.ok()) *response = *grown;
  return status;
}

grpc::Status Controller::expand(const wire::ControllerExpandVolumeRequest& request, uint64_t size,
                                wire::ControllerExpandVolumeResponse& into) {
  v1::Volume volume;
  grpc::Status status = api_.get(request.volume_id(), volume);
  if (!status.ok()) return status;
  if (!fits(volume.size_bytes(), request.capacity_range())) {
    if (size < volume.size_bytes())
      return {grpc::StatusCode::OUT_OF_RANGE,
              fmt::format("the volume has {} already; volumes only grow",
                          format_size(volume.size_bytes()))};
    v1::ResizeVolumeRequest resize;
    v1::ResizeVolumeResponse resized;
    resize.set_name(request.volume_id());
    resize.set_size_bytes(size);
    crash_point("csi-expand-before");
    status = api_.call(&v1::Cvol::Stub::ResizeVolume, resize, resized);
    crash_point("csi-expand-after");
    if (!status.ok()) return status;
    volume = resized.volume();
  }
  into.set_capacity_bytes(static_cast<int64_t>(volume.size_bytes()));
  // The device is the node's, and so is what is on it.
  into.set_node_expansion_required(true);
  return grpc::Status::OK;
}

grpc::Status Controller::ControllerModifyVolume(Context* context,
                                                const wire::ControllerModifyVolumeRequest* request,
                                                wire::ControllerModifyVolumeResponse*) {
  if (Status bad = check_text(request->volume_id(), "volume_id"); !bad)
    return refuse(__func__, *request, bad);
  auto changes = parse_changeable(to_texts(request->mutable_parameters()));
  if (!changes) return refuse(__func__, *request, changes.status());
  v1::ModifyVolumeRequest modify;
  modify.set_name(request->volume_id());
  modify.set_replicas(changes->replicas.value_or(0));
  modify.set_min_in_sync(changes->min_in_sync.value_or(0));
  return operations_.run(context, "ControllerModifyVolume", request->volume_id(), [this, modify] {
    v1::ModifyVolumeResponse modified;
    v1::Volume volume;
    grpc::Status status = api_.get(modify.name(), volume);
    if (!status.ok()) return status;
    const bool same = (modify.replicas() == 0 || modify.replicas() == volume.replicas()) &&
                      (modify.min_in_sync() == 0 || modify.min_in_sync() == volume.min_in_sync());
    if (same) return status;
    crash_point("csi-modify-before");
    status = api_.call(&v1::Cvol::Stub::ModifyVolume, modify, modified);
    crash_point("csi-modify-after");
    return status;
  });
}

}  // namespace cvol::csi
