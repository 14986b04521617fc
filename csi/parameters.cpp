#include "csi/parameters.h"

#include <fmt/format.h>

#include <algorithm>
#include <sstream>

#include "volumed/base/checksum.h"
#include "volumed/base/units.h"
#include "volumed/base/uuid.h"

namespace cvol::csi {
namespace {

Status invalid(const std::string& text) {
  return Status(Code::kInvalidArgument, text);
}

Result<uint32_t> parse_count(const std::string& key, const std::string& value) {
  if (value.size() == 1 && value[0] >= '1' && value[0] <= static_cast<char>('0' + kMostReplicas))
    return static_cast<uint32_t>(value[0] - '0');
  return invalid("parameter " + key + ": '" + value + "' is no number from 1 to 8");
}

Status check_file_system(const std::string& type) {
  if (type == "ext4" || type == "xfs") return Status::ok();
  return invalid("file system '" + type + "' is not one of ext4, xfs");
}

Status set_file_system(const std::string& type, CreateParameters& parsed) {
  CVOL_TRY(check_file_system(type));
  if (!parsed.fs.empty() && parsed.fs != type)
    return invalid(std::string("parameters ") + kFsTypeKey + " and fsType ask for both " +
                   parsed.fs + " and " + type);
  parsed.fs = type;
  return Status::ok();
}

bool is_reserved(const std::string& key) {
  return key.starts_with(kReservedPrefix);
}

Status apply(const std::string& key, const std::string& value, CreateParameters& parsed) {
  if (key == kFsTypeKey && !value.empty()) return set_file_system(value, parsed);
  if (is_reserved(key)) return Status::ok();
  if (key == "replicas" || key == "minInSync") {
    auto count = parse_count(key, value);
    if (!count) return count.status();
    (key == "replicas" ? parsed.replicas : parsed.min_in_sync) = *count;
    return Status::ok();
  }
  if (key == "fsType") return set_file_system(value, parsed);
  if (key == "mkfsOptions") {
    parsed.mkfs_options = split_words(value);
    return Status::ok();
  }
  if (key == "zoneSpread") {
    parsed.zone_spread = value == "true";
    if (value == "true" || value == "false") return Status::ok();
    return invalid("parameter zoneSpread: '" + value + "' is neither true nor false");
  }
  return invalid("unknown parameter '" + key +
                 "': cvol knows replicas, minInSync, fsType, mkfsOptions and zoneSpread");
}

bool is_control(unsigned char c) {
  return (c < 0x20 && c != '\t' && c != '\n' && c != '\r') || c == 0x7f;
}

}  // namespace

Texts to_texts(const google::protobuf::Map<std::string, std::string>& map) {
  return {map.begin(), map.end()};
}

std::vector<std::string> split_words(const std::string& text) {
  std::istringstream stream(text);
  std::vector<std::string> words;
  for (std::string word; stream >> word;) words.push_back(word);
  return words;
}

Result<ChangeableParameters> parse_changeable(const Texts& parameters) {
  ChangeableParameters parsed;
  for (const auto& [key, value] : parameters) {
    if (is_reserved(key)) continue;
    if (key != "replicas" && key != "minInSync")
      return invalid("parameter '" + key + "' cannot be changed: replicas and minInSync can");
    auto count = parse_count(key, value);
    if (!count) return count.status();
    (key == "replicas" ? parsed.replicas : parsed.min_in_sync) = *count;
  }
  return parsed;
}

Result<CreateParameters> parse_parameters(const Texts& parameters, const Texts& changeable) {
  CreateParameters parsed;
  for (const auto& [key, value] : parameters) CVOL_TRY(apply(key, value, parsed));
  auto changed = parse_changeable(changeable);
  if (!changed) return changed.status();
  parsed.replicas = changed->replicas.value_or(parsed.replicas);
  parsed.min_in_sync = changed->min_in_sync.value_or(parsed.min_in_sync);
  if (parsed.min_in_sync > parsed.replicas)
    return invalid("minInSync is larger than replicas: writes would wait for ever");
  return parsed;
}

Status check_capability(const wire::VolumeCapability& capability) {
  using Mode = wire::VolumeCapability::AccessMode;
  if (!capability.has_access_mode()) return invalid("volume_capability.access_mode is required");
  if (!capability.has_block() && !capability.has_mount())
    return invalid("volume_capability has neither block nor mount");
  switch (capability.access_mode().mode()) {
    case Mode::SINGLE_NODE_WRITER:
    case Mode::SINGLE_NODE_READER_ONLY:
    case Mode::SINGLE_NODE_SINGLE_WRITER:
    case Mode::SINGLE_NODE_MULTI_WRITER:
      break;
    default:
      return invalid("access mode " + Mode::Mode_Name(capability.access_mode().mode()) +
                     " is not possible: a volume is used by one node at a time");
  }
  const std::string& fs = capability.mount().fs_type();
  return fs.empty() ? Status::ok() : check_file_system(fs);
}

bool is_reader(const wire::VolumeCapability& capability) {
  return capability.access_mode().mode() ==
         wire::VolumeCapability::AccessMode::SINGLE_NODE_READER_ONLY;
}

Result<std::string> wanted_file_system(
    const google::protobuf::RepeatedPtrField<wire::VolumeCapability>& capabilities) {
  std::string wanted;
  for (const wire::VolumeCapability& capability : capabilities) {
    const std::string& fs = capability.mount().fs_type();
    if (fs.empty()) continue;
    if (!wanted.empty() && wanted != fs)
      return invalid("a volume has one file system, not both " + wanted + " and " + fs);
    wanted = fs;
  }
  return wanted;
}

Status check_text(const std::string& text, const char* field, std::size_t most) {
  if (text.empty()) return invalid(std::string(field) + " is required");
  if (text.size() > most) return invalid(fmt::format("{} is longer than {} bytes", field, most));
  if (std::any_of(text.begin(), text.end(), is_control))
    return invalid(std::string(field) + " has control characters");
  return Status::ok();
}

Status check_path(const std::string& path, const char* field) {
  CVOL_TRY(check_text(path, field, kMostPathBytes));
  if (path[0] != '/') return invalid(std::string(field) + " '" + path + "' is no absolute path");
  return Status::ok();
}

Result<std::string> volume_name(const std::string& name) {
  CVOL_TRY(check_text(name, "name"));
  if (validate_name(name, "volume") && !Uuid::parse(name)) return name;
  const auto* bytes = reinterpret_cast<const std::byte*>(name.data());
  const uint64_t whole = plain_checksum({bytes, name.size()});
  const std::string again = name + "/2";
  const auto* more = reinterpret_cast<const std::byte*>(again.data());
  return fmt::format("csi-{:016x}{:016x}", whole, plain_checksum({more, again.size()}));
}

Result<uint64_t> choose_size(const wire::CapacityRange& range) {
  const int64_t required = range.required_bytes();
  const int64_t limit = range.limit_bytes();
  if (required < 0 || limit < 0) return invalid("a capacity cannot be negative");
  if (limit != 0 && limit < required)
    return invalid("capacity_range: limit_bytes is less than required_bytes");
  if (required == 0 && limit == 0) return uint64_t{0};
  const auto most = static_cast<uint64_t>(limit);
  uint64_t size = (static_cast<uint64_t>(required) + kMiB - 1) / kMiB * kMiB;
  if (required == 0) size = std::min(10 * kGiB, most / kMiB * kMiB);
  if (limit != 0 && size > most) size = static_cast<uint64_t>(required + 4095) / 4096 * 4096;
  if (size < kMiB || size > kMaxVolumeBytes || (limit != 0 && size > most))
    return Status(Code::kNoSpace,
                  fmt::format("a volume of {} to {} bytes is not possible: sizes are multiples of "
                              "4KiB from 1MiB to 4PiB",
                              required, limit));
  return size;
}

bool fits(uint64_t size, const wire::CapacityRange& range) {
  if (range.required_bytes() > 0 && size < static_cast<uint64_t>(range.required_bytes()))
    return false;
  return range.limit_bytes() == 0 || size <= static_cast<uint64_t>(range.limit_bytes());
}

}  // namespace cvol::csi
