// BlockDevice: the narrow waist that carries the data path.
//
// The NBD server serves one; the primary, the gateway to a remote primary and the decorators of the
// tests implement it. Nobody above needs to know what is behind.
//
// Threading: all calls on the thread of the reactor that owns the device. Many calls may be under
// way at once; calls that overlap are applied in the order in which they were made.
// Ownership: memory behind a span stays valid until the call returns (its task is done).
// Ranges: offset and length in bytes, any alignment; offset + length <= size(), which the caller
// checks. 4 KiB aligned requests with 4 KiB aligned memory are the fast path: no copy is made.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "volumed/base/result.h"
#include "volumed/base/task.h"

namespace cvol {

// A run of bytes with one allocation state (NBD base:allocation).
struct Extent {
  uint64_t length = 0;  // bytes, > 0
  bool hole = false;    // not allocated
  bool zero = false;    // reads as zeroes
};

class BlockDevice {
 public:
  virtual ~BlockDevice() = default;

  // Size in bytes, a multiple of 4 KiB. It may grow while the device is in use.
  virtual uint64_t size() const = 0;

  // Reads verified bytes. kDamaged: a block failed its checksum and no good copy exists.
  virtual Task<Status> read(uint64_t offset, std::span<std::byte> into) = 0;

  // Returns when the data is on stable storage if `fua`, or if the device is of durability class
  // `durable` (then always). kNoSpace: nothing was changed.
  virtual Task<Status> write(uint64_t offset, std::span<const std::byte> data, bool fua) = 0;

  // Returns when every write that was answered before this call is on stable storage.
  virtual Task<Status> flush() = 0;

  // The range reads as zeroes afterwards. With `keep_allocated` (NBD NO_HOLE) later writes to the
  // range must not fail for lack of space; otherwise whole chunks are freed.
  virtual Task<Status> write_zeroes(uint64_t offset, uint64_t length, bool keep_allocated,
                                    bool fua) = 0;

  // The same as write_zeroes that frees: a trimmed block reads as zeroes.
  virtual Task<Status> trim(uint64_t offset, uint64_t length, bool fua) = 0;

  // Allocation state from `offset` on; at least one extent, together at most `length` bytes. May
  // cover less than asked.
  virtual Task<Result<std::vector<Extent>>> block_status(uint64_t offset, uint64_t length) = 0;
};

}  // namespace cvol
