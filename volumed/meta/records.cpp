#include "volumed/meta/records.h"

#include <google/protobuf/util/json_util.h>

#include "volumed/base/units.h"

namespace cvol::meta {
namespace {

constexpr std::size_t kMostBytes = kMiB;
constexpr std::size_t kMostShown = 512;

const google::protobuf::FieldDescriptor* version_field(const google::protobuf::Message& record) {
  const auto* field = record.GetDescriptor()->FindFieldByName("format_version");
  CVOL_ASSERT(field != nullptr);
  return field;
}

uint32_t version_of(const google::protobuf::Message& record) {
  return record.GetReflection()->GetUInt32(record, version_field(record));
}

Status damaged(std::string_view key, std::string_view why) {
  return Status(Code::kDamaged,
                "record " + printable(key, kMostShown) + ": " + printable(why, kMostShown));
}

Status print(google::protobuf::Message& record, std::string& text) {
  record.GetReflection()->SetUInt32(&record, version_field(record), kRecordVersion);
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  const auto status = google::protobuf::util::MessageToJsonString(record, &text, options);
  if (status.ok()) return Status::ok();
  return Status(Code::kInvalidArgument, "it cannot be written as text: " + status.ToString());
}

}  // namespace

std::string printable(std::string_view text, std::size_t most) {
  std::string shown(text.substr(0, most));
  for (char& c : shown) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte >= 0x7f) c = byte == '\n' ? ' ' : '?';
  }
  return text.size() > most ? shown + "..." : shown;
}

std::string encode_record(google::protobuf::Message& record) {
  std::string text;
  const Status written = print(record, text);
  CVOL_ASSERT(written.is_ok());
  return text;
}

Result<std::string> try_encode_record(std::string_view key, google::protobuf::Message& record) {
  std::string text;
  if (const Status written = print(record, text); !written.is_ok())
    return written.with_context("record " + std::string(key));
  if (text.size() > kMostBytes)
    return Status(Code::kInvalidArgument,
                  "record " + std::string(key) + " would be larger than 1MiB, and is not written");
  return text;
}

Status parse_record(std::string_view key, std::string_view text,
                    google::protobuf::Message& record) {
  if (text.size() > kMostBytes) return damaged(key, "larger than 1MiB");
  const google::protobuf::StringPiece piece(text.data(), text.size());
  google::protobuf::util::JsonParseOptions options;
  // A newer record may have fields that are unknown here: look at its version first.
  options.ignore_unknown_fields = true;
  auto status = google::protobuf::util::JsonStringToMessage(piece, &record, options);
  const uint32_t version = version_of(record);
  if (version > kRecordVersion)
    return Status(Code::kUnsupported, "record " + std::string(key) + " has format version " +
                                          std::to_string(version) + ", this volumed knows up to " +
                                          std::to_string(kRecordVersion) +
                                          "; start a newer volumed");
  if (!status.ok()) return damaged(key, status.ToString());
  if (version == 0) return damaged(key, "it has no format version");
  record.Clear();
  options.ignore_unknown_fields = false;
  status = google::protobuf::util::JsonStringToMessage(piece, &record, options);
  if (!status.ok()) return damaged(key, status.ToString());
  return Status::ok();
}

}  // namespace cvol::meta
