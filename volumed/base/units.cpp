#include "volumed/base/units.h"

#include <fmt/format.h>

#include <array>
#include <cctype>

namespace cvol {
namespace {

constexpr std::string_view kSuffixes = "KMGTP";

Status bad_size(std::string_view text) {
  return Status(
      Code::kInvalidArgument,
      fmt::format("'{}' is no size; write it like 10GiB, 512MiB or 4096", text.substr(0, 64)));
}

// Multiplier of a suffix such as "", "B", "G", "GB", "GiB"; 0 if it is none.
uint64_t multiplier(std::string_view suffix) {
  if (suffix.empty() || suffix == "B" || suffix == "b") return 1;
  const auto at = kSuffixes.find(static_cast<char>(std::toupper(suffix[0])));
  if (at == std::string_view::npos) return 0;
  const std::string_view rest = suffix.substr(1);
  if (rest == "B" || rest == "b") {  // decimal, as the standards have it
    uint64_t unit = 1;
    for (std::size_t i = 0; i <= at; ++i) unit *= 1000;
    return unit;
  }
  if (!rest.empty() && rest != "iB" && rest != "ib" && rest != "i") return 0;
  return uint64_t{1} << (10 * (at + 1));
}

bool is_alnum(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

}  // namespace

Result<uint64_t> parse_size(std::string_view text) {
  std::size_t at = 0;
  uint64_t whole = 0;
  while (at < text.size() && text[at] >= '0' && text[at] <= '9') {
    if (whole > (UINT64_MAX - 9) / 10) return bad_size(text);
    whole = whole * 10 + static_cast<uint64_t>(text[at++] - '0');
  }
  if (at == 0) return bad_size(text);
  uint64_t fraction = 0;
  uint64_t scale = 1;
  if (at < text.size() && text[at] == '.') {
    const std::size_t first = ++at;
    while (at < text.size() && text[at] >= '0' && text[at] <= '9') {
      if (scale < 1000000) {
        fraction = fraction * 10 + static_cast<uint64_t>(text[at] - '0');
        scale *= 10;
      }
      ++at;
    }
    if (at == first) return bad_size(text);
  }
  while (at < text.size() && text[at] == ' ') ++at;
  const uint64_t unit = multiplier(text.substr(at));
  if (unit == 0 || (unit == 1 && scale != 1)) return bad_size(text);
  if (whole > UINT64_MAX / unit) return bad_size(text);
  const uint64_t part = unit / scale * fraction + unit % scale * fraction / scale;
  if (whole * unit > UINT64_MAX - part) return bad_size(text);
  return whole * unit + part;
}

Result<uint64_t> parse_volume_size(std::string_view text) {
  Result<uint64_t> size = parse_size(text);
  if (!size) return size;
  if (*size > UINT64_MAX - kBlockBytes) return bad_size(text);
  return (*size + kBlockBytes - 1) / kBlockBytes * kBlockBytes;
}

std::string format_exact_size(uint64_t bytes) {
  const std::string text = format_size(bytes);
  if (text.find('.') == std::string::npos) return text;
  return fmt::format("{} ({} bytes)", text, bytes);
}

std::string format_size(uint64_t bytes) {
  if (bytes < kKiB) return fmt::format("{}B", bytes);
  std::size_t index = 0;
  uint64_t unit = kKiB;
  while (index + 1 < kSuffixes.size() && bytes / unit >= 1024) {
    unit *= 1024;
    ++index;
  }
  if (bytes % unit == 0) return fmt::format("{}{}iB", bytes / unit, kSuffixes[index]);
  return fmt::format("{:.1f}{}iB", static_cast<double>(bytes) / static_cast<double>(unit),
                     kSuffixes[index]);
}

Status validate_name(std::string_view name, std::string_view what) {
  const auto bad = [&](std::string_view why) {
    return Status(Code::kInvalidArgument,
                  fmt::format("{} name '{}' {}; use 1 to 128 letters, digits, '_', '.' and '-', "
                              "beginning with a letter or digit",
                              what, name.substr(0, 128), why));
  };
  if (name.empty()) return bad("is empty");
  if (name.size() > 128) return bad("is too long");
  if (!is_alnum(name[0])) return bad("begins with a wrong character");
  for (char c : name) {
    if (!is_alnum(c) && c != '_' && c != '.' && c != '-') return bad("has a wrong character");
  }
  return Status::ok();
}

Status validate_new_volume_name(std::string_view name) {
  if (const Status valid = validate_name(name, "volume"); !valid) return valid;
  if (name.size() >= 2) return Status::ok();
  return Status(Code::kInvalidArgument,
                fmt::format("volume name '{}' has one character, which docker takes for the drive "
                            "letter of a path; use at least two",
                            name));
}

Status validate_volume_size(uint64_t bytes) {
  if (bytes < kMiB || bytes > kMaxVolumeBytes) {
    return Status(Code::kInvalidArgument,
                  fmt::format("a volume of {} is not possible; choose from 1MiB to {}",
                              format_size(bytes), format_size(kMaxVolumeBytes)));
  }
  if (bytes % kBlockBytes != 0) {
    return Status(Code::kInvalidArgument,
                  fmt::format("volume size {} is no multiple of 4KiB", bytes));
  }
  return Status::ok();
}

Status validate_rate(uint64_t bytes_per_second) {
  if (bytes_per_second >= 64 * kKiB && bytes_per_second <= 64 * kGiB) return Status::ok();
  return Status(Code::kInvalidArgument,
                fmt::format("a rate of {}/s is not between 64KiB/s and 64GiB/s",
                            format_size(bytes_per_second)));
}

Result<uint64_t> parse_rate(std::string_view text) {
  const std::string_view whole = text;
  if (text.ends_with("/s")) text.remove_suffix(2);
  Result<uint64_t> rate = parse_size(text);
  if (!rate) {
    return Status(Code::kInvalidArgument,
                  fmt::format("'{}' is no rate; write it like 64MiB/s", whole.substr(0, 64)));
  }
  if (const Status valid = validate_rate(*rate); !valid) return valid;
  return rate;
}

Result<uint64_t> parse_duration(std::string_view text) {
  if (text == "0") return uint64_t{0};
  std::size_t at = 0;
  uint64_t count = 0;
  while (at < text.size() && at < 9 && text[at] >= '0' && text[at] <= '9')
    count = count * 10 + static_cast<uint64_t>(text[at++] - '0');
  const std::string_view unit = text.substr(at);
  uint64_t seconds = 0;
  if (unit == "s") seconds = 1;
  if (unit == "min") seconds = 60;
  if (unit == "h") seconds = 3600;
  if (unit == "d") seconds = 86400;
  if (at == 0 || seconds == 0) {
    return Status(
        Code::kInvalidArgument,
        fmt::format("'{}' is no duration; write it like 14d, 36h or 90min", text.substr(0, 64)));
  }
  return count * seconds;
}

}  // namespace cvol
