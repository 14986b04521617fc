// Operations of front ends, of this node and of others: ranges of bytes become ranges of blocks.
#include <algorithm>
#include <cstring>

#include "replication/node/replica_host.h"
#include "volumed/base/assert.h"
#include "volumed/base/checksum.h"
#include "volumed/base/units.h"

namespace cvol::replication {
namespace {

constexpr uint64_t kZeroPieceBytes = kGiB;  // most that one zero record covers
constexpr uint64_t kWholeBytes = kMiB;      // most that is put together in memory at once
constexpr io::Nanoseconds kConfirmTurn = 10 * io::kMillisecond;

BlockRange blocks_around(uint64_t offset, uint64_t length) {
  return {offset / kBlockBytes, (offset + length + kBlockBytes - 1) / kBlockBytes};
}

Status beyond_end() {
  return Status(Code::kInvalidArgument, "the request reaches beyond the end of the volume");
}

}  // namespace

uint64_t one_operation(uint64_t offset, uint64_t length, const std::byte* data, bool keep) {
  const uint64_t head = offset % kBlockBytes;
  if (data != nullptr) {  // what is not aligned is put together in memory
    const bool aligned = (offset | length | reinterpret_cast<uintptr_t>(data)) % kBlockBytes == 0;
    return aligned ? length : std::min(length, kWholeBytes - head);
  }
  if (head != 0 || length < kBlockBytes) return std::min(length, kBlockBytes - head);
  // Pieces end at multiples of their size, so that no chunk is cut in two.
  const uint64_t most = keep ? kMaxRequestBytes : kZeroPieceBytes;
  const uint64_t piece_end = (offset / most + 1) * most;
  return std::min(length / kBlockBytes * kBlockBytes, piece_end - offset);
}

OpId ReplicaHost::begin(Work& work) {
  work.op = next_op_++;
  works_[work.op] = &work;
  return work.op;
}

Task<ClientResult> ReplicaHost::open_connection(Replica::Caller caller, FrontEnd* front_end) {
  ClientResult result;
  if (closing_ || is_gone(front_end)) {
    result.outcome = Outcome::kNotPrimary;
    co_return result;
  }
  Work work;
  work.kind = OpKind::kBarrier;
  work.front_end = front_end;
  core_->open_connection(now(), begin(work), caller);
  co_await Done{work};
  result.outcome = work.outcome;
  if (work.outcome == Outcome::kFenced) result.connection = core_->connection();
  co_return result;
}

Task<ClientResult> ReplicaHost::read(Replica::Caller caller, uint64_t offset,
                                     std::span<std::byte> into, FrontEnd* front_end) {
  ClientResult result;
  if (closing_) {
    result.outcome = Outcome::kNotPrimary;
    co_return result;
  }
  if (into.size() > size_bytes() || offset > size_bytes() - into.size() || into.empty()) {
    result.outcome = into.empty() ? Outcome::kDone : Outcome::kFailed;
    result.status = beyond_end();
    co_return result;
  }
  co_await grown(offset + into.size(), front_end);
  if (closing_ || is_gone(front_end)) {
    result.outcome = Outcome::kNotPrimary;
    co_return result;
  }
  Work work;
  work.kind = OpKind::kRead;
  work.offset = offset;
  work.length = into.size();
  work.into = into;
  work.front_end = front_end;
  core_->read(now(), begin(work), caller, blocks_around(offset, into.size()));
  co_await Done{work};
  result.outcome = work.outcome;
  result.status = work.status;
  co_return result;
}

Task<ClientResult> ReplicaHost::run_write(Replica::Caller caller, Work& work, WriteKind kind,
                                          BlockRange range, bool needs_payload) {
  ClientResult result;
  if (closing_ || is_gone(work.front_end)) {
    result.outcome = Outcome::kNotPrimary;
    co_return result;
  }
  work.kind = OpKind::kWrite;
  core_->write(now(), begin(work), caller, kind, range, needs_payload);
  co_await Done{work};
  result.outcome = work.outcome;
  result.status = work.status;
  co_return result;
}

Task<ClientResult> ReplicaHost::write(Replica::Caller caller, uint64_t offset,
                                      std::span<const std::byte> data, FrontEnd* front_end) {
  ClientResult result;
  if (closing_) {
    result.outcome = Outcome::kNotPrimary;
    co_return result;
  }
  if (data.size() > size_bytes() || offset > size_bytes() - data.size()) {
    result.outcome = Outcome::kFailed;
    result.status = beyond_end();
    co_return result;
  }
  co_await grown(offset + data.size(), front_end);
  // A failure in between leaves whole blocks, each old or new.
  while (!data.empty() && result.outcome == Outcome::kDone) {
    Work work;
    work.offset = offset;
    work.data = data.first(one_operation(offset, data.size(), data.data()));
    work.length = work.data.size();
    work.front_end = front_end;
    const uint64_t address = reinterpret_cast<uintptr_t>(work.data.data());
    const bool aligned = (offset | work.length | address) % kBlockBytes == 0;
    result = co_await run_write(caller, work, WriteKind::kData, blocks_around(offset, work.length),
                                /*needs_payload=*/!aligned);
    offset += work.length;
    data = data.subspan(work.length);
  }
  co_return result;
}

Task<ClientResult> ReplicaHost::zero(Replica::Caller caller, uint64_t offset, uint64_t length,
                                     bool keep, FrontEnd* front_end) {
  ClientResult result;
  if (closing_) {
    result.outcome = Outcome::kNotPrimary;
    co_return result;
  }
  if (length > size_bytes() || offset > size_bytes() - length) {
    result.outcome = Outcome::kFailed;
    result.status = beyond_end();
    co_return result;
  }
  co_await grown(offset + length, front_end);
  while (length > 0 && result.outcome == Outcome::kDone) {
    Work work;
    work.offset = offset;
    work.length = one_operation(offset, length, nullptr, keep);
    work.front_end = front_end;
    work.zero_edge = (offset | work.length) % kBlockBytes != 0;  // a part of one block
    const WriteKind zeroes = keep ? WriteKind::kZeroKeep : WriteKind::kZero;
    result = co_await run_write(caller, work, work.zero_edge ? WriteKind::kData : zeroes,
                                blocks_around(offset, work.length), work.zero_edge);
    offset += work.length;
    length -= work.length;
  }
  co_return result;
}

void ReplicaHost::abandon(FrontEnd& front_end) {
  front_end.gone = true;
  std::vector<Work*> its;
  for (const auto& [op, work] : works_) {
    if (work->front_end == &front_end && work->pending == 0) its.push_back(work);
  }
  std::sort(its.begin(), its.end(), [](const Work* a, const Work* b) { return a->op < b->op; });
  for (Work* work : its) detach(*work);
  for (const auto& [number, call] : calls_) {
    if (call->front_end != &front_end || call->answered || call->lost) continue;
    call->lost = true;
    if (call->waiter) reactor().schedule(std::exchange(call->waiter, {}));
  }
  changed_.wake_all();  // grown(), repair_damage()
}

// Nothing uses its memory now, but core may ask for it again: a write that waits, or that has to go
// to a member once more.
void ReplicaHost::detach(Work& work) {
  CVOL_ASSERT(work.pending == 0 && !work.finished && !work.on_heap);
  CVOL_ASSERT(find_work(work.op) == &work);
  auto* own = new Work;
  own->on_heap = true;
  own->op = work.op;
  own->kind = work.kind;
  own->offset = work.offset;
  own->length = work.length;
  own->zero_edge = work.zero_edge;
  own->asks_status = work.asks_status;
  own->checksums = std::move(work.checksums);
  const auto keep = [&](std::size_t bytes) {
    own->kept = store::aligned_zeroes((bytes + kBlockBytes - 1) / kBlockBytes * kBlockBytes);
    return std::span<std::byte>(own->kept.get(), bytes);
  };
  if (!work.into.empty()) own->into = keep(work.into.size());
  if (!work.whole.empty() && work.payload.data() == work.whole.data()) {
    own->whole = std::move(work.whole);
    own->payload = work.payload;
  } else if (!work.data.empty()) {
    const std::span<std::byte> data = keep(work.data.size());
    std::memcpy(data.data(), work.data.data(), data.size());
    own->data = data;
    if (!work.payload.empty()) {
      CVOL_ASSERT(work.payload.data() == work.data.data());
      own->payload = own->data;
    }
  }
  works_[work.op] = own;
  work.finished = true;
  work.outcome = Outcome::kNotPrimary;
  if (work.waiter) reactor().schedule(std::exchange(work.waiter, {}));
}

Task<ClientResult> ReplicaHost::status(Replica::Caller caller, uint64_t offset, uint64_t length,
                                       std::vector<Extent>* extents, FrontEnd* front_end) {
  ClientResult result;
  if (closing_ || is_gone(front_end)) {
    result.outcome = Outcome::kNotPrimary;
    co_return result;
  }
  if (length == 0 || length > size_bytes() || offset > size_bytes() - length) {
    result.outcome = Outcome::kFailed;
    result.status = beyond_end();
    co_return result;
  }
  Work work;
  work.kind = OpKind::kRead;
  work.offset = offset;
  work.length = length;
  work.asks_status = true;
  work.front_end = front_end;
  core_->read(now(), begin(work), caller, blocks_around(offset, length));
  co_await Done{work};
  result.outcome = work.outcome;
  result.status = work.status;
  if (work.outcome == Outcome::kDone) *extents = std::move(work.extents);
  co_return result;
}

Result<std::vector<Extent>> ReplicaHost::extents_of(uint64_t offset, uint64_t length) const {
  if (length == 0 || length > size_bytes() || offset > size_bytes() - length) return beyond_end();
  if (offset >= local_size_) return std::vector<Extent>{{length, true, true}};  // it is growing
  length = std::min(length, local_size_ - offset);
  const BlockRange range = blocks_around(offset, length);
  const uint64_t begin = range.begin * kBlockBytes;
  auto extents = parts_.engine->block_status(parts_.number, begin, range.blocks() * kBlockBytes);
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
  if (answer.empty()) return Status(Code::kInternal, "the disk engine gave no allocation state");
  return answer;
}

bool ReplicaHost::hand_over(const ReplicaId& to) {
  if (closing_) return false;
  if (to == parts_.self) return core_->role() == Role::kActive;
  return core_->hand_over(now(), to);
}

Task<bool> ReplicaHost::confirm(Epoch epoch, io::Nanoseconds patience) {
  const Guest guest(*this);
  const io::Nanoseconds until = now() + patience;
  while (!closing_) {
    if (core_->epoch() >= epoch && core_->confirmed() && local_size_ >= size_bytes())
      co_return true;
    if (core_->role() == Role::kFollower || now() >= until) co_return false;
    const int64_t slept = co_await reactor().sleep(kConfirmTurn);
    if (slept < 0) break;
  }
  co_return false;
}

// --- of other nodes ---

void ReplicaHost::answer(const Endpoint& to, uint64_t number, const ClientResult& result,
                         std::span<const std::byte> payload,
                         std::vector<wire::WireExtent> extents) {
  wire::Answer body;
  body.outcome = static_cast<uint8_t>(result.outcome);
  body.code = static_cast<uint8_t>(result.status.code());
  body.connection = result.connection;
  body.next = result.next;
  body.text = result.status.message();
  body.extents = std::move(extents);
  if (!payload.empty()) body.payload_checksum = plain_checksum(payload);
  wire::FrameHeader header;
  header.type = static_cast<uint8_t>(wire::FrameType::kAnswer);
  header.volume = wire::tag_of(parts_.volume);
  header.from = wire::tag_of(parts_.self);
  header.epoch = core_->epoch().value;
  header.seq = number;
  header.payload_bytes = static_cast<uint32_t>(payload.size());
  parts_.exchange->send(to, header, wire::encode_answer(body), payload);
}

Task<void> ReplicaHost::serve_request(Endpoint from, wire::FrameHeader header,
                                      wire::Request request, Buffer payload) {
  const Replica::Caller caller{request.session, request.connection};
  ClientResult result;
  switch (static_cast<wire::FrameType>(header.type)) {
    case wire::FrameType::kOpen:
      result = co_await open_connection(caller);
      break;
    case wire::FrameType::kRead: {
      if (request.length == 0 || request.length > kMaxRequestBytes) {
        result.outcome = Outcome::kFailed;
        result.status = Status(Code::kInvalidArgument, "a read of no or of too many bytes");
        break;
      }
      Buffer into = co_await take(request.length);
      result = co_await read(caller, request.offset, into.first(request.length));
      const bool done = result.outcome == Outcome::kDone;
      answer(from, header.seq, result,
             done ? std::span<const std::byte>(into.first(request.length))
                  : std::span<const std::byte>(),
             {});
      co_return;
    }
    case wire::FrameType::kWrite: {
      if (request.kind != WriteKind::kData) {
        result = co_await zero(caller, request.offset, request.length,
                               request.kind == WriteKind::kZeroKeep);
        break;
      }
      const std::span<const std::byte> data = payload.first(header.payload_bytes);
      if (plain_checksum(data) != request.payload_checksum) {
        // Changed on the way: it is sent again.
        result.outcome = Outcome::kNotPrimary;
        break;
      }
      result = co_await write(caller, request.offset, data);
      break;
    }
    case wire::FrameType::kStatus: {
      std::vector<Extent> found;
      result = co_await status(caller, request.offset, request.length, &found);
      std::vector<wire::WireExtent> extents;
      for (const Extent& extent : found) {
        if (extents.size() >= 4096) break;
        extents.push_back(
            {extent.length, static_cast<uint8_t>((extent.hole ? 1 : 0) | (extent.zero ? 2 : 0))});
      }
      answer(from, header.seq, result, {}, std::move(extents));
      co_return;
    }
    case wire::FrameType::kConfirm: {
      const bool confirmed = co_await confirm(Epoch{header.epoch}, 2 * io::kSecond);
      result.outcome = confirmed ? Outcome::kDone : Outcome::kNotPrimary;
      break;
    }
    case wire::FrameType::kVerify:
      result = co_await verify(request.offset);
      break;
    case wire::FrameType::kMove:
      result.outcome = hand_over(request.to_replica) ? Outcome::kDone : Outcome::kNotPrimary;
      break;
    default:
      co_return;
  }
  answer(from, header.seq, result, {}, {});
}

}  // namespace cvol::replication
