// Repair of a batch's header area: of arbitrary bytes nothing comes of it, and nothing is read
// beyond; of a whole area in which one bit was flipped, that area.
#include "volumed/store/batch_repair.h"

#include <cstring>
#include <vector>

#include "tests/fuzz/fuzz.h"
#include "volumed/base/assert.h"
#include "volumed/base/bytes.h"
#include "volumed/base/checksum.h"
#include "volumed/base/flipped_bit.h"
#include "volumed/store/format.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  using namespace cvol;
  const Uuid journal{};
  if (size < 4) return 0;
  const uint64_t bit = load_le<uint32_t>(reinterpret_cast<const std::byte*>(data));
  data += 4;
  size -= 4;
  std::vector<std::byte> arbitrary((1 + bit % store::kMaxHeaderBlocks) * kBlockBytes);
  std::memcpy(arbitrary.data(), data, std::min(size, arbitrary.size()));
  (void)store::mend_batch(arbitrary, journal, 1, 0);

  // Whatever the records are: what holds is the checksum.
  const std::size_t used = std::min<std::size_t>(size, 3 * kBlockBytes);
  const std::size_t blocks = (store::kBatchFixedBytes + used + kBlockBytes - 1) / kBlockBytes;
  std::vector<std::byte> area(store::kMaxHeaderBlocks * kBlockBytes);
  store::BatchEncoder encoder(area);
  store::BatchHeader header;
  header.lsn = 1;
  (void)encoder.seal(header, journal);
  area.resize(blocks * kBlockBytes);
  std::memcpy(area.data() + store::kBatchFixedBytes, data, used);
  store_le<uint32_t>(&area[36], static_cast<uint32_t>(blocks));
  store_le<uint32_t>(&area[48], static_cast<uint32_t>(used));
  store_le<uint64_t>(&area[8], plain_checksum(std::span(area).subspan(16)));
  const std::vector<std::byte> good = area;
  flip_bit(area, bit % (area.size() * 8));
  const std::optional<std::size_t> mended = store::mend_batch(area, journal, 1, 0);
  CVOL_ASSERT(mended == good.size() && area == good);
  return 0;
}
