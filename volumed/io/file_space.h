// Space of a file: what the file system has really given to it, and making it give more.
//
// Threading: any thread; the calls block, for as long as the file system takes.
#pragma once

#include <cstdint>

#include "volumed/base/result.h"

namespace cvol::io {

// Reserves [current size, bytes), which makes the file so long. kNoSpace if there is no room, or
// the file system has no files that large; kUnsupported if it cannot reserve.
Status reserve_space(int handle, uint64_t bytes);

// Makes every byte of [0, bytes), which the file must have, the file's own: holes (a sparse copy)
// are reserved, extents shared with another file (a reflinked copy) are copied. What is whole
// already costs nothing but a look, and needs no room. The answer: so many bytes were not its own;
// if any, the caller syncs the file. Errors as above; what was done before one stays. 0 on file
// systems that do not tell their extents.
Result<uint64_t> own_space(int handle, uint64_t bytes);

}  // namespace cvol::io
