// SimFile: a file of the simulator that knows which of its bytes are on stable storage.
//
// A write becomes visible when it completes and durable when a sync that was started after its
// completion completes, or at once if it was a durable write. A crash keeps, of every write that
// is not durable yet (those under way included), any subset of its 512-byte sectors.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <vector>

#include "volumed/io/file_space.h"

namespace cvol::io {

constexpr uint64_t kSimPageBytes = 4096;
constexpr uint64_t kSimSectorBytes = 512;

// Sparse bytes; copies share pages until they are written.
class SimImage {
 public:
  uint64_t size = 0;
  void write(uint64_t offset, std::span<const std::byte> data);
  // Bytes beyond what was ever written are zero.
  void read(uint64_t offset, std::span<std::byte> into) const;
  bool operator==(const SimImage& other) const;

  // Holes: parts without space, in whole pages. They read as zeroes; a write makes space for
  // itself.
  void punch(FileRange range);
  void fill(FileRange range);
  std::vector<FileRange> holes(FileRange range) const;
  uint64_t hole_bytes() const { return holes_.size() * kSimPageBytes; }
  bool is_hole(uint64_t offset) const { return holes_.contains(offset / kSimPageBytes); }

 private:
  std::set<uint64_t> holes_;  // pages
  using Page = std::array<std::byte, kSimPageBytes>;
  std::map<uint64_t, std::shared_ptr<Page>> pages_;
};

// A write that a crash may lose. `live[i]` is false for sectors that a later durable write covers.
struct SimWrite {
  uint64_t number = 0;  // in order of submission
  uint64_t offset = 0;
  std::vector<std::byte> data;
  std::vector<bool> live;
  bool completed = false;
  bool durable_on_completion = false;
};

class SimFile {
 public:
  // --- what the reactor does ---
  std::shared_ptr<SimWrite> submit_write(uint64_t offset, std::vector<std::byte> data,
                                         bool durable);
  void complete_write(const std::shared_ptr<SimWrite>& write);
  // Returns a ticket for complete_sync.
  uint64_t submit_sync() const { return completions_; }
  void complete_sync(uint64_t ticket);
  void read(uint64_t offset, std::span<std::byte> into) const { current_.read(offset, into); }
  uint64_t size() const { return current_.size; }
  // Size changes are durable at once (the engine syncs them before it relies on them anyway).
  void resize(uint64_t bytes);
  // So are holes, and their ends: no crash brings back what was punched.
  void punch(FileRange range);
  void fill(FileRange range);
  std::vector<FileRange> holes(FileRange range) const { return current_.holes(range); }
  uint64_t hole_bytes() const { return current_.hole_bytes(); }

  // --- what tests do ---
  const SimImage& durable() const { return durable_; }
  const SimImage& current() const { return current_; }
  const std::vector<std::shared_ptr<SimWrite>>& pending() const { return pending_; }
  // The image after a crash in which `keep(write, sector)` of the pending writes were kept.
  SimImage crash_image(
      const std::function<bool(const SimWrite& write, uint64_t sector)>& keep) const;
  // Bit rot: changes one byte, whatever is under way.
  void damage(uint64_t offset);
  // Replaces everything, for opening a crash image or a damaged one.
  void reset(SimImage image);

  // A disk that lies: asked for every write when it completes; false: the write is acknowledged but
  // has not happened. May change where it goes.
  std::function<bool(uint64_t* offset)> divert;

  bool locked = false;
  uint64_t writes_into_holes = 0;  // each could have met a file system without room

 private:
  struct Completion {
    std::shared_ptr<SimWrite> write;
    uint64_t ticket;
  };
  void make_durable(const SimWrite& write);
  void forget(const SimWrite& write);

  SimImage durable_;
  SimImage current_;
  std::vector<std::shared_ptr<SimWrite>> pending_;  // in order of submission
  std::vector<Completion> completed_;               // of pending_, in order of completion
  uint64_t next_number_ = 0;
  uint64_t completions_ = 0;
};

}  // namespace cvol::io
