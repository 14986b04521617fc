// Formatting and opening a disk.
#include <fmt/format.h>
#include <malloc.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <unordered_set>

#include "volumed/base/assert.h"
#include "volumed/base/bytes.h"
#include "volumed/base/checksum.h"
#include "volumed/base/log.h"
#include "volumed/store/aligned.h"
#include "volumed/store/engine.h"
#include "volumed/store/mirrored_table.h"

namespace cvol::store {
namespace {

constexpr uint64_t kDefaultJournalBytes = 4 * kGiB;
constexpr uint64_t kDefaultMinJournalBytes = 16 * kMiB;
constexpr io::Nanoseconds kLockTime = 10 * io::kSecond;
constexpr char kUnfinished[] = "format-unfinished";
constexpr uint64_t kZeroStepBytes = 4 * kMiB;
// Left free on the file system for the chunk table and the rest of the machine.
constexpr uint64_t kReserveBytes = 256 * kMiB;
// The chunk table's two copies, with what RocksDB needs to rewrite them: one part in so many.
constexpr uint64_t kTableShare = 128;

Task<Status> write_block(const io::File& file, const std::byte* data, uint64_t offset,
                         std::string what) {
  const iovec iov{const_cast<std::byte*>(data), kBlockBytes};
  const int64_t wrote = co_await file.writev(&iov, 1, offset, true);
  if (wrote < 0) co_return status_from_errno(static_cast<int>(-wrote), "write " + what);
  if (wrote != static_cast<int64_t>(kBlockBytes))
    co_return Status(Code::kIo, "write " + what + ": the disk took only a part");
  co_return Status::ok();
}

// Of a disk that has a label: it is there, and not whole.
Status part_missing(const Status& why) {
  return why.code() == Code::kNotFound ? Status(Code::kDamaged, why.message()) : why;
}

// Zeroes [kBlockBytes, bytes): blocks that were written once can be overwritten without the file
// system having to change its own records.
Task<Status> zero_file(const io::File& file, uint64_t bytes) {
  const AlignedBytes zeroes = aligned_zeroes(kZeroStepBytes);
  for (uint64_t at = kBlockBytes; at < bytes;) {
    const iovec iov{zeroes.get(), std::min(kZeroStepBytes, bytes - at)};
    const int64_t wrote = co_await file.writev(&iov, 1, at, false);
    if (wrote <= 0) {
      co_return status_from_errno(wrote < 0 ? static_cast<int>(-wrote) : EIO, "zero the journal");
    }
    at += static_cast<uint64_t>(wrote);
  }
  const int64_t synced = co_await file.sync();
  co_return synced < 0 ? status_from_errno(static_cast<int>(-synced), "sync the journal")
                       : Status::ok();
}

Result<Label> choose_label(io::Reactor& reactor, const std::string& path,
                           const FormatOptions& options) {
  Result<uint64_t> free = reactor.free_bytes(path);
  if (!free) return free.status();
  const uint64_t usable = *free > kReserveBytes ? *free - kReserveBytes : 0;
  uint64_t capacity = options.capacity_bytes != 0 ? options.capacity_bytes : usable;
  Label label;
  label.disk = Uuid::make(reactor.random());
  label.journal = Uuid::make(reactor.random());
  label.journal_bytes = options.journal_bytes;
  if (label.journal_bytes == 0) {
    label.journal_bytes = std::clamp(capacity / 20, kDefaultMinJournalBytes, kDefaultJournalBytes);
  }
  label.journal_bytes = label.journal_bytes / kBlockBytes * kBlockBytes;
  if (label.journal_bytes < kMinJournalBytes || label.journal_bytes > kTiB) {
    return Status(Code::kInvalidArgument,
                  fmt::format("a journal of {} is not possible; use {} to 1TiB",
                              format_size(label.journal_bytes), format_size(kMinJournalBytes)));
  }
  if (options.capacity_bytes == 0) {
    capacity = capacity > label.journal_bytes ? capacity - label.journal_bytes : 0;
    capacity -= capacity / kTableShare;
  }
  if (usable < label.journal_bytes || capacity < kMiB) {
    return Status(Code::kNoSpace,
                  fmt::format("{} has {} free, too little for a disk with a journal of {}", path,
                              format_size(*free), format_size(label.journal_bytes)));
  }
  label.capacity_chunks = std::min<uint64_t>(capacity / kChunkBytes, UINT32_MAX - 1);
  return label;
}

}  // namespace

bool is_disk(io::Reactor& reactor, const std::string& path) {
  io::OpenOptions read_only;
  read_only.read_only = true;
  // A format that was not finished was never reported as done.
  return reactor.open(path + "/label", read_only).is_ok() &&
         !reactor.open(path + "/" + kUnfinished, read_only).is_ok();
}

Task<Result<Uuid>> format_disk_with(io::Reactor& reactor, std::string path, FormatOptions options,
                                    TableOpener opener) {
  CVOL_CO_TRY(reactor.make_directories(path));
  if (is_disk(reactor, path))
    co_return Status(Code::kAlreadyExists, path + " is a cvol disk already");
  Result<std::vector<std::string>> entries = reactor.list_directory(path);
  if (!entries) co_return entries.status();
  std::erase(*entries, "lost+found");
  // A format that was cut short leaves no label and a marker: what it made is made anew.
  const bool unfinished =
      std::find(entries->begin(), entries->end(), kUnfinished) != entries->end();
  if (!unfinished && !entries->empty()) {
    co_return Status(Code::kFailedPrecondition,
                     path + " is not empty; give an empty or a new directory");
  }
  for (const char* name : {"label", "journal", "chunks", "table", "table2"})
    CVOL_CO_TRY(reactor.remove_all(path + "/" + name));
  Result<Label> label = choose_label(reactor, path, options);
  if (!label) co_return label.status();

  io::OpenOptions create;
  create.create = true;
  if (!unfinished) {
    Result<io::File> marker = reactor.open(path + "/" + kUnfinished, create);
    if (!marker) co_return marker.status();
    CVOL_CO_TRY(reactor.sync_directory(path));
  }
  Result<io::File> journal = reactor.open(path + "/journal", create);
  if (!journal) co_return journal.status();
  CVOL_CO_TRY(journal->allocate(label->journal_bytes));
  CVOL_CO_TRY(co_await zero_file(*journal, label->journal_bytes));
  const AlignedBytes block = aligned_zeroes(kBlockBytes);
  const std::span<std::byte, kBlockBytes> bytes(block.get(), kBlockBytes);
  encode_journal_header(*label, bytes);
  CVOL_CO_TRY(co_await write_block(*journal, block.get(), 0, "the journal header"));

  Result<io::File> chunks = reactor.open(path + "/chunks", create);
  if (!chunks) co_return chunks.status();
  Result<std::unique_ptr<Table>> table = MirroredTable::create(opener, path + "/table");
  if (!table) co_return table.status();
  TableMeta meta;
  meta.disk = label->disk;
  TableBatch batch;
  batch.put(meta_key(), encode_table_meta(meta));
  CVOL_CO_TRY((*table)->commit(batch));
  table->reset();

  // The label comes last: a directory with a label is a whole disk.
  Result<io::File> label_file = reactor.open(path + "/label", create);
  if (!label_file) co_return label_file.status();
  encode_label(*label, bytes);
  for (uint64_t copy = 0; copy < kLabelCopies; ++copy)
    CVOL_CO_TRY(
        co_await write_block(*label_file, block.get(), copy * kBlockBytes, "the disk label"));
  const int64_t synced = co_await label_file->sync();
  if (synced < 0) co_return status_from_errno(static_cast<int>(-synced), "sync the disk label");
  CVOL_CO_TRY(reactor.sync_directory(path));
  CVOL_CO_TRY(reactor.remove_all(path + "/" + kUnfinished));
  CVOL_CO_TRY(reactor.sync_directory(path));
  log::info("store", "formatted a disk",
            {{"path", path},
             {"disk", label->disk.to_string()},
             {"journal", format_size(label->journal_bytes)},
             {"capacity", format_size(label->capacity_chunks * kChunkBytes)}});
  co_return label->disk;
}

Task<Result<Uuid>> format_disk(io::Reactor& reactor, std::string path, FormatOptions options) {
  co_return co_await format_disk_with(reactor, std::move(path), options, open_rocksdb_table);
}

Task<Result<std::unique_ptr<DiskEngine>>> open_disk_with(io::Reactor& reactor, std::string path,
                                                         EngineOptions options,
                                                         TableOpener opener) {
  auto engine = std::make_unique<Engine>(reactor, path, options);
  const Status status = co_await engine->open(std::move(opener));
  if (!status) {
    co_await engine->close();
    co_return status.with_context("open disk " + path);
  }
  co_return std::unique_ptr<DiskEngine>(std::move(engine));
}

Task<Result<std::unique_ptr<DiskEngine>>> open_disk(io::Reactor& reactor, std::string path,
                                                    EngineOptions options) {
  co_return co_await open_disk_with(reactor, std::move(path), options, open_rocksdb_table);
}

Engine::Engine(io::Reactor& reactor, std::string path, EngineOptions options)
    : reactor_(reactor),
      path_(std::move(path)),
      options_(options),
      buffers_(std::max<uint64_t>(options.buffer_bytes, 64 * kMiB), 32 * kMiB) {}

Engine::~Engine() {
  CVOL_ASSERT(scope_.running() == 0);
}

Task<Status> Engine::open(TableOpener opener) {
  const io::Nanoseconds started = reactor_.now();
  opener_ = opener;
  CVOL_CO_TRY(co_await open_files(opener));
  CVOL_CO_TRY(co_await read_state());
  CVOL_CO_TRY(co_await reactor_.blocking([this] { return load_meta(); }));
  if (options_.admit) CVOL_CO_TRY(options_.admit(label_.disk, meta_.generation));
  co_await mend_label();
  co_await mend_header();
  map_ = std::make_unique<ChunkMap>(static_cast<uint32_t>(label_.capacity_chunks));
  places_ = std::make_unique<PlaceAllocator>(static_cast<uint32_t>(label_.capacity_chunks));
  CVOL_CO_TRY(co_await reactor_.blocking([this] { return load_chunks(); }));
  CVOL_CO_TRY(co_await replay());
  CVOL_CO_TRY(rebuild_allocator());
  loaded_ = true;
  // Loading and replaying need more memory than what stays.
  buffers_.trim();
  malloc_trim(0);
  if (quarantined_) {
    log::error("store", "opened a disk that has failed; it is not served",
               {{"path", path_}, {"why", state_.reason}});
    co_return Status::ok();
  }
  CVOL_CO_TRY(co_await enter_service());
  if (scrub_.state == ScrubState::kRunning) CVOL_CO_TRY(start_scrub(scrub_.rate));
  log::info("store", "opened a disk",
            {{"path", path_},
             {"disk", label_.disk.to_string()},
             {"chunks", map_->size()},
             {"replayed_lsn", journal_->durable_lsn()},
             {"milliseconds", (reactor_.now() - started) / io::kMillisecond}});
  co_return Status::ok();
}

// The lock of a file goes with its open description, which writes under way hold as well. So the
// files of a process that was killed stay locked until the kernel is done with its last writes:
// they must not land after ours. That takes a moment, for which this waits.
Task<Result<io::File>> Engine::open_locked(std::string name) {
  io::OpenOptions exclusive;
  exclusive.exclusive = true;
  const io::Nanoseconds deadline = reactor_.now() + kLockTime;
  Result<io::File> file = reactor_.open(path_ + "/" + name, exclusive);
  while (file.code() == Code::kBusy && reactor_.now() < deadline) {
    co_await reactor_.sleep(50 * io::kMillisecond);
    file = reactor_.open(path_ + "/" + name, exclusive);
  }
  co_return file;
}

// The label is there twice. Either copy will do; the other is written again if it is damaged or, on
// a disk of an older version, missing.
Task<Status> Engine::read_label() {
  const AlignedBytes blocks = aligned_zeroes(kLabelCopies * kBlockBytes);
  const iovec iov{blocks.get(), kLabelCopies * kBlockBytes};
  const int64_t got = co_await label_file_.readv(&iov, 1, 0);
  if (got < 0) co_return status_from_errno(static_cast<int>(-got), "read the disk label");
  const std::span<const std::byte> bytes(blocks.get(), static_cast<std::size_t>(got));
  std::vector<Result<Label>> copies;
  for (uint64_t copy = 0; copy < kLabelCopies; ++copy) {
    copies.push_back(decode_label(bytes.subspan(std::min(bytes.size(), copy * kBlockBytes))));
    if (copies[copy].code() == Code::kUnsupported) co_return copies[copy].status();
  }
  if (!copies[0] && !copies[1]) {
    co_return Status(Code::kDamaged, copies[0].message() +
                                         "; nothing was changed: restore file 'label' from a "
                                         "backup, or the disk from a replica");
  }
  if (copies[0] && copies[1] && copies[0]->disk != copies[1]->disk) {
    co_return Status(Code::kDamaged,
                     "the two copies of the disk label contradict each other; nothing was changed");
  }
  label_ = copies[0] ? *copies[0] : *copies[1];
  for (uint64_t copy = 0; copy < kLabelCopies; ++copy) {
    label_damaged_[copy] = !copies[copy].is_ok();
    if (copies[copy]) continue;
    log::warning("store", "a copy of the disk label is damaged or missing; it is written again",
                 {{"path", path_}, {"copy", copy}, {"why", copies[copy].message()}});
  }
  co_return Status::ok();
}

Task<void> Engine::mend_label() {
  const AlignedBytes block = aligned_zeroes(kBlockBytes);
  encode_label(label_, std::span<std::byte, kBlockBytes>(block.get(), kBlockBytes));
  for (uint64_t copy = 0; copy < kLabelCopies; ++copy) {
    if (!label_damaged_[copy]) continue;
    const Status wrote =
        co_await write_block(label_file_, block.get(), copy * kBlockBytes, "the disk label");
    if (!wrote) log::warning("store", "it could not be written", {{"why", wrote.message()}});
  }
}

// The journal's header block says nothing that the label does not say.
Task<Status> Engine::check_header(const io::File& journal) {
  const AlignedBytes block = aligned_zeroes(kBlockBytes);
  const iovec iov{block.get(), kBlockBytes};
  const int64_t got = co_await journal.readv(&iov, 1, 0);
  if (got < 0) co_return status_from_errno(static_cast<int>(-got), "read the journal header");
  Result<Label> header = decode_journal_header({block.get(), static_cast<std::size_t>(got)});
  if (header) co_return check_journal_header(*header, label_);
  if (header.code() == Code::kUnsupported) co_return header.status();
  log::warning("store", "the journal header is damaged; it is written again",
               {{"path", path_}, {"why", header.message()}});
  header_damaged_ = true;
  co_return Status::ok();
}

Task<void> Engine::mend_header() {
  if (!header_damaged_) co_return;
  const AlignedBytes block = aligned_zeroes(kBlockBytes);
  encode_journal_header(label_, std::span<std::byte, kBlockBytes>(block.get(), kBlockBytes));
  const Status wrote = co_await write_block(journal_->file(), block.get(), 0, "the journal header");
  if (!wrote) log::warning("store", "it could not be written", {{"why", wrote.message()}});
}

Task<Status> Engine::open_files(TableOpener& opener) {
  Result<io::File> label = co_await open_locked("label");
  if (!label) {
    if (label.code() == Code::kNotFound)
      co_return Status(Code::kNotFound, "there is no cvol disk; format it with cvol disk add");
    co_return label.status();
  }
  label_file_ = std::move(*label);
  CVOL_CO_TRY(co_await read_label());
  if (options_.admit) CVOL_CO_TRY(options_.admit(label_.disk, std::nullopt));
  Result<io::File> journal = co_await open_locked("journal");
  if (!journal) co_return part_missing(journal.status());
  Result<uint64_t> size = journal->size();
  if (!size) co_return size.status();
  if (*size < label_.journal_bytes)
    co_return Status(Code::kDamaged, "the journal file is shorter than its label says");
  header_damaged_ = false;
  CVOL_CO_TRY(co_await check_header(*journal));
  Result<io::File> chunks = co_await open_locked("chunks");
  if (!chunks) co_return part_missing(chunks.status());
  chunks_ = std::move(*chunks);
  if (options_.read_cache) {
    io::OpenOptions cached;
    cached.read_only = true;
    cached.cached = true;
    Result<io::File> second = reactor_.open(path_ + "/chunks", cached);
    if (!second) co_return second.status();
    cached_chunks_ = std::move(*second);
  }
  Result<std::unique_ptr<Table>> table = co_await reactor_.blocking(
      [this, &opener] { return MirroredTable::open(opener, path_ + "/table"); });
  if (!table) co_return table.status();
  table_ = std::move(*table);

  Journal::Options options;
  options.label = label_;
  options.depth = options_.journal_depth;
  options.batch_blocks = static_cast<uint32_t>(options_.batch_bytes / kBlockBytes);
  options.patience = patience("the journal");
  journal_ = std::make_unique<Journal>(
      reactor_, std::move(*journal), options,
      [this](uint64_t lsn, const Record& record, const void* checksums, uint32_t position) {
        apply(lsn, record, checksums, position);
      },
      &metrics_);
  journal_->set_hooks([this] { kick_destage(); }, [this] { on_durable(); },
                      [this](const Status& why) { fail(why); });
  journal_->set_riders([this](BatchEncoder& encoder) { carry_commit_points(encoder); });
  co_return Status::ok();
}

Status Engine::load_meta() {
  bool found = false;
  const Status stop(Code::kCancelled, "");
  Status status = table_->scan([&](std::string_view key, std::string_view value) -> Status {
    uint32_t number = 0;
    if (key == meta_key()) {
      Result<TableMeta> meta = decode_table_meta(value);
      if (!meta) return meta.status();
      meta_ = *meta;
      found = true;
      return Status::ok();
    }
    if (!parse_replica_key(key, &number)) return stop;  // the chunks begin
    Result<ReplicaRecord> record = decode_replica_record(value);
    if (!record) return record.status();
    if (number > kMaxReplicaNumber)
      return Status(Code::kDamaged, "chunk table: a replica's number is impossible");
    if (replicas_.size() <= number) replicas_.resize(number + 1);
    replicas_[number] = std::make_unique<Replica>();
    replicas_[number]->record = *record;
    replicas_[number]->salt = checksum_salt(record->volume);
    return Status::ok();
  });
  if (!status && status.code() != Code::kCancelled) return status;
  if (!found) return Status(Code::kDamaged, "chunk table: its meta record is missing");
  if (meta_.disk != label_.disk)
    return Status(Code::kDamaged, "chunk table: it belongs to another disk");
  return Status::ok();
}

Status Engine::load_chunks() {
  Status status = table_->scan(
      [this](std::string_view key, std::string_view value) { return load_pair(key, value); });
  if (status) map_->index_loaded();
  return status;
}

// Nothing depends on a scrub's figures: a damaged record is as none.
Status Engine::load_scrub(std::string_view value) {
  Result<ScrubRecord> record = decode_scrub_record(value);
  if (record.code() == Code::kUnsupported) return record.status();
  if (!record) log::warning("store", record.message(), {{"path", path_}});
  scrub_ = record ? *record : ScrubRecord{};
  return Status::ok();
}

Status Engine::load_pair(std::string_view key, std::string_view value) {
  uint32_t number = 0;
  uint64_t chunk = 0;
  uint64_t point = 0;
  if (parse_chunk_key(key, &number, &chunk, &point)) return load_chunk(number, chunk, point, value);
  if (key == meta_key() || parse_replica_key(key, &number)) return Status::ok();
  if (key == scrub_key()) return load_scrub(value);
  if (parse_replica_state_key(key, &number)) return load_replica_state(number, value);
  if (parse_zeroed_ranges_key(key, &number)) return load_zeroed(number, value);
  return Status(Code::kUnsupported, "chunk table: a key of an unknown kind; use a newer volumed");
}

// A table has millions of these.
Status Engine::load_chunk(ReplicaNumber number, uint64_t chunk, uint64_t point,
                          std::string_view value) {
  if (point != kLivePoint)
    return Status(Code::kUnsupported, "chunk table: it has snapshots; use a newer volumed");
  Replica* replica = find_replica(number);
  if (replica == nullptr || replica->record.removing) return Status::ok();  // being given back
  Result<ChunkRecord> record = decode_chunk_record(value);
  if (!record) return record.status();
  if (record->place >= label_.capacity_chunks || chunk >= kMaxVolumeBytes / kChunkBytes ||
      map_->owned(record->place)) {
    return Status(
        Code::kDamaged,
        fmt::format("chunk table: chunk {} of replica {} has an impossible place", chunk, number));
  }
  ChunkSlot& slot = map_->load(ChunkKey(number, chunk), record->place);
  slot.version = record->version;
  slot.present = record->present;
  slot.set_checksums(record->checksums);
  replica->allocated.add(chunk);
  replica->record.last_seq = std::max(replica->record.last_seq, record->version);
  return Status::ok();
}

std::vector<BadBlock> Engine::bad_payload(const DecodedBatch& batch,
                                          std::span<const std::byte> payload) const {
  std::vector<BadBlock> bad;
  for (const DecodedRecord& decoded : batch.records) {
    const Record& record = decoded.record;
    const Replica* replica = find_replica(record.replica);
    if (record.type != RecordType::kWrite || replica == nullptr) continue;
    for (uint32_t i = 0; i < record.count && bad.size() < 2; ++i) {
      const uint32_t index = record.payload + i;
      const std::byte* block = payload.data() + uint64_t{index} * kBlockBytes;
      const uint64_t expected = load_le<uint64_t>(&decoded.checksums[std::size_t{i} * 8]);
      if (block_checksum(replica->salt, record.first + i, block) == expected) continue;
      bad.push_back({index, block_checksum_seed(replica->salt, record.first + i), expected});
    }
  }
  return bad;
}

Task<Status> Engine::replay() {
  journal_->set_tail({meta_.tail_lsn, meta_.tail_position});
  const uint32_t ring = journal_->ring_blocks();
  uint64_t recorded_tail = 0;
  bool whole = true;  // the batch that was checked last
  std::vector<ReplayDamage> damage;
  auto visit = [&](const DecodedBatch& batch, std::span<const std::byte> blocks) {
    recorded_tail = std::max(recorded_tail, batch.header.tail_lsn);
    if (!whole) find_damage(batch, blocks, damage);
    const uint64_t payload = batch.header.position + batch.header.header_blocks;
    for (const DecodedRecord& decoded : batch.records) {
      const Record& record = decoded.record;
      const uint32_t position = record.type == RecordType::kWrite
                                    ? static_cast<uint32_t>((payload + record.payload) % ring)
                                    : record.payload;
      apply(batch.header.lsn, record, decoded.checksums.data(), position);
    }
    journal_->adopt(batch.header);
  };
  Result<ReplayResult> result = co_await replay_journal(
      journal_->file(), label_, journal_->tail(), meta_.tail_generation, buffers_,
      [&](const DecodedBatch& batch, std::span<const std::byte> payload) {
        std::vector<BadBlock> bad = bad_payload(batch, payload);
        whole = bad.empty();
        return bad;
      },
      visit);
  if (!result) co_return result.status();
  if (!replay_error_) co_return replay_error_;
  if (recorded_tail > meta_.tail_lsn) {
    co_return Status(Code::kDamaged,
                     "the chunk table is older than the journal says; it has lost a commit. The "
                     "disk is left as it is: restore it from a replica or a backup");
  }
  // A batch that was read may still be in the disk's cache only: nothing is served before it is
  // on stable storage. (A failed disk is not written to; enter_service() does it later.)
  if (!quarantined_) {
    const int64_t synced = co_await journal_->file().sync();
    if (synced < 0) co_return status_from_errno(static_cast<int>(-synced), "sync the journal");
  }
  meta_.generation = std::max(meta_.generation, result->generation);
  for (const ReplayDamage& found : damage) {
    const OverlayChunk* entry = overlay_.find(found.key);
    if (entry == nullptr || ((entry->mask >> found.block) & 1) == 0) continue;
    if (entry->position[found.block] != found.position) continue;  // written again later
    report_block(found.key, found.block, DamagedFile::kJournal, found.position,
                 /*unreadable=*/false, "replay");
  }
  co_return Status::ok();
}

// Which blocks of a damaged payload are damaged.
void Engine::find_damage(const DecodedBatch& batch, std::span<const std::byte> payload,
                         std::vector<ReplayDamage>& damage) const {
  const uint64_t first_payload = batch.header.position + batch.header.header_blocks;
  for (const DecodedRecord& decoded : batch.records) {
    const Record& record = decoded.record;
    const Replica* replica = find_replica(record.replica);
    if (record.type != RecordType::kWrite || replica == nullptr) continue;
    for (uint32_t i = 0; i < record.count && damage.size() < kMostDamageTold; ++i) {
      const uint64_t index = uint64_t{record.payload} + i;
      const uint64_t expected = load_le<uint64_t>(&decoded.checksums[std::size_t{i} * 8]);
      const uint64_t block = record.first + i;
      if (block_checksum(replica->salt, block, &payload[index * kBlockBytes]) == expected) continue;
      damage.push_back({ChunkKey(record.replica, block / kBlocksPerChunk),
                        static_cast<uint32_t>(block % kBlocksPerChunk),
                        static_cast<uint32_t>((first_payload + index) % journal_->ring_blocks())});
    }
  }
}

// The table may be later than the records that are replayed over it: a chunk that it already gave
// its new place loses that to an older record, and needs one again for a newer write. On a full
// disk it is that same place: older records can meet it only under the same chunk.
bool Engine::take_back_place(ChunkKey key) {
  const auto own = std::find_if(retired_.begin(), retired_.end(),
                                [&](const Retired& retired) { return retired.owner == key; });
  if (own == retired_.end()) return false;
  map_->insert(key, own->place);
  retired_.erase(own);
  return true;
}

// Which places are used follows from the map; which are promised, from the overlay.
Status Engine::rebuild_allocator() {
  Result<uint64_t> size = chunks_.size();
  if (!size) return size.status();
  const uint64_t backed = std::min<uint64_t>(*size / kChunkBytes, label_.capacity_chunks);
  places_->set_backed(static_cast<uint32_t>(backed));
  const uint32_t end = std::min<uint32_t>(map_->end_place(), map_->capacity());
  for (uint32_t place = 0; place < end; ++place) {
    if (!map_->owned(place)) continue;
    if (place >= backed)
      return Status(Code::kDamaged, "file 'chunks' is shorter than the chunk table says");
    places_->mark_used(place);
  }
  // Places that the journal's records took from their chunks stay set aside until destage has
  // passed those records: replaying them again must not meet the places in other hands.
  std::map<uint32_t, Retired> still_retired;  // by place; the last record counts
  for (const Retired& retired : retired_) {
    if (!map_->owned(retired.place)) still_retired[retired.place] = retired;
  }
  retired_.clear();
  for (const auto& [place, retired] : still_retired) {
    if (place >= backed) return Status(Code::kDamaged, "file 'chunks' is too short");
    places_->mark_used(place);
    retired_.push_back(retired);
  }
  std::unordered_set<uint64_t> owners;
  for (const Retired& retired : retired_) owners.insert(retired.owner.word);
  // Chunks that can take back a place come last: what is free may have to do for the others.
  Status status = Status::ok();
  for (const bool can_take_back : {false, true}) {
    overlay_.for_each([&](OverlayChunk& chunk) {
      if (owners.contains(chunk.key.word) != can_take_back || map_->find(chunk.key) != kNoPlace)
        return;
      find_replica(chunk.key.replica())->allocated.add(chunk.key.chunk());
      chunk.reserved = places_->reserve(1);
      if (!chunk.reserved && !take_back_place(chunk.key)) status = Status(Code::kNoSpace, "");
    });
  }
  std::sort(retired_.begin(), retired_.end(),
            [](const Retired& a, const Retired& b) { return a.lsn < b.lsn; });
  if (!status) {
    return Status(Code::kDamaged, "file 'chunks' is too small for what the journal promises to it");
  }
  metrics_.allocated_bytes.set(uint64_t{places_->used() + places_->reserved()} * kChunkBytes);
  return Status::ok();
}

}  // namespace cvol::store
