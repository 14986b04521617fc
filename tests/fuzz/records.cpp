// Records of the metadata store. What is accepted is written again and accepted again.
#include "volumed/meta/records.h"
#include "tests/fuzz/fuzz.h"
#include "volumed/base/assert.h"

namespace {

template <typename Record>
void round_trip(std::string_view text) {
  cvol::Result<Record> record = cvol::meta::parse_record<Record>("/cvol/v1/x", text);
  if (!record) return;
  const std::string again = cvol::meta::encode_record(*record);
  CVOL_ASSERT(cvol::meta::parse_record<Record>("/cvol/v1/x", again));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  const std::string_view text = as_text(data, size);
  round_trip<cvol::v1::VolumeRecord>(text);
  round_trip<cvol::v1::NodeRecord>(text);
  round_trip<cvol::v1::ClusterRecord>(text);
  return 0;
}
