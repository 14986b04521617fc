// Assertions that stay on in every build. A broken invariant stops the process: for a replicated
// volume that is a pause, never wrong data.
#pragma once

namespace cvol {

// Prints the text to stderr and aborts. Any thread.
[[noreturn]] void assertion_failed(const char* expression, const char* file, int line);

}  // namespace cvol

#define CVOL_ASSERT(expr) \
  (static_cast<bool>(expr) ? void(0) : ::cvol::assertion_failed(#expr, __FILE__, __LINE__))
