// Channels to a volumed.
#pragma once

#include <grpcpp/channel.h>

#include <memory>
#include <string>

#include "volumed/base/result.h"

namespace cvol::api {

// Where the API is by default: --api, else CVOL_API, else this.
constexpr const char* kDefaultApi = "unix:/run/cvol/api.sock";

// `given`, or CVOL_API, or the default.
std::string api_address(const std::string& given);

// "unix:/path" or "tcp:HOST:PORT". Connects at the first call; any thread.
Result<std::shared_ptr<grpc::Channel>> make_channel(const std::string& address);

}  // namespace cvol::api
