// Channels to a volumed.
#pragma once

#include <grpcpp/channel.h>

#include <memory>
#include <string>

#include "volumed/api/address.h"
#include "volumed/base/result.h"

namespace cvol::api {

// "unix:/path" or "tcp:HOST:PORT". Connects at the first call; any thread.
Result<std::shared_ptr<grpc::Channel>> make_channel(const std::string& address);

}  // namespace cvol::api
