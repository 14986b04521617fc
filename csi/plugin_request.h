// What dockerd says to a volume plugin, parsed: pure functions on untrusted text.
//
// Threading: any thread; no state. No exception leaves them. Bounds: the body's size is limited by
// the HTTP server; names, ids and options here.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "volumed/base/result.h"

namespace cvol::csi {

constexpr std::size_t kMaxPluginBody = 1024 * 1024;
constexpr std::size_t kMaxPluginOptions = 64;
constexpr std::size_t kMaxPluginText = 1024;  // of a name, an id, an option's key or value

struct PluginRequest {
  std::string name;                            // "" if absent
  std::string id;                              // caller of Mount and Unmount, "" if absent
  std::map<std::string, std::string> options;  // empty if absent or null
};

// The body of any call: one JSON object, or nothing at all (Plugin.Activate). kInvalidArgument says
// what is wrong. Members that are not known are ignored.
Result<PluginRequest> parse_plugin_request(std::string_view body);

struct CreateOptions {
  uint64_t size_bytes = 0;
  std::string file_system;
  uint32_t replicas = 0;
};

// Options of `docker volume create`: size (default 10GiB), fs (ext4 or xfs, default ext4), replicas
// (default 1). kInvalidArgument names an option that is unknown or has a value out of range.
Result<CreateOptions> parse_create_options(const std::map<std::string, std::string>& options);

}  // namespace cvol::csi
