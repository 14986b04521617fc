#include "nbd/protocol/protocol.h"

#include <algorithm>
#include <charconv>
#include <cstring>

#include "volumed/base/bytes.h"
#include "volumed/base/units.h"

namespace cvol::nbd {
namespace {

constexpr uint16_t kReplyDone = 1;
constexpr uint16_t kReplyNone = 0;
constexpr uint16_t kReplyOffsetData = 1;
constexpr uint16_t kReplyBlockStatus = 5;
constexpr uint16_t kReplyBlockStatusExtended = 6;
constexpr uint16_t kReplyError = 0x8001;
constexpr uint32_t kStateHole = 1;
constexpr uint32_t kStateZero = 2;
constexpr std::size_t kMaxExtents = 8192;  // of one BLOCK_STATUS reply

template <typename T>
void put(std::string& out, T value) {
  std::byte bytes[sizeof value];
  store_be(bytes, value);
  out.append(reinterpret_cast<const char*>(bytes), sizeof bytes);
}

// Takes bytes off the front of option data.
class Reader {
 public:
  explicit Reader(std::span<const std::byte> data) : data_(data) {}
  template <typename T>
  bool read(T* value) {
    if (data_.size() < sizeof(T)) return false;
    *value = load_be<T>(data_.data());
    data_ = data_.subspan(sizeof(T));
    return true;
  }
  bool text(std::size_t bytes, std::string* into) {
    if (bytes > kMaxNameBytes || data_.size() < bytes) return false;
    into->assign(reinterpret_cast<const char*>(data_.data()), bytes);
    data_ = data_.subspan(bytes);
    return true;
  }
  std::size_t left() const { return data_.size(); }

 private:
  std::span<const std::byte> data_;
};

Status malformed(std::string_view what) {
  return Status(Code::kInvalidArgument, "malformed " + std::string(what));
}

// Builds a reply header.
class Header {
 public:
  template <typename T>
  Header& put(T value) {
    store_be(&reply_.bytes[reply_.size], value);
    reply_.size += sizeof value;
    return *this;
  }
  ReplyHeader done() const { return reply_; }

 private:
  ReplyHeader reply_;
};

// The front of a structured or extended chunk.
Header chunk(const Request& request, const Agreement& agreement, uint16_t type, uint64_t length) {
  Header header;
  if (agreement.extended) {
    header.put(kExtendedReplyMagic).put(kReplyDone).put(type).put(request.cookie);
    header.put(request.offset).put(length);
  } else {
    header.put(kStructuredReplyMagic).put(kReplyDone).put(type).put(request.cookie);
    header.put(static_cast<uint32_t>(length));
  }
  return header;
}

}  // namespace

uint16_t transmission_flags(bool read_only) {
  const uint16_t common = kFlagHasFlags | kFlagSendFlush | kFlagSendFua | kFlagSendDf |
                          kFlagCanMultiConn | kFlagSendCache;
  if (read_only) return common | kFlagReadOnly;
  return common | kFlagSendTrim | kFlagSendWriteZeroes | kFlagSendFastZero;
}

Result<OptionHeader> parse_option_header(std::span<const std::byte, kOptionHeaderBytes> bytes) {
  if (load_be<uint64_t>(&bytes[0]) != kOptionMagic) return malformed("option: wrong magic");
  OptionHeader header{load_be<uint32_t>(&bytes[8]), load_be<uint32_t>(&bytes[12])};
  if (header.length > kMaxOptionBytes) return malformed("option: it is too long");
  return header;
}

Result<GoRequest> parse_go(std::span<const std::byte> data) {
  Reader reader(data);
  GoRequest request;
  uint32_t name_bytes = 0;
  uint16_t infos = 0;
  if (!reader.read(&name_bytes) || !reader.text(name_bytes, &request.name) ||
      !reader.read(&infos) || reader.left() != std::size_t{infos} * 2) {
    return malformed("NBD_OPT_GO or NBD_OPT_INFO");
  }
  for (uint16_t i = 0; i < infos; ++i) {
    uint16_t info = 0;
    if (!reader.read(&info)) return malformed("NBD_OPT_GO");
    request.infos.push_back(info);
  }
  return request;
}

Result<MetaContextRequest> parse_meta_context(std::span<const std::byte> data) {
  Reader reader(data);
  MetaContextRequest request;
  uint32_t name_bytes = 0;
  uint32_t queries = 0;
  if (!reader.read(&name_bytes) || !reader.text(name_bytes, &request.name) ||
      !reader.read(&queries) || queries > reader.left() / 4) {
    return malformed("meta context request");
  }
  for (uint32_t i = 0; i < queries; ++i) {
    uint32_t bytes = 0;
    std::string query;
    if (!reader.read(&bytes) || !reader.text(bytes, &query)) return malformed("meta context query");
    request.queries.push_back(std::move(query));
  }
  if (reader.left() != 0) return malformed("meta context request: bytes are left over");
  return request;
}

Result<ExportName> parse_export_name(std::string_view text) {
  ExportName name;
  const auto at = text.find('@');
  name.volume = text.substr(0, at);
  if (name.volume.empty())
    return Status(Code::kInvalidArgument, "no export name given; use the name of a volume");
  CVOL_TRY(validate_name(name.volume, "volume"));
  if (at == std::string_view::npos) return name;
  const std::string_view rest = text.substr(at + 1);
  const auto slash = rest.find('/');
  if (slash == std::string_view::npos || slash == 0 || slash > 64)
    return malformed("session in the export name");
  name.session = rest.substr(0, slash);
  const bool plain = std::all_of(name.session.begin(), name.session.end(), [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
  });
  const std::string_view number = rest.substr(slash + 1);
  const auto [stop, error] =
      std::from_chars(number.data(), number.data() + number.size(), name.generation);
  if (!plain || error != std::errc{} || stop != number.data() + number.size())
    return malformed("session in the export name");
  return name;
}

void append_greeting(std::string& out) {
  put(out, kInitMagic);
  put(out, kOptionMagic);
  put<uint16_t>(out, kHandshakeFixedNewstyle | kHandshakeNoZeroes);
}

void append_option_reply(std::string& out, uint32_t option, OptionReply reply,
                         std::string_view data) {
  put(out, kOptionReplyMagic);
  put(out, option);
  put(out, static_cast<uint32_t>(reply));
  put(out, static_cast<uint32_t>(data.size()));
  out += data;
}

void append_info_export(std::string& out, uint32_t option, uint64_t size, uint16_t flags) {
  std::string data;
  put(data, kInfoExport);
  put(data, size);
  put(data, flags);
  append_option_reply(out, option, OptionReply::kInfo, data);
}

void append_info_block_size(std::string& out, uint32_t option, uint32_t minimum, uint32_t preferred,
                            uint32_t maximum) {
  std::string data;
  put(data, kInfoBlockSize);
  put(data, minimum);
  put(data, preferred);
  put(data, maximum);
  append_option_reply(out, option, OptionReply::kInfo, data);
}

void append_info_text(std::string& out, uint32_t option, uint16_t info, std::string_view text) {
  std::string data;
  put(data, info);
  data += text;
  append_option_reply(out, option, OptionReply::kInfo, data);
}

void append_list_entry(std::string& out, std::string_view name) {
  std::string data;
  put(data, static_cast<uint32_t>(name.size()));
  data += name;
  append_option_reply(out, static_cast<uint32_t>(OptionCode::kList), OptionReply::kServer, data);
}

void append_meta_context(std::string& out, uint32_t option, uint32_t id, std::string_view name) {
  std::string data;
  put(data, id);
  data += name;
  append_option_reply(out, option, OptionReply::kMetaContext, data);
}

void append_export_name_reply(std::string& out, uint64_t size, uint16_t flags, bool no_zeroes) {
  put(out, size);
  put(out, flags);
  if (!no_zeroes) out.append(124, '\0');
}

WireError wire_error(Code code) {
  switch (code) {
    case Code::kOk:
      return WireError::kNone;
    case Code::kInvalidArgument:
      return WireError::kInvalid;
    case Code::kNoSpace:
      return WireError::kNoSpace;
    case Code::kPermission:
      return WireError::kPermission;
    case Code::kUnsupported:
      return WireError::kUnsupported;
    case Code::kCancelled:
    case Code::kUnavailable:
      return WireError::kShutdown;
    default:
      return WireError::kIo;
  }
}

Result<Request> parse_request(std::span<const std::byte> bytes, const Agreement& agreement) {
  if (bytes.size() < agreement.request_bytes()) return malformed("request: it is too short");
  const uint32_t magic = load_be<uint32_t>(&bytes[0]);
  if (magic != (agreement.extended ? kExtendedRequestMagic : kRequestMagic))
    return Status(Code::kDamaged, "malformed request: wrong magic");
  Request request;
  request.flags = load_be<uint16_t>(&bytes[4]);
  request.type = load_be<uint16_t>(&bytes[6]);
  request.cookie = load_be<uint64_t>(&bytes[8]);
  request.offset = load_be<uint64_t>(&bytes[16]);
  request.length =
      agreement.extended ? load_be<uint64_t>(&bytes[24]) : load_be<uint32_t>(&bytes[24]);
  return request;
}

Result<uint64_t> payload_bytes(const Request& request, const Agreement& agreement) {
  const bool payload = agreement.extended ? request.has(kCommandPayloadLength)
                                          : request.command() == Command::kWrite;
  if (!payload) {
    if (agreement.extended && request.command() == Command::kWrite)
      return Status(Code::kInvalidArgument, "malformed WRITE: it says that it has no payload");
    return uint64_t{0};
  }
  if (request.length > kMaxRequestBytes) {
    return Status(Code::kInvalidArgument, "a request brings " + std::to_string(request.length) +
                                              " bytes; 32 MiB is the most that one may bring");
  }
  return request.length;
}

namespace {

uint16_t allowed_flags(Command command) {
  switch (command) {
    case Command::kRead:
      return kCommandDf | kCommandFua;
    case Command::kWrite:
      return kCommandFua | kCommandPayloadLength;
    case Command::kTrim:
      return kCommandFua;
    case Command::kFlush:
      return kCommandFua;
    case Command::kWriteZeroes:
      return kCommandFua | kCommandNoHole | kCommandFastZero;
    case Command::kBlockStatus:
      return kCommandReqOne | kCommandFua;
    case Command::kCache:
      return kCommandFua;
    case Command::kDisconnect:
      return 0xffff;
  }
  return 0;
}

}  // namespace

WireError check_request(const Request& request, const Agreement& agreement, uint64_t size,
                        bool read_only) {
  const Command command = request.command();
  if (request.type > static_cast<uint16_t>(Command::kBlockStatus)) return WireError::kInvalid;
  if ((request.flags & ~allowed_flags(command)) != 0) return WireError::kInvalid;
  if (command == Command::kFlush || command == Command::kDisconnect) return WireError::kNone;
  const bool writes =
      command == Command::kWrite || command == Command::kTrim || command == Command::kWriteZeroes;
  if (writes && read_only) return WireError::kPermission;
  if (request.length == 0) return WireError::kInvalid;
  if (request.offset > size || request.length > size - request.offset) {
    const bool space = command == Command::kWrite || command == Command::kWriteZeroes;
    return space ? WireError::kNoSpace : WireError::kInvalid;
  }
  if (command == Command::kRead && request.length > kMaxRequestBytes) return WireError::kInvalid;
  if (command == Command::kBlockStatus && !agreement.allocation_context) return WireError::kInvalid;
  return WireError::kNone;
}

ReplyHeader encode_done(const Request& request, const Agreement& agreement, WireError error) {
  const auto number = static_cast<uint32_t>(error);
  // Without structured replies, and for commands that need none, a simple reply is the shortest.
  const bool needs_chunk =
      agreement.extended || (agreement.structured && (request.command() == Command::kRead ||
                                                      request.command() == Command::kBlockStatus));
  if (!needs_chunk) return Header().put(kSimpleReplyMagic).put(number).put(request.cookie).done();
  if (error == WireError::kNone) return chunk(request, agreement, kReplyNone, 0).done();
  return chunk(request, agreement, kReplyError, 6).put(number).put(uint16_t{0}).done();
}

ReplyHeader encode_read(const Request& request, const Agreement& agreement) {
  if (!agreement.structured && !agreement.extended)
    return Header().put(kSimpleReplyMagic).put(uint32_t{0}).put(request.cookie).done();
  return chunk(request, agreement, kReplyOffsetData, request.length + 8).put(request.offset).done();
}

ReplyHeader encode_block_status(const Request& request, const Agreement& agreement,
                                const std::vector<Extent>& extents, std::string& payload) {
  std::size_t count = std::min(extents.size(), kMaxExtents);
  if (request.has(kCommandReqOne)) count = 1;
  payload.clear();
  put(payload, kAllocationContextId);
  if (agreement.extended) put(payload, static_cast<uint32_t>(count));
  for (std::size_t i = 0; i < count; ++i) {
    const uint32_t state = (extents[i].hole ? kStateHole : 0) | (extents[i].zero ? kStateZero : 0);
    if (agreement.extended) {
      put(payload, extents[i].length);
      put(payload, uint64_t{state});
    } else {
      put(payload, static_cast<uint32_t>(std::min<uint64_t>(extents[i].length, 0xffff0000)));
      put(payload, state);
      if (extents[i].length > 0xffff0000) break;
    }
  }
  const uint16_t type = agreement.extended ? kReplyBlockStatusExtended : kReplyBlockStatus;
  return chunk(request, agreement, type, payload.size()).done();
}

}  // namespace cvol::nbd
