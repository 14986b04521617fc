// JSON that dockerd, or whoever has the plugin's socket, sends.
#include "csi/plugin_request.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  cvol::Result<cvol::csi::PluginRequest> request =
      cvol::csi::parse_plugin_request(as_text(data, size));
  if (request) (void)cvol::csi::parse_create_options(request->options);
  return 0;
}
