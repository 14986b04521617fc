// PlaceAllocator: which places (64 KiB slots of file `chunks`) are free.
//
// Places are handed out in runs, so that what is sequential in a volume stays sequential on disk.
// A reservation sets a place aside without saying which: a write that is in the journal is sure to
// find room at destage. Only places that the file really has ("backed") are given out. One thread.
#pragma once

#include <cstdint>
#include <vector>

namespace cvol::store {

class PlaceAllocator {
 public:
  explicit PlaceAllocator(uint32_t capacity) : capacity_(capacity) {}

  // The file now has room for `places`; it never shrinks.
  void set_backed(uint32_t places);
  // At open: `place` is owned.
  void mark_used(uint32_t place);

  // Free and neither used nor reserved.
  uint32_t available() const { return backed_ - used_ - reserved_; }
  bool reserve(uint32_t places);
  void unreserve(uint32_t places);

  // A run of up to `most` adjacent places; count 0 if none is available. With `from_reserved` the
  // places are taken out of the reservation (which must cover them).
  struct Run {
    uint32_t first = 0;
    uint32_t count = 0;
  };
  Run allocate(uint32_t most, bool from_reserved);
  void release(uint32_t place);

  uint32_t capacity() const { return capacity_; }
  uint32_t backed() const { return backed_; }
  uint32_t used() const { return used_; }
  uint32_t reserved() const { return reserved_; }

 private:
  bool is_used(uint32_t place) const { return (bits_[place / 64] >> (place % 64)) & 1; }
  // First free place in [from, to), or `to`.
  uint32_t next_free(uint32_t from, uint32_t to) const;

  uint32_t capacity_;
  uint32_t backed_ = 0;
  uint32_t used_ = 0;
  uint32_t reserved_ = 0;
  uint32_t cursor_ = 0;         // next-fit
  std::vector<uint64_t> bits_;  // 1: used
};

}  // namespace cvol::store
