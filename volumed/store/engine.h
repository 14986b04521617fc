// Engine: the one implementation of DiskEngine. Its parts: engine_open.cpp (label, table, replay),
// engine_write.cpp (admission, journal entries, what a durable record changes), engine_read.cpp,
// engine_replication.cpp (what is kept for replication), destage.cpp, give_back.cpp, scrub.cpp,
// engine_failure.cpp (damage, the mark of a failed disk, verify). See docs/architecture.md for how
// they fit.
//
// How the pieces of state relate: a block's newest content is where the overlay says (journal);
// else where the chunk map says (a place in file `chunks`); else zeroes. Durable kZero and kMap
// records change the chunk map in memory at once, block writes change the overlay; destage moves
// blocks from journal to chunks and brings the persistent table up to date. All records overwrite
// absolutely, so replaying the whole journal from its tail over any later table gives the same.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "volumed/base/buffer_pool.h"
#include "volumed/io/scope.h"
#include "volumed/store/allocated_chunks.h"
#include "volumed/store/chunk_map.h"
#include "volumed/store/disk_engine.h"
#include "volumed/store/journal.h"
#include "volumed/store/overlay.h"
#include "volumed/store/patient_write.h"
#include "volumed/store/place_allocator.h"
#include "volumed/store/table.h"
#include "volumed/store/zeroed_ranges.h"

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
  Task<Status> put_replica_state(ReplicaNumber number, std::string state) override;
  Result<std::string> replica_state(ReplicaNumber number) const override;
  void note_commit_point(ReplicaNumber number, uint64_t seq) override;
  Task<Result<std::vector<ChunkVersion>>> changed_chunks(ReplicaNumber number,
                                                         uint64_t after_seq) override;
  std::vector<ZeroedRange> zeroed_after(ReplicaNumber number, uint64_t after_seq) const override;
  Task<Status> append_write(ReplicaNumber number, uint64_t epoch, uint64_t seq, uint64_t offset,
                            std::span<const std::byte> data,
                            std::span<const uint64_t> checksums = {}) override;
  Task<Status> append_zero(ReplicaNumber number, uint64_t epoch, uint64_t seq, uint64_t offset,
                           uint64_t length, bool keep_allocated) override;
  Task<Status> read(ReplicaNumber number, uint64_t offset, std::span<std::byte> into) override;
  std::vector<Extent> block_status(ReplicaNumber number, uint64_t offset,
                                   uint64_t length) const override;
  std::optional<uint32_t> expected_checksum(ReplicaNumber number, uint64_t block) const override;
  Status start_scrub(uint64_t rate) override;
  Task<Status> stop_scrub() override;
  Status start_verify(bool accept_damage) override;
  ScrubInfo scrub() const override;
  Task<Status> destage_all() override;
  Task<void> close() override;

  // Panics if an invariant between map, overlay and allocator does not hold (I12). For tests.
  void check_invariants() const;

 private:
  struct Replica {
    ReplicaRecord record;
    uint64_t salt = 0;
    AllocatedChunks allocated;  // in the map or reserved
    uint64_t operations = 0;    // under way
    std::string state;          // of replication, durable
    bool replicated = false;    // it has a state, or is getting one: zeroed ranges are kept
    ZeroedRanges zeroed;
    bool zeroed_changed = false;     // since they went into the table
    bool zeroed_stored = false;      // the table has some
    bool dirty = false;              // in dirty_
    bool carry_wanted = false;       // in carry_wanted_
    uint64_t carried = 0;            // newest commit point that is in a batch ...
    io::Nanoseconds carried_at = 0;  // ... and since when
  };
  struct ReadPlan;
  struct LargeWrite;
  struct DestageRound;
  struct LiveBlock;
  struct ScrubPass;
  struct ScrubBlock;

  // An operation of the owner: a disk is not opened again under it.
  class Operation {
   public:
    explicit Operation(Engine& engine) : engine_(engine) { ++engine_.operations_; }
    ~Operation() {
      if (--engine_.operations_ == 0) engine_.operations_gone_.wake_all();
    }
    Operation(const Operation&) = delete;
    Operation& operator=(const Operation&) = delete;

   private:
    Engine& engine_;
  };

  // A place that nobody maps any more, but that a read or a destage may still touch.
  struct Retired {
    uint64_t lsn;
    uint32_t place;
    ChunkKey owner;  // that gave it up
  };

  // --- open ---
  Task<Result<io::File>> open_locked(std::string name);
  Task<Status> open_files(TableOpener& opener);
  Task<Status> read_label();
  Task<void> mend_label();
  Task<Status> check_header(const io::File& journal);
  Task<void> mend_header();
  Status load_meta();
  Status load_chunks();
  struct ReplayDamage {
    ChunkKey key;
    uint32_t block = 0;     // in the chunk
    uint32_t position = 0;  // ring block
  };
  void find_damage(const DecodedBatch& batch, std::span<const std::byte> payload,
                   std::vector<ReplayDamage>& damage) const;
  Task<Status> replay();
  Status rebuild_allocator();
  bool take_back_place(ChunkKey key);
  Status load_pair(std::string_view key, std::string_view value);
  Status load_chunk(ReplicaNumber number, uint64_t chunk, uint64_t point, std::string_view value);
  std::vector<BadBlock> bad_payload(const DecodedBatch& batch,
                                    std::span<const std::byte> payload) const;
  Status load_scrub(std::string_view value);
  Status load_replica_state(ReplicaNumber number, std::string_view value);
  Status load_zeroed(ReplicaNumber number, std::string_view value);

  // --- replicas ---
  Replica* find_replica(ReplicaNumber number) const {
    return number < replicas_.size() ? replicas_[number].get() : nullptr;
  }
  Result<Replica*> usable(ReplicaNumber number, uint64_t offset, uint64_t length) const;
  ReplicaInfo info_of(ReplicaNumber number, const Replica& replica) const;
  Task<Status> give_back_chunks(ReplicaNumber number);
  Task<void> finish_removals();
  Task<void> drop_removed_blocks(ReplicaNumber number);
  Task<uint64_t> retire_removed_places(ReplicaNumber number);
  Status remove_some_keys(ReplicaNumber number, std::string* after, bool* wrote);
  Task<Status> remove_chunk_keys(ReplicaNumber number);
  Task<Status> commit(TableBatch batch);
  // With commit_turn_ held.
  Task<Status> commit_in_turn(TableBatch batch, const Journal::Region* destaged);
  Task<Status> commit_patiently(const TableBatch& batch);
  Task<Status> wait_for_room(bool told, const Status& why);
  void notice(const std::string& what);
  // Of writes of a file; `file` is for the notice, which is given once for all that wait.
  Patience patience(const char* file);

  // --- what is kept for replication ---
  // The next destage brings the replica's record in the table up to date.
  void mark_dirty(ReplicaNumber number, Replica& replica);
  void add_dirty_replicas(TableBatch& batch);
  void apply_commit_point(const Record& record);
  void want_carried(ReplicaNumber number, Replica& replica);
  void carry_commit_points(BatchEncoder& encoder);
  void remember_zeroed(Replica& replica, const ZeroedRange& range);
  void forget_version(ChunkKey key, uint64_t version);

  // --- write ---
  // Reserves places for a journaled write; undone by apply() of its record, or withdraw().
  Task<Status> admit(ReplicaNumber number, uint64_t first_block, uint64_t blocks);
  bool admit_all(ReplicaNumber number, uint64_t first_block, uint64_t blocks);
  bool try_admit(ChunkKey key);
  void withdraw(ReplicaNumber number, uint64_t first_block, uint64_t end_block);
  Task<Status> make_room(uint32_t places);
  Task<Status> grow(uint32_t places);
  Task<void> grow_ahead();
  Task<Status> sync_growth();

  // --- giving back ---
  uint32_t kept_places() const;
  bool give_back_wanted() const;
  Task<void> give_back_loop();
  Task<void> give_back_piece();
  Task<Status> refill(uint32_t wanted);
  Result<uint64_t> own_chunks();
  Task<Status> write_small(Replica& replica, ReplicaNumber number, uint64_t epoch, uint64_t seq,
                           uint64_t offset, std::span<const std::byte> data,
                           std::span<const uint64_t> checksums);
  Task<Status> write_large(Replica& replica, ReplicaNumber number, uint64_t epoch, uint64_t seq,
                           uint64_t offset, std::span<const std::byte> data,
                           std::span<const uint64_t> checksums);
  Task<Status> write_pieces(Replica& replica, ReplicaNumber number, uint64_t epoch, uint64_t seq,
                            uint64_t offset, std::span<const std::byte> data,
                            std::span<const uint64_t> checksums);
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
  Task<void> read_one_by_one(ReadPlan& plan, std::size_t index);
  Task<void> read_segment(ReadPlan& plan, std::size_t segment);
  Task<Status> execute(ReadPlan& plan);
  void report_unread(ReadPlan& plan);
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
  Task<void> collect(DestageRound& round);
  bool is_newest(const LiveBlock& block) const;
  double foreground_rate();
  Task<void> pace(DestageRound& round);
  template <typename Items, typename Less>
  Task<void> sort_aside(Items& items, Less less);
  Task<Status> read_live(DestageRound& round);
  Task<void> read_live_run(DestageRound& round, std::size_t first, std::size_t count);
  Task<Status> read_alone(DestageRound& round, const LiveBlock& block);
  Task<Status> write_live(DestageRound& round);
  Task<void> write_live_run(DestageRound& round, std::size_t first, std::size_t count);
  void give_places(DestageRound& round);
  Task<TableBatch> table_changes(DestageRound& round);
  Task<void> finish_round(DestageRound& round);
  void kick_destage() { destage_wake_.set(); }
  bool destage_wanted() const;
  Task<void> idle_timer();
  void on_durable();

  // --- scrub ---
  Task<void> run_scrub();
  Task<Status> run_pass(bool anew, uint64_t rate);
  Task<Status> scrub_everything(ScrubPass& pass);
  Task<Status> scrub_chunks(ScrubPass& pass);
  Task<Status> scrub_journal(ScrubPass& pass);
  Task<Status> scrub_table();
  void add_place(ScrubPass& pass, uint32_t place) const;
  Task<void> scrub_piece(ScrubPass& pass, std::size_t first, std::size_t count);
  Task<void> confirm(ScrubPass& pass, const ScrubBlock& block);
  bool lies_there(const ScrubBlock& block) const;
  bool content_holds(const ScrubBlock& block, const std::byte* content) const;
  Task<int64_t> read_blocks(const ScrubBlock& first, std::byte* into, uint64_t blocks);
  Task<Status> after_piece(ScrubPass& pass, uint64_t bytes);
  Task<void> pace(ScrubPass& pass, uint64_t bytes);
  bool foreground_busy(ScrubPass& pass) const;
  uint64_t piece_bytes(ScrubPass& pass) const;
  Task<Status> commit_scrub();

  // --- damage and failure ---
  void report_damage(Damage damage);
  void report_block(ChunkKey key, uint32_t block, DamagedFile file, uint64_t file_block,
                    bool unreadable, const char* found_by);
  void fail(const Status& why);
  std::string failure_text(const std::string& why) const;
  Task<void> persist_failure();
  Task<Status> write_state(DiskState state);
  Task<Status> read_state();
  Task<Status> own_files();
  Task<Status> enter_service();
  Task<Status> reopen_as_failed();
  Task<Status> probe();
  Task<void> run_verify(bool accept_damage);
  Task<Status> leave_quarantine(bool accept_damage);
  Task<void> end_tasks();
  Task<void> close_files();
  uint64_t unix_time() const;

  double used_percent() const {
    return static_cast<double>(journal_->used_blocks()) * 100 / journal_->ring_blocks();
  }

  io::Reactor& reactor_;
  std::string path_;
  EngineOptions options_;
  EngineMetrics metrics_;
  Label label_;
  std::array<bool, kLabelCopies> label_damaged_{};  // copies that are written again ...
  bool header_damaged_ = false;  // ... and the journal's header, once the disk is admitted
  TableMeta meta_;
  io::File label_file_;
  io::File chunks_;
  io::File cached_chunks_;  // the same file, for reads through the page cache; may be closed
  std::unique_ptr<Table> table_;
  std::unique_ptr<ChunkMap> map_;
  std::unique_ptr<PlaceAllocator> places_;
  Overlay overlay_;
  BufferPool buffers_;
  std::unique_ptr<Journal> journal_;
  std::vector<std::unique_ptr<Replica>> replicas_;  // by number
  std::deque<Retired> retired_;                     // by LSN
  std::vector<ReplicaNumber> dirty_;                // see mark_dirty()
  std::vector<ReplicaNumber> carry_wanted_;         // commit points that no batch has yet
  io::Nanoseconds carry_due_ = 0;                   // of the first of them

  uint32_t waiting_writes_ = 0;  // for room, of journal and chunks
  io::Semaphore commit_turn_{1};
  io::Semaphore grow_turn_{1};
  bool growing_ahead_ = false;
  bool may_give_back_ = false;  // the file system tells its extents and takes space back
  io::Event give_back_wake_;
  uint64_t readers_[2] = {0, 0};
  uint64_t reader_epoch_ = 0;
  io::WaitList reader_gone_;
  io::Semaphore reader_turn_{1};

  io::Event destage_wake_;
  io::WaitList destage_done_;
  io::Semaphore destage_writes_{16};
  bool destaging_ = false;   // a round is under way
  bool drain_ = false;       // destage everything that is durable now
  uint64_t drain_lsn_ = 0;   // up to this LSN
  bool idle_drain_ = false;  // destage everything, as long as nothing is appended
  uint64_t idle_appends_ = 0;
  io::Nanoseconds rate_since_ = 0;  // foreground_rate(): the window's beginning,
  uint64_t rate_head_ = 0;          // the journal's head then, and
  double rate_ = 0;                 // blocks a second
  bool idle_timer_runs_ = false;
  uint64_t appends_ = 0;  // counts durable batches, for the idle timer
  bool closing_ = false;
  bool opened_ = false;
  bool loaded_ = false;  // table and journal were read whole: what is in memory is what is there
  DiskInfo last_info_;   // of before, while it is not
  std::vector<ReplicaInfo> last_replicas_;
  io::Semaphore state_turn_{1};  // of writing the state block
  uint64_t applying_lsn_ = 0;    // of the record that apply() works on
  Status replay_error_;          // a record that contradicts the table
  Status failure_;
  std::unique_ptr<io::CancelToken> cancel_ = std::make_unique<io::CancelToken>();
  io::Scope scope_;

  TableOpener opener_;
  bool stopping_ = false;    // by close()
  uint64_t operations_ = 0;  // of the owner, under way
  io::WaitList operations_gone_;
  bool quarantined_ = false;   // opened as failed: everything was read and nothing is written
  DiskState state_;            // what the state block should say ...
  bool state_written_ = true;  // ... and whether it does
  std::set<std::pair<uint64_t, uint32_t>> told_;  // damaged blocks that the owner knows
  bool table_damage_told_ = false;

  ScrubRecord scrub_;
  ScrubInfo scrub_info_;            // but for the record
  bool scrub_runs_ = false;         // a pass; of a verify too
  bool scrub_stop_wanted_ = false;  // for good: it does not go on by itself
  bool verifies_ = false;
  bool table_damaged_ = false;                     // says the pass
  std::unique_ptr<io::CancelToken> scrub_cancel_;  // while a pass runs
  io::WaitList scrub_done_;
  io::Scope scrub_scope_;
};

}  // namespace cvol::store
