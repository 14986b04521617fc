// The persisted map device <-> volume.
#include "nbd/attach/device_record.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  (void)cvol::attach::decode_record(as_text(data, size));
  return 0;
}
