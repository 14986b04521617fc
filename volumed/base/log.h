// Structured logs on stderr: "2026-01-02T03:04:05.678Z INFO store: destaged chunks=12 disk=/x".
//
// Any thread. Fields are key=value; values with spaces or quotes are quoted. The level is set once
// at start (--log-level) and may be changed at any time.
#pragma once

#include <fmt/format.h>

#include <initializer_list>
#include <string>
#include <string_view>

namespace cvol::log {

enum class Level { kTrace, kDebug, kInfo, kWarning, kError, kOff };

struct Field {
  template <typename T>
  Field(std::string_view name, const T& content) : key(name), value(fmt::format("{}", content)) {}
  std::string_view key;
  std::string value;
};

using Fields = std::initializer_list<Field>;

// False for a name that is not one of trace, debug, info, warning, error, off.
bool set_level(std::string_view name);
bool enabled(Level level);
// `part` is the folder that speaks: "store", "nbd", "volume", "api".
void write(Level level, std::string_view part, std::string_view message, Fields fields = {});

inline void debug(std::string_view part, std::string_view message, Fields fields = {}) {
  write(Level::kDebug, part, message, fields);
}
inline void info(std::string_view part, std::string_view message, Fields fields = {}) {
  write(Level::kInfo, part, message, fields);
}
inline void warning(std::string_view part, std::string_view message, Fields fields = {}) {
  write(Level::kWarning, part, message, fields);
}
inline void error(std::string_view part, std::string_view message, Fields fields = {}) {
  write(Level::kError, part, message, fields);
}

}  // namespace cvol::log
