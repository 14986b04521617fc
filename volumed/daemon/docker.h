// DockerFront, CsiFront: the Docker volume plugin and CSI as the daemon starts them; keeps gRPC out
// of daemon.cpp.
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

class CsiFront {
 public:
  // `endpoint`, `mode` as in csi/csi_server.h; speaks to the API at `api`.
  static Result<std::unique_ptr<CsiFront>> start(const std::string& endpoint,
                                                 const std::string& mode, const std::string& api);
  virtual ~CsiFront() = default;
};

}  // namespace cvol::daemon
