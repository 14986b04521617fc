// KeyIndex: finds a 32-bit id by ChunkKey; 6 to 9 bytes of memory an entry.
//
// Open addressing with linear probing in 256 parts that grow one by one, so that no insertion
// moves more than a 256th of the entries. The keys themselves live with the ids' owner, which
// passes `key_of`; an 8-bit tag spares most of those look-ups. One thread.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "volumed/base/assert.h"
#include "volumed/store/chunk_key.h"

namespace cvol::store {

class KeyIndex {
 public:
  static constexpr uint32_t kNone = UINT32_MAX;

  // The id under `key`, or kNone.
  template <typename KeyOf>
  uint32_t find(ChunkKey key, KeyOf key_of) const {
    const uint64_t hash = key.hash();
    const Part& part = parts_[hash & (kParts - 1)];
    if (part.slots == 0) return kNone;
    const uint8_t tag = tag_of(hash);
    for (uint32_t at = start_of(hash, part);; at = next(at, part)) {
      if (part.tags[at] == 0) return kNone;
      if (part.tags[at] == tag && key_of(part.ids[at]) == key) return part.ids[at];
    }
  }

  // `key` must not be there yet.
  template <typename KeyOf>
  void insert(ChunkKey key, uint32_t id, KeyOf key_of) {
    const uint64_t hash = key.hash();
    Part& part = parts_[hash & (kParts - 1)];
    if ((part.used + 1) * 8 > uint64_t{part.slots} * 7) grow(part, key_of);
    place(part, hash, id);
    ++part.used;
    ++size_;
  }

  // Replaces everything by what each(visit) visits with visit(key, id), twice and in the same
  // order. Part by part, so that what is written stays in the processor's caches; takes 12 bytes of
  // memory an entry meanwhile.
  template <typename Each>
  void build(Each each) {
    struct Entry {
      uint32_t start;  // the hash's bits for start_of()
      uint32_t id;
      uint8_t tag;
    };
    std::vector<std::size_t> ends(kParts + 1, 0);  // of each part's entries, one further up
    each([&](ChunkKey key, uint32_t) { ++ends[(key.hash() & (kParts - 1)) + 1]; });
    for (std::size_t part = 1; part <= kParts; ++part) ends[part] += ends[part - 1];
    std::vector<Entry> entries(ends[kParts]);
    std::vector<std::size_t> next(ends.begin(), ends.end() - 1);
    each([&](ChunkKey key, uint32_t id) {
      const uint64_t hash = key.hash();
      entries[next[hash & (kParts - 1)]++] = {static_cast<uint32_t>(hash >> 8), id, tag_of(hash)};
    });
    for (std::size_t number = 0; number < kParts; ++number) {
      Part part;
      part.used = static_cast<uint32_t>(ends[number + 1] - ends[number]);
      part.slots = part.used == 0 ? 0 : part.used + part.used / 3 + 8;
      if (part.slots != 0) {
        part.ids = std::make_unique<uint32_t[]>(part.slots);
        part.tags = std::make_unique<uint8_t[]>(part.slots);
      }
      for (std::size_t i = ends[number]; i < ends[number + 1]; ++i)
        put(part, start_at(entries[i].start, part), entries[i].tag, entries[i].id);
      parts_[number] = std::move(part);
    }
    size_ = entries.size();
  }

  // `key` must be there.
  template <typename KeyOf>
  void erase(ChunkKey key, KeyOf key_of) {
    const uint64_t hash = key.hash();
    Part& part = parts_[hash & (kParts - 1)];
    uint32_t hole = start_of(hash, part);
    while (part.tags[hole] != tag_of(hash) || key_of(part.ids[hole]) != key) {
      CVOL_ASSERT(part.tags[hole] != 0);
      hole = next(hole, part);
    }
    // Pull back entries that the hole would cut off from their start.
    for (uint32_t at = next(hole, part); part.tags[at] != 0; at = next(at, part)) {
      const uint32_t home = start_of(key_of(part.ids[at]).hash(), part);
      if (distance(home, at, part) < distance(hole, at, part)) continue;
      part.tags[hole] = part.tags[at];
      part.ids[hole] = part.ids[at];
      hole = at;
    }
    part.tags[hole] = 0;
    --part.used;
    --size_;
  }

  uint64_t size() const { return size_; }
  uint64_t memory_bytes() const {
    uint64_t total = sizeof *this;
    for (const Part& part : parts_) total += uint64_t{part.slots} * 5;
    return total;
  }

 private:
  static constexpr uint64_t kParts = 256;
  struct Part {
    std::unique_ptr<uint32_t[]> ids;
    std::unique_ptr<uint8_t[]> tags;  // 0: free
    uint32_t slots = 0;
    uint32_t used = 0;
  };

  static uint8_t tag_of(uint64_t hash) { return static_cast<uint8_t>((hash >> 56) | 1); }
  static uint32_t start_at(uint32_t bits, const Part& part) {
    return static_cast<uint32_t>((uint64_t{bits} * part.slots) >> 32);
  }
  static uint32_t start_of(uint64_t hash, const Part& part) {
    return start_at(static_cast<uint32_t>(hash >> 8), part);
  }
  static uint32_t next(uint32_t at, const Part& part) { return at + 1 == part.slots ? 0 : at + 1; }
  // Steps from `from` on to `to`.
  static uint32_t distance(uint32_t from, uint32_t to, const Part& part) {
    return to >= from ? to - from : to + part.slots - from;
  }
  static void place(Part& part, uint64_t hash, uint32_t id) {
    put(part, start_of(hash, part), tag_of(hash), id);
  }
  static void put(Part& part, uint32_t at, uint8_t tag, uint32_t id) {
    while (part.tags[at] != 0) at = next(at, part);
    part.tags[at] = tag;
    part.ids[at] = id;
  }
  template <typename KeyOf>
  void grow(Part& part, KeyOf key_of) {
    Part larger;
    larger.slots = part.slots == 0 ? 8 : part.slots + part.slots / 2;
    larger.used = part.used;
    larger.ids = std::make_unique<uint32_t[]>(larger.slots);
    larger.tags = std::make_unique<uint8_t[]>(larger.slots);
    for (uint32_t at = 0; at < part.slots; ++at) {
      if (part.tags[at] != 0) place(larger, key_of(part.ids[at]).hash(), part.ids[at]);
    }
    part = std::move(larger);
  }

  Part parts_[kParts];
  uint64_t size_ = 0;
};

}  // namespace cvol::store
