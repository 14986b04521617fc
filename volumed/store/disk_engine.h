// DiskEngine: one disk of the pool: journal, chunks and chunk table (docs/formats.md).
//
// Threading: everything on the reactor that opened it, unless a function says "any thread".
// Ownership: the engine owns its files; it holds an exclusive lock on them while open.
// Durability: append_write() and append_zero() return when the operation is on stable storage, and
// it is visible to reads only once durable. A failed write or sync of journal, chunks or table
// fails the disk: every later operation answers kIo. That is for good: the disk keeps a mark, and
// is opened as failed, until a full verify has found it sound. A failed read fails nothing but
// itself, and a commit of the table that finds the file system full waits until there is room.
//
// Order: operations that are under way together and touch the same block take effect in any order.
// So the caller has at most one under way per block; their seqs only name them, and need not rise:
// a resync writes a chunk with the version that its source has.
//
// Replication: a replica that has a state (put_replica_state()) is a replicated one. The engine
// keeps for it what a replica that was away must be given: the version of each chunk, which is the
// highest seq of all operations on it, and the ranges that were zeroed, since a chunk that is given
// back has no version. changed_chunks() and zeroed_after() together cover every block that an
// operation with a higher seq has touched, also after a crash.
//
// What it is not: it does not order overlapping writes (the primary does), knows nothing of
// volumes' names, epochs' meaning or the protocol of replication.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "volumed/base/block_device.h"
#include "volumed/base/metrics.h"
#include "volumed/base/result.h"
#include "volumed/base/units.h"
#include "volumed/base/uuid.h"
#include "volumed/io/reactor.h"
#include "volumed/store/format.h"

namespace cvol::store {

// Number of a replica on its disk; never reused.
using ReplicaNumber = uint32_t;

// A part of the disk whose content does not hold.
enum class DamagedFile : uint8_t { kChunks, kJournal, kTable };
struct Damage {
  DamagedFile file = DamagedFile::kChunks;
  Uuid volume;                    // not for kTable
  uint64_t block = 0;             // of the volume; not for kTable
  uint64_t file_block = 0;        // where it lies in the file; not for kTable
  bool unreadable = false;        // the disk gave an error, else other bytes than were stored
  const char* found_by = "read";  // "read", "destage", "replay", "scrub"
  std::string why;                // of kTable
  uint64_t more = 0;              // not 0: nothing but "so many were told, further ones are not"
};
// "journal", "chunks", "table".
const char* file_name(DamagedFile file);

// What the engine tells its owner, on the reactor's thread; the calls must not block.
struct EngineHooks {
  // Each damaged block once while the disk is open, the first kMostDamageTold of them.
  std::function<void(const Damage&)> damaged;
  std::function<void(Uuid disk, const std::string& why)> failed;
  // A verify has found the disk sound, and its mark is gone.
  std::function<void(Uuid disk)> mended;
  // A scrub or verify has read everything.
  std::function<void(const ScrubRecord&)> scrubbed;
  // Something that passes: "the file system is full, the chunk table waits".
  std::function<void(const std::string& what)> notice;
};
constexpr std::size_t kMostDamageTold = 256;

struct FormatOptions {
  uint64_t journal_bytes = 0;   // 0: min(4 GiB, 5 % of the capacity), at least 16 MiB
  uint64_t capacity_bytes = 0;  // of the chunks; 0: what the file system has free, less a reserve
};

struct EngineOptions {
  uint64_t buffer_bytes = 256 * kMiB;    // bound of the destage and bounce buffers
  uint32_t journal_depth = 4;            // batches on their way at once, 1..16
  uint64_t batch_bytes = kMiB;           // most payload of one batch, 128 KiB..8 MiB
  uint64_t destage_round_blocks = 8192;  // journal region of one destage round, 1..16384 blocks
  // Free places beyond so many bytes give their space back to the file system, some time after they
  // became free (give_back.cpp). False: file 'chunks' keeps what it once had.
  bool give_back = true;
  uint64_t keep_free_bytes = 128 * kMiB;
  io::Nanoseconds give_back_after = 5 * io::kSecond;
  bool read_cache = true;  // small reads of chunks go through the kernel's page cache
  // Of the journal in use: destage begins; above 100 only when the journal has no room left.
  double destage_percent = 50;
  bool destage_when_idle = true;
  io::Nanoseconds idle_after = 500 * io::kMillisecond;
  uint64_t scrub_rate = 32 * kMiB;  // bytes per second of a scrub that is not told another
  io::Nanoseconds scrub_commit_after = 30 * io::kSecond;  // its position is persisted ...
  uint64_t scrub_commit_bytes = kGiB;                     // ... or after so much
  io::Nanoseconds retry_after = io::kSecond;              // of a commit without space, of a read
  // Not empty: the owner knows that the disk has failed, whatever its own mark says.
  std::string known_failure;
  // Asked at open: may this disk be served here? First when only its label was read, without a
  // generation; then, before anything of cvol's is written, with the count of times that it was
  // opened for writing. An error ends the opening. Not set: any disk.
  std::function<Status(const Uuid& disk, std::optional<uint64_t> generation)> admit;
  // Seconds since 1970. Not set: the reactor's clock, for tests.
  std::function<uint64_t()> wall_clock;
  EngineHooks hooks;
};

struct ReplicaInfo {
  ReplicaNumber number = 0;
  Uuid volume;
  Uuid replica;
  uint64_t size_bytes = 0;
  uint64_t allocated_bytes = 0;  // chunks, in the table or reserved
  uint64_t last_seq = 0;         // highest seq that is durable here
  uint64_t commit_point = 0;     // as noted; after open: the newest one that became durable
};

// A chunk that has a place or blocks in the journal.
struct ChunkVersion {
  uint64_t chunk = 0;
  uint64_t version = 0;  // highest seq of the operations on it since it came to be
  bool operator==(const ChunkVersion&) const = default;
};

struct DiskInfo {
  Uuid disk;
  std::string path;
  uint64_t capacity_bytes = 0;   // of chunks
  uint64_t allocated_bytes = 0;  // chunks in use or promised to journaled writes
  uint64_t journal_bytes = 0;
  uint64_t journal_used_bytes = 0;
  uint64_t replicas = 0;
  bool failed = false;
  std::string failure;  // why, if failed
  // Raised durably by every open that may write, before the first write: of two copies of a disk
  // the one that was used last has the higher one.
  uint64_t generation = 0;
};

// A scrub reads everything that the disk stores and checks it. A verify is a scrub as fast as the
// disk goes; if the disk has failed, it decides whether it goes into service again.
struct ScrubInfo {
  ScrubRecord record;        // as persisted, and as it is now
  bool verify = false;       // the pass that runs, or ran last, is a verify
  double progress = 0;       // 0..1, of the pass that runs or was stopped
  uint64_t bytes_total = 0;  // read by scrubs while the disk was open
  uint64_t damaged_total = 0;
  std::string outcome;         // of the last pass, if it did not come to its end: why
  std::vector<Damage> damage;  // of the pass, the first kMostDamageTold
};

class DiskEngine {
 public:
  virtual ~DiskEngine() = default;

  virtual DiskInfo info() const = 0;
  virtual const EngineMetrics& metrics() const = 0;  // counters; any thread may read them
  virtual std::vector<ReplicaInfo> replicas() const = 0;
  virtual Result<ReplicaInfo> replica(ReplicaNumber number) const = 0;

  // Durable on return. kAlreadyExists if the disk has a replica of this volume.
  virtual Task<Result<ReplicaInfo>> create_replica(Uuid volume, Uuid replica, uint64_t size) = 0;
  // Grows (or keeps) the size; durable on return.
  virtual Task<Status> resize_replica(ReplicaNumber number, uint64_t size) = 0;
  // The replica is gone on return, durably; its space comes back soon after. No operation on it may
  // be under way.
  virtual Task<Status> remove_replica(ReplicaNumber number) = 0;

  // What replication keeps with the replica, kMaxReplicaStateBytes at most (else kInvalidArgument).
  // Durable on return, all of it or nothing; removed with the replica. Puts take effect in the
  // order of the calls. An empty one takes the state away, and with it what is kept for
  // replication.
  virtual Task<Status> put_replica_state(ReplicaNumber number, std::string state) = 0;
  // The last one that is durable; empty if there is none.
  virtual Result<std::string> replica_state(ReplicaNumber number) const = 0;

  // Every replica that counts has all operations up to `seq`. A lower one than before, or one for a
  // replica that is not there, changes nothing. Costs no write of its own: it becomes durable with
  // writes that follow (of any replica of the disk; 100 ms late at most) and with destage. After a
  // crash it may be an older one, never a newer.
  virtual void note_commit_point(ReplicaNumber number, uint64_t seq) = 0;

  // Every chunk there is whose version is higher than `after_seq`, by number; with 0 all of them.
  // Takes its time (a look at all chunks of the disk) and blocks nobody. What is written, zeroed or
  // given back meanwhile may be in it or not.
  virtual Task<Result<std::vector<ChunkVersion>>> changed_chunks(ReplicaNumber number,
                                                                 uint64_t after_seq) = 0;
  // The zeroed ranges with a higher seq than `after_seq`, by their first block; they may overlap.
  // All durable ones if `after_seq` is the commit point or higher: those up to the commit point are
  // forgotten. May be more than was zeroed: beyond kMostZeroedRanges, ranges that are close to each
  // other become one. A zeroed range may have been written again. Nothing for a replica that is
  // not a replicated one, or if the disk has failed.
  virtual std::vector<ZeroedRange> zeroed_after(ReplicaNumber number, uint64_t after_seq) const = 0;

  // Block-aligned operations on one replica; `seq` is 1 or higher. Memory is 4 KiB aligned and
  // stays valid until the task is done, that of `checksums` too. `checksums`: block_checksum() of
  // each block, with the volume's salt; the caller knows that they are right. Empty: the engine
  // computes them.
  virtual Task<Status> append_write(ReplicaNumber number, uint64_t epoch, uint64_t seq,
                                    uint64_t offset, std::span<const std::byte> data,
                                    std::span<const uint64_t> checksums = {}) = 0;
  // length <= 1 GiB. Whole chunks are freed unless keep_allocated.
  virtual Task<Status> append_zero(ReplicaNumber number, uint64_t epoch, uint64_t seq,
                                   uint64_t offset, uint64_t length, bool keep_allocated) = 0;
  // Verified bytes, or kDamaged (the text names the first damaged block).
  virtual Task<Status> read(ReplicaNumber number, uint64_t offset, std::span<std::byte> into) = 0;
  // Nothing if the disk has failed.
  virtual std::vector<Extent> block_status(ReplicaNumber number, uint64_t offset,
                                           uint64_t length) const = 0;
  // The short checksum that the newest content of `block` has, also if what is stored is damaged;
  // nothing if it reads as zeroes.
  virtual std::optional<uint32_t> expected_checksum(ReplicaNumber number, uint64_t block) const = 0;

  // Begins a scrub, or goes on with one that was stopped; one that runs gets the new rate. `rate`:
  // bytes per second, 0: EngineOptions::scrub_rate.
  virtual Status start_scrub(uint64_t rate) = 0;
  // Ends it; its position is kept. Nothing happens if none runs.
  virtual Task<Status> stop_scrub() = 0;
  // Begins a verify. kBusy if one runs. A scrub that runs becomes one (it begins anew).
  // `accept_damage`: a failed disk goes into service although blocks are damaged; they read as
  // errors.
  virtual Status start_verify(bool accept_damage) = 0;
  virtual ScrubInfo scrub() const = 0;

  // Applies the whole journal to the chunks.
  virtual Task<Status> destage_all() = 0;
  // Stops background work, waits for the calls that are under way (those that wait for space, and
  // removals, end early with kCancelled) and closes the files. Nothing depends on it being called.
  // Calls that come later answer an error, or what was known last.
  virtual Task<void> close() = 0;
};

// Makes a new, empty disk in directory `path` (created if absent). kAlreadyExists if it holds one
// (nothing is changed then), kFailedPrecondition if it holds anything else.
Task<Result<Uuid>> format_disk(io::Reactor& reactor, std::string path, FormatOptions options);

// True if `path` holds a disk label (whole or damaged).
bool is_disk(io::Reactor& reactor, const std::string& path);

// Opens a disk: reads the table, replays the journal. kBusy if another process has it open,
// kUnsupported for a newer format, kDamaged with what is damaged and what to do.
Task<Result<std::unique_ptr<DiskEngine>>> open_disk(io::Reactor& reactor, std::string path,
                                                    EngineOptions options);

}  // namespace cvol::store
