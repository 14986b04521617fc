// Status <-> grpc::Status, as the head of proto/cvol/v1/cvol.proto lists them.
#pragma once

#include <grpcpp/support/status.h>

#include "volumed/base/result.h"

namespace cvol::api {

grpc::Status to_grpc(const Status& status);
Status from_grpc(const grpc::Status& status);

}  // namespace cvol::api
