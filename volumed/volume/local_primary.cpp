#include "volumed/volume/local_primary.h"

#include <algorithm>
#include <cstring>

namespace cvol::volume {
namespace {

constexpr uint64_t kBounceBytes = kMiB;     // most that is copied at once
constexpr uint64_t kZeroPieceBytes = kGiB;  // most that one zero record covers
constexpr uint64_t kBlockMask = kBlockBytes - 1;

constexpr uint64_t round_down(uint64_t offset) {
  return offset & ~kBlockMask;
}
constexpr uint64_t round_up(uint64_t offset) {
  return (offset + kBlockMask) & ~kBlockMask;
}

bool is_aligned(uint64_t offset, uint64_t length, const void* memory) {
  return ((offset | length | reinterpret_cast<uintptr_t>(memory)) & kBlockMask) == 0;
}

}  // namespace

LocalPrimary::LocalPrimary(Parts parts)
    : parts_(std::move(parts)), size_(parts_.size), seq_(parts_.last_seq) {
  CVOL_ASSERT(parts_.reactor && parts_.engine && parts_.bounce && parts_.metrics);
  CVOL_ASSERT(parts_.size % kBlockBytes == 0);
}

void LocalPrimary::check_range(uint64_t offset, uint64_t length) const {
  CVOL_ASSERT(length <= size() && offset <= size() - length);
}

void LocalPrimary::grow(uint64_t size) {
  CVOL_ASSERT(size % kBlockBytes == 0 && size >= this->size());
  size_.store(size, std::memory_order_relaxed);
}

void LocalPrimary::set_epoch(uint64_t epoch) {
  CVOL_ASSERT(epoch >= parts_.epoch);
  parts_.epoch = epoch;
}

Task<Status> LocalPrimary::read(uint64_t offset, std::span<std::byte> into) {
  check_range(offset, into.size());
  if (into.empty()) co_return Status::ok();
  const io::Nanoseconds started = parts_.reactor->now();
  const WaitingRequests::Mark mark(parts_.metrics->requests, started);
  io::RangeLock::Read guard(lock_, round_down(offset), round_up(offset + into.size()));
  co_await guard;
  Status status;
  if (is_aligned(offset, into.size(), into.data())) {
    status = co_await parts_.engine->read(parts_.replica, offset, into);
  } else {
    status = co_await read_bounced(offset, into);
  }
  VolumeMetrics& metrics = *parts_.metrics;
  metrics.read_operations.add(1);
  metrics.read_latency.record(parts_.reactor->now() - started);
  status.is_ok() ? metrics.read_bytes.add(into.size()) : metrics.errors.add(1);
  co_return status;
}

Task<Status> LocalPrimary::write(uint64_t offset, std::span<const std::byte> data, bool) {
  check_range(offset, data.size());
  if (data.empty()) co_return Status::ok();
  const io::Nanoseconds started = parts_.reactor->now();
  const WaitingRequests::Mark mark(parts_.metrics->requests, started);
  io::RangeLock::Write guard(lock_, round_down(offset), round_up(offset + data.size()));
  co_await guard;
  Status status;
  if (is_aligned(offset, data.size(), data.data())) {
    status =
        co_await parts_.engine->append_write(parts_.replica, parts_.epoch, ++seq_, offset, data);
  } else {
    status = co_await write_bounced(offset, data);
  }
  VolumeMetrics& metrics = *parts_.metrics;
  metrics.write_operations.add(1);
  metrics.write_latency.record(parts_.reactor->now() - started);
  status.is_ok() ? metrics.write_bytes.add(data.size()) : metrics.errors.add(1);
  co_return status;
}

Task<Status> LocalPrimary::flush() {
  parts_.metrics->flush_operations.add(1);
  co_return Status::ok();
}

Task<Status> LocalPrimary::write_zeroes(uint64_t offset, uint64_t length, bool keep_allocated,
                                        bool) {
  const io::Nanoseconds started = parts_.reactor->now();
  const WaitingRequests::Mark mark(parts_.metrics->requests, started);
  Status status = co_await zero_range(offset, length, keep_allocated);
  parts_.metrics->write_operations.add(1);
  parts_.metrics->write_latency.record(parts_.reactor->now() - started);
  if (!status.is_ok()) parts_.metrics->errors.add(1);
  co_return status;
}

Task<Status> LocalPrimary::trim(uint64_t offset, uint64_t length, bool) {
  const WaitingRequests::Mark mark(parts_.metrics->requests, parts_.reactor->now());
  Status status = co_await zero_range(offset, length, false);
  parts_.metrics->trim_operations.add(1);
  if (!status.is_ok()) parts_.metrics->errors.add(1);
  co_return status;
}

Task<Result<std::vector<Extent>>> LocalPrimary::block_status(uint64_t offset, uint64_t length) {
  check_range(offset, length);
  CVOL_ASSERT(length > 0);
  const uint64_t begin = round_down(offset);
  auto extents =
      parts_.engine->block_status(parts_.replica, begin, round_up(offset + length) - begin);
  // Cut what was added by the rounding.
  uint64_t cut = offset - begin;
  uint64_t left = length;
  std::vector<Extent> answer;
  for (Extent extent : extents) {
    const uint64_t skipped = std::min(cut, extent.length);
    cut -= skipped;
    extent.length = std::min(extent.length - skipped, left);
    left -= extent.length;
    if (extent.length > 0) answer.push_back(extent);
  }
  if (answer.empty()) co_return Status(Code::kInternal, "the disk engine gave no allocation state");
  co_return answer;
}

Task<Status> LocalPrimary::read_bounced(uint64_t offset, std::span<std::byte> into) {
  while (!into.empty()) {
    const uint64_t begin = round_down(offset);
    const uint64_t skip = offset - begin;
    const uint64_t take = std::min<uint64_t>(into.size(), kBounceBytes - skip);
    const uint64_t bytes = round_up(skip + take);
    Buffer buffer = co_await parts_.bounce->take(bytes);
    CVOL_CO_TRY(co_await parts_.engine->read(parts_.replica, begin, buffer.first(bytes)));
    std::memcpy(into.data(), buffer.data() + skip, take);
    into = into.subspan(take);
    offset += take;
  }
  co_return Status::ok();
}

// The caller holds the lock of all blocks that are touched. A crash between two pieces leaves whole
// blocks, each old or new.
Task<Status> LocalPrimary::write_bounced(uint64_t offset, std::span<const std::byte> data) {
  while (!data.empty()) {
    const uint64_t begin = round_down(offset);
    const uint64_t skip = offset - begin;
    const uint64_t take = std::min<uint64_t>(data.size(), kBounceBytes - skip);
    const uint64_t bytes = round_up(skip + take);
    Buffer buffer = co_await parts_.bounce->take(bytes);
    CVOL_CO_TRY(co_await overlay_and_write(begin, buffer.first(bytes), skip, take, data.data()));
    data = data.subspan(take);
    offset += take;
  }
  co_return Status::ok();
}

// `data` nullptr: zeroes.
Task<Status> LocalPrimary::overlay_and_write(uint64_t begin, std::span<std::byte> blocks,
                                             uint64_t skip, uint64_t length,
                                             const std::byte* data) {
  const bool head_is_partial = skip > 0;
  const bool tail_is_partial = skip + length < blocks.size();
  const uint64_t tail = blocks.size() - kBlockBytes;
  if (head_is_partial || (tail_is_partial && tail == 0)) {
    CVOL_CO_TRY(co_await parts_.engine->read(parts_.replica, begin, blocks.first(kBlockBytes)));
  }
  if (tail_is_partial && tail > 0) {
    CVOL_CO_TRY(co_await parts_.engine->read(parts_.replica, begin + tail, blocks.subspan(tail)));
  }
  if (data != nullptr) {
    std::memcpy(blocks.data() + skip, data, length);
  } else {
    std::memset(blocks.data() + skip, 0, length);
  }
  co_return co_await parts_.engine->append_write(parts_.replica, parts_.epoch, ++seq_, begin,
                                                 blocks);
}

Task<Status> LocalPrimary::zero_range(uint64_t offset, uint64_t length, bool keep_allocated) {
  check_range(offset, length);
  if (length == 0) co_return Status::ok();
  const uint64_t end = offset + length;
  io::RangeLock::Write guard(lock_, round_down(offset), round_up(end));
  co_await guard;
  while (offset < end) {
    const uint64_t begin = round_down(offset);
    const bool partial = offset != begin || end - offset < kBlockBytes;
    if (partial) {
      const uint64_t take = std::min(end, begin + kBlockBytes) - offset;
      Buffer buffer = co_await parts_.bounce->take(kBlockBytes);
      CVOL_CO_TRY(co_await overlay_and_write(begin, buffer.first(kBlockBytes), offset - begin, take,
                                             nullptr));
      offset += take;
      continue;
    }
    // Pieces end at multiples of their size, so that no chunk is cut in two.
    const uint64_t piece_end = (offset / kZeroPieceBytes + 1) * kZeroPieceBytes;
    const uint64_t bytes = std::min(round_down(end), piece_end) - offset;
    CVOL_CO_TRY(co_await parts_.engine->append_zero(parts_.replica, parts_.epoch, ++seq_, offset,
                                                    bytes, keep_allocated));
    offset += bytes;
    if (offset < end) co_await io::yield(*parts_.reactor);  // others get their turn
  }
  co_return Status::ok();
}

}  // namespace cvol::volume
