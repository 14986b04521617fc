#include "nbd/server/handshake.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "volumed/base/assert.h"
#include "volumed/base/bytes.h"
#include "volumed/base/units.h"
#include "volumed/io/scope.h"

namespace cvol::nbd {
namespace {

constexpr std::string_view kAllocation = "base:allocation";

uint32_t number(OptionCode code) {
  return static_cast<uint32_t>(code);
}

// The answer of an ExportDirectory, which comes from another thread, as something to await.
template <typename T>
struct Answer {
  std::optional<T> value;
  io::Event arrived;
};

OptionReply reply_for(Code code) {
  switch (code) {
    case Code::kNotFound:
      return OptionReply::kErrUnknown;
    case Code::kInvalidArgument:
      return OptionReply::kErrInvalid;
    case Code::kUnavailable:
    case Code::kCancelled:
      return OptionReply::kErrShutdown;
    default:
      return OptionReply::kErrPolicy;
  }
}

}  // namespace

Task<Status> Handshake::receive(void* into, std::size_t bytes) {
  auto* at = static_cast<std::byte*>(into);
  while (bytes > 0) {
    const int64_t got = co_await stream_.recv(at, bytes);
    if (got <= 0) co_return Status(Code::kCancelled, "the client left during the handshake");
    last_progress_ = reactor_.now();
    at += got;
    bytes -= static_cast<std::size_t>(got);
  }
  co_return Status::ok();
}

Task<Status> Handshake::send(std::string text) {
  const iovec iov{text.data(), text.size()};
  const int64_t sent = co_await stream_.sendv(&iov, 1);
  if (sent != static_cast<int64_t>(text.size()))
    co_return Status(Code::kCancelled, "the client left during the handshake");
  last_progress_ = reactor_.now();
  co_return Status::ok();
}

Task<Result<HandshakeOutcome>> Handshake::run() {
  std::string greeting;
  append_greeting(greeting);
  CVOL_CO_TRY(co_await send(std::move(greeting)));
  std::byte flag_bytes[4];
  CVOL_CO_TRY(co_await receive(flag_bytes, sizeof flag_bytes));
  const uint32_t flags = load_be<uint32_t>(flag_bytes);
  if ((flags & ~uint32_t{kHandshakeFixedNewstyle | kHandshakeNoZeroes}) != 0 ||
      (flags & kHandshakeFixedNewstyle) == 0) {
    co_return Status(Code::kInvalidArgument,
                     fmt::format("the client's handshake flags {:#x} are not known", flags));
  }
  no_zeroes_ = (flags & kHandshakeNoZeroes) != 0;
  while (true) {
    std::array<std::byte, kOptionHeaderBytes> bytes;
    CVOL_CO_TRY(co_await receive(bytes.data(), bytes.size()));
    Result<OptionHeader> header = parse_option_header(bytes);
    if (!header) co_return header.status();
    std::vector<std::byte> data(header->length);
    CVOL_CO_TRY(co_await receive(data.data(), data.size()));
    Result<Next> next = co_await serve_option(*header, std::move(data));
    if (!next) co_return next.status();
    if (*next == Next::kTransmission) co_return std::move(outcome_);
    if (*next == Next::kAbort) co_return Status(Code::kCancelled, "the client gave up");
  }
}

Task<Result<Handshake::Next>> Handshake::serve_option(OptionHeader header,
                                                      std::vector<std::byte> data) {
  std::string out;
  OptionReply answer = OptionReply::kErrUnsupported;
  switch (static_cast<OptionCode>(header.code)) {
    case OptionCode::kExportName:
      co_return co_await export_name(std::move(data));
    case OptionCode::kInfo:
    case OptionCode::kGo:
      co_return co_await go(header, std::move(data));
    case OptionCode::kAbort:
      append_option_reply(out, header.code, OptionReply::kAck);
      (void)co_await send(std::move(out));
      co_return Next::kAbort;
    case OptionCode::kList:
      CVOL_CO_TRY(co_await list(header, data.empty()));
      co_return Next::kMoreOptions;
    case OptionCode::kListMetaContext:
    case OptionCode::kSetMetaContext:
      CVOL_CO_TRY(co_await meta_context(header, std::move(data)));
      co_return Next::kMoreOptions;
    case OptionCode::kStructuredReply:
      answer = data.empty() && !outcome_.agreement.extended ? OptionReply::kAck
                                                            : OptionReply::kErrInvalid;
      if (answer == OptionReply::kAck) outcome_.agreement.structured = true;
      break;
    case OptionCode::kExtendedHeaders:
      answer = data.empty() && !outcome_.agreement.extended ? OptionReply::kAck
                                                            : OptionReply::kErrInvalid;
      if (answer == OptionReply::kAck)
        outcome_.agreement.extended = outcome_.agreement.structured = true;
      break;
    case OptionCode::kStartTls:
      break;
  }
  append_option_reply(out, header.code, answer);
  CVOL_CO_TRY(co_await send(std::move(out)));
  co_return Next::kMoreOptions;
}

Task<Result<std::shared_ptr<Export>>> Handshake::open(const ExportName& name) {
  using Opened = Result<std::shared_ptr<Export>>;
  auto answer = std::make_shared<Answer<Opened>>();
  directory_.open_for(name.volume, name.session, [reactor = &reactor_, answer](Opened opened) {
    auto moved = std::make_shared<Opened>(std::move(opened));
    reactor->post([answer, moved] {
      answer->value.emplace(std::move(*moved));
      answer->arrived.set();
    });
  });
  waits_for_client_ = false;
  co_await answer->arrived.wait();
  waits_for_client_ = true;
  last_progress_ = reactor_.now();
  co_return std::move(*answer->value);
}

bool Handshake::reads_only(const ExportName& name, const Export& target) const {
  return target.read_only || (name.session.empty() && directory_.is_in_use(name.volume));
}

// The old way to choose: it cannot report an error but by closing.
Task<Result<Handshake::Next>> Handshake::export_name(std::vector<std::byte> data) {
  Result<ExportName> name =
      parse_export_name({reinterpret_cast<const char*>(data.data()), data.size()});
  if (!name) co_return name.status();
  Result<std::shared_ptr<Export>> opened = co_await open(*name);
  if (!opened) co_return opened.status();
  outcome_.name = *name;
  outcome_.target = std::move(*opened);
  outcome_.agreement.read_only = reads_only(*name, *outcome_.target);
  outcome_.agreement.allocation_context =
      outcome_.agreement.allocation_context && context_export_ == name->volume;
  std::string out;
  append_export_name_reply(out, outcome_.target->device->size(),
                           transmission_flags(outcome_.agreement.read_only), no_zeroes_);
  CVOL_CO_TRY(co_await send(std::move(out)));
  co_return Next::kTransmission;
}

Task<Result<Handshake::Next>> Handshake::go(OptionHeader header, std::vector<std::byte> data) {
  std::string out;
  Result<GoRequest> request = parse_go(data);
  Status wrong = request.status();
  Result<ExportName> name = wrong ? parse_export_name(request->name) : Result<ExportName>(wrong);
  std::shared_ptr<Export> target;
  if (!name) {
    wrong = name.status();
  } else {
    Result<std::shared_ptr<Export>> opened = co_await open(*name);
    wrong = opened.status();
    if (opened) target = std::move(*opened);
  }
  if (!wrong) {
    append_option_reply(out, header.code, reply_for(wrong.code()), wrong.message());
    CVOL_CO_TRY(co_await send(std::move(out)));
    co_return Next::kMoreOptions;
  }
  const bool read_only = reads_only(*name, *target);
  append_info_export(out, header.code, target->device->size(), transmission_flags(read_only));
  append_info_block_size(out, header.code, 1, kBlockBytes, kMaxRequestBytes);
  for (uint16_t info : request->infos) {
    if (info == kInfoName) append_info_text(out, header.code, kInfoName, request->name);
    if (info == kInfoDescription)
      append_info_text(out, header.code, kInfoDescription, "cvol volume " + name->volume);
  }
  append_option_reply(out, header.code, OptionReply::kAck);
  CVOL_CO_TRY(co_await send(std::move(out)));
  if (header.code == number(OptionCode::kInfo)) co_return Next::kMoreOptions;
  outcome_.agreement.allocation_context =
      outcome_.agreement.allocation_context && context_export_ == name->volume;
  outcome_.name = *name;
  outcome_.agreement.read_only = read_only;
  outcome_.target = std::move(target);
  co_return Next::kTransmission;
}

Task<Status> Handshake::list(OptionHeader header, bool empty) {
  std::string out;
  if (!empty) {
    append_option_reply(out, header.code, OptionReply::kErrInvalid, "LIST takes no data");
    co_return co_await send(std::move(out));
  }
  auto answer = std::make_shared<Answer<std::vector<std::string>>>();
  directory_.list([reactor = &reactor_, answer](std::vector<std::string> names) {
    reactor->post([answer, names = std::move(names)] {
      answer->value = names;
      answer->arrived.set();
    });
  });
  waits_for_client_ = false;
  co_await answer->arrived.wait();
  waits_for_client_ = true;
  last_progress_ = reactor_.now();
  for (const std::string& name : *answer->value) append_list_entry(out, name);
  append_option_reply(out, header.code, OptionReply::kAck);
  co_return co_await send(std::move(out));
}

Task<Status> Handshake::meta_context(OptionHeader header, std::vector<std::byte> data) {
  std::string out;
  Result<MetaContextRequest> request = parse_meta_context(data);
  const bool set = header.code == number(OptionCode::kSetMetaContext);
  Result<ExportName> name =
      request ? parse_export_name(request->name) : Result<ExportName>(request.status());
  if (!request || !name || (set && !outcome_.agreement.structured)) {
    append_option_reply(out, header.code, OptionReply::kErrInvalid,
                        "a valid export name and structured replies are needed");
    co_return co_await send(std::move(out));
  }
  const auto& queries = request->queries;
  bool wanted = !set && queries.empty();
  for (const std::string& query : queries) {
    wanted = wanted || query == kAllocation || (!set && query == "base:");
  }
  if (set) {
    outcome_.agreement.allocation_context = wanted;
    context_export_ = name->volume;
  }
  if (wanted) append_meta_context(out, header.code, set ? kAllocationContextId : 0, kAllocation);
  append_option_reply(out, header.code, OptionReply::kAck);
  co_return co_await send(std::move(out));
}

}  // namespace cvol::nbd
