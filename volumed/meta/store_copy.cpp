#include "volumed/meta/store_copy.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <span>
#include <vector>

#include "volumed/base/bytes.h"
#include "volumed/base/checksum.h"
#include "volumed/base/units.h"

namespace cvol::meta {
namespace {

constexpr std::string_view kMagic = "CVOLMETA";
constexpr uint32_t kCopyVersion = 1;
constexpr std::size_t kHeaderBytes = 20;   // magic, version, count of records
constexpr std::size_t kLengthsBytes = 8;   // of a record: key, value
constexpr std::size_t kChecksumBytes = 8;  // of all before it
constexpr uint64_t kMostFileBytes = kGiB;
constexpr std::size_t kMostChanges = 50;  // of one commit
constexpr std::size_t kMostCommitBytes = 512 * 1024;

template <typename T>
void append(std::string& text, T number) {
  std::byte bytes[sizeof(T)];
  store_le<T>(bytes, number);
  text.append(reinterpret_cast<const char*>(bytes), sizeof bytes);
}

template <typename T>
T number_at(const std::string& text, std::size_t at) {
  return load_le<T>(reinterpret_cast<const std::byte*>(text.data() + at));
}

uint64_t checksum_of(std::string_view text) {
  return plain_checksum(std::as_bytes(std::span(text.data(), text.size())));
}

Status damaged(const std::string& path, const std::string& why) {
  return Status(Code::kDamaged, "the copy of the records " + path + " is damaged: " + why +
                                    "; move it away to start without it");
}

Status write_whole(int file, std::string_view text, const std::string& path) {
  while (!text.empty()) {
    const ssize_t wrote = ::write(file, text.data(), text.size());
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote <= 0) return status_from_errno(wrote < 0 ? errno : EIO, "write " + path);
    text.remove_prefix(static_cast<std::size_t>(wrote));
  }
  return ::fsync(file) == 0 ? Status::ok() : status_from_errno(errno, "sync " + path);
}

Status replace_file(const std::string& path, const std::string& text) {
  const std::string fresh = path + ".new";
  const int file = ::open(fresh.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (file < 0) return status_from_errno(errno, "create " + fresh);
  const Status written = write_whole(file, text, fresh);
  ::close(file);
  CVOL_TRY(written);
  if (::rename(fresh.c_str(), path.c_str()) != 0)
    return status_from_errno(errno, "rename " + fresh);
  const std::string folder = std::filesystem::path(path).parent_path().string();
  const int directory = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (directory < 0) return status_from_errno(errno, "open directory " + folder);
  const int error = ::fsync(directory) == 0 ? 0 : errno;
  ::close(directory);
  return error == 0 ? Status::ok() : status_from_errno(error, "sync directory " + folder);
}

Result<std::string> read_file(const std::string& path) {
  std::error_code error;
  const uint64_t bytes = std::filesystem::file_size(path, error);
  if (error) return status_from_errno(error.value(), "read " + path);
  if (bytes < kHeaderBytes + kChecksumBytes || bytes > kMostFileBytes)
    return damaged(path, "its size is impossible");
  std::string text(bytes, '\0');
  std::ifstream file(path, std::ios::binary);
  if (!file.read(text.data(), static_cast<std::streamsize>(bytes)))
    return Status(Code::kIo, "read " + path + " failed");
  return text;
}

// The records of a copy, in order of keys.
Result<std::vector<Change>> decode(const std::string& text, const std::string& path,
                                   const std::string& root) {
  const std::size_t end = text.size() - kChecksumBytes;
  if (!text.starts_with(kMagic)) return damaged(path, "the magic number is missing");
  if (checksum_of(std::string_view(text).substr(0, end)) != number_at<uint64_t>(text, end))
    return damaged(path, "the checksum does not hold");
  const uint32_t version = number_at<uint32_t>(text, 8);
  if (version > kCopyVersion)
    return Status(Code::kUnsupported, path + " has format version " + std::to_string(version) +
                                          ", this volumed knows up to " +
                                          std::to_string(kCopyVersion) + "; use a newer volumed");
  const uint64_t count = number_at<uint64_t>(text, 12);
  std::vector<Change> records;
  std::size_t at = kHeaderBytes;
  for (uint64_t i = 0; i < count; ++i) {
    if (end - at < kLengthsBytes) return damaged(path, "it is too short");
    const std::size_t key = number_at<uint32_t>(text, at);
    const std::size_t value = number_at<uint32_t>(text, at + 4);
    at += kLengthsBytes;
    if (key > end - at || value > end - at - key) return damaged(path, "a length is impossible");
    records.push_back({text.substr(at, key), text.substr(at + key, value), 0});
    at += key + value;
    if (!records.back().key.starts_with(root)) return damaged(path, "a key of another cluster");
  }
  if (at != end) return damaged(path, "it is too long");
  return records;
}

}  // namespace

Status write_store_copy(MetadataStore& store, const Keys& keys, const std::string& path) {
  auto entries = store.list(keys.root());
  if (!entries) return entries.status();
  std::erase_if(*entries, [&](const Entry& entry) { return entry.key.starts_with(keys.alive()); });
  std::string text(kMagic);
  append<uint32_t>(text, kCopyVersion);
  append<uint64_t>(text, entries->size());
  for (const Entry& entry : *entries) {
    append<uint32_t>(text, static_cast<uint32_t>(entry.key.size()));
    append<uint32_t>(text, static_cast<uint32_t>(entry.value.size()));
    text += entry.key;
    text += entry.value;
  }
  append<uint64_t>(text, checksum_of(text));
  return replace_file(path, text);
}

Result<std::size_t> restore_store_copy(MetadataStore& store, const Keys& keys,
                                       const std::string& path) {
  auto cluster = store.get(keys.cluster());
  if (!cluster) return cluster.status();
  std::error_code error;
  if (*cluster || !std::filesystem::exists(path, error)) return std::size_t{0};
  auto text = read_file(path);
  if (!text) return text.status();
  auto records = decode(*text, path, keys.root());
  if (!records) return records.status();
  const std::size_t count = records->size();
  // Stable: the cluster's record goes to the end.
  std::stable_partition(records->begin(), records->end(),
                        [&](const Change& record) { return record.key != keys.cluster(); });
  if (records->empty() || records->back().key != keys.cluster())
    return damaged(path, "the record of the cluster is not in it");
  Change last = std::move(records->back());
  records->pop_back();
  Transaction some;
  std::size_t bytes = 0;
  const auto put_some = [&]() -> Status {
    if (some.changes.empty()) return Status::ok();
    CVOL_TRY(store.commit(some).status());
    some.changes.clear();
    bytes = 0;
    return Status::ok();
  };
  for (Change& record : *records) {
    const std::size_t more = record.key.size() + record.value->size();
    if (some.changes.size() >= kMostChanges || bytes + more > kMostCommitBytes)
      CVOL_TRY(put_some());
    bytes += more;
    some.changes.push_back(std::move(record));
  }
  CVOL_TRY(put_some());
  CVOL_TRY(store.commit({{}, {std::move(last)}}).status());
  return count;
}

}  // namespace cvol::meta
