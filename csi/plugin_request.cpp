#include "csi/plugin_request.h"

#include <charconv>
#include <nlohmann/json.hpp>

#include "volumed/base/units.h"

namespace cvol::csi {
namespace {

using Json = nlohmann::json;

constexpr uint64_t kDefaultSize = 10 * kGiB;

Status invalid(const std::string& text) {
  return Status(Code::kInvalidArgument, text);
}

Status take_text(const Json& from, const char* key, std::string& into) {
  auto found = from.find(key);
  if (found == from.end() || found->is_null()) return Status::ok();
  if (!found->is_string()) return invalid(std::string(key) + " is not a text");
  into = found->get<std::string>();
  if (into.size() > kMaxPluginText) return invalid(std::string(key) + " is longer than 1024 bytes");
  return Status::ok();
}

Status take_options(const Json& from, std::map<std::string, std::string>& into) {
  auto found = from.find("Opts");
  if (found == from.end() || found->is_null()) return Status::ok();
  if (!found->is_object()) return invalid("Opts is not an object");
  if (found->size() > kMaxPluginOptions) return invalid("more than 64 options");
  for (const auto& [key, value] : found->items()) {
    if (!value.is_string()) return invalid("option " + key.substr(0, 100) + " is not a text");
    std::string text = value.get<std::string>();
    if (key.size() > kMaxPluginText || text.size() > kMaxPluginText) {
      return invalid("an option is longer than 1024 bytes");
    }
    into.emplace(key, std::move(text));
  }
  return Status::ok();
}

Status apply_replicas(const std::string& text, uint32_t& into) {
  const char* end = text.data() + text.size();
  auto [stop, error] = std::from_chars(text.data(), end, into);
  if (error != std::errc() || stop != end || into < 1 || into > kMostReplicas) {
    return invalid("option replicas=" + text + ": give a number from 1 to " +
                   std::to_string(kMostReplicas));
  }
  return Status::ok();
}

Status apply_size(const std::string& text, uint64_t& into) {
  Result<uint64_t> size = parse_volume_size(text);
  if (!size) return size.status().with_context("option size");
  into = *size;
  return validate_volume_size(into).with_context("option size");
}

Status apply_file_system(const std::string& text, std::string& into) {
  if (text != "ext4" && text != "xfs") {
    return invalid("option fs=" + text + ": cvol makes ext4 and xfs");
  }
  into = text;
  return Status::ok();
}

Status apply(const std::string& key, const std::string& value, CreateOptions& into) {
  if (key == "size") return apply_size(value, into.size_bytes);
  if (key == "fs") return apply_file_system(value, into.file_system);
  if (key == "replicas") return apply_replicas(value, into.replicas);
  if (key == "from") {
    return invalid("option from: this version of cvol cannot make a volume from a snapshot or " +
                   std::string("another volume yet; create it empty and copy the files"));
  }
  return invalid("unknown option " + key + ": cvol knows size, fs and replicas");
}

}  // namespace

Result<PluginRequest> parse_plugin_request(std::string_view body) {
  PluginRequest request;
  if (body.size() > kMaxPluginBody) return invalid("the request is larger than 1 MiB");
  if (body.find_first_not_of(" \t\r\n") == std::string_view::npos) return request;
  Json json = Json::parse(body, nullptr, false);
  if (!json.is_object()) return invalid("the request is not a JSON object");
  CVOL_TRY(take_text(json, "Name", request.name));
  CVOL_TRY(take_text(json, "ID", request.id));
  CVOL_TRY(take_options(json, request.options));
  return request;
}

Result<CreateOptions> parse_create_options(const std::map<std::string, std::string>& options) {
  CreateOptions parsed{kDefaultSize, "ext4", 1};
  for (const auto& [key, value] : options) CVOL_TRY(apply(key, value, parsed));
  return parsed;
}

}  // namespace cvol::csi
