#include "volumed/store/journal.h"

#include <algorithm>
#include <cerrno>
#include <cstdlib>

#include "volumed/base/assert.h"
#include "volumed/base/log.h"

namespace cvol::store {

// A batch on its way. Its header area is its own; the rest points to the entries' memory.
struct Journal::Flight {
  Flight() : area(static_cast<std::byte*>(std::aligned_alloc(kBlockBytes, kAreaBytes))) {
    CVOL_ASSERT(area != nullptr);
  }
  ~Flight() { std::free(area); }
  Flight(const Flight&) = delete;
  Flight& operator=(const Flight&) = delete;

  static constexpr std::size_t kAreaBytes = kMaxHeaderBlocks * kBlockBytes;
  std::byte* area;
  std::vector<iovec> iov;
  JournalEntry* first = nullptr;
  JournalEntry* last = nullptr;
  uint64_t lsn = 0;
  uint64_t position = 0;
  uint32_t header_blocks = 0;
  uint32_t payload_blocks = 0;
  uint32_t records = 0;
  int64_t started = 0;
  bool done = false;
};

namespace {

constexpr uint32_t kMostVectors = 1000;  // below IOV_MAX
// The largest entry: the two ends of a large write. kMinJournalBytes leaves room for four.
constexpr uint32_t kMinBatchBlocks = 2 * kBlocksPerChunk;
static_assert(kMinJournalBytes / kBlockBytes - 1 >= 4 * kMinBatchBlocks);

}  // namespace

Journal::Journal(io::Reactor& reactor, io::File file, Options options, Apply apply,
                 EngineMetrics* metrics)
    : reactor_(reactor),
      file_(std::move(file)),
      options_(std::move(options)),
      apply_(std::move(apply)),
      metrics_(metrics),
      ring_blocks_(static_cast<uint32_t>(options_.label.journal_bytes / kBlockBytes - 1)) {
  CVOL_ASSERT(options_.depth >= 1 && options_.depth <= 16);
  options_.patience.reactor = &reactor_;
  options_.patience.goes_on = [this] { return !failed_; };
  options_.batch_blocks = std::clamp(options_.batch_blocks, kMinBatchBlocks,
                                     std::min(kMaxPayloadBlocks, ring_blocks_ / 4));
  for (uint32_t i = 0; i < options_.depth; ++i) {
    flights_.push_back(std::make_unique<Flight>());
    free_flights_.push_back(flights_.back().get());
  }
}

Journal::~Journal() {
  CVOL_ASSERT(flying_.empty() && first_ == nullptr);
}

void Journal::set_hooks(std::function<void()> on_starved, std::function<void()> on_durable,
                        std::function<void(Status)> on_failed) {
  on_starved_ = std::move(on_starved);
  on_durable_ = std::move(on_durable);
  on_failed_ = std::move(on_failed);
}

void Journal::set_tail(JournalPoint tail) {
  tail_ = tail;
  head_ = tail.position;
  next_lsn_ = tail.lsn;
  durable_lsn_ = tail.lsn - 1;
}

void Journal::adopt(const BatchHeader& header) {
  CVOL_ASSERT(header.lsn == next_lsn_ && header.position >= head_);
  const uint32_t blocks = header.header_blocks + header.payload_blocks;
  add_batch(header.lsn, header.position, header.generation, blocks);
  head_ = header.position + blocks;
  durable_lsn_ = header.lsn;
  next_lsn_ = header.lsn + 1;
}

// The refs that came since the last batch are this one's.
void Journal::add_batch(uint64_t lsn, uint64_t position, uint64_t generation, uint32_t blocks) {
  batches_.push_back(
      {lsn, position, generation, blocks, static_cast<uint32_t>(refs_.size() - refs_counted_)});
  refs_counted_ = refs_.size();
}

void Journal::start(uint64_t generation) {
  options_.generation = generation;
  started_ = true;
}

void Journal::push(JournalEntry* entry) {
  CVOL_ASSERT(started_ && entry->record_count > 0);
  CVOL_ASSERT(entry->payload_blocks <= options_.batch_blocks);
  entry->next = nullptr;
  entry->result = 0;
  if (failed_) {
    answer(entry, EIO);
    return;
  }
  if (last_ != nullptr) {
    last_->next = entry;
  } else {
    first_ = entry;
  }
  last_ = entry;
  // Not at once: what else arrives in this turn of the loop joins the batch.
  if (!pump_scheduled_) {
    pump_scheduled_ = true;
    scope_.spawn(run_pump());
  }
}

Task<void> Journal::run_pump() {
  co_await io::yield(reactor_);
  pump_scheduled_ = false;
  pump();
}

bool Journal::has_space(uint32_t blocks, uint64_t* position) const {
  uint64_t at = head_;
  const uint64_t left_in_turn = ring_blocks_ - at % ring_blocks_;
  if (blocks > left_in_turn) at += left_in_turn;  // batches do not wrap
  if (at + blocks - tail_.position > ring_blocks_) return false;
  if (refs_.size() >= 2 * kManyRefs) return false;
  *position = at;
  return true;
}

void Journal::pump() {
  while (first_ != nullptr && !failed_ && !free_flights_.empty()) {
    // The header area's size is not known before the entries are chosen: ask for the worst.
    const uint32_t most = std::min(ring_blocks_ / 2, kMaxHeaderBlocks + options_.batch_blocks);
    uint64_t position = 0;
    if (!has_space(most, &position)) {
      if (!starved_) {
        starved_ = true;
        if (on_starved_) on_starved_();
      }
      return;
    }
    starved_ = false;
    Flight* flight = take_flight();
    flight->position = position;
    fill(*flight);
    head_ = position + flight->header_blocks + flight->payload_blocks;
    flying_.push_back(flight);
    scope_.spawn(fly(flight));
  }
}

Journal::Flight* Journal::take_flight() {
  Flight* flight = free_flights_.back();
  free_flights_.pop_back();
  flight->iov.clear();
  flight->first = flight->last = nullptr;
  flight->payload_blocks = 0;
  flight->done = false;
  return flight;
}

// Moves waiting entries into the flight and seals its header.
void Journal::fill(Flight& flight) {
  BatchEncoder encoder({flight.area, Flight::kAreaBytes});
  flight.iov.push_back({flight.area, 0});
  while (first_ != nullptr) {
    JournalEntry* entry = first_;
    const bool fits = encoder.fits(entry->record_bytes) &&
                      flight.payload_blocks + entry->payload_blocks <= options_.batch_blocks &&
                      flight.iov.size() + entry->payload_count <= kMostVectors;
    if (!fits && flight.first != nullptr) break;
    CVOL_ASSERT(fits);
    first_ = entry->next;
    if (first_ == nullptr) last_ = nullptr;
    entry->next = nullptr;
    entry->batch_offset = flight.payload_blocks;
    for (uint32_t i = 0; i < entry->record_count; ++i) {
      Record record = entry->records[i];
      if (record.type == RecordType::kWrite) record.payload += flight.payload_blocks;
      encoder.add(record, entry->checksums[i]);
    }
    flight.iov.insert(flight.iov.end(), entry->payload, entry->payload + entry->payload_count);
    flight.payload_blocks += entry->payload_blocks;
    (flight.last != nullptr ? flight.last->next : flight.first) = entry;
    flight.last = entry;
  }
  if (riders_wanted_) riders_(encoder);
  flight.lsn = next_lsn_++;
  flight.records = encoder.record_count();
  BatchHeader header;
  header.lsn = flight.lsn;
  header.generation = options_.generation;
  header.position = flight.position;
  header.durable_lsn = durable_lsn_;
  header.tail_lsn = tail_.lsn;
  header.payload_blocks = flight.payload_blocks;
  const std::span<std::byte> area = encoder.seal(header, options_.label.journal);
  flight.iov[0].iov_len = area.size();
  flight.header_blocks = static_cast<uint32_t>(area.size() / kBlockBytes);
}

Task<void> Journal::fly(Flight* flight) {
  flight->started = reactor_.now();
  const uint64_t bytes = uint64_t{flight->header_blocks + flight->payload_blocks} * kBlockBytes;
  const uint64_t offset = (flight->position % ring_blocks_ + 1) * kBlockBytes;
  int64_t result = co_await file_.writev(flight->iov.data(),
                                         static_cast<uint32_t>(flight->iov.size()), offset, true);
  if (result == static_cast<int64_t>(bytes)) {
    result = 0;
  } else if (!failed_ && may_go_on(result)) {
    result = co_await write_patiently(file_, flight->iov, offset, true, options_.patience);
  } else if (result >= 0) {
    result = -EIO;
  }
  if (result != 0) {
    if (!failed_) {
      const Status why = status_from_errno(static_cast<int>(-result), "write the journal");
      fail();
      if (on_failed_) on_failed_(why);
    }
  } else {
    metrics_->journal_batches.add(1);
    metrics_->journal_records.add(flight->records);
    metrics_->journal_bytes.add(bytes);
    metrics_->journal_latency.record(reactor_.now() - flight->started);
  }
  flight->done = true;
  land();
}

// Takes effect of finished flights, in LSN order.
void Journal::land() {
  bool durable = false;
  while (!flying_.empty() && flying_.front()->done) {
    Flight* flight = flying_.front();
    flying_.pop_front();
    const uint32_t payload_ring =
        static_cast<uint32_t>((flight->position + flight->header_blocks) % ring_blocks_);
    for (JournalEntry* entry = flight->first; entry != nullptr;) {
      JournalEntry* next = entry->next;
      for (uint32_t i = 0; i < entry->record_count && !failed_; ++i) {
        const Record& record = entry->records[i];
        const uint32_t position = payload_ring + entry->batch_offset + record.payload;
        apply_(flight->lsn, record, entry->checksums[i],
               record.type == RecordType::kWrite ? position : record.payload);
      }
      answer(entry, failed_ ? EIO : 0);
      entry = next;
    }
    if (!failed_) {
      durable_lsn_ = flight->lsn;
      add_batch(flight->lsn, flight->position, options_.generation,
                flight->header_blocks + flight->payload_blocks);
      durable = true;
    }
    free_flights_.push_back(flight);
  }
  metrics_->journal_used_bytes.set(used_blocks() * kBlockBytes);
  if (durable && on_durable_) on_durable_();
  pump();
}

void Journal::answer(JournalEntry* entry, int error) {
  entry->result = error;
  reactor_.schedule(entry->waiter);
}

void Journal::fail() {
  failed_ = true;
  while (first_ != nullptr) {
    JournalEntry* entry = first_;
    first_ = entry->next;
    answer(entry, EIO);
  }
  last_ = nullptr;
}

Journal::Region Journal::oldest(uint64_t most_blocks) const {
  Region region;
  uint64_t end = tail_.position;
  for (const BatchInfo& batch : batches_) {
    const uint64_t batch_end = batch.position + batch.blocks;
    if (region.batches > 0 && (batch_end - tail_.position > most_blocks ||
                               region.refs + batch.refs > most_blocks * kBlocksPerChunk)) {
      break;
    }
    ++region.batches;
    region.end_lsn = batch.lsn + 1;
    region.refs += batch.refs;
    region.generation = batch.generation;
    end = batch_end;
  }
  region.end_position = end;
  region.first_ring = static_cast<uint32_t>(tail_.position % ring_blocks_);
  region.ring_span = static_cast<uint32_t>(end - tail_.position);
  return region;
}

void Journal::release(const Region& region) {
  CVOL_ASSERT(region.batches <= batches_.size() && region.refs <= refs_.size());
  batches_.erase(batches_.begin(), batches_.begin() + static_cast<int64_t>(region.batches));
  refs_.erase(refs_.begin(), refs_.begin() + static_cast<int64_t>(region.refs));
  refs_counted_ -= region.refs;
  tail_.lsn = region.end_lsn;
  tail_.position = region.end_position;
  metrics_->journal_used_bytes.set(used_blocks() * kBlockBytes);
  pump();
}

Task<void> Journal::drain() {
  co_await scope_.join();
}

}  // namespace cvol::store
