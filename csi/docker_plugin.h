// The Docker volume plugin: dockerd's HTTP/JSON calls on a unix socket, answered by the API.
//
// dockerd drops what it knows about a volume when Get is answered with an error, retries nothing,
// and forgets its own Unmounts when it dies. So: a passing fault is never an answer to Get (the
// call is tried again, and at last left without an answer); Create and Mount end or are undone
// before dockerd's limit of 120 s; users of a volume are a set of ids, never a count, and ids that
// dockerd has forgotten do not keep a volume from being removed.
//
// Threading: start() and the destructor on any thread. Calls run on the HTTP server's threads.
// The destructor ends the calls that wait and returns when all have ended.
#pragma once

#include <grpcpp/channel.h>

#include <memory>
#include <string>

#include "volumed/base/result.h"

namespace cvol::csi {

class DockerPlugin {
 public:
  virtual ~DockerPlugin() = default;

  // Listens on `socket_path` (0600; its directory is made; a stale socket is replaced). `api` leads
  // to cvol.v1.Cvol, in this process or another. kBusy: another plugin listens there.
  static Result<std::unique_ptr<DockerPlugin>> start(std::string socket_path,
                                                     std::shared_ptr<grpc::Channel> api);
};

}  // namespace cvol::csi
