// Engine: the one implementation of DiskEngine. Its parts: engine_open.cpp (label, table, replay),
// engine_write.cpp (admission, journal entries, what a durable record changes), engine_read.cpp,
// destage.cpp. See docs/architecture.md for how they fit.
//
// How the pieces of state relate: a block's newest content is where the overlay says (journal);
// else where the chunk map says (a place in file `chunks`); else zeroes. Durable kZero and kMap
// records change the chunk map in memory at once, block writes change the overlay; destage moves
// blocks from journal to chunks and brings the persistent table up to date. All records overwrite
// absolutely, so replaying the whole journal from its tail over any later table gives the same.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "volumed/base/buffer_pool.h"
#include "volumed/io/scope.h"
#include "volumed/store/chunk_map.h"
#include "volumed/store/disk_engine.h"
#include "volumed/store/journal.h"
#include "volumed/store/overlay.h"
#include "volumed/store/place_allocator.h"
#include "volumed/store/table.h"

namespace cvol::store {

Task<Result<Uuid>> format_disk_with(io::Reactor& reactor, std::string path, FormatOptions options,
                                    TableOpener opener);
Task<Result<std::unique_ptr<DiskEngine>>> open_disk_with(io::Reactor& reactor, std::string path,
                                                         EngineOptions options, TableOpener opener);

class Engine final : public DiskEngine {
 public:
  Engine(io::Reactor& reactor, std::string path, EngineOptions options);
  ~Engine() override;

  Task<Status> open(TableOpener opener);

  DiskInfo info() const override;
  const EngineMetrics& metrics() const override { return metrics_; }
  std::vector<ReplicaInfo> replicas() const override;
  Result<ReplicaInfo> replica(ReplicaNumber number) const override;
  Task<Result<ReplicaInfo>> create_replica(Uuid volume, Uuid replica, uint64_t size) override;
  Task<Status> resize_replica(ReplicaNumber number, uint64_t size) override;
  Task<Status> remove_replica(ReplicaNumber number) override;
  Task<Status> append_write(ReplicaNumber number, uint64_t epoch, uint64_t seq, uint64_t offset,
                            std::span<const std::byte> data) override;
  Task<Status> append_zero(ReplicaNumber number, uint64_t epoch, uint64_t seq, uint64_t offset,
                           uint64_t length, bool keep_allocated) override;
  Task<Status> read(ReplicaNumber number, uint64_t offset, std::span<std::byte> into) override;
  std::vector<Extent> block_status(ReplicaNumber number, uint64_t offset,
                                   uint64_t length) const override;
  Task<Status> destage_all() override;
  Task<void> close() override;

  // Panics if an invariant between map, overlay and allocator does not hold (I12). For tests.
  void check_invariants() const;

 private:
  struct Replica {
    ReplicaRecord record;
    uint64_t salt = 0;
    uint64_t allocated_chunks = 0;  // in the map or reserved
    uint64_t operations = 0;        // under way
  };
  struct ReadPlan;
  struct LargeWrite;
  struct DestageRound;

  // A place that nobody maps any more, but that a read or a destage may still touch.
  struct Retired {
    uint64_t lsn;
    uint32_t place;
    ChunkKey owner;  // that gave it up
  };

  // --- open ---
  Task<Result<io::File>> open_locked(std::string name);
  Task<Status> open_files(TableOpener& opener);
  Status load_meta();
  Status load_chunks();
  Task<Status> replay();
  Status rebuild_allocator();
  bool take_back_place(ChunkKey key);
  Status load_pair(std::string_view key, std::string_view value);
  bool payload_holds(const DecodedBatch& batch, std::span<const std::byte> payload) const;

  // --- replicas ---
  Replica* find_replica(ReplicaNumber number) const {
    return number < replicas_.size() ? replicas_[number].get() : nullptr;
  }
  Result<Replica*> usable(ReplicaNumber number, uint64_t offset, uint64_t length) const;
  ReplicaInfo info_of(ReplicaNumber number, const Replica& replica) const;
  Task<Status> give_back_chunks(ReplicaNumber number);
  Task<Status> remove_chunk_keys(ReplicaNumber number);
  Task<Status> commit(TableBatch batch, const Journal::Region* destaged = nullptr);

  // --- write ---
  // Reserves places for a journaled write; undone by apply() of its record, or withdraw().
  Task<Status> admit(ReplicaNumber number, uint64_t first_block, uint64_t blocks);
  bool admit_all(ReplicaNumber number, uint64_t first_block, uint64_t blocks);
  bool try_admit(ChunkKey key);
  void withdraw(ReplicaNumber number, uint64_t first_block, uint64_t end_block);
  Task<Status> make_room(uint32_t places);
  Task<Status> grow(uint32_t places);
  Task<void> grow_ahead();
  Task<Status> write_small(Replica& replica, ReplicaNumber number, uint64_t epoch, uint64_t seq,
                           uint64_t offset, std::span<const std::byte> data);
  Task<Status> write_large(Replica& replica, ReplicaNumber number, uint64_t epoch, uint64_t seq,
                           uint64_t offset, std::span<const std::byte> data);
  Task<Status> write_pieces(Replica& replica, ReplicaNumber number, uint64_t epoch, uint64_t seq,
                            uint64_t offset, std::span<const std::byte> data);
  Task<Status> place_chunks(LargeWrite& write);
  Task<void> write_run(const std::byte* data, uint32_t place, uint32_t chunks, int64_t* result);
  Task<Status> append_entry(JournalEntry& entry);
  Task<Status> zero_keeping(Replica& replica, ReplicaNumber number, uint64_t epoch, uint64_t seq,
                            uint64_t first_block, uint64_t blocks);

  // --- what a durable record changes ---
  void apply(uint64_t lsn, const Record& record, const void* checksums, uint32_t position);
  void apply_write(const Record& record, const uint64_t* checksums, uint32_t position);
  void apply_zero(const Record& record);
  void apply_map(const Record& record, const std::byte* checksums);
  void zero_in_chunk(ChunkKey key, uint16_t mask, bool keep, uint64_t seq);
  void drop_overlay_blocks(OverlayChunk& chunk, uint16_t mask);
  void settle(ChunkKey key);
  void retire(uint32_t place, ChunkKey owner);
  void release_retired();

  // --- read ---
  void plan_read(const Replica& replica, ReplicaNumber number, uint64_t offset,
                 std::span<std::byte> into, ReadPlan& plan) const;
  Task<void> read_segment(ReadPlan& plan, std::size_t segment);
  Task<Status> execute(ReadPlan& plan);
  bool still_current(ReplicaNumber number, const ReadPlan& plan, std::size_t block) const;

  // Readers are counted in two generations; see wait_for_readers().
  uint64_t reader_enter() {
    ++readers_[reader_epoch_ & 1];
    return reader_epoch_;
  }
  void reader_leave(uint64_t epoch) {
    if (--readers_[epoch & 1] == 0) reader_gone_.wake_all();
  }
  // Returns when every read that is under way now is done.
  Task<void> wait_for_readers();

  // --- destage ---
  Task<void> destage_loop();
  Task<Status> destage_round(uint64_t most_blocks);
  void collect(DestageRound& round);
  Task<Status> read_live(DestageRound& round);
  Task<void> read_live_run(DestageRound& round, std::size_t first, std::size_t count);
  Task<Status> write_live(DestageRound& round);
  Task<void> write_live_run(DestageRound& round, std::size_t first, std::size_t count);
  void give_places(DestageRound& round);
  TableBatch table_changes(DestageRound& round);
  void finish_round(DestageRound& round);
  void kick_destage() { destage_wake_.set(); }
  bool destage_wanted() const;
  Task<void> idle_timer();
  void on_durable();

  void fail(const Status& why);
  uint64_t used_percent() const { return journal_->used_blocks() * 100 / journal_->ring_blocks(); }

  io::Reactor& reactor_;
  std::string path_;
  EngineOptions options_;
  EngineMetrics metrics_;
  Label label_;
  TableMeta meta_;
  io::File label_file_;
  io::File chunks_;
  std::unique_ptr<Table> table_;
  std::unique_ptr<ChunkMap> map_;
  std::unique_ptr<PlaceAllocator> places_;
  Overlay overlay_;
  BufferPool buffers_;
  std::unique_ptr<Journal> journal_;
  std::vector<std::unique_ptr<Replica>> replicas_;  // by number
  std::deque<Retired> retired_;                     // by LSN

  io::Semaphore commit_turn_{1};
  io::Semaphore grow_turn_{1};
  bool growing_ahead_ = false;
  uint64_t readers_[2] = {0, 0};
  uint64_t reader_epoch_ = 0;
  io::WaitList reader_gone_;
  io::Semaphore reader_turn_{1};

  io::Event destage_wake_;
  io::WaitList destage_done_;
  io::Semaphore destage_writes_{16};
  bool destaging_ = false;  // a round is under way
  bool drain_ = false;      // destage everything that is durable now
  uint64_t drain_lsn_ = 0;  // up to this LSN
  bool idle_timer_runs_ = false;
  uint64_t appends_ = 0;  // counts durable batches, for the idle timer
  bool closing_ = false;
  bool opened_ = false;
  uint64_t applying_lsn_ = 0;  // of the record that apply() works on
  Status replay_error_;        // a record that contradicts the table
  Status failure_;
  io::CancelToken cancel_;
  io::Scope scope_;
};

}  // namespace cvol::store
