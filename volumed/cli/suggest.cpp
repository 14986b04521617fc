#include "volumed/cli/suggest.h"

#include <CLI/CLI.hpp>
#include <algorithm>

namespace cvol::cli {
namespace {

constexpr std::size_t kLongestWord = 64;

// Insertions, deletions, replacements and swaps of neighbours that make one word the other.
std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> before(b.size() + 1);
  std::vector<std::size_t> last(b.size() + 1);
  std::vector<std::size_t> now(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) last[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    now[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t replaced = last[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      now[j] = std::min({last[j] + 1, now[j - 1] + 1, replaced});
      const bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
      if (swapped) now[j] = std::min(now[j], before[j - 2] + 1);
    }
    before = last;
    last = now;
  }
  return last[b.size()];
}

std::vector<std::string> command_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; }))
    names.push_back(command->get_name());
  return names;
}

const CLI::App* find_command(const CLI::App& app, const std::string& name) {
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; })) {
    if (command->get_name() == name) return command;
  }
  return nullptr;
}

// True if the next word belongs to this option.
bool takes_next_word(const CLI::App& app, const std::string& word) {
  if (word.find('=') != std::string::npos) return false;
  for (const CLI::App* at = &app; at != nullptr; at = at->get_parent()) {
    for (const CLI::Option* option : at->get_options()) {
      if (option->check_name(word)) return option->get_items_expected_max() > 0;
    }
  }
  return false;
}

}  // namespace

std::string nearest(std::string_view word, const std::vector<std::string>& known) {
  if (word.size() > kLongestWord) return "";
  std::string best;
  std::size_t least = word.size() <= 3 ? 2 : 3;  // more than that is another word
  for (const std::string& name : known) {
    std::size_t distance = edit_distance(word, name);
    if (name.starts_with(word)) distance = 1;
    if (distance >= least) continue;
    least = distance;
    best = name;
  }
  return best;
}

std::string explain_unknown(const CLI::App& app, int argc, const char* const* argv) {
  const CLI::App* at = &app;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--help" || word == "-h" || word == "--version") return "";
    if (word.starts_with("-")) {
      if (takes_next_word(*at, word)) ++i;
      continue;
    }
    const std::vector<std::string> names = command_names(*at);
    if (names.empty()) return "";  // what follows are arguments
    if (const CLI::App* command = find_command(*at, word)) {
      at = command;
      continue;
    }
    std::string path = "cvol";
    if (at != &app) path += " " + at->get_name();
    const std::string meant = nearest(word, names);
    return "there is no command '" + path + " " + word.substr(0, kLongestWord) + "'" +
           (meant.empty() ? "" : "; did you mean '" + path + " " + meant + "'?") + " '" + path +
           " --help' lists those there are";
  }
  return "";
}

}  // namespace cvol::cli
