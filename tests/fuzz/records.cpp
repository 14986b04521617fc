// Records of the metadata store. What is accepted is written again and accepted again.
#include "volumed/meta/records.h"
#include "tests/fuzz/fuzz.h"
#include "volumed/base/assert.h"
#include "volumed/meta/record_rules.h"

namespace {

template <typename Record>
void round_trip(std::string_view text) {
  cvol::Result<Record> record = cvol::meta::parse_record<Record>("/cvol/v1/x", text);
  if (!record) return;
  const std::string again = cvol::meta::encode_record(*record);
  CVOL_ASSERT(cvol::meta::parse_record<Record>("/cvol/v1/x", again));
}

// What keeps the rules can be written, or is refused for its length, and keeps them when it is
// read.
template <typename Record>
void keep_rules(std::string_view text) {
  cvol::Result<Record> record = cvol::meta::parse_record<Record>("/cvol/v1/x", text);
  if (!record || !cvol::meta::check_rules(*record)) return;
  cvol::Result<std::string> again = cvol::meta::write_record("/cvol/v1/x", *record);
  if (!again) return;
  cvol::Result<Record> read = cvol::meta::parse_record<Record>("/cvol/v1/x", *again);
  CVOL_ASSERT(read && cvol::meta::check_rules(*read));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  const std::string_view text = as_text(data, size);
  round_trip<cvol::v1::VolumeRecord>(text);
  round_trip<cvol::v1::NodeRecord>(text);
  round_trip<cvol::v1::ClusterRecord>(text);
  keep_rules<cvol::v1::VolumeRecord>(text);
  keep_rules<cvol::v1::NodeRecord>(text);
  keep_rules<cvol::v1::DiskRecord>(text);
  keep_rules<cvol::v1::AliveRecord>(text);
  keep_rules<cvol::v1::ClaimRecord>(text);
  return 0;
}
