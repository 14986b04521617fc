// Words that are no command: which one, and what was probably meant. Pure.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace CLI {
class App;
}

namespace cvol::cli {

// The word of `known` that is nearest to `word`; empty if none is near enough to be meant.
std::string nearest(std::string_view word, const std::vector<std::string>& known);

// A sentence about the first word that stands where a command should and is none; empty if there is
// no such word.
std::string explain_unknown(const CLI::App& app, int argc, const char* const* argv);

}  // namespace cvol::cli
