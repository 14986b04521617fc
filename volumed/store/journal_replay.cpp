// Replay: finds the end of the journal and hands its batches over.
//
// A batch that is not whole is either the unfinished end of a crash or damage, and the two must not
// be confused (rule R14). Every batch carries the highest LSN that was durable when it was made. So
// if any later batch says that LSN n was durable, batch n was once whole: what is wrong with it now
// is damage. Batches on their way at the same time are few, so a later batch that tells lies close
// behind: the search goes no further than the most that can have been on its way.
//
// A batch in which one bit has flipped is whole once that bit is found (batch_repair.h): a torn one
// is never a single bit away from what its checksums say, so this needs no later batch to tell. It
// is tried only where something looks like the batch that is expected, which the plain end of a
// journal does not.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "volumed/base/assert.h"
#include "volumed/base/bytes.h"
#include "volumed/base/checksum.h"
#include "volumed/base/flipped_bit.h"
#include "volumed/base/log.h"
#include "volumed/store/batch_repair.h"
#include "volumed/store/journal.h"

namespace cvol::store {
namespace {

constexpr uint64_t kMostBatchBlocks = kMaxHeaderBlocks + kMaxPayloadBlocks;
constexpr uint64_t kWindowBlocks = 4096;  // 16 MiB
static_assert(kWindowBlocks >= kMostBatchBlocks);
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
  // The same, but what is there may have one flipped bit in its header area, and one in its
  // payload: then patches_ has them.
  Task<Result<Found>> look_closely(uint64_t lsn, uint64_t position, const PayloadCheck& check);
  Task<Result<bool>> mend_header(uint64_t lsn, uint64_t position);
  bool mend_payload();
  // Over what was read.
  void apply_patches(uint64_t position);
  Task<void> write_patches();
  bool is_loaded(uint64_t position, uint64_t blocks) const {
    return window_blocks_ != 0 && position >= window_at_ &&
           position + blocks <= window_at_ + window_blocks_;
  }
  // Does any batch after `position` prove that `lsn` was durable?
  Task<Result<bool>> proved_durable(uint64_t lsn, uint64_t position);

  // What a part of the batch that is looked at must be.
  struct Patch {
    uint64_t position;
    std::vector<std::byte> bytes;  // whole blocks
  };

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
  std::vector<BadBlock> bad_;  // of payload_
  std::vector<Patch> patches_;
};

// A newer version says so truly only if the checksum holds; its place is the same in all versions.
bool truly_newer(std::span<const std::byte> block, std::span<const std::byte> area) {
  return area.size() == load_le<uint32_t>(&block[36]) * kBlockBytes &&
         load_le<uint64_t>(&area[8]) == plain_checksum(area.subspan(16));
}

// Makes [position, position + blocks) available; clipped at the ring's end.
Task<Status> Replay::load(uint64_t position, uint64_t blocks) {
  const uint64_t left = ring_ - position % ring_;
  blocks = std::min(blocks, left);
  if (is_loaded(position, blocks)) co_return Status::ok();
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
  apply_patches(position);
  const std::byte* at = window_.data() + (position - window_at_) * kBlockBytes;
  Result<BatchHeader> header = peek_batch({at, kBlockBytes}, label_.journal);
  if (!header && header.code() == Code::kUnsupported) {
    const uint64_t blocks = std::min<uint64_t>(
        {load_le<uint32_t>(at + 36), kMaxHeaderBlocks, ring_ - position % ring_});
    CVOL_CO_TRY(co_await load(position, std::max<uint64_t>(blocks, 1)));
    at = window_.data() + (position - window_at_) * kBlockBytes;
    if (truly_newer({at, kBlockBytes}, {at, blocks * kBlockBytes})) co_return header.status();
  }
  if (!header || header->lsn != lsn || header->position != position ||
      header->generation < generation_) {
    co_return Found::kNothing;
  }
  const uint64_t total = header->header_blocks + header->payload_blocks;
  if (total > ring_ - position % ring_) co_return Found::kNothing;
  CVOL_CO_TRY(co_await load(position, total));
  apply_patches(position);
  at = window_.data() + (position - window_at_) * kBlockBytes;
  const uint64_t header_bytes = header->header_blocks * kBlockBytes;
  Result<DecodedBatch> batch = decode_batch({at, header_bytes}, label_.journal);
  if (!batch) co_return Found::kNothing;
  batch_ = std::move(*batch);
  payload_ = {at + header_bytes, header->payload_blocks * kBlockBytes};
  bad_ = check(batch_, payload_);
  co_return bad_.empty() ? Found::kWhole : Found::kPayloadBad;
}

Task<Result<Replay::Found>> Replay::look_closely(uint64_t lsn, uint64_t position,
                                                 const PayloadCheck& check) {
  patches_.clear();
  Result<Found> found = co_await look(lsn, position, check);
  if (!found) co_return found;
  if (*found == Found::kNothing) {
    Result<bool> mended = co_await mend_header(lsn, position);
    if (!mended) co_return mended.status();
    if (!*mended) co_return found;
    found = co_await look(lsn, position, check);
    if (!found) co_return found;
  }
  if (*found == Found::kPayloadBad && mend_payload()) found = co_await look(lsn, position, check);
  co_return found;
}

Task<Result<bool>> Replay::mend_header(uint64_t lsn, uint64_t position) {
  CVOL_CO_TRY(co_await load(position, 1));
  const std::byte* at = window_.data() + (position - window_at_) * kBlockBytes;
  if (!nearly_batch({at, kBlockBytes}, label_.journal, lsn, position)) co_return false;
  const uint64_t blocks = std::min<uint64_t>(kMaxHeaderBlocks, ring_ - position % ring_);
  CVOL_CO_TRY(co_await load(position, blocks));
  at = window_.data() + (position - window_at_) * kBlockBytes;
  std::vector<std::byte> bytes(at, at + blocks * kBlockBytes);
  const std::optional<std::size_t> area = mend_batch(bytes, label_.journal, lsn, position);
  if (!area.has_value()) co_return false;
  bytes.resize(*area);
  patches_.push_back({position, std::move(bytes)});
  co_return true;
}

// One bad block may be one bit away from being good. More of them are no flipped bit.
bool Replay::mend_payload() {
  if (bad_.size() != 1) return false;
  const std::span<const std::byte> block =
      payload_.subspan(uint64_t{bad_[0].index} * kBlockBytes, kBlockBytes);
  const std::optional<std::size_t> bit = find_flipped_bit(block, bad_[0].seed, bad_[0].checksum);
  if (!bit.has_value()) return false;
  std::vector<std::byte> bytes(block.begin(), block.end());
  flip_bit(bytes, *bit);
  patches_.push_back(
      {batch_.header.position + batch_.header.header_blocks + bad_[0].index, std::move(bytes)});
  return true;
}

void Replay::apply_patches(uint64_t position) {
  for (const Patch& patch : patches_) {
    const uint64_t blocks = patch.bytes.size() / kBlockBytes;
    if (patch.position < position || patch.position < window_at_ ||
        patch.position + blocks > window_at_ + window_blocks_) {
      continue;
    }
    std::memcpy(window_.data() + (patch.position - window_at_) * kBlockBytes, patch.bytes.data(),
                patch.bytes.size());
  }
}

// The batch is taken: what was mended in memory goes to the disk. If that fails, the next open
// mends it again.
Task<void> Replay::write_patches() {
  for (const Patch& patch : patches_) {
    log::warning("store", "one bit of the journal had flipped and was flipped back",
                 {{"lsn", batch_.header.lsn}, {"ring_block", patch.position % ring_}});
    const iovec iov{window_.data() + (patch.position - window_at_) * kBlockBytes,
                    patch.bytes.size()};
    const int64_t wrote =
        co_await file_.writev(&iov, 1, (patch.position % ring_ + 1) * kBlockBytes, true);
    if (wrote != static_cast<int64_t>(iov.iov_len))
      log::warning("store", "the mended part of the journal could not be written back");
  }
  patches_.clear();
}

Task<Result<bool>> Replay::proved_durable(uint64_t lsn, uint64_t position) {
  const uint64_t most = std::min(kSearchBlocks, ring_ - 1);
  for (uint64_t i = 0; i < most; ++i) {
    const uint64_t at = position + i;
    if (!is_loaded(at, 1)) CVOL_CO_TRY(co_await load(at, 1));
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
    Result<Found> found = co_await look_closely(at.lsn, position, check);
    if (!found) co_return found.status();
    if (*found == Found::kNothing && position % ring_ != 0) {
      // The batch may have been too long for the rest of the ring.
      const uint64_t turn = position + (ring_ - position % ring_);
      Result<Found> again = co_await look_closely(at.lsn, turn, check);
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
    co_await write_patches();
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
