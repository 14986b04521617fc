#include "nbd/client/codec.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace cvol::nbd::client {
namespace {

constexpr uint64_t kGreetingMagic = 0x4e42444d41474943;  // "NBDMAGIC"
constexpr uint64_t kOptionMagic = 0x49484156454F5054;    // "IHAVEOPT"
constexpr uint64_t kOptionReplyMagic = 0x0003e889045565a9;
constexpr uint32_t kRequestMagic = 0x25609513;
constexpr uint32_t kSimpleReplyMagic = 0x67446698;

constexpr uint16_t kServerFixedNewstyle = 1 << 0;
constexpr uint16_t kServerNoZeroes = 1 << 1;
constexpr uint32_t kClientFixedNewstyle = 1 << 0;
constexpr uint32_t kClientNoZeroes = 1 << 1;

constexpr uint32_t kOptionGo = 7;
constexpr uint32_t kReplyAck = 1;
constexpr uint32_t kReplyInfo = 3;
constexpr uint32_t kReplyErrorBit = 1u << 31;
constexpr uint32_t kReplyErrorPolicy = kReplyErrorBit | 2;
constexpr uint32_t kReplyErrorUnknown = kReplyErrorBit | 6;
constexpr uint32_t kReplyErrorShutdown = kReplyErrorBit | 7;
constexpr uint16_t kInfoExport = 0;
constexpr uint16_t kInfoBlockSize = 3;

// Big-endian numbers at a place that the caller has checked.
template <typename T>
T load(std::span<const std::byte> bytes, std::size_t at) {
  CVOL_ASSERT(at + sizeof(T) <= bytes.size());
  T value = 0;
  for (std::size_t i = 0; i < sizeof(T); ++i) {
    value = static_cast<T>(value << 8 | static_cast<T>(bytes[at + i]));
  }
  return value;
}

template <typename T>
void store(std::byte* to, T value) {
  for (std::size_t i = 0; i < sizeof(T); ++i) {
    to[i] = static_cast<std::byte>(value >> (8 * (sizeof(T) - 1 - i)));
  }
}

template <typename T>
void append(std::vector<std::byte>& to, T value) {
  to.resize(to.size() + sizeof(T));
  store(to.data() + to.size() - sizeof(T), value);
}

Status broken(const char* what) {
  return Status(Code::kIo, std::string("the NBD server sent ") + what);
}

// The text that servers attach to errors, cleaned of what does not belong in a log.
std::string printable(std::span<const std::byte> payload) {
  std::string text;
  for (std::byte byte : payload.first(std::min<std::size_t>(payload.size(), 256))) {
    char c = static_cast<char>(byte);
    text.push_back(c >= ' ' && c < 127 ? c : '?');
  }
  return text;
}

Status refused(uint32_t type, std::span<const std::byte> payload) {
  std::string text = "the NBD server refused the export: " + printable(payload);
  switch (type) {
    case kReplyErrorUnknown:
      return Status(Code::kNotFound, text);
    case kReplyErrorPolicy:
      return Status(Code::kPermission, text);
    case kReplyErrorShutdown:
      return Status(Code::kUnavailable, text);
    default:
      return Status(Code::kUnavailable, text + " (code " + std::to_string(type) + ")");
  }
}

Status apply_info(std::span<const std::byte> payload, ExportInfo& info) {
  if (payload.size() < 2) return broken("information without a type");
  switch (load<uint16_t>(payload, 0)) {
    case kInfoExport:
      if (payload.size() != 12) return broken("export information of a wrong length");
      info.size_bytes = load<uint64_t>(payload, 2);
      info.flags = load<uint16_t>(payload, 10);
      return Status::ok();
    case kInfoBlockSize:
      if (payload.size() != 14) return broken("block sizes of a wrong length");
      info.maximum_request_bytes = load<uint32_t>(payload, 10);
      return Status::ok();
    default:
      return Status::ok();  // proto.md: information that is not understood is ignored
  }
}

}  // namespace

Result<uint32_t> parse_greeting(std::span<const std::byte> bytes) {
  if (bytes.size() != kGreetingBytes) return broken("a short greeting");
  if (load<uint64_t>(bytes, 0) != kGreetingMagic) return broken("a greeting that is not NBD");
  if (load<uint64_t>(bytes, 8) != kOptionMagic) return broken("an oldstyle greeting");
  uint16_t flags = load<uint16_t>(bytes, 16);
  if ((flags & kServerFixedNewstyle) == 0) return broken("a greeting without fixed newstyle");
  uint32_t client_flags = kClientFixedNewstyle;
  if ((flags & kServerNoZeroes) != 0) client_flags |= kClientNoZeroes;
  return client_flags;
}

std::vector<std::byte> encode_go(uint32_t client_flags, std::string_view export_name) {
  CVOL_ASSERT(export_name.size() <= kMaxExportNameBytes);
  std::vector<std::byte> bytes;
  append(bytes, client_flags);
  append(bytes, kOptionMagic);
  append(bytes, kOptionGo);
  append(bytes, static_cast<uint32_t>(4 + export_name.size() + 2 + 2));
  append(bytes, static_cast<uint32_t>(export_name.size()));
  for (char c : export_name) bytes.push_back(static_cast<std::byte>(c));
  append(bytes, uint16_t{1});
  append(bytes, kInfoBlockSize);
  return bytes;
}

Result<OptionReplyHeader> parse_option_reply_header(std::span<const std::byte> bytes) {
  if (bytes.size() != kOptionReplyHeaderBytes) return broken("a short option reply");
  if (load<uint64_t>(bytes, 0) != kOptionReplyMagic) return broken("a wrong option reply magic");
  OptionReplyHeader header{load<uint32_t>(bytes, 8), load<uint32_t>(bytes, 12),
                           load<uint32_t>(bytes, 16)};
  if (header.option != kOptionGo) return broken("a reply to an option that was not asked");
  if (header.length > kMaxOptionReplyBytes) return broken("an oversized option reply");
  return header;
}

Result<GoStep> apply_go_reply(const OptionReplyHeader& header, std::span<const std::byte> payload,
                              ExportInfo& info) {
  CVOL_ASSERT(payload.size() == header.length);
  if ((header.type & kReplyErrorBit) != 0) return refused(header.type, payload);
  if (header.type == kReplyInfo) {
    CVOL_TRY(apply_info(payload, info));
    return GoStep::kMore;
  }
  if (header.type != kReplyAck) return broken("an option reply of an unknown type");
  if ((info.flags & kFlagHasFlags) == 0) return broken("no export information");
  return GoStep::kDone;
}

std::array<std::byte, kRequestHeaderBytes> encode_request(const Request& request) {
  std::array<std::byte, kRequestHeaderBytes> bytes;
  store(bytes.data(), kRequestMagic);
  store(bytes.data() + 4, request.flags);
  store(bytes.data() + 6, static_cast<uint16_t>(request.command));
  store(bytes.data() + 8, request.cookie);
  store(bytes.data() + 16, request.offset);
  store(bytes.data() + 24, request.length);
  return bytes;
}

Result<SimpleReply> parse_simple_reply(std::span<const std::byte> bytes) {
  if (bytes.size() != kSimpleReplyBytes) return broken("a short reply");
  if (load<uint32_t>(bytes, 0) != kSimpleReplyMagic) return broken("a wrong reply magic");
  return SimpleReply{load<uint32_t>(bytes, 4), load<uint64_t>(bytes, 8)};
}

int errno_of_nbd_error(uint32_t error) {
  switch (error) {
    case 0:
      return 0;
    case 1:
      return EPERM;
    case 5:
      return EIO;
    case 12:
      return ENOMEM;
    case 22:
      return EINVAL;
    case 28:
      return ENOSPC;
    case 75:
      return EOVERFLOW;
    case 95:
      return EOPNOTSUPP;
    case 108:
      return ESHUTDOWN;
    default:
      return EINVAL;
  }
}

bool is_transient_nbd_error(uint32_t error) {
  return error == 12 /* ENOMEM */ || error == 108 /* ESHUTDOWN */;
}

}  // namespace cvol::nbd::client
