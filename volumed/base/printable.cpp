#include "volumed/base/printable.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace cvol {
namespace {

uint32_t byte_at(std::string_view text, std::size_t at) {
  return static_cast<unsigned char>(text[at]);
}

// Bytes of the UTF-8 sequence that begins with `lead`; 0: none does.
std::size_t length_of(uint32_t lead) {
  if (lead < 0x80) return 1;
  if (lead >= 0xc2 && lead <= 0xdf) return 2;
  if (lead >= 0xe0 && lead <= 0xef) return 3;
  if (lead >= 0xf0 && lead <= 0xf4) return 4;
  return 0;
}

// Length of the character at the front that may stay as it is; 0: its first byte may not.
std::size_t shown_length(std::string_view text) {
  const uint32_t lead = byte_at(text, 0);
  const std::size_t length = length_of(lead);
  if (length == 0 || length > text.size()) return 0;
  if (length == 1) return lead < 0x20 || lead == 0x7f ? 0 : 1;
  uint32_t point = lead & (0xffu >> (length + 1));
  for (std::size_t i = 1; i < length; ++i) {
    const uint32_t next = byte_at(text, i);
    if ((next & 0xc0) != 0x80) return 0;
    point = point << 6 | (next & 0x3f);
  }
  if (length == 3 && point < 0x800) return 0;    // longer than need be
  if (length == 4 && point < 0x10000) return 0;  // the same
  if (point < 0xa0 || point > 0x10ffff || (point >= 0xd800 && point <= 0xdfff)) return 0;
  return length;
}

void append_escaped(std::string& line, uint32_t byte) {
  constexpr char kDigits[] = "0123456789abcdef";
  if (byte == '\n') {
    line += "\\n";
  } else if (byte == '\t') {
    line += "\\t";
  } else {
    line += "\\x";
    line += kDigits[byte >> 4];
    line += kDigits[byte & 0xf];
  }
}

}  // namespace

std::string printable(std::string_view text) {
  std::string line;
  line.reserve(text.size());
  while (!text.empty()) {
    const std::size_t length = shown_length(text);
    if (length == 0) {
      append_escaped(line, byte_at(text, 0));
    } else {
      line += text.substr(0, length);
    }
    text.remove_prefix(std::max<std::size_t>(length, 1));
  }
  return line;
}

bool is_printable(std::string_view text) {
  while (!text.empty()) {
    const std::size_t length = shown_length(text);
    if (length == 0) return false;
    text.remove_prefix(length);
  }
  return true;
}

}  // namespace cvol
