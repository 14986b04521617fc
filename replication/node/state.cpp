#include "replication/node/state.h"

#include "replication/wire/bytes.h"
#include "replication/wire/frame.h"
#include "volumed/base/checksum.h"

namespace cvol::replication {

std::string encode_state(const Durable& state) {
  std::vector<std::byte> bytes;
  wire::Writer out(bytes);
  out.u16(kStateVersion);
  out.u16(static_cast<uint16_t>((state.rebuilding ? 1 : 0) | (state.given_up ? 2 : 0)));
  out.u64(state.promised.value);
  out.u64(state.incarnation);
  out.u64(state.record.revision);
  const std::vector<std::byte> record = wire::encode_record(state.record);
  bytes.insert(bytes.end(), record.begin(), record.end());
  out.u64(plain_checksum(bytes));
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

Result<Durable> decode_state(std::string_view text) {
  const std::span<const std::byte> bytes(reinterpret_cast<const std::byte*>(text.data()),
                                         text.size());
  const auto damaged = [] {
    return Status(Code::kDamaged, "the replication state of a replica does not hold together");
  };
  constexpr std::size_t kFixed = 2 + 2 + 3 * 8;
  if (bytes.size() < kFixed + 8) return damaged();
  wire::Reader in(bytes);
  if (in.u16() != kStateVersion)
    return Status(Code::kUnsupported,
                  "the replication state of a replica has a newer format; start a newer volumed");
  const std::span<const std::byte> content = bytes.first(bytes.size() - 8);
  wire::Reader tail(bytes.last(8));
  if (plain_checksum(content) != tail.u64()) return damaged();
  Durable state;
  const uint16_t flags = in.u16();
  if (flags > 3) return damaged();
  state.rebuilding = (flags & 1) != 0;
  state.given_up = (flags & 2) != 0;
  state.promised = Epoch{in.u64()};
  state.incarnation = in.u64();
  const uint64_t revision = in.u64();
  auto record = wire::decode_record(content.subspan(kFixed));
  if (!record) return damaged();
  state.record = std::move(*record);
  state.record.revision = revision;
  return state;
}

}  // namespace cvol::replication
