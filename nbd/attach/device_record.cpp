#include "nbd/attach/device_record.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "volumed/base/log.h"
#include "volumed/base/units.h"

namespace cvol::attach {
namespace {

using Json = nlohmann::json;
constexpr char kSuffix[] = ".json";

std::string record_path(const std::string& state_dir, const std::string& volume) {
  return state_dir + "/" + volume + kSuffix;
}

Status damaged(const std::string& what) {
  return Status(Code::kDamaged, "device record: " + what);
}

// False if the member is there with another type; an absent one leaves `into` as it is.
bool take(const Json& from, const char* key, std::string& into) {
  auto found = from.find(key);
  if (found == from.end()) return true;
  if (!found->is_string()) return false;
  into = found->get<std::string>();
  return true;
}

template <typename T>
bool take_number(const Json& from, const char* key, T& into) {
  auto found = from.find(key);
  if (found == from.end()) return true;
  if (!found->is_number_unsigned()) return false;
  into = static_cast<T>(found->get<uint64_t>());
  return true;
}

Status sync_directory(const std::string& path) {
  int descriptor = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return status_from_errno(errno, "open " + path);
  int failed = fsync(descriptor) != 0 ? errno : 0;
  close(descriptor);
  return failed == 0 ? Status::ok() : status_from_errno(failed, "sync " + path);
}

Status write_whole(const std::string& path, const std::string& text) {
  int descriptor = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (descriptor < 0) return status_from_errno(errno, "create " + path);
  ssize_t written = write(descriptor, text.data(), text.size());
  int failed = written == static_cast<ssize_t>(text.size()) ? 0 : (written < 0 ? errno : EIO);
  if (failed == 0 && fsync(descriptor) != 0) failed = errno;
  close(descriptor);
  return failed == 0 ? Status::ok() : status_from_errno(failed, "write " + path);
}

Result<DeviceRecord> read_record(const std::string& path) {
  std::ifstream file(path);
  std::string text(kMaxRecordBytes + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<std::size_t>(file.gcount()));
  return decode_record(text);
}

}  // namespace

std::string encode_record(const DeviceRecord& record) {
  Json json = {{"format", kRecordFormat},
               {"volume", record.volume},
               {"method", record.method},
               {"device", record.device},
               {"size_bytes", record.size_bytes},
               {"boot_id", record.boot_id},
               {"holder_pid", static_cast<uint64_t>(record.holder_pid)},
               {"holder_start", record.holder_start},
               {"connections", record.connections},
               {"instance", record.instance}};
  return json.dump(2) + "\n";
}

Result<DeviceRecord> decode_record(std::string_view text) {
  if (text.size() > kMaxRecordBytes) return damaged("larger than 64 KiB");
  Json json = Json::parse(text, nullptr, false);
  if (!json.is_object()) return damaged("not a JSON object");
  uint64_t format = 0;
  if (!take_number(json, "format", format) || format == 0) return damaged("no format");
  if (format > kRecordFormat) {
    return Status(Code::kUnsupported, "device record of format " + std::to_string(format) +
                                          ": this cvol knows formats up to 1; use a newer one");
  }
  DeviceRecord record;
  bool well_formed = take(json, "volume", record.volume) && take(json, "method", record.method) &&
                     take(json, "device", record.device) && take(json, "boot_id", record.boot_id) &&
                     take(json, "instance", record.instance) &&
                     take_number(json, "size_bytes", record.size_bytes) &&
                     take_number(json, "holder_pid", record.holder_pid) &&
                     take_number(json, "holder_start", record.holder_start) &&
                     take_number(json, "connections", record.connections);
  if (!well_formed) return damaged("a member of a wrong type");
  CVOL_TRY(validate_name(record.volume, "volume"));
  if (record.method != "kernel" && record.method != "fuse") return damaged("unknown method");
  return record;
}

Status write_record(const std::string& state_dir, const DeviceRecord& record) {
  std::string path = record_path(state_dir, record.volume);
  std::string temporary = state_dir + "/" + record.volume + ".tmp";
  CVOL_TRY(write_whole(temporary, encode_record(record)));
  if (rename(temporary.c_str(), path.c_str()) != 0) {
    return status_from_errno(errno, "rename " + temporary);
  }
  return sync_directory(state_dir);
}

Status remove_record(const std::string& state_dir, const std::string& volume) {
  std::string path = record_path(state_dir, volume);
  if (unlink(path.c_str()) != 0 && errno != ENOENT) {
    return status_from_errno(errno, "remove " + path);
  }
  return sync_directory(state_dir);
}

Result<std::vector<DeviceRecord>> read_records(const std::string& state_dir,
                                               std::vector<std::string>* unreadable) {
  std::vector<DeviceRecord> records;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(state_dir, error)) {
    if (entry.path().extension() != kSuffix) continue;
    Result<DeviceRecord> record = read_record(entry.path());
    if (record && record->volume + kSuffix != entry.path().filename()) {
      record = damaged("the file is not named after its volume");
    }
    if (record) {
      records.push_back(std::move(*record));
    } else {
      log::warning("attach", "a device record cannot be read and is left alone",
                   {{"file", entry.path().string()}, {"reason", record.message()}});
      if (unreadable != nullptr) unreadable->push_back(entry.path().stem());
    }
  }
  if (error) return Status(Code::kIo, "read " + state_dir + ": " + error.message());
  std::sort(records.begin(), records.end(),
            [](const auto& a, const auto& b) { return a.volume < b.volume; });
  return records;
}

}  // namespace cvol::attach
