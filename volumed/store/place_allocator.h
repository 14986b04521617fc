// PlaceAllocator: which places (64 KiB slots of file `chunks`) are free.
//
// Places are handed out in runs, so that what is sequential in a volume stays sequential on disk.
// A reservation sets a place aside without saying which: a write that is in the journal is sure to
// find room at destage. Only places that the file really has ("backed") are given out, and of those
// none whose space went back to the file system ("bare"). One thread.
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

  // Free, with space, and not reserved.
  uint32_t available() const { return backed_ - bare_ - used_ - reserved_; }
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

  // Makes a run of up to `most` (not 0) free places bare, the highest ones; as many must be
  // available. Their space may go once this has returned.
  Run strip(uint32_t most);
  // The same for one place. False, and nothing is changed, if it is used or none is available.
  bool strip_at(uint32_t place);
  // The first bare places from `from` on, up to `most`; count 0 if there are none.
  Run next_bare(uint32_t from, uint32_t most) const;
  // Bare places that have space again.
  void fill(Run run);
  bool is_bare(uint32_t place) const { return bit(bare_bits_, place); }

  uint32_t capacity() const { return capacity_; }
  uint32_t backed() const { return backed_; }
  uint32_t bare() const { return bare_; }
  bool can_grow() const { return bare_ != 0 || backed_ < capacity_; }
  uint32_t used() const { return used_; }
  uint32_t reserved() const { return reserved_; }

 private:
  static bool bit(const std::vector<uint64_t>& bits, uint32_t place) {
    return (bits[place / 64] >> (place % 64)) & 1;
  }
  bool is_taken(uint32_t place) const { return bit(bits_, place); }
  // First place in [from, to) that is neither used nor bare, or `to`.
  uint32_t next_free(uint32_t from, uint32_t to) const;

  uint32_t capacity_;
  uint32_t backed_ = 0;
  uint32_t bare_ = 0;
  uint32_t used_ = 0;
  uint32_t reserved_ = 0;
  uint32_t cursor_ = 0;              // next-fit
  std::vector<uint64_t> bits_;       // 1: used or bare
  std::vector<uint64_t> bare_bits_;  // 1: bare
};

}  // namespace cvol::store
