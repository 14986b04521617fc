// The codec of NBD: options, export names, requests.
#include "nbd/protocol/protocol.h"
#include "tests/fuzz/fuzz.h"
#include "volumed/base/assert.h"
#include "volumed/base/units.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  using namespace cvol::nbd;
  const auto bytes = as_bytes(data, size);
  if (size >= kOptionHeaderBytes) (void)parse_option_header(bytes.first<kOptionHeaderBytes>());
  (void)parse_go(bytes);
  (void)parse_meta_context(bytes);
  (void)parse_export_name(as_text(data, size));
  for (const Agreement& agreement :
       {Agreement{}, Agreement{true, false, true}, Agreement{true, true, true}}) {
    cvol::Result<Request> request = parse_request(bytes, agreement);
    if (!request) continue;
    cvol::Result<uint64_t> payload = payload_bytes(*request, agreement);
    CVOL_ASSERT(!payload || *payload <= cvol::kMaxRequestBytes);
    const WireError wrong = check_request(*request, agreement, cvol::kGiB, false);
    const bool ranged =
        request->command() != Command::kFlush && request->command() != Command::kDisconnect;
    if (wrong == WireError::kNone && ranged) {
      CVOL_ASSERT(request->offset <= cvol::kGiB && request->length <= cvol::kGiB - request->offset);
    }
  }
  return 0;
}
