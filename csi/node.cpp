#include "csi/node.h"

#include <algorithm>

#include "csi/condition.h"
#include "csi/controller.h"
#include "volumed/base/crash_point.h"

namespace cvol::csi {
namespace {

Status invalid(const std::string& text) {
  return Status(Code::kInvalidArgument, text);
}

bool says_read_only(const google::protobuf::Map<std::string, std::string>& publish_context) {
  const auto found = publish_context.find("readonly");
  return found != publish_context.end() && found->second == "true";
}

Status check_group(const std::string& group) {
  const bool number =
      std::all_of(group.begin(), group.end(), [](char c) { return c >= '0' && c <= '9'; });
  if (number && group.size() <= 9) return Status::ok();
  return Status(Code::kInvalidArgument, "volume_mount_group '" + group + "' is no group number");
}

// No volume is at a path that is none from the root.
template <typename Request>
grpc::Status no_such_path(const char* call, const Request& request) {
  grpc::Status answer(grpc::StatusCode::NOT_FOUND, "volume " + request.volume_id() +
                                                       " is not at '" + request.volume_path() +
                                                       "', no absolute path");
  log_refusal(call, request.volume_id(), answer);
  return answer;
}

// The same capability is the same use of the volume.
std::string use_of(const wire::VolumeCapability& capability) {
  std::string use = wire::VolumeCapability::AccessMode::Mode_Name(capability.access_mode().mode());
  use += capability.has_block() ? " block" : " mount " + capability.mount().fs_type();
  for (const std::string& flag : capability.mount().mount_flags()) use += " " + flag;
  return use;
}

bool may_be_shared(const wire::VolumeCapability& capability) {
  return capability.access_mode().mode() ==
         wire::VolumeCapability::AccessMode::SINGLE_NODE_MULTI_WRITER;
}

}  // namespace

template <typename Request, typename Response>
grpc::Status Node::change(Context* context, const char* call, const Request& request,
                          ApiCalls::Method<Request, Response> method) {
  return operations_.run(context, call, request.name(), [this, method, request, call] {
    v1::Volume volume;
    grpc::Status status = api_.get(request.name(), volume);
    if (!status.ok()) return status;
    const std::string name(call);
    crash_point((name + "-before").c_str());
    Response response;
    status = api_.call(method, request, response);
    crash_point((name + "-after").c_str());
    return status;
  });
}

grpc::Status Node::NodeStageVolume(Context* context, const wire::NodeStageVolumeRequest* request,
                                   wire::NodeStageVolumeResponse*) {
  if (Status bad = check_text(request->volume_id(), "volume_id"); !bad)
    return refuse(__func__, *request, bad);
  if (Status bad = check_path(request->staging_target_path(), "staging_target_path"); !bad)
    return refuse(__func__, *request, bad);
  if (!request->has_volume_capability())
    return refuse(__func__, *request, invalid("volume_capability is required"));
  const wire::VolumeCapability& capability = request->volume_capability();
  if (Status bad = check_capability(capability); !bad) return refuse(__func__, *request, bad);
  if (Status bad = check_group(capability.mount().volume_mount_group()); !bad)
    return refuse(__func__, *request, bad);
  v1::StageVolumeRequest stage;
  stage.set_name(request->volume_id());
  stage.set_path(request->staging_target_path());
  stage.set_block(capability.has_block());
  stage.set_fs(capability.mount().fs_type());
  *stage.mutable_mount_flags() = capability.mount().mount_flags();
  stage.set_group(capability.mount().volume_mount_group());
  stage.set_read_only(is_reader(capability) || says_read_only(request->publish_context()));
  const auto options = request->volume_context().find(kMkfsContext);
  if (options != request->volume_context().end()) {
    for (const std::string& word : split_words(options->second)) stage.add_mkfs_options(word);
  }
  return change(context, "NodeStageVolume", stage, &v1::Cvol::Stub::StageVolume);
}

grpc::Status Node::NodeUnstageVolume(Context* context,
                                     const wire::NodeUnstageVolumeRequest* request,
                                     wire::NodeUnstageVolumeResponse*) {
  if (Status bad = check_text(request->volume_id(), "volume_id"); !bad)
    return refuse(__func__, *request, bad);
  if (Status bad = check_path(request->staging_target_path(), "staging_target_path"); !bad)
    return refuse(__func__, *request, bad);
  v1::UnstageVolumeRequest unstage;
  unstage.set_name(request->volume_id());
  unstage.set_path(request->staging_target_path());
  return change(context, "NodeUnstageVolume", unstage, &v1::Cvol::Stub::UnstageVolume);
}

grpc::Status Node::NodePublishVolume(Context* context,
                                     const wire::NodePublishVolumeRequest* request,
                                     wire::NodePublishVolumeResponse*) {
  if (Status bad = check_text(request->volume_id(), "volume_id"); !bad)
    return refuse(__func__, *request, bad);
  if (Status bad = check_path(request->target_path(), "target_path"); !bad)
    return refuse(__func__, *request, bad);
  if (!request->has_volume_capability())
    return refuse(__func__, *request, invalid("volume_capability is required"));
  const wire::VolumeCapability& capability = request->volume_capability();
  if (Status bad = check_capability(capability); !bad) return refuse(__func__, *request, bad);
  if (request->staging_target_path().empty())
    return {grpc::StatusCode::FAILED_PRECONDITION,
            "staging_target_path is required: the volume is staged first"};
  if (Status bad = check_path(request->staging_target_path(), "staging_target_path"); !bad)
    return refuse(__func__, *request, bad);
  v1::ShowVolumeRequest show;
  show.set_name(request->volume_id());
  show.set_path(request->staging_target_path());
  show.set_target(request->target_path());
  show.set_read_only(request->readonly() || is_reader(capability));
  show.set_alone(!may_be_shared(capability));
  show.set_use(use_of(capability));
  return change(context, "NodePublishVolume", show, &v1::Cvol::Stub::ShowVolume);
}

grpc::Status Node::NodeUnpublishVolume(Context* context,
                                       const wire::NodeUnpublishVolumeRequest* request,
                                       wire::NodeUnpublishVolumeResponse*) {
  if (Status bad = check_text(request->volume_id(), "volume_id"); !bad)
    return refuse(__func__, *request, bad);
  if (Status bad = check_path(request->target_path(), "target_path"); !bad)
    return refuse(__func__, *request, bad);
  v1::HideVolumeRequest hide;
  hide.set_name(request->volume_id());
  hide.set_target(request->target_path());
  return change(context, "NodeUnpublishVolume", hide, &v1::Cvol::Stub::HideVolume);
}

grpc::Status Node::find_at(const std::string& id, const std::string& path, v1::Volume& into) {
  v1::Node self;
  grpc::Status status = api_.self(self);
  if (status.ok()) status = api_.get(id, into);
  if (!status.ok()) return status;
  const auto& targets = into.stage().targets();
  const bool here = into.has_stage() && into.node() == self.name() &&
                    (into.stage().path() == path ||
                     std::find(targets.begin(), targets.end(), path) != targets.end());
  if (here) return grpc::Status::OK;
  return {grpc::StatusCode::NOT_FOUND, "volume " + id + " is not at " + path + " on this node"};
}

grpc::Status Node::NodeGetVolumeStats(Context*, const wire::NodeGetVolumeStatsRequest* request,
                                      wire::NodeGetVolumeStatsResponse* response) {
  if (Status bad = check_text(request->volume_id(), "volume_id"); !bad)
    return refuse(__func__, *request, bad);
  if (Status bad = check_text(request->volume_path(), "volume_path", kMostPathBytes); !bad)
    return refuse(__func__, *request, bad);
  if (request->volume_path()[0] != '/') return no_such_path(__func__, *request);
  return operations_.ask("NodeGetVolumeStats", request->volume_id(), [&] {
    v1::GetVolumeUsageRequest ask;
    v1::GetVolumeUsageResponse used;
    ask.set_name(request->volume_id());
    ask.set_path(request->volume_path());
    grpc::Status status = api_.call(&v1::Cvol::Stub::GetVolumeUsage, ask, used);
    if (status.error_code() == grpc::StatusCode::INVALID_ARGUMENT)
      return grpc::Status(grpc::StatusCode::NOT_FOUND, status.error_message());
    if (!status.ok()) return status;
    *response->mutable_volume_condition() = condition_of(used.volume());
    if (!used.trouble().empty()) {
      response->mutable_volume_condition()->set_abnormal(true);
      response->mutable_volume_condition()->set_message("the file system " + used.trouble());
    }
    wire::VolumeUsage& bytes = *response->add_usage();
    bytes.set_unit(wire::VolumeUsage::BYTES);
    bytes.set_total(static_cast<int64_t>(used.total_bytes()));
    if (used.volume().stage().block()) return status;
    bytes.set_available(static_cast<int64_t>(used.available_bytes()));
    bytes.set_used(static_cast<int64_t>(used.used_bytes()));
    wire::VolumeUsage& inodes = *response->add_usage();
    inodes.set_unit(wire::VolumeUsage::INODES);
    inodes.set_total(static_cast<int64_t>(used.total_inodes()));
    inodes.set_available(static_cast<int64_t>(used.free_inodes()));
    inodes.set_used(static_cast<int64_t>(used.used_inodes()));
    return status;
  });
}

grpc::Status Node::NodeExpandVolume(Context* context, const wire::NodeExpandVolumeRequest* request,
                                    wire::NodeExpandVolumeResponse* response) {
  if (Status bad = check_text(request->volume_id(), "volume_id"); !bad)
    return refuse(__func__, *request, bad);
  if (Status bad = check_text(request->volume_path(), "volume_path", kMostPathBytes); !bad)
    return refuse(__func__, *request, bad);
  if (request->volume_path()[0] != '/') return no_such_path(__func__, *request);
  if (request->has_volume_capability()) {
    if (Status bad = check_capability(request->volume_capability()); !bad)
      return refuse(__func__, *request, bad);
  }
  auto size = choose_size(request->capacity_range());
  if (!size) return refuse(__func__, *request, size.status());
  auto grown = std::make_shared<wire::NodeExpandVolumeResponse>();
  grpc::Status status =
      operations_.run(context, "NodeExpandVolume", request->volume_id(),
                      [this, grown, all = *request] { return grow(all, *grown); });
  if (status.ok()) *response = *grown;
  return status;
}

// The volume itself was grown by the controller: here its device and file system follow.
grpc::Status Node::grow(const wire::NodeExpandVolumeRequest& request,
                        wire::NodeExpandVolumeResponse& into) {
  v1::Volume volume;
  grpc::Status status = find_at(request.volume_id(), request.volume_path(), volume);
  if (!status.ok()) return status;
  v1::ResizeVolumeRequest resize;
  v1::ResizeVolumeResponse resized;
  resize.set_name(request.volume_id());
  crash_point("NodeExpandVolume-before");
  status = api_.call(&v1::Cvol::Stub::ResizeVolume, resize, resized);
  crash_point("NodeExpandVolume-after");
  if (!status.ok()) return status;
  into.set_capacity_bytes(static_cast<int64_t>(resized.volume().size_bytes()));
  if (fits(resized.volume().size_bytes(), request.capacity_range())) return status;
  return {grpc::StatusCode::OUT_OF_RANGE, "the volume has " +
                                              std::to_string(resized.volume().size_bytes()) +
                                              " bytes; its controller has to grow it first"};
}

grpc::Status Node::NodeGetCapabilities(Context*, const wire::NodeGetCapabilitiesRequest*,
                                       wire::NodeGetCapabilitiesResponse* response) {
  using Rpc = wire::NodeServiceCapability::RPC;
  for (Rpc::Type type : {Rpc::STAGE_UNSTAGE_VOLUME, Rpc::GET_VOLUME_STATS, Rpc::EXPAND_VOLUME,
                         Rpc::VOLUME_CONDITION, Rpc::SINGLE_NODE_MULTI_WRITER})
    response->add_capabilities()->mutable_rpc()->set_type(type);
  return grpc::Status::OK;
}

grpc::Status Node::NodeGetInfo(Context*, const wire::NodeGetInfoRequest*,
                               wire::NodeGetInfoResponse* response) {
  v1::Node self;
  grpc::Status status = api_.self(self);
  if (!status.ok()) return status;
  response->set_node_id(self.name());
  auto& segments = *response->mutable_accessible_topology()->mutable_segments();
  segments[kNodeTopology] = self.name();
  if (!self.zone().empty()) segments[kZoneTopology] = self.zone();
  return grpc::Status::OK;
}

}  // namespace cvol::csi
