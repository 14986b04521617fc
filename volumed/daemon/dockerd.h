// Dockerd: what volumed asks of the Docker daemon of this host, on its socket. And DockerWatch,
// which makes dockerd look for the volume plugin whenever either of them has started: dockerd
// otherwise learns of it at its first use, and Swarm places no task on a node whose dockerd has
// not.
//
// Threading: Dockerd: any thread; calls block for at most their time. DockerWatch: a thread of its
// own that sleeps in the kernel while dockerd runs; the destructor ends it.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "volumed/base/result.h"

namespace cvol::daemon {

class Dockerd {
 public:
  // `socket_path` empty: there is none that could be asked.
  explicit Dockerd(std::string socket_path) : socket_(std::move(socket_path)) {}

  // Of DOCKER_HOST, else /var/run/docker.sock; "" if dockerd is reached in another way.
  static std::string find_socket();

  // Does a container, running or not, have the volume? Nothing: dockerd did not say.
  std::optional<bool> has_container_with(const std::string& volume) const;
  // kUnavailable: nobody answers.
  Status list_volumes() const;

 private:
  const std::string socket_;
};

// From a whole answer to /containers/json. Pure.
std::optional<bool> parse_containers(std::string_view answer);
// Of a volume's name, for a query. Pure.
std::string containers_target(const std::string& volume);

class DockerWatch {
 public:
  static std::unique_ptr<DockerWatch> start(std::string socket_path);
  virtual ~DockerWatch() = default;
};

}  // namespace cvol::daemon
