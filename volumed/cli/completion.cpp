#include "volumed/cli/completion.h"

#include <CLI/CLI.hpp>
#include <map>

namespace cvol::cli {
namespace {

constexpr const char* kBash =
    R"(# bash completion of cvol; load with: source <(cvol completion bash)
_cvol() {
  local IFS=$'\n'
  COMPREPLY=($(cvol __complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
}
complete -o default -F _cvol cvol
)";

constexpr const char* kZsh = R"(#compdef cvol
# zsh completion of cvol; load with: source <(cvol completion zsh)
_cvol() {
  local -a answers
  answers=("${(@f)$(cvol __complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
  if [[ -n "${answers[1]}" ]]; then compadd -a answers; else _files; fi
}
compdef _cvol cvol
)";

constexpr const char* kFish = R"(# fish completion of cvol; load with: cvol completion fish | source
function __cvol_complete
  set -l words (commandline -opc) (commandline -ct)
  cvol __complete -- $words[2..-1] 2>/dev/null
end
complete -c cvol -a '(__cvol_complete)'
)";

// Values of options that have few.
const std::map<std::string, std::vector<std::string>> kChoices = {
    {"--output", {"json", "table"}},
    {"--fs", {"ext4", "xfs"}},
    {"--on-full", {"default", "error", "wait"}},
    {"--replicas", {"1"}},
    {"--rate", {"16MiB/s", "64MiB/s", "256MiB/s"}},
    {"--size", {"1GiB", "10GiB", "100GiB", "1TiB"}}};

const CLI::Option* find_option(const CLI::App& app, const std::string& word) {
  for (const CLI::App* at = &app; at != nullptr; at = at->get_parent()) {
    for (const CLI::Option* option : at->get_options()) {
      if (option->check_name(word)) return option;
    }
  }
  return nullptr;
}

bool takes_value(const CLI::Option& option) {
  return option.get_items_expected_max() > 0;
}

std::vector<std::string> option_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::App* at = &app; at != nullptr; at = at->get_parent()) {
    for (const CLI::Option* option : at->get_options()) {
      if (option->get_lnames().empty()) continue;
      names.push_back("--" + option->get_lnames().front());
    }
  }
  return names;
}

std::vector<std::string> positional_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options()) {
    if (option->get_positional()) names.push_back(option->get_name(true));
  }
  return names;
}

std::vector<std::string> starting_with(std::vector<std::string> all, const std::string& prefix) {
  std::erase_if(all, [&](const std::string& text) { return !text.starts_with(prefix); });
  return all;
}

}  // namespace

std::string completion_script(const std::string& shell) {
  if (shell == "zsh") return kZsh;
  return shell == "fish" ? kFish : kBash;
}

std::vector<std::string> complete(const CLI::App& app, const std::vector<std::string>& words,
                                  const KnownNames& known) {
  const CLI::App* at = &app;
  const CLI::Option* open = nullptr;  // an option that waits for its value
  std::size_t positionals = 0;
  for (std::size_t i = 0; i + 1 < words.size(); ++i) {
    const std::string& word = words[i];
    if (open != nullptr) {
      open = nullptr;
      continue;
    }
    if (word.starts_with("-")) {
      const CLI::Option* option = find_option(*at, word);
      if (option != nullptr && takes_value(*option)) open = option;
      continue;
    }
    const auto commands =
        at->get_subcommands([&](const CLI::App* command) { return command->check_name(word); });
    if (commands.empty()) {
      ++positionals;
    } else {
      at = commands.front();
    }
  }
  const std::string current = words.empty() ? "" : words.back();
  if (open != nullptr) {
    const auto choices =
        open->get_lnames().empty() ? kChoices.end() : kChoices.find("--" + open->get_lnames()[0]);
    return choices == kChoices.end() ? std::vector<std::string>()
                                     : starting_with(choices->second, current);
  }
  if (current.starts_with("-")) return starting_with(option_names(*at), current);
  std::vector<std::string> candidates;
  for (const CLI::App* command : at->get_subcommands([](const CLI::App*) { return true; })) {
    if (!command->get_group().empty()) candidates.push_back(command->get_name());
  }
  const std::vector<std::string> names = positional_names(*at);
  const bool creates = at->get_name() == "create";
  const bool any_number = !names.empty() && names.back() == "NAMES";
  if (!creates && (any_number || (positionals < names.size() && names[positionals] == "NAME")))
    candidates = known.volumes();
  if (positionals < names.size() && names[positionals] == "DISK") candidates = known.disks();
  if (at->get_name() == "completion") candidates = {"bash", "zsh", "fish"};
  return starting_with(candidates, current);
}

}  // namespace cvol::cli
