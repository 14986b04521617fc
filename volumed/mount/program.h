// Runs a program of the system to its end: no shell, a fixed PATH, stdin empty.
//
// Threading: any thread; blocks.
#pragma once

#include <string>
#include <vector>

#include "volumed/base/result.h"

namespace cvol::mount {

// `words`: the program's name and its arguments. kUnsupported: it is not installed (the text names
// `package`); kIo: it failed (the text has the last lines of what it said).
Status run_program(const std::vector<std::string>& words, const std::string& package);

}  // namespace cvol::mount
