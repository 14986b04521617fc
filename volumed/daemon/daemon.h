// Daemon: all parts of volumed, put together in the order of their levels.
#pragma once

#include <memory>

#include "volumed/daemon/config.h"

namespace cvol::daemon {

class Daemon {
 public:
  // Starts everything; what fails is undone. Serves when it returns.
  static Result<std::unique_ptr<Daemon>> start(Config config);
  // Stops everything, in reverse.
  virtual ~Daemon() = default;
};

}  // namespace cvol::daemon
