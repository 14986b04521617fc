// Runs a program to its end: no shell, a fixed PATH, stdin empty, no descriptor of ours beyond 2.
//
// Threading: any thread; blocks in waits that a SIGKILL ends.
#pragma once

#include <string>
#include <vector>

#include "volumed/base/result.h"

namespace cvol::mount {

// `words`: the program's name and its arguments. kUnsupported: it is not installed (the text names
// `package`); kIo: it failed (the text has the last lines of what it said).
Status run_program(const std::vector<std::string>& words, const std::string& package);

// For programs of our own: answers the first line of stdout; stderr is ours. kInternal: it ended
// without a line.
Result<std::string> run_for_answer(const std::vector<std::string>& words);

}  // namespace cvol::mount
