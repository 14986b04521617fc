// Writes that wait for room: others may fill the file system under a disk, and a copy that shares
// its extents (reflink) makes overwrites need new space. Neither is a failure of the disk.
//
// Threading: the reactor's thread. Ownership: file, memory and patience outlive the call.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "volumed/base/result.h"
#include "volumed/io/reactor.h"

namespace cvol::store {

// True for an errno (positive) that passes when others give space, memory or descriptors back, or
// when the same is simply done again (EINTR, EAGAIN).
bool is_want_of_room(int error);
// The same of a code: kNoSpace, kBusy.
bool is_want_of_room(Code code);

// Of a write that did not do all of its bytes: has it met the end of the room (also if it did a
// part), so that write_patiently() may help? `result`: bytes, or -errno.
bool may_go_on(int64_t result);

struct Patience {
  io::Reactor* reactor = nullptr;
  io::Nanoseconds retry_after = io::kSecond;
  // The waiting ends when this is cancelled, or when goes_on() (if set) is false.
  std::function<io::CancelToken*()> token;
  std::function<bool()> goes_on;
  // Once for each write that waits: when it begins to, and when it has ended, in whichever way.
  std::function<void(const Status& why)> waits;
  std::function<void()> ended;
};

// Writes all of `iov`, durably if asked for. Result 0, or -errno. -ENOSPC: the waiting was ended
// from outside; any part may have been written.
Task<int64_t> write_patiently(const io::File& file, std::vector<iovec> iov, uint64_t offset,
                              bool durable, const Patience& patience);

}  // namespace cvol::store
