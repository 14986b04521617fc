// Trim: gives back the space that a mounted file system does not use any more.
//
// Threading: any thread; the call blocks, for minutes on a large file system.
#pragma once

#include <cstdint>
#include <string>

#include "volumed/base/result.h"

namespace cvol::mount {

// FITRIM over a part of it, in bytes; answers how many bytes the file system has told the device to
// discard (ext4 tells of each free range once per mount). 0 behind its end. kUnsupported if file
// system or device cannot.
Result<uint64_t> trim(const std::string& target, uint64_t offset, uint64_t length);

// A decimal number, as the words and the answer of cvol-device's step have it.
Result<uint64_t> decode_trimmed(const std::string& text);

}  // namespace cvol::mount
