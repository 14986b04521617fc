// Space of a file: what the file system has really given to it, and making it give more.
//
// Threading: any thread; the calls block, for as long as the file system takes.
#pragma once

#include <cstdint>
#include <vector>

#include "volumed/base/result.h"

namespace cvol::io {

// Reserves [current size, bytes), which makes the file so long. kNoSpace if there is no room, or
// the file system has no files that large; kUnsupported if it cannot reserve.
Status reserve_space(int handle, uint64_t bytes);

// Bytes [begin, end) of a file.
struct FileRange {
  uint64_t begin = 0;
  uint64_t end = 0;
  bool operator==(const FileRange&) const = default;
};

// Which bytes of a file are not its own. Ranges rise and do not touch.
struct SpaceMap {
  bool told = false;              // false: the file system does not tell its extents
  std::vector<FileRange> holes;   // no space is reserved for these
  std::vector<FileRange> shared;  // another file has the same extents (a reflinked copy)
};

// Looks at [range.begin, range.end), which the file must have. It reads no data.
Result<SpaceMap> map_space(int handle, FileRange range);

// Makes every byte of a range, which the file must have, the file's own: holes (a sparse copy, or
// punched) are reserved, extents shared with another file (a reflinked copy) are copied. What is
// whole already costs nothing but a look, and needs no room. The answer: so many bytes were not its
// own; if any, the caller syncs the file. Errors as above; what was done before one stays. 0 on
// file systems that do not tell their extents.
Result<uint64_t> own_space(int handle, FileRange range);

// Gives the space of a range back to the file system; it reads as zeroes from then on, also through
// the page cache, and the file's size stays. Not synced: a loss of power may undo it. kUnsupported
// if the file system cannot.
Status punch_space(int handle, FileRange range);

}  // namespace cvol::io
