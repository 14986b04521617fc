#include "volumed/meta/etcd_errors.h"

#include <string>

namespace cvol::meta {
namespace {

Code code_from_etcd(const grpc::Status& status) {
  switch (status.error_code()) {
    case grpc::StatusCode::NOT_FOUND:
      return Code::kNotFound;
    case grpc::StatusCode::INVALID_ARGUMENT:
      return Code::kInvalidArgument;
    case grpc::StatusCode::FAILED_PRECONDITION:
    case grpc::StatusCode::OUT_OF_RANGE:
      return Code::kFailedPrecondition;
    case grpc::StatusCode::PERMISSION_DENIED:
    case grpc::StatusCode::UNAUTHENTICATED:
      return Code::kPermission;
    case grpc::StatusCode::UNIMPLEMENTED:
      return Code::kUnsupported;
    case grpc::StatusCode::DATA_LOSS:
      return Code::kDamaged;
    case grpc::StatusCode::RESOURCE_EXHAUSTED:
      return status.error_message().find("space exceeded") != std::string::npos
                 ? Code::kNoSpace
                 : Code::kUnavailable;
    default:
      return Code::kUnavailable;
  }
}

}  // namespace

Status status_from_etcd(const grpc::Status& status, std::string_view doing,
                        std::string_view address) {
  const Code code = code_from_etcd(status);
  std::string text =
      std::string(doing) + " in etcd at " + std::string(address) + ": " + status.error_message();
  if (code == Code::kNoSpace) text += "; compact and defragment it, then 'etcdctl alarm disarm'";
  return Status(code, std::move(text));
}

bool etcd_has_not_tried(const grpc::Status& status) {
  // Of the check in front of every call that asks for a leader (EtcdEndpoints::require_leader).
  return status.error_code() == grpc::StatusCode::UNAVAILABLE &&
         status.error_message() == "etcdserver: no leader";
}

}  // namespace cvol::meta
