#include "volumed/cli/output.h"

#include <google/protobuf/timestamp.pb.h>
#include <google/protobuf/util/time_util.h>

#include <algorithm>

namespace cvol::cli {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using nlohmann::ordered_json;

ordered_json scalar(const Message& message, const FieldDescriptor* field, int index) {
  const auto* reflection = message.GetReflection();
  const bool repeated = field->is_repeated();
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_BOOL:
      return repeated ? reflection->GetRepeatedBool(message, field, index)
                      : reflection->GetBool(message, field);
    case FieldDescriptor::CPPTYPE_UINT32:
      return repeated ? reflection->GetRepeatedUInt32(message, field, index)
                      : reflection->GetUInt32(message, field);
    case FieldDescriptor::CPPTYPE_UINT64:
      return repeated ? reflection->GetRepeatedUInt64(message, field, index)
                      : reflection->GetUInt64(message, field);
    case FieldDescriptor::CPPTYPE_INT64:
      return repeated ? reflection->GetRepeatedInt64(message, field, index)
                      : reflection->GetInt64(message, field);
    case FieldDescriptor::CPPTYPE_STRING:
      return repeated ? reflection->GetRepeatedString(message, field, index)
                      : reflection->GetString(message, field);
    case FieldDescriptor::CPPTYPE_MESSAGE:
      // A time that has not come.
      if (!repeated && !reflection->HasField(message, field) &&
          field->message_type()->full_name() == "google.protobuf.Timestamp") {
        return nullptr;
      }
      return to_json(repeated ? reflection->GetRepeatedMessage(message, field, index)
                              : reflection->GetMessage(message, field));
    default:
      return nullptr;  // types that the API does not have
  }
}

ordered_json map_field(const Message& message, const FieldDescriptor* field) {
  ordered_json object = ordered_json::object();
  const auto* reflection = message.GetReflection();
  for (int i = 0; i < reflection->FieldSize(message, field); ++i) {
    const Message& entry = reflection->GetRepeatedMessage(message, field, i);
    const auto* key = entry.GetDescriptor()->FindFieldByNumber(1);
    const auto* value = entry.GetDescriptor()->FindFieldByNumber(2);
    object[entry.GetReflection()->GetString(entry, key)] = scalar(entry, value, 0);
  }
  return object;
}

}  // namespace

ordered_json to_json(const Message& message) {
  const auto* descriptor = message.GetDescriptor();
  if (descriptor->full_name() == "google.protobuf.Timestamp")
    return google::protobuf::util::TimeUtil::ToString(
        dynamic_cast<const google::protobuf::Timestamp&>(message));
  const auto* reflection = message.GetReflection();
  ordered_json object = ordered_json::object();
  for (int i = 0; i < descriptor->field_count(); ++i) {
    const FieldDescriptor* field = descriptor->field(i);
    ordered_json& value = object[field->name()];
    if (field->is_map()) {
      value = map_field(message, field);
    } else if (field->is_repeated()) {
      value = ordered_json::array();
      for (int at = 0; at < reflection->FieldSize(message, field); ++at)
        value.push_back(scalar(message, field, at));
    } else {
      value = scalar(message, field, 0);
    }
  }
  return object;
}

std::string format_table(const std::vector<std::vector<std::string>>& rows) {
  std::vector<std::size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string text;
  for (const auto& row : rows) {
    std::string line;
    for (std::size_t i = 0; i < row.size(); ++i) {
      line += row[i];
      if (i + 1 < row.size()) line.append(widths[i] - row[i].size() + 2, ' ');
    }
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
  }
  return text;
}

}  // namespace cvol::cli
