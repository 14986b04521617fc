// Records as text: Protobuf messages (proto/cvol/v1/records.proto) in Protobuf's JSON mapping.
//
// Pure functions; any thread.
#pragma once

#include <cvol/v1/records.pb.h>

#include <string>
#include <string_view>

#include "volumed/base/result.h"

namespace cvol::meta {

// The version that is written. A record with a newer one is refused; older ones are read as they
// are, since fields are only added. 2: identity of disks and nodes, states of removal and
// attachment.
constexpr uint32_t kRecordVersion = 2;

// The beginning of foreign text as people and terminals can be told of it: printable ASCII.
std::string printable(std::string_view text, std::size_t most);

// Sets the format version and encodes; names as in the .proto file, so that people recognise them.
std::string encode_record(google::protobuf::Message& record);

// The same for what others had a hand in: kInvalidArgument if it cannot be written as text, or not
// be read again because it is larger than 1 MiB. `key` is for the error's text.
Result<std::string> try_encode_record(std::string_view key, google::protobuf::Message& record);

// Decodes into `record`, any of the *Record messages. `key` is for the error's text. kUnsupported:
// newer version; kDamaged: no JSON, unknown or mistyped fields, no version, over 1 MiB.
Status parse_record(std::string_view key, std::string_view text, google::protobuf::Message& record);

template <typename Record>
Result<Record> parse_record(std::string_view key, std::string_view text) {
  Record record;
  CVOL_TRY(parse_record(key, text, record));
  return record;
}

}  // namespace cvol::meta
