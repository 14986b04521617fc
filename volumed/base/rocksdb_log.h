// RocksDbLog: what a RocksDB of ours has to say goes to our log. RocksDB then keeps no file for it:
// on a full file system it could not write that, and a build with assertions ends the process with
// the next line. Every rocksdb::Options of ours has it as `info_log`.
//
// Threading: any thread. Base itself does not link RocksDB; whoever includes this does.
#pragma once

#include <rocksdb/env.h>

#include <cstdarg>
#include <cstdio>
#include <string>
#include <utility>

#include "volumed/base/log.h"

namespace cvol {

class RocksDbLog final : public rocksdb::Logger {
 public:
  // `component`: of the lines in our log.
  explicit RocksDbLog(std::string component)
      : rocksdb::Logger(rocksdb::InfoLogLevel::WARN_LEVEL), component_(std::move(component)) {}

  void Logv(const char* format, va_list arguments) override {
    char text[512];
    if (std::vsnprintf(text, sizeof text, format, arguments) > 0)
      log::warning(component_, "RocksDB says", {{"what", text}});
  }
  // Headers and lower levels are not for us.
  void Logv(rocksdb::InfoLogLevel level, const char* format, va_list arguments) override {
    if (level >= rocksdb::InfoLogLevel::WARN_LEVEL && level < rocksdb::InfoLogLevel::HEADER_LEVEL)
      Logv(format, arguments);
  }

 private:
  const std::string component_;
};

}  // namespace cvol
