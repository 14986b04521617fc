#include "volumed/base/crash_point.h"

#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

namespace cvol {

void crash_point(const char* name) {
  static const std::string wanted = [] {
    const char* value = std::getenv("CVOL_CRASH_AT");
    return std::string(value == nullptr ? "" : value);
  }();
  if (!wanted.empty() && wanted == name) ::kill(::getpid(), SIGKILL);
}

}  // namespace cvol
