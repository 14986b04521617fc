#include "replication/node/state.h"

#include "replication/wire/bytes.h"
#include "replication/wire/frame.h"
#include "volumed/base/assert.h"
#include "volumed/base/checksum.h"
#include "volumed/base/units.h"

namespace cvol::replication {
namespace {

constexpr uint64_t kMostBlocks = UINT64_MAX / kBlockBytes / 2;  // no sum of two overflows

}  // namespace

std::string encode_state(const KeptState& kept) {
  CVOL_ASSERT(kept.lost.ranges() <= kMostLostRanges);
  const Durable& state = kept.durable;
  std::vector<std::byte> bytes;
  wire::Writer out(bytes);
  out.u16(kept.lost.empty() ? 1 : 2);
  out.u16(static_cast<uint16_t>((state.rebuilding ? 1 : 0) | (state.given_up ? 2 : 0)));
  out.u64(state.promised.value);
  out.u64(state.incarnation);
  out.u64(state.record.revision);
  if (!kept.lost.empty()) {
    out.u16(static_cast<uint16_t>(kept.lost.ranges()));
    for (const BlockRange& range : kept.lost.list()) {
      out.u64(range.begin);
      out.u64(range.blocks());
    }
  }
  const std::vector<std::byte> record = wire::encode_record(state.record);
  bytes.insert(bytes.end(), record.begin(), record.end());
  out.u64(plain_checksum(bytes));
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

Result<KeptState> decode_state(std::string_view text) {
  const std::span<const std::byte> bytes(reinterpret_cast<const std::byte*>(text.data()),
                                         text.size());
  const auto damaged = [] {
    return Status(Code::kDamaged, "the replication state of a replica does not hold together");
  };
  constexpr std::size_t kFixed = 2 + 2 + 3 * 8;
  if (bytes.size() < kFixed + 8) return damaged();
  wire::Reader in(bytes);
  const uint16_t version = in.u16();
  if (version < 1 || version > kStateVersion)
    return Status(Code::kUnsupported,
                  "the replication state of a replica has a newer format; start a newer volumed");
  const std::span<const std::byte> content = bytes.first(bytes.size() - 8);
  wire::Reader tail(bytes.last(8));
  if (plain_checksum(content) != tail.u64()) return damaged();
  KeptState kept;
  Durable& state = kept.durable;
  const uint16_t flags = in.u16();
  if (flags > 3) return damaged();
  state.rebuilding = (flags & 1) != 0;
  state.given_up = (flags & 2) != 0;
  state.promised = Epoch{in.u64()};
  state.incarnation = in.u64();
  const uint64_t revision = in.u64();
  std::size_t fixed = kFixed;
  if (version >= 2) {
    if (content.size() < fixed + 2) return damaged();
    const uint16_t ranges = in.u16();
    fixed += 2 + ranges * std::size_t{16};
    if (ranges == 0 || ranges > kMostLostRanges || content.size() < fixed) return damaged();
    uint64_t least = 0;  // where the next one may begin: they do not touch
    for (uint16_t i = 0; i < ranges; ++i) {
      const uint64_t begin = in.u64();
      const uint64_t blocks = in.u64();
      if (begin < least || blocks == 0 || blocks > kMostBlocks || begin > kMostBlocks)
        return damaged();
      kept.lost.add({begin, begin + blocks});
      least = begin + blocks + 1;
    }
  }
  auto record = wire::decode_record(content.subspan(fixed));
  if (!record) return damaged();
  state.record = std::move(*record);
  state.record.revision = revision;
  return kept;
}

}  // namespace cvol::replication
