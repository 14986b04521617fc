// volumed.toml.
#include "volumed/daemon/config.h"
#include "tests/fuzz/fuzz.h"
#include "volumed/base/log.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  cvol::daemon::Config config;
  if (cvol::daemon::parse_config(as_text(data, size), config))
    (void)cvol::daemon::finish_config(config);
  return 0;
}
