// Replay: finds the end of the journal and hands its batches over.
//
// A batch that is not whole is either the unfinished end of a crash or damage, and the two must not
// be confused (rule R14). Every batch carries the highest LSN that was durable when it was made. So
// if any later batch says that LSN n was durable, batch n was once whole: what is wrong with it now
// is damage. Batches on their way at the same time are few, so a later batch that tells lies close
// behind: the search goes no further than the most that can have been on its way.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "volumed/base/assert.h"
#include "volumed/base/log.h"
#include "volumed/store/journal.h"

namespace cvol::store {
namespace {

constexpr uint64_t kMostBatchBlocks = kMaxHeaderBlocks + kMaxPayloadBlocks;
constexpr uint64_t kWindowBlocks = 2 * kMostBatchBlocks;
// Depth is at most 16; batches of a usual size (1 MiB) all fit, the largest ones nearly.
constexpr uint64_t kSearchBlocks = 8 * kMostBatchBlocks;

class Replay {
 public:
  Replay(const io::File& file, const Label& label, BufferPool& buffers)
      : file_(file),
        label_(label),
        buffers_(buffers),
        ring_(label.journal_bytes / kBlockBytes - 1) {}

  Task<Result<ReplayResult>> run(JournalPoint at, uint64_t generation, PayloadCheck check,
                                 ReplayVisitor visit);

 private:
  enum class Found { kWhole, kPayloadBad, kNothing };

  Task<Status> load(uint64_t position, uint64_t blocks);
  // Looks for batch `lsn` at `position`; on success batch_ and payload_ are set.
  Task<Result<Found>> look(uint64_t lsn, uint64_t position, const PayloadCheck& check);
  // Does any batch after `position` prove that `lsn` was durable?
  Task<Result<bool>> proved_durable(uint64_t lsn, uint64_t position);

  const io::File& file_;
  const Label& label_;
  BufferPool& buffers_;
  uint64_t ring_;  // blocks
  Buffer window_;
  uint64_t window_at_ = 0;      // position of its first block
  uint64_t window_blocks_ = 0;  // never beyond the ring's end
  uint64_t generation_ = 0;
  DecodedBatch batch_;
  std::span<const std::byte> payload_;
};

// Makes [position, position + blocks) available; clipped at the ring's end.
Task<Status> Replay::load(uint64_t position, uint64_t blocks) {
  const uint64_t left = ring_ - position % ring_;
  blocks = std::min(blocks, left);
  if (window_blocks_ != 0 && position >= window_at_ &&
      position + blocks <= window_at_ + window_blocks_) {
    co_return Status::ok();
  }
  window_blocks_ = std::min(left, std::max(blocks, std::min(kWindowBlocks, ring_)));
  window_at_ = position;
  if (window_.empty()) window_ = buffers_.try_take(std::min(kWindowBlocks, ring_) * kBlockBytes);
  CVOL_ASSERT(!window_.empty() && window_.capacity() >= window_blocks_ * kBlockBytes);
  const iovec iov{window_.data(), window_blocks_ * kBlockBytes};
  const int64_t got = co_await file_.readv(&iov, 1, (position % ring_ + 1) * kBlockBytes);
  if (got != static_cast<int64_t>(iov.iov_len)) {
    window_blocks_ = 0;
    co_return got < 0 ? status_from_errno(static_cast<int>(-got), "read the journal")
                      : Status(Code::kDamaged, "read the journal: the file is too short");
  }
  co_return Status::ok();
}

Task<Result<Replay::Found>> Replay::look(uint64_t lsn, uint64_t position,
                                         const PayloadCheck& check) {
  CVOL_CO_TRY(co_await load(position, 1));
  const std::byte* at = window_.data() + (position - window_at_) * kBlockBytes;
  Result<BatchHeader> header = peek_batch({at, kBlockBytes}, label_.journal);
  if (!header && header.code() == Code::kUnsupported) co_return header.status();
  if (!header || header->lsn != lsn || header->position != position ||
      header->generation < generation_) {
    co_return Found::kNothing;
  }
  const uint64_t total = header->header_blocks + header->payload_blocks;
  if (total > ring_ - position % ring_) co_return Found::kNothing;
  CVOL_CO_TRY(co_await load(position, total));
  at = window_.data() + (position - window_at_) * kBlockBytes;
  const uint64_t header_bytes = header->header_blocks * kBlockBytes;
  Result<DecodedBatch> batch = decode_batch({at, header_bytes}, label_.journal);
  if (!batch) co_return Found::kNothing;
  batch_ = std::move(*batch);
  payload_ = {at + header_bytes, header->payload_blocks * kBlockBytes};
  co_return check(batch_, payload_) ? Found::kWhole : Found::kPayloadBad;
}

Task<Result<bool>> Replay::proved_durable(uint64_t lsn, uint64_t position) {
  const uint64_t most = std::min(kSearchBlocks, ring_ - 1);
  for (uint64_t i = 0; i < most; ++i) {
    const uint64_t at = position + i;
    CVOL_CO_TRY(co_await load(at, 1));
    const std::byte* block = window_.data() + (at - window_at_) * kBlockBytes;
    Result<BatchHeader> header = peek_batch({block, kBlockBytes}, label_.journal);
    if (!header || header->durable_lsn < lsn || header->lsn <= lsn || header->position != at ||
        header->generation < generation_) {
      continue;
    }
    const uint64_t blocks = header->header_blocks;
    if (blocks > ring_ - at % ring_) continue;
    CVOL_CO_TRY(co_await load(at, blocks));
    block = window_.data() + (at - window_at_) * kBlockBytes;
    if (decode_batch({block, blocks * kBlockBytes}, label_.journal)) co_return true;
  }
  co_return false;
}

Task<Result<ReplayResult>> Replay::run(JournalPoint at, uint64_t generation, PayloadCheck check,
                                       ReplayVisitor visit) {
  ReplayResult result;
  result.generation = generation_ = generation;
  while (true) {
    uint64_t position = at.position;
    Result<Found> found = co_await look(at.lsn, position, check);
    if (!found) co_return found.status();
    if (*found == Found::kNothing && position % ring_ != 0) {
      // The batch may have been too long for the rest of the ring.
      const uint64_t turn = position + (ring_ - position % ring_);
      Result<Found> again = co_await look(at.lsn, turn, check);
      if (!again) co_return again.status();
      if (*again != Found::kNothing) {
        found = std::move(again);
        position = turn;
      }
    }
    if (*found != Found::kWhole) {
      const DecodedBatch batch = batch_;  // proved_durable() moves the window
      Result<bool> damage = co_await proved_durable(at.lsn, position);
      if (!damage) co_return damage.status();
      if (!*damage) co_return result;  // the unfinished end
      if (*found == Found::kNothing) {
        co_return Status(
            Code::kDamaged,
            fmt::format("journal batch {} is damaged although later ones are whole, so "
                        "acknowledged writes are lost here; the disk is left as it is: restore "
                        "it from a replica or a backup",
                        at.lsn));
      }
      log::error("store", "payload of a journal batch is damaged; its blocks read as errors",
                 {{"lsn", at.lsn}});
      Result<Found> reload = co_await look(at.lsn, position, check);
      if (!reload) co_return reload.status();
      if (*reload == Found::kNothing) co_return Status(Code::kIo, "read the journal: unstable");
    }
    visit(batch_, payload_);
    generation_ = std::max(generation_, batch_.header.generation);
    result.generation = std::max(result.generation, generation_);
    ++result.batches;
    at.lsn += 1;
    at.position = position + batch_.header.header_blocks + batch_.header.payload_blocks;
  }
}

}  // namespace

Task<Result<ReplayResult>> replay_journal(const io::File& file, const Label& label,
                                          JournalPoint tail, uint64_t generation,
                                          BufferPool& buffers, PayloadCheck check,
                                          ReplayVisitor visit) {
  Replay replay(file, label, buffers);
  co_return co_await replay.run(tail, generation, std::move(check), std::move(visit));
}

}  // namespace cvol::store
