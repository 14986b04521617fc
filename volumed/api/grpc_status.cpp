#include "volumed/api/grpc_status.h"

#include <array>

namespace cvol::api {
namespace {

struct Pair {
  Code code;
  grpc::StatusCode grpc;
};

// The first of several with the same gRPC code is what it comes back as.
constexpr std::array<Pair, 13> kPairs = {{
    {Code::kInvalidArgument, grpc::StatusCode::INVALID_ARGUMENT},
    {Code::kNotFound, grpc::StatusCode::NOT_FOUND},
    {Code::kAlreadyExists, grpc::StatusCode::ALREADY_EXISTS},
    {Code::kFailedPrecondition, grpc::StatusCode::FAILED_PRECONDITION},
    {Code::kBusy, grpc::StatusCode::ABORTED},
    {Code::kNoSpace, grpc::StatusCode::RESOURCE_EXHAUSTED},
    {Code::kDamaged, grpc::StatusCode::DATA_LOSS},
    {Code::kUnsupported, grpc::StatusCode::UNIMPLEMENTED},
    {Code::kPermission, grpc::StatusCode::PERMISSION_DENIED},
    {Code::kUnavailable, grpc::StatusCode::UNAVAILABLE},
    {Code::kCancelled, grpc::StatusCode::CANCELLED},
    {Code::kInternal, grpc::StatusCode::INTERNAL},
    {Code::kIo, grpc::StatusCode::INTERNAL},
}};

}  // namespace

grpc::Status to_grpc(const Status& status) {
  if (status.is_ok()) return grpc::Status::OK;
  for (const Pair& pair : kPairs) {
    if (pair.code == status.code()) return {pair.grpc, status.message()};
  }
  return {grpc::StatusCode::INTERNAL, status.message()};
}

Status from_grpc(const grpc::Status& status) {
  if (status.ok()) return Status::ok();
  for (const Pair& pair : kPairs) {
    if (pair.grpc == status.error_code()) return Status(pair.code, status.error_message());
  }
  return Status(Code::kInternal, status.error_message());
}

}  // namespace cvol::api
