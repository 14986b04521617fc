// Frames of other nodes, and the replication state of a replica. The first byte chooses the
// decoder. What is accepted is encoded again and accepted again.
#include "replication/wire/frame.h"

#include <string>
#include <vector>

#include "replication/node/state.h"
#include "tests/fuzz/fuzz.h"
#include "volumed/base/assert.h"

namespace {

using cvol::replication::wire::FrameHeader;
namespace wire = cvol::replication::wire;
using Body = std::span<const std::byte>;

void whole_frame(Body bytes) {
  auto header = wire::decode_header(bytes);
  if (!header || bytes.size() < wire::kHeaderBytes + header->body_bytes) return;
  CVOL_ASSERT(header->body_bytes <= wire::kMostBodyBytes);
  CVOL_ASSERT(header->payload_bytes <= wire::kMostPayloadBytes);
  const Body frame = bytes.first(wire::kHeaderBytes + header->body_bytes);
  if (!wire::verify_frame(*header, frame)) return;
  std::vector<std::byte> again;
  wire::encode_frame(*header, frame.subspan(wire::kHeaderBytes), again);
  CVOL_ASSERT(std::equal(again.begin(), again.end(), frame.begin(), frame.end()));
}

void message(uint8_t type, Body body) {
  FrameHeader header;
  header.type = type;
  auto decoded = wire::decode_message(header, body);
  if (!decoded) return;
  const auto again = wire::encode_message(decoded->message, decoded->checksums);
  CVOL_ASSERT(wire::decode_message(header, again));
}

template <typename Decode, typename Encode>
void round_trip(Body body, Decode decode, Encode encode) {
  auto decoded = decode(body);
  if (decoded) CVOL_ASSERT(decode(encode(*decoded)));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  if (size < 2) return 0;
  const Body body = as_bytes(data + 2, size - 2);
  switch (data[0] % 11) {
    case 0:
      whole_frame(body);
      break;
    case 1:
      message(data[1], body);
      break;
    case 2:
      round_trip(body, wire::decode_record, wire::encode_record);
      break;
    case 3:
      round_trip(body, wire::decode_hello, wire::encode_hello);
      break;
    case 4:
      round_trip(body, wire::decode_death, wire::encode_death);
      break;
    case 5:
      round_trip(body, wire::decode_request, wire::encode_request);
      break;
    case 6:
      round_trip(body, wire::decode_answer, wire::encode_answer);
      break;
    case 7:
      round_trip(body, wire::decode_copy_request, wire::encode_copy_request);
      break;
    case 8:
      round_trip(body, wire::decode_listed, wire::encode_listed);
      break;
    case 9:
      round_trip(body, wire::decode_digested, wire::encode_digested);
      break;
    case 10: {
      auto state = cvol::replication::decode_state(as_text(data + 2, size - 2));
      if (state) CVOL_ASSERT(cvol::replication::decode_state(encode_state(*state)));
      break;
    }
  }
  return 0;
}
