// The client's half of the NBD protocol as pure functions: bytes in, structures out.
//
// Fixed newstyle with NBD_OPT_GO and simple replies (NBD proto.md). Everything that is parsed comes
// from a server that may be broken: lengths are checked before they are believed, and an error
// says which field did not hold.
//
// Threading: any thread; no state.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "volumed/base/result.h"

namespace cvol::nbd::client {

constexpr std::size_t kGreetingBytes = 18;
constexpr std::size_t kOptionReplyHeaderBytes = 20;
constexpr std::size_t kRequestHeaderBytes = 28;
constexpr std::size_t kSimpleReplyBytes = 16;
constexpr uint32_t kMaxOptionReplyBytes = 64 * 1024;  // larger ones end the handshake
constexpr std::size_t kMaxExportNameBytes = 4096;     // NBD proto.md: length of a string

// Transmission flags of an export, as far as this client uses them.
constexpr uint16_t kFlagHasFlags = 1 << 0;
constexpr uint16_t kFlagReadOnly = 1 << 1;
constexpr uint16_t kFlagSendFlush = 1 << 2;
constexpr uint16_t kFlagSendFua = 1 << 3;
constexpr uint16_t kFlagSendTrim = 1 << 5;
constexpr uint16_t kFlagSendWriteZeroes = 1 << 6;
constexpr uint16_t kFlagMultiConn = 1 << 8;

enum class Command : uint16_t {
  kRead = 0,
  kWrite = 1,
  kDisconnect = 2,
  kFlush = 3,
  kTrim = 4,
  kWriteZeroes = 6,
};

struct Request {
  Command command = Command::kRead;
  uint16_t flags = 0;   // NBD_CMD_FLAG_*
  uint64_t cookie = 0;  // comes back in the reply
  uint64_t offset = 0;  // bytes
  uint32_t length = 0;  // bytes
};

struct SimpleReply {
  uint32_t error = 0;  // NBD error number; 0 is success
  uint64_t cookie = 0;
};

struct OptionReplyHeader {
  uint32_t option = 0;
  uint32_t type = 0;    // NBD_REP_*; bit 31 marks an error
  uint32_t length = 0;  // bytes that follow, at most kMaxOptionReplyBytes
};

// What NBD_OPT_GO says about an export.
struct ExportInfo {
  uint64_t size_bytes = 0;
  uint16_t flags = 0;
  uint32_t maximum_request_bytes = 32 * 1024 * 1024;
};

enum class GoStep { kMore, kDone };

// Checks the server's greeting; answers the client flags (4 bytes on the wire) to send.
Result<uint32_t> parse_greeting(std::span<const std::byte> bytes);

// Client flags and NBD_OPT_GO for `export_name`, ready to send.
std::vector<std::byte> encode_go(uint32_t client_flags, std::string_view export_name);

Result<OptionReplyHeader> parse_option_reply_header(std::span<const std::byte> bytes);

// One reply to NBD_OPT_GO with its payload; fills `info`. kDone at NBD_REP_ACK. kNotFound if the
// server does not know the export, kPermission if it does not give it; both carry its text.
Result<GoStep> apply_go_reply(const OptionReplyHeader& header, std::span<const std::byte> payload,
                              ExportInfo& info);

std::array<std::byte, kRequestHeaderBytes> encode_request(const Request& request);

// `bytes` holds exactly kSimpleReplyBytes.
Result<SimpleReply> parse_simple_reply(std::span<const std::byte> bytes);

// Linux errno (positive) of an NBD error number; unknown numbers are EINVAL, as proto.md says.
int errno_of_nbd_error(uint32_t error);

// True for errors that say "not now" instead of "no": the request is to be sent again.
bool is_transient_nbd_error(uint32_t error);

}  // namespace cvol::nbd::client
