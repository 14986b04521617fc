// Writer and Reader: integers and ids to and from a byte string. A Reader never reads beyond its
// bytes: it answers zeroes from then on, and ok() is false.
#pragma once

#include <algorithm>
#include <span>
#include <string>
#include <vector>

#include "volumed/base/bytes.h"
#include "volumed/base/uuid.h"

namespace cvol::replication::wire {

class Writer {
 public:
  explicit Writer(std::vector<std::byte>& out) : out_(out) {}
  void u8(uint8_t value) { out_.push_back(static_cast<std::byte>(value)); }
  void u16(uint16_t value) { put(value); }
  void u32(uint32_t value) { put(value); }
  void u64(uint64_t value) { put(value); }
  void uuid(const Uuid& id) {
    const auto* bytes = reinterpret_cast<const std::byte*>(id.bytes.data());
    out_.insert(out_.end(), bytes, bytes + id.bytes.size());
  }
  // At most 4 KiB of it.
  void text(const std::string& value) {
    const std::size_t size = std::min<std::size_t>(value.size(), 4096);
    u32(static_cast<uint32_t>(size));
    const auto* bytes = reinterpret_cast<const std::byte*>(value.data());
    out_.insert(out_.end(), bytes, bytes + size);
  }

 private:
  template <typename T>
  void put(T value) {
    std::byte bytes[sizeof value];
    store_le(bytes, value);
    out_.insert(out_.end(), bytes, bytes + sizeof value);
  }
  std::vector<std::byte>& out_;
};

class Reader {
 public:
  explicit Reader(std::span<const std::byte> bytes) : bytes_(bytes) {}
  bool ok() const { return ok_; }
  bool at_end() const { return bytes_.empty(); }
  bool has(uint64_t bytes) const { return ok_ && bytes <= bytes_.size(); }
  uint8_t u8() { return get<uint8_t>(); }
  uint16_t u16() { return get<uint16_t>(); }
  uint32_t u32() { return get<uint32_t>(); }
  uint64_t u64() { return get<uint64_t>(); }
  Uuid uuid() {
    Uuid id;
    if (!take(id.bytes.size())) return id;
    std::memcpy(id.bytes.data(), bytes_.data() - id.bytes.size(), id.bytes.size());
    return id;
  }
  std::string text() {
    const uint32_t size = u32();
    if (size > 4096 || !take(size)) {
      ok_ = false;
      return {};
    }
    return std::string(reinterpret_cast<const char*>(bytes_.data()) - size, size);
  }

 private:
  bool take(std::size_t bytes) {
    if (!has(bytes)) {
      ok_ = false;
      return false;
    }
    bytes_ = bytes_.subspan(bytes);
    return true;
  }
  template <typename T>
  T get() {
    if (!take(sizeof(T))) return 0;
    return load_le<T>(bytes_.data() - sizeof(T));
  }
  std::span<const std::byte> bytes_;
  bool ok_ = true;
};

}  // namespace cvol::replication::wire
