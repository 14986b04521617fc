// DockerFront: the Docker volume plugin as the daemon starts it; keeps gRPC out of daemon.cpp.
#pragma once

#include <memory>
#include <string>

#include "volumed/base/result.h"

namespace cvol::daemon {

class DockerFront {
 public:
  // Serves FOLDER/cvol.sock, speaking to the API at `api`. The folder is made if it is absent.
  static Result<std::unique_ptr<DockerFront>> start(const std::string& folder,
                                                    const std::string& api);
  virtual ~DockerFront() = default;
};

}  // namespace cvol::daemon
