// Texts that users type: sizes, names, addresses, UUIDs.
#include "volumed/base/units.h"
#include "tests/fuzz/fuzz.h"
#include "volumed/base/assert.h"
#include "volumed/base/uuid.h"
#include "volumed/io/address.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  using namespace cvol;
  const auto text = as_text(data, size);
  (void)parse_size(text);
  (void)validate_name(text, "volume");
  Result<Uuid> uuid = Uuid::parse(text);
  if (uuid) CVOL_ASSERT(uuid->to_string().size() == text.size());
  (void)io::parse_address(std::string(text));
  return 0;
}
