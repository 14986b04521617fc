// Flags of volumed.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <fstream>
#include <iostream>
#include <sstream>

#include "volumed/daemon/config.h"

namespace cvol::daemon {
namespace {

constexpr std::size_t kMostConfigBytes = 1024 * 1024;

Result<std::string> read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return status_from_errno(errno, "read configuration " + path);
  std::string text(kMostConfigBytes + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<std::size_t>(file.gcount()));
  if (text.size() > kMostConfigBytes)
    return Status(Code::kInvalidArgument, "configuration " + path + " is larger than 1MiB");
  return text;
}

}  // namespace

Result<Invocation> load_config(int argc, char** argv) {
  CLI::App app("volumed: serves the volumes of this node", "volumed");
  app.footer("Every flag is also a key of the configuration file, like: data-dir = \"/data\"");
  app.set_version_flag("--version", std::string("volumed ") + CVOL_VERSION);
  std::string path;
  app.add_option("--config", path, "Configuration file (/etc/cvol/volumed.toml, if it exists)")
      ->type_name("PATH");
  const auto& keys = config_keys();
  std::vector<std::vector<std::string>> given(keys.size());
  for (std::size_t i = 0; i < keys.size(); ++i) {
    const std::string flag = std::string("--") + keys[i].name;
    if (*keys[i].value == '\0') {
      app.add_flag_callback(
          flag, [&given, i] { given[i] = {"true"}; }, keys[i].help);
    } else {
      app.add_option(flag, given[i], keys[i].help)
          ->type_name(keys[i].value)
          ->expected(1)
          ->multi_option_policy(keys[i].repeated ? CLI::MultiOptionPolicy::TakeAll
                                                 : CLI::MultiOptionPolicy::TakeLast);
    }
  }
  Invocation invocation;
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    std::ostringstream text;
    if (app.exit(error, std::cout, text) == 0) {
      invocation.done = true;
      return invocation;
    }
    return Status(Code::kInvalidArgument, text.str());
  }
  if (path.empty() && ::access(kDefaultConfig, F_OK) == 0) path = kDefaultConfig;
  if (!path.empty()) {
    auto text = read_file(path);
    if (!text) return text.status();
    CVOL_TRY(parse_config(*text, invocation.config).with_context("configuration " + path));
  }
  for (std::size_t i = 0; i < keys.size(); ++i) {
    // Flags replace what the file says.
    if (!given[i].empty() && keys[i].repeated) {
      if (std::string(keys[i].name) == "listen") invocation.config.listen.clear();
      if (std::string(keys[i].name) == "nbd-listen") invocation.config.nbd_listen.clear();
    }
    for (const std::string& text : given[i])
      CVOL_TRY(keys[i].set(invocation.config, text).with_context(std::string("--") + keys[i].name));
  }
  CVOL_TRY(finish_config(invocation.config));
  return invocation;
}

}  // namespace cvol::daemon
