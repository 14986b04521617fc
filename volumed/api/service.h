// ApiServer: cvol.v1 over gRPC, with the health and reflection services.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "volumed/volume/volume_manager.h"

namespace cvol::api {

class ApiServer {
 public:
  // Addresses: "unix:/path" (made 0600), "tcp:127.0.0.1:9481". The manager outlives the server.
  static Result<std::unique_ptr<ApiServer>> start(volume::VolumeManager& manager,
                                                  const std::vector<std::string>& addresses);
  // Refuses new calls, lets those under way go on for a second, then ends them.
  virtual ~ApiServer() = default;
};

}  // namespace cvol::api
