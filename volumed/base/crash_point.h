// Crash points: places between two steps at which a test may kill the process, as if the power
// went.
//
// Inert unless the environment variable CVOL_CRASH_AT holds the point's name when the process
// starts. tests/e2e/csi/crash_test.py finds all of them in the sources.
//
// Threading: any thread.
#pragma once

namespace cvol {

// Ends the process (SIGKILL) if `name` is the one that was asked for. Names are unique.
void crash_point(const char* name);

}  // namespace cvol
