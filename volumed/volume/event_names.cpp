#include "volumed/volume/event_names.h"

#include <cctype>

namespace cvol::volume {
namespace {

constexpr std::size_t kShortDigits = 8;

bool is_word(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '-' || c == '_';
}

// Whole words only: the beginning of another id is none.
void replace_word(std::string& text, const std::string& word, const std::string& name) {
  std::size_t at = 0;
  while ((at = text.find(word, at)) != std::string::npos) {
    const std::size_t end = at + word.size();
    const bool whole =
        (at == 0 || !is_word(text[at - 1])) && (end == text.size() || !is_word(text[end]));
    if (!whole) {
      at = end;
      continue;
    }
    text.replace(at, word.size(), name);
    at += name.size();
  }
}

}  // namespace

std::string with_node_names(const v1::VolumeRecord& record,
                            const std::map<std::string, std::string>& nodes, std::string text) {
  for (const v1::MemberRecord& member : record.members()) {
    const auto name = nodes.find(member.node_id());
    const std::string& id = member.replica_id();
    if (name == nodes.end() || name->second.empty() || id.size() < kShortDigits) continue;
    replace_word(text, "replica " + id, "the replica on " + name->second);
    replace_word(text, id, name->second);
    replace_word(text, id.substr(0, kShortDigits), name->second);
  }
  return text;
}

}  // namespace cvol::volume
