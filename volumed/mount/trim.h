// Trim: gives back the space that a mounted file system does not use any more.
//
// Threading: any thread; the call blocks, for minutes on a large file system.
#pragma once

#include <cstdint>
#include <string>

#include "volumed/base/result.h"

namespace cvol::mount {

// FITRIM over all of it; answers the bytes that the file system has told the device to discard
// (ext4 tells of each free range once per mount). kUnsupported if file system or device cannot.
Result<uint64_t> trim(const std::string& target);

// The answer of cvol-device's step: a decimal number.
Result<uint64_t> decode_trimmed(const std::string& text);

}  // namespace cvol::mount
