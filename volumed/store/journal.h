// Journal: a disk's write-ahead log; group commit over a circular file.
//
// Entries that wait at the same moment go out as one batch: a header area and the payloads, in one
// durable write. Several batches may be on their way; they take effect, and their entries are
// answered, in LSN order, since replay stops at the first gap.
//
// Threading: the engine's reactor. Ownership: memory behind an entry stays valid until append()
// returns. Durability: an entry whose append() returned 0 is on stable storage.
#pragma once

#include <sys/uio.h>

#include <coroutine>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "volumed/base/buffer_pool.h"
#include "volumed/base/metrics.h"
#include "volumed/io/scope.h"
#include "volumed/store/chunk_key.h"
#include "volumed/store/format.h"
#include "volumed/store/patient_write.h"

namespace cvol::store {

// What one append brings. Payload iovecs are whole blocks; records' `payload` fields count blocks
// from the entry's first payload block and are made absolute by the journal.
struct JournalEntry {
  Record* records = nullptr;
  const void* const* checksums = nullptr;  // one pointer per record
  uint32_t record_count = 0;
  const iovec* payload = nullptr;
  uint32_t payload_count = 0;
  uint32_t payload_blocks = 0;
  uint32_t record_bytes = 0;

  // The journal's own.
  uint32_t batch_offset = 0;  // of the payload, in the batch
  int result = 0;             // 0 or errno
  std::coroutine_handle<> waiter;
  JournalEntry* next = nullptr;
};

// A part of one chunk that a durable batch touched.
struct JournalRef {
  ChunkKey key;
  uint32_t position = 0;  // ring block of the first payload block
  uint8_t first = 0;      // block in the chunk
  uint8_t count = 0;      // blocks; 0: the chunk's mapping changed
};

struct JournalPoint {
  uint64_t lsn = 1;       // next LSN
  uint64_t position = 0;  // where it goes, or one ring turn's start after it
};

class Journal {
 public:
  static constexpr std::size_t kManyRefs = 4 << 20;  // 64 MiB of them

  struct Options {
    Label label;
    uint64_t generation = 0;  // set by start()
    uint32_t depth = 4;
    uint32_t batch_blocks = 256;
    Patience patience;  // of a write that finds no room: it waits, and what comes later with it
  };
  // Called for every record of a durable entry, in LSN order, before the entry is answered.
  // `position`: ring block of the record's first payload block. Refs go to add_ref().
  using Apply = std::function<void(uint64_t lsn, const Record& record, const void* checksums,
                                   uint32_t position)>;

  Journal(io::Reactor& reactor, io::File file, Options options, Apply apply,
          EngineMetrics* metrics);
  ~Journal();

  // Awaitable; its result is 0 or an errno.
  struct Append {
    Journal* journal;
    JournalEntry* entry;
    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> handle) {
      entry->waiter = handle;
      journal->push(entry);
    }
    int await_resume() const noexcept { return entry->result; }
  };
  Append append(JournalEntry& entry) { return Append{this, &entry}; }

  // While wanted: called for every batch that is being formed, after its entries. It may add
  // records that need no answer (and that Apply is not called for) as far as they fit.
  void set_riders(std::function<void(BatchEncoder&)> riders) { riders_ = std::move(riders); }
  void want_riders(bool wanted) { riders_wanted_ = wanted; }

  // To be called by Apply only: what destage will have to do for this batch.
  void add_ref(const JournalRef& ref) { refs_.push_back(ref); }

  // --- destage ---
  struct Region {
    uint64_t batches = 0;
    uint64_t end_lsn = 0;  // first LSN after it
    uint64_t end_position = 0;
    uint64_t generation = 0;  // of its last batch
    uint32_t first_ring = 0;  // ring blocks [first_ring, first_ring + ring_span) modulo the ring
    uint32_t ring_span = 0;
    uint64_t refs = 0;
  };
  // The oldest durable batches, together at most `most_blocks` and sixteen times as many refs (at
  // least one batch); batches == 0 if there is none.
  Region oldest(uint64_t most_blocks) const;
  const JournalRef& ref(uint64_t index) const { return refs_[index]; }
  // The region is destaged and the table says so: its space may be written again.
  void release(const Region& region);
  // True if ring block `position` lies in the region.
  bool contains(const Region& region, uint32_t position) const {
    const uint32_t distance = position >= region.first_ring
                                  ? position - region.first_ring
                                  : position + ring_blocks_ - region.first_ring;
    return distance < region.ring_span;
  }

  // --- reading back; results as io::File::readv ---
  io::Op readv(const iovec* iov, uint32_t count, uint32_t ring_block) const {
    return file_.readv(iov, count, (uint64_t{ring_block} + 1) * kBlockBytes);
  }

  // --- at open ---
  // Where replay starts: nothing older is needed.
  void set_tail(JournalPoint tail);
  // A batch found by replay, in LSN order: its refs are added by Apply-like calls before.
  void adopt(const BatchHeader& header);
  // All batches are adopted: appends may begin, with a generation no batch on disk has.
  void start(uint64_t generation);

  uint64_t durable_lsn() const { return durable_lsn_; }
  uint64_t used_blocks() const { return head_ - tail_.position; }
  uint32_t ring_blocks() const { return ring_blocks_; }
  const JournalPoint& tail() const { return tail_; }
  bool empty() const { return batches_.empty() && flying_.empty() && first_ == nullptr; }
  bool starved() const { return starved_; }
  // So many refs that memory, not space, asks for destage; at twice as many appends wait.
  bool crowded() const { return refs_.size() >= kManyRefs; }
  bool failed() const { return failed_; }

  // Called when the journal has become starved for space, or a batch became durable.
  void set_hooks(std::function<void()> on_starved, std::function<void()> on_durable,
                 std::function<void(Status)> on_failed);
  // Every waiting and later append ends with EIO.
  void fail();
  // Waits for batches on their way.
  Task<void> drain();
  const io::File& file() const { return file_; }

 private:
  struct Flight;
  struct BatchInfo {
    uint64_t lsn;
    uint64_t position;
    uint64_t generation;
    uint32_t blocks;
    uint32_t refs;
  };

  void push(JournalEntry* entry);
  void pump();
  bool has_space(uint32_t blocks, uint64_t* position) const;
  Flight* take_flight();
  void fill(Flight& flight);
  Task<void> fly(Flight* flight);
  void land();
  void add_batch(uint64_t lsn, uint64_t position, uint64_t generation, uint32_t blocks);
  void answer(JournalEntry* entry, int error);
  Task<void> run_pump();

  io::Reactor& reactor_;
  io::File file_;
  Options options_;
  Apply apply_;
  EngineMetrics* metrics_;
  uint32_t ring_blocks_;

  JournalEntry* first_ = nullptr;  // waiting, in order
  JournalEntry* last_ = nullptr;
  bool pump_scheduled_ = false;
  bool starved_ = false;
  bool failed_ = false;
  bool started_ = false;

  JournalPoint tail_;
  uint64_t head_ = 0;  // position of the next batch, before skipping to the ring's start
  uint64_t next_lsn_ = 1;
  uint64_t durable_lsn_ = 0;
  std::deque<BatchInfo> batches_;  // durable, not destaged
  std::deque<JournalRef> refs_;    // of those batches
  uint64_t refs_counted_ = 0;      // of refs_, those that a batch of batches_ counts
  std::vector<std::unique_ptr<Flight>> flights_;
  std::vector<Flight*> free_flights_;
  std::deque<Flight*> flying_;  // in LSN order
  std::function<void(BatchEncoder&)> riders_;
  bool riders_wanted_ = false;
  std::function<void()> on_starved_, on_durable_;
  std::function<void(Status)> on_failed_;
  io::Scope scope_;
};

// Reads the journal from `tail` on and calls `visit` for each whole batch in LSN order, with its
// payload (header area excluded). An unfinished end is where it stops; damage before the recorded
// end is kDamaged if records are lost; journal_replay.cpp has the rule that tells them apart. A
// single flipped bit is flipped back, on the disk too.
struct ReplayResult {
  uint64_t batches = 0;
  uint64_t generation = 0;  // highest seen
};
using ReplayVisitor =
    std::function<void(const DecodedBatch& batch, std::span<const std::byte> payload)>;
// A payload block (counted in its batch) that does not pass, and what it should have.
struct BadBlock {
  uint32_t index = 0;
  uint64_t seed = 0;  // block_checksum_seed()
  uint64_t checksum = 0;
};
// The payload blocks that do not pass their checksums, the first two of them at most.
using PayloadCheck =
    std::function<std::vector<BadBlock>(const DecodedBatch& batch, std::span<const std::byte>)>;
Task<Result<ReplayResult>> replay_journal(const io::File& file, const Label& label,
                                          JournalPoint tail, uint64_t generation,
                                          BufferPool& buffers, PayloadCheck check,
                                          ReplayVisitor visit);

}  // namespace cvol::store
