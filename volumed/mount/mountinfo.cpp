#include "volumed/mount/mountinfo.h"

#include <fstream>
#include <sstream>

namespace cvol::mount {
namespace {

bool is_octal(char c) {
  return c >= '0' && c <= '7';
}

// The kernel writes space, tab, newline and backslash as "\040" and so on.
std::string unescape(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && i + 3 < text.size() && is_octal(text[i + 1]) && is_octal(text[i + 2]) &&
        is_octal(text[i + 3])) {
      out.push_back(static_cast<char>((text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 +
                                      (text[i + 3] - '0')));
      i += 3;
    } else {
      out.push_back(text[i]);
    }
  }
  return out;
}

std::vector<std::string_view> split(std::string_view line) {
  std::vector<std::string_view> words;
  while (!line.empty()) {
    std::size_t end = line.find(' ');
    if (end == std::string_view::npos) end = line.size();
    if (end > 0) words.push_back(line.substr(0, end));
    line.remove_prefix(end < line.size() ? end + 1 : end);
  }
  return words;
}

// "36 35 98:0 /root /target rw,noatime master:1 - ext3 /dev/root rw": the optional fields before
// the dash vary in number.
bool parse_line(std::string_view line, MountEntry& into) {
  std::vector<std::string_view> words = split(line);
  std::size_t dash = 6;
  while (dash < words.size() && words[dash] != "-") ++dash;
  if (dash + 2 >= words.size()) return false;
  into = {std::string(words[2]),     unescape(words[4]),    std::string(words[dash + 1]),
          unescape(words[dash + 2]), std::string(words[0]), std::string(words[1])};
  if (dash + 3 < words.size()) into.super_options = unescape(words[dash + 3]);
  for (std::size_t i = 6; i < dash; ++i) {
    if (words[i].starts_with("shared:")) into.shared = words[i].substr(7);
    if (words[i].starts_with("master:")) into.master = words[i].substr(7);
  }
  return true;
}

}  // namespace

std::vector<MountEntry> parse_mountinfo(std::string_view text) {
  std::vector<MountEntry> entries;
  while (!text.empty()) {
    std::size_t end = text.find('\n');
    if (end == std::string_view::npos) end = text.size();
    MountEntry entry;
    if (parse_line(text.substr(0, end), entry)) entries.push_back(std::move(entry));
    text.remove_prefix(end < text.size() ? end + 1 : end);
  }
  return entries;
}

std::vector<MountEntry> read_mountinfo(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return parse_mountinfo(text.str());
}

}  // namespace cvol::mount
