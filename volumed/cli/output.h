// How results are shown: tables for people, JSON for scripts.
//
// Pure functions.
#pragma once

#include <google/protobuf/message.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace cvol::cli {

// Left-aligned columns, two spaces apart; the first row is the heading.
std::string format_table(const std::vector<std::vector<std::string>>& rows);

// A message as JSON: names as in the .proto file, every field present, numbers as numbers,
// timestamps as RFC 3339 texts, null if they are absent.
nlohmann::ordered_json to_json(const google::protobuf::Message& message);

// An array of messages.
template <typename Messages>
nlohmann::ordered_json to_json_array(const Messages& messages) {
  nlohmann::ordered_json array = nlohmann::ordered_json::array();
  for (const auto& message : messages) array.push_back(to_json(message));
  return array;
}

}  // namespace cvol::cli
