#include "csi/api_calls.h"

#include <algorithm>

namespace cvol::csi {

bool ApiCalls::enter(grpc::ClientContext* context) {
  std::lock_guard lock(mutex_);
  if (stopping_) return false;
  open_.insert(context);
  return true;
}

void ApiCalls::leave(grpc::ClientContext* context) {
  std::lock_guard lock(mutex_);
  open_.erase(context);
}

void ApiCalls::stop() {
  std::lock_guard lock(mutex_);
  stopping_ = true;
  for (grpc::ClientContext* context : open_) context->TryCancel();
}

// To an orchestrator UNIMPLEMENTED means that it need not ask again, and DATA_LOSS nothing.
grpc::Status ApiCalls::for_orchestrator(const grpc::Status& status) {
  switch (status.error_code()) {
    case grpc::StatusCode::UNIMPLEMENTED:
      return {grpc::StatusCode::FAILED_PRECONDITION, status.error_message()};
    case grpc::StatusCode::DATA_LOSS:
    case grpc::StatusCode::PERMISSION_DENIED:
      return {grpc::StatusCode::INTERNAL, status.error_message()};
    case grpc::StatusCode::CANCELLED:
    case grpc::StatusCode::DEADLINE_EXCEEDED:
      return {grpc::StatusCode::UNAVAILABLE, status.error_message()};
    default:
      return status;
  }
}

grpc::Status ApiCalls::get(const std::string& name_or_id, v1::Volume& into) {
  v1::GetVolumeRequest request;
  v1::GetVolumeResponse response;
  request.set_name(name_or_id);
  grpc::Status status = call(&v1::Cvol::Stub::GetVolume, request, response);
  if (status.ok()) into = std::move(*response.mutable_volume());
  // What can be no volume's name or id is the id of none.
  if (status.error_code() == grpc::StatusCode::INVALID_ARGUMENT)
    return {grpc::StatusCode::NOT_FOUND, status.error_message()};
  return status;
}

grpc::Status ApiCalls::nodes(std::vector<v1::Node>& into) {
  v1::ListNodesResponse response;
  grpc::Status status = call(&v1::Cvol::Stub::ListNodes, v1::ListNodesRequest(), response);
  if (status.ok()) into.assign(response.nodes().begin(), response.nodes().end());
  return status;
}

grpc::Status ApiCalls::self(v1::Node& into) {
  std::vector<v1::Node> all;
  grpc::Status status = nodes(all);
  if (!status.ok()) return status;
  for (v1::Node& node : all) {
    if (!node.self()) continue;
    into = std::move(node);
    return grpc::Status::OK;
  }
  return {grpc::StatusCode::UNAVAILABLE, "volumed does not know its own node yet"};
}

std::vector<Place> to_places(const std::vector<v1::Node>& nodes) {
  std::vector<Place> places;
  for (const v1::Node& node : nodes) {
    if (!node.alive() || node.cordoned() || node.draining()) continue;
    const uint64_t used = std::min(node.capacity_bytes(), node.allocated_bytes());
    places.push_back({node.name(), node.zone(), node.capacity_bytes() - used});
  }
  return places;
}

}  // namespace cvol::csi
