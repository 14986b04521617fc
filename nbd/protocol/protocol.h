// The NBD wire format (NetworkBlockDevice/nbd, doc/proto.md): constants, and pure functions that
// turn bytes into requests and replies into bytes. No socket, no clock, no allocation by length
// fields that were not checked. All integers are big-endian on the wire.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "volumed/base/block_device.h"
#include "volumed/base/result.h"

namespace cvol::nbd {

// --- handshake ---
constexpr uint64_t kInitMagic = 0x4e42444d41474943;    // "NBDMAGIC"
constexpr uint64_t kOptionMagic = 0x49484156454f5054;  // "IHAVEOPT"
constexpr uint64_t kOptionReplyMagic = 0x0003e889045565a9;
constexpr uint16_t kHandshakeFixedNewstyle = 1;
constexpr uint16_t kHandshakeNoZeroes = 2;
constexpr std::size_t kGreetingBytes = 18;
constexpr std::size_t kOptionHeaderBytes = 16;
constexpr std::size_t kMaxOptionBytes = 64 * 1024;  // larger options end the connection
constexpr std::size_t kMaxNameBytes = 4096;

enum class OptionCode : uint32_t {
  kExportName = 1,
  kAbort = 2,
  kList = 3,
  kStartTls = 5,
  kInfo = 6,
  kGo = 7,
  kStructuredReply = 8,
  kListMetaContext = 9,
  kSetMetaContext = 10,
  kExtendedHeaders = 11
};

enum class OptionReply : uint32_t {
  kAck = 1,
  kServer = 2,
  kInfo = 3,
  kMetaContext = 4,
  kErrUnsupported = 0x80000001,
  kErrPolicy = 0x80000002,
  kErrInvalid = 0x80000003,
  kErrPlatform = 0x80000004,
  kErrTlsRequired = 0x80000005,
  kErrUnknown = 0x80000006,
  kErrShutdown = 0x80000007,
  kErrBlockSizeRequired = 0x80000008,
  kErrTooBig = 0x80000009
};

constexpr uint16_t kInfoExport = 0;
constexpr uint16_t kInfoName = 1;
constexpr uint16_t kInfoDescription = 2;
constexpr uint16_t kInfoBlockSize = 3;

constexpr uint16_t kFlagHasFlags = 1 << 0;
constexpr uint16_t kFlagReadOnly = 1 << 1;
constexpr uint16_t kFlagSendFlush = 1 << 2;
constexpr uint16_t kFlagSendFua = 1 << 3;
constexpr uint16_t kFlagSendTrim = 1 << 5;
constexpr uint16_t kFlagSendWriteZeroes = 1 << 6;
constexpr uint16_t kFlagSendDf = 1 << 7;
constexpr uint16_t kFlagCanMultiConn = 1 << 8;
constexpr uint16_t kFlagSendCache = 1 << 10;
constexpr uint16_t kFlagSendFastZero = 1 << 11;

// Flags of every export; read-only ones take no writing commands.
uint16_t transmission_flags(bool read_only);

struct OptionHeader {
  uint32_t code = 0;
  uint32_t length = 0;
};
Result<OptionHeader> parse_option_header(std::span<const std::byte, kOptionHeaderBytes> bytes);

struct GoRequest {
  std::string name;
  std::vector<uint16_t> infos;
};
Result<GoRequest> parse_go(std::span<const std::byte> data);

struct MetaContextRequest {
  std::string name;
  std::vector<std::string> queries;
};
Result<MetaContextRequest> parse_meta_context(std::span<const std::byte> data);

// "NAME" or "NAME@SESSION/GENERATION" (server.h).
struct ExportName {
  std::string volume;
  std::string session;  // empty: none
  uint64_t generation = 0;
};
Result<ExportName> parse_export_name(std::string_view text);

// Appends to `out`.
void append_greeting(std::string& out);
void append_option_reply(std::string& out, uint32_t option, OptionReply reply,
                         std::string_view data = {});
void append_info_export(std::string& out, uint32_t option, uint64_t size, uint16_t flags);
void append_info_block_size(std::string& out, uint32_t option, uint32_t minimum, uint32_t preferred,
                            uint32_t maximum);
void append_info_text(std::string& out, uint32_t option, uint16_t info, std::string_view text);
void append_list_entry(std::string& out, std::string_view name);
void append_meta_context(std::string& out, uint32_t option, uint32_t id, std::string_view name);
void append_export_name_reply(std::string& out, uint64_t size, uint16_t flags, bool no_zeroes);

// --- transmission ---
constexpr uint32_t kRequestMagic = 0x25609513;
constexpr uint32_t kExtendedRequestMagic = 0x21e41c71;
constexpr uint32_t kSimpleReplyMagic = 0x67446698;
constexpr uint32_t kStructuredReplyMagic = 0x668e33ef;
constexpr uint32_t kExtendedReplyMagic = 0x6e8a278c;
constexpr std::size_t kRequestBytes = 28;
constexpr std::size_t kExtendedRequestBytes = 32;

enum class Command : uint16_t {
  kRead = 0,
  kWrite = 1,
  kDisconnect = 2,
  kFlush = 3,
  kTrim = 4,
  kCache = 5,
  kWriteZeroes = 6,
  kBlockStatus = 7
};

constexpr uint16_t kCommandFua = 1 << 0;
constexpr uint16_t kCommandNoHole = 1 << 1;
constexpr uint16_t kCommandDf = 1 << 2;
constexpr uint16_t kCommandReqOne = 1 << 3;
constexpr uint16_t kCommandFastZero = 1 << 4;
constexpr uint16_t kCommandPayloadLength = 1 << 5;

// Errors as they go over the wire.
enum class WireError : uint32_t {
  kNone = 0,
  kPermission = 1,    // EPERM
  kIo = 5,            // EIO
  kNoMemory = 12,     // ENOMEM
  kInvalid = 22,      // EINVAL
  kNoSpace = 28,      // ENOSPC
  kOverflow = 75,     // EOVERFLOW
  kUnsupported = 95,  // ENOTSUP
  kShutdown = 108     // ESHUTDOWN
};
WireError wire_error(Code code);

struct Request {
  uint16_t flags = 0;
  uint16_t type = 0;
  uint64_t cookie = 0;
  uint64_t offset = 0;
  uint64_t length = 0;

  Command command() const { return static_cast<Command>(type); }
  bool has(uint16_t flag) const { return (flags & flag) != 0; }
};

// What was agreed in the handshake.
struct Agreement {
  bool structured = false;
  bool extended = false;
  bool allocation_context = false;  // base:allocation, id 1
  bool read_only = false;           // this connection, whatever the export allows

  std::size_t request_bytes() const { return extended ? kExtendedRequestBytes : kRequestBytes; }
};
constexpr uint32_t kAllocationContextId = 1;

// kDamaged: the magic is wrong; the connection cannot go on.
Result<Request> parse_request(std::span<const std::byte> bytes, const Agreement& agreement);

// Bytes of payload that follow the request; kInvalidArgument if the connection cannot go on
// (a payload beyond the maximum).
Result<uint64_t> payload_bytes(const Request& request, const Agreement& agreement);

// What is wrong with a request for a volume of `size` bytes; kNone if nothing.
WireError check_request(const Request& request, const Agreement& agreement, uint64_t size,
                        bool read_only);

// The bytes in front of a reply's data; at most kMaxReplyHeaderBytes.
constexpr std::size_t kMaxReplyHeaderBytes = 48;
struct ReplyHeader {
  std::array<std::byte, kMaxReplyHeaderBytes> bytes;
  uint32_t size = 0;
};
// For everything but a successful READ or BLOCK_STATUS. No data follows.
ReplyHeader encode_done(const Request& request, const Agreement& agreement, WireError error);
// A successful READ; `length` bytes of data follow.
ReplyHeader encode_read(const Request& request, const Agreement& agreement);
// A successful BLOCK_STATUS; `payload` gets what follows. `extents` is not empty.
ReplyHeader encode_block_status(const Request& request, const Agreement& agreement,
                                const std::vector<Extent>& extents, std::string& payload);

}  // namespace cvol::nbd
