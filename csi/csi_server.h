// CsiServer: CSI's services on a unix socket, answered by the API of a volumed.
//
// Threading: start() and the destructor on any thread. The destructor refuses new calls, ends those
// that wait for the API, and waits for them.
#pragma once

#include <grpcpp/channel.h>

#include <memory>
#include <string>

#include "volumed/base/result.h"

namespace cvol::csi {

struct CsiOptions {
  std::string endpoint;      // "unix:///path" or "unix:/path"
  std::string mode = "all";  // "controller", "node", "all"
  std::string version;
};

// The path of a unix endpoint; kInvalidArgument.
Result<std::string> parse_endpoint(const std::string& endpoint);

class CsiServer {
 public:
  // The socket's folder is made, and a socket that nobody serves any more is replaced.
  static Result<std::unique_ptr<CsiServer>> start(const CsiOptions& options,
                                                  std::shared_ptr<grpc::Channel> api);
  virtual ~CsiServer() = default;
};

}  // namespace cvol::csi
