// Loop devices: a block device over a file, with direct I/O.
//
// Threading: any thread; no state. The kernel's loop.h is the contract.
#pragma once

#include <string>

#include "volumed/base/result.h"

namespace cvol::attach {

// Makes a loop device over `file` (opened O_DIRECT): direct I/O, 4 KiB blocks, requests up to
// 1 MiB, writable whatever the device was before. Answers its path. kUnsupported: no loop driver,
// or one older than Linux 5.8.
Result<std::string> loop_attach(const std::string& file);

// The loop device over `file`, "" if there is none.
std::string loop_of_file(const std::string& file);

// Idempotent; returns when the kernel has let go of the file. The device is left writable, for
// whoever gets it next. kBusy: somebody has the device open; the kernel then frees it with the last
// close.
Status loop_detach(const std::string& device);

// Takes the file's new size.
Status loop_update_size(const std::string& device);

// Bytes; 0 if it cannot be told.
uint64_t loop_size(const std::string& device);

}  // namespace cvol::attach
