// What cvol-holder takes from an NBD server.
#include "nbd/client/codec.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  const auto bytes = as_bytes(data, size);
  (void)cvol::nbd::client::parse_greeting(bytes);
  (void)cvol::nbd::client::parse_option_reply_header(bytes);
  (void)cvol::nbd::client::parse_simple_reply(bytes);
  return 0;
}
