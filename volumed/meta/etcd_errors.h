// What the statuses of etcd's answers mean.
//
// Pure functions; any thread.
#pragma once

#include <grpcpp/support/status.h>

#include <string_view>

#include "volumed/base/result.h"

namespace cvol::meta {

// kUnavailable stands for everything that does not say what has become of the request.
Status status_from_etcd(const grpc::Status& status, std::string_view doing,
                        std::string_view address);

// An error that etcd gives before it looks at the request.
bool etcd_has_not_tried(const grpc::Status& status);

}  // namespace cvol::meta
