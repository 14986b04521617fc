// Shell completion: scripts that ask cvol itself, and the answers.
#pragma once

#include <functional>
#include <string>
#include <vector>

namespace CLI {
class App;
}

namespace cvol::cli {

// The script for "bash", "zsh" or "fish".
std::string completion_script(const std::string& shell);

// Candidates for the last of `words` (what stands after "cvol" on the line so far, the last one
// unfinished or empty). `known` is asked for names only where one belongs.
struct KnownNames {
  std::function<std::vector<std::string>()> volumes;
  std::function<std::vector<std::string>()> disks;  // paths
};
std::vector<std::string> complete(const CLI::App& app, const std::vector<std::string>& words,
                                  const KnownNames& known);

}  // namespace cvol::cli
