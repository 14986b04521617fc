// Comparing the replicas of a volume, and mending what one of them has damaged.
#include <fmt/format.h>

#include <algorithm>

#include "replication/node/replica_host.h"
#include "volumed/base/assert.h"
#include "volumed/base/log.h"
#include "volumed/base/units.h"

namespace cvol::replication {
namespace {

constexpr uint64_t kPieceBlocks = 256;      // compared at one moment
constexpr uint64_t kPartBytes = 64 * kMiB;  // of one call
constexpr std::size_t kMostText = 2000;     // about what differs, of one call
// One call ends after so long, and a piece is waited for so long: whoever asks has his own bound.
constexpr io::Nanoseconds kPartTime = 10 * io::kSecond;
constexpr io::Nanoseconds kHoldTurn = 2 * io::kMillisecond;

}  // namespace

// All chunks that a replica has, with their versions. `list`: a number of this listing.
Task<bool> ReplicaHost::list_replica(ReplicaId replica, uint64_t list,
                                     std::map<uint64_t, uint64_t>& chunks) {
  uint64_t from = 0;
  while (from != UINT64_MAX) {
    if (closing_) co_return false;
    wire::CopyRequest request;
    request.join = list;
    request.range.begin = from;
    Call question;
    question.until = now() + disk_patience();
    const bool got = co_await call(question, replica, wire::FrameType::kList,
                                   wire::encode_copy_request(request));
    if (!got) co_return false;
    auto listed = wire::decode_listed(question.body);
    if (!listed || (listed->next != UINT64_MAX && listed->next <= from)) co_return false;
    for (const wire::ChunkVersion& chunk : listed->chunks) {
      uint64_t& version = chunks[chunk.chunk];
      version = std::max(version, chunk.version);
    }
    from = listed->next;
  }
  co_return true;
}

// Returns when nothing writes to the range any more; 0 if this is not the primary, or the writes
// that are under way there do not end in time.
Task<OpId> ReplicaHost::hold_range(BlockRange range, const FrontEnd* front_end) {
  const io::Nanoseconds until = now() + kPartTime;
  const OpId op = core_->hold(now(), range);
  if (op == 0) co_return 0;
  Work* work = find_work(op);
  if (work == nullptr) {
    work = new Work;
    work->on_heap = true;
    work->kind = OpKind::kCopy;
    works_[op] = work;
  }
  ++work->pending;
  while (!work->held && !work->finished && !closing_ && !is_gone(front_end) && now() < until) {
    const int64_t slept = co_await reactor().sleep(kHoldTurn);
    if (slept < 0) break;
  }
  const bool held = work->held && !work->finished;
  release(work);
  if (!held) let_go(op);
  co_return held ? op : 0;
}

void ReplicaHost::let_go(OpId op) {
  Work* work = find_work(op);
  if (work == nullptr) return;  // given up meanwhile
  works_.erase(op);
  delete work;
  if (!closing_) core_->on_copied(now(), op, true);
}

// What differs in the range, for people; empty if nothing does. kUnavailable: a replica that counts
// did not answer.
Task<Result<std::string>> ReplicaHost::compare(BlockRange range, const FrontEnd* front_end) {
  const uint64_t bytes = range.blocks() * kBlockBytes;
  Buffer buffer = co_await take(bytes);
  const Status read = co_await read_blocks(range, buffer.first(bytes));
  if (!read) co_return "the primary: " + read.message() + "\n";
  const wire::Digested ours = digest(range, buffer.first(bytes));
  wire::CopyRequest request;
  request.range = range;
  const std::vector<std::byte> body = wire::encode_copy_request(request);
  const std::vector<InSync> in_sync = core_->record().in_sync;
  std::string text;
  for (const InSync& peer : in_sync) {
    if (peer.replica == parts_.self) continue;
    Call question;
    question.until = now() + disk_patience();
    question.front_end = front_end;
    question.while_in_sync = peer.replica;  // writes to the range wait meanwhile
    const bool got = co_await call(question, peer.replica, wire::FrameType::kDigest, body);
    if (core_->record().find_in_sync(peer.replica) == nullptr) continue;  // it has left
    auto theirs = wire::decode_digested(question.body);
    if (!got || !theirs || theirs->checksums.size() != range.blocks())
      co_return Status(Code::kUnavailable,
                       "replica " + peer.replica.to_string() + " does not answer");
    for (uint64_t i = 0; i < range.blocks(); ++i) {
      if (theirs->state[i] == 0 && theirs->checksums[i] == ours.checksums[i]) continue;
      text += fmt::format("block {} {} at replica {}\n", range.begin + i,
                          theirs->state[i] == 2 ? "cannot be read" : "differs",
                          peer.replica.to_string());
    }
  }
  co_return text;
}

// The chunks that any replica of the set has, now or at the last such listing in this epoch.
Task<Status> ReplicaHost::list_chunks() {
  const Epoch epoch = core_->epoch();
  std::map<uint64_t, uint64_t> chunks;
  auto ours = co_await parts_.engine->changed_chunks(parts_.number, 0);
  if (!ours) co_return ours.status();
  for (const store::ChunkVersion& chunk : *ours) chunks[chunk.chunk] = chunk.version;
  const std::vector<InSync> in_sync = core_->record().in_sync;
  for (const InSync& peer : in_sync) {
    if (peer.replica == parts_.self) continue;
    const bool listed = co_await list_replica(peer.replica, next_call_, chunks);
    if (!listed && core_->record().find_in_sync(peer.replica) != nullptr)
      co_return Status(Code::kUnavailable, "a replica does not answer");
  }
  verified_chunks_ = std::move(chunks);
  verified_epoch_ = epoch;
  co_return Status::ok();
}

Task<ClientResult> ReplicaHost::verify(uint64_t offset, const FrontEnd* front_end) {
  const Guest guest(*this);
  ClientResult result;
  result.next = UINT64_MAX;
  if (closing_ || core_->role() != Role::kActive) {
    result.outcome = Outcome::kNotPrimary;
    co_return result;
  }
  // The parts before may have been another primary's, or of another set.
  if (offset == 0 || verified_epoch_ != core_->epoch()) {
    const Status listed = co_await list_chunks();
    if (!listed) {
      const bool again = listed.code() == Code::kUnavailable;
      result.outcome = again ? Outcome::kNotPrimary : Outcome::kFailed;
      result.status = again ? Status::ok() : listed;
      co_return result;
    }
  }
  const io::Nanoseconds until = now() + kPartTime;
  uint64_t looked = 0;
  std::string text;
  const uint64_t end = size_bytes() / kBlockBytes;
  auto at = verified_chunks_.lower_bound(offset / kChunkBytes);
  while (at != verified_chunks_.end() && looked < kPartBytes && text.size() < kMostText &&
         now() < until) {
    BlockRange piece{at->first * kBlocksPerChunk, at->first * kBlocksPerChunk};
    while (at != verified_chunks_.end() && at->first * kBlocksPerChunk == piece.end &&
           piece.blocks() < kPieceBlocks) {
      piece.end += kBlocksPerChunk;
      ++at;
    }
    const uint64_t next_chunk = piece.end / kBlocksPerChunk;
    piece.end = std::min(piece.end, end);
    if (piece.begin >= piece.end) {  // chunks beyond the end of the volume
      at = verified_chunks_.end();
      break;
    }
    const OpId held = co_await hold_range(piece, front_end);
    if (held == 0) {
      result.outcome = Outcome::kNotPrimary;
      co_return result;
    }
    auto differs = co_await compare(piece, front_end);
    let_go(held);
    if (!differs) {
      result.outcome = Outcome::kNotPrimary;
      co_return result;
    }
    text += *differs;
    looked += piece.blocks() * kBlockBytes;
    at = verified_chunks_.lower_bound(next_chunk);  // it may have been listed anew meanwhile
  }
  if (at != verified_chunks_.end()) result.next = at->first * kChunkBytes;
  if (!text.empty()) result.status = Status(Code::kDamaged, text.substr(0, 2 * kMostText));
  co_return result;
}

// --- mending ---

void ReplicaHost::mend(uint64_t block) {
  if (closing_ || block >= local_size_ / kBlockBytes) return;
  if (core_->role() == Role::kActive) {
    scope_.spawn(mend_task(block));
    return;
  }
  // A member: its primary writes the block again, to all.
  const auto endpoint = endpoint_of(core_->record().primary);
  if (!endpoint || core_->role() != Role::kFollower || !core_->trusts_itself()) return;
  wire::CopyRequest request;
  request.range = {block, block + 1};
  wire::FrameHeader header;
  header.type = static_cast<uint8_t>(wire::FrameType::kMend);
  header.volume = wire::tag_of(parts_.volume);
  header.from = wire::tag_of(parts_.self);
  header.to = wire::tag_of(core_->record().primary);
  header.epoch = core_->epoch().value;
  parts_.exchange->send(*endpoint, header, wire::encode_copy_request(request));
}

Task<void> ReplicaHost::mend_task(uint64_t block) {
  co_await io::yield(reactor());
  if (closing_ || core_->record().in_sync.size() < 2) co_return;
  const OpId op = core_->repair(now(), {block, block + 1});
  if (op == 0) co_return;
  Work* work = find_work(op);
  if (work == nullptr) {
    work = new Work;
    work->on_heap = true;
    work->kind = OpKind::kRepair;
    works_[op] = work;
  }
  ++work->pending;
  while (!work->finished) co_await changed_.wait();
  const bool done = work->outcome == Outcome::kDone;
  release(work);
  if (done) event(fmt::format("block {} was damaged at a replica and is repaired", block));
}

}  // namespace cvol::replication
