// Frames: what they mean to this replica; and what it does as the target of a resync or as a member
// that is asked for good blocks.
#include <algorithm>
#include <cstring>

#include "replication/node/replica_host.h"
#include "volumed/base/assert.h"
#include "volumed/base/checksum.h"
#include "volumed/base/log.h"
#include "volumed/base/units.h"

namespace cvol::replication {
namespace {

constexpr uint64_t kMostRangeBlocks = 8192;  // of one question: 32 MiB

}  // namespace

void ReplicaHost::on_frame(const Endpoint& from, Frame frame) {
  if (closing_) return;
  const wire::FrameHeader& header = frame.header;
  if (header.type < static_cast<uint8_t>(wire::FrameType::kHello))
    return on_core_frame(from, std::move(frame));
  // Whoever asked must not wait for an answer.
  const auto drop = [&](const Status& why) {
    log::warning("replication", "a frame is dropped", {{"why", why.message()}});
    const auto type = static_cast<wire::FrameType>(header.type);
    if (wire::is_request(type))
      answer(from, header.seq, {Outcome::kNotPrimary, {}, 0, 0}, {}, {});
    else if (const auto failed = wire::answer_of(type))
      reply(from, header, *failed, {});
  };
  switch (static_cast<wire::FrameType>(header.type)) {
    case wire::FrameType::kOpen:
    case wire::FrameType::kRead:
    case wire::FrameType::kWrite:
    case wire::FrameType::kStatus:
    case wire::FrameType::kConfirm:
    case wire::FrameType::kVerify:
    case wire::FrameType::kMove: {
      auto request = wire::decode_request(frame.body);
      if (!request) return drop(request.status());
      scope_.spawn(serve_request(from, header, std::move(*request), std::move(frame.payload)));
      return;
    }
    case wire::FrameType::kListed:
    case wire::FrameType::kDigested:
    case wire::FrameType::kCopied:
    case wire::FrameType::kFetched:
    case wire::FrameType::kSummed: {
      const auto at = calls_.find(header.seq);
      if (at == calls_.end() || at->second->to != from || at->second->answered) return;
      Call& call = *at->second;
      call.answered = true;
      call.header = header;
      call.body.assign(frame.body.begin(), frame.body.end());
      call.payload = std::move(frame.payload);
      if (call.waiter) reactor().schedule(std::exchange(call.waiter, {}));
      return;
    }
    case wire::FrameType::kList:
    case wire::FrameType::kDigest:
    case wire::FrameType::kCopy:
    case wire::FrameType::kMend:
    case wire::FrameType::kFetch:
    case wire::FrameType::kSeek:
    case wire::FrameType::kSums: {
      auto request = wire::decode_copy_request(frame.body);
      if (!request) return drop(request.status());
      const bool list = header.type == static_cast<uint8_t>(wire::FrameType::kList);
      const uint64_t end = local_size_ / kBlockBytes;
      if (!list && (request->range.empty() || request->range.end > end ||
                    request->range.blocks() > kMostRangeBlocks))
        return drop(Status(Code::kDamaged, "a range beyond the end of the volume"));
      if (header.type == static_cast<uint8_t>(wire::FrameType::kMend)) {
        for (uint64_t block = request->range.begin; block < request->range.end; ++block)
          mend(block);
        return;
      }
      if (header.type == static_cast<uint8_t>(wire::FrameType::kSums))
        return scope_.spawn(serve_sums(from, header, std::move(*request)));
      if (list)
        scope_.spawn(serve_list(from, header, std::move(*request)));
      else if (header.type == static_cast<uint8_t>(wire::FrameType::kDigest))
        scope_.spawn(serve_digest(from, header, std::move(*request)));
      else if (header.type == static_cast<uint8_t>(wire::FrameType::kFetch) ||
               header.type == static_cast<uint8_t>(wire::FrameType::kSeek))
        scope_.spawn(serve_fetch(from, header, std::move(*request)));
      else
        scope_.spawn(serve_copy(from, header, std::move(*request), std::move(frame.payload)));
      return;
    }
    default:
      return;
  }
}

void ReplicaHost::reply(const Endpoint& to, const wire::FrameHeader& question, wire::FrameType type,
                        std::span<const std::byte> body, std::span<const std::byte> payload) {
  wire::FrameHeader header;
  header.type = static_cast<uint8_t>(type);
  header.volume = question.volume;
  header.from = wire::tag_of(parts_.self);
  header.to = question.from;
  header.epoch = core_->epoch().value;
  header.seq = question.seq;
  header.payload_bytes = static_cast<uint32_t>(payload.size());
  parts_.exchange->send(to, header, body, payload);
}

// Only by the primary of the epoch that is known here, and only in the join that is under way: what
// an older one sends late must not overwrite newer blocks.
bool ReplicaHost::may_be_copied_to(const wire::FrameHeader& header,
                                   const wire::CopyRequest& request) const {
  return request.join != 0 && request.join == core_->ready_join() &&
         header.epoch == core_->epoch().value && core_->role() == Role::kFollower &&
         header.from == wire::tag_of(core_->record().primary);
}

// All chunks that exist here, page by page; taken when the first page is asked for.
Task<void> ReplicaHost::serve_list(Endpoint from, wire::FrameHeader header,
                                   wire::CopyRequest request) {
  wire::Listed listed;
  if (request.join != listed_join_ || request.range.begin == 0) {
    auto chunks = co_await parts_.engine->changed_chunks(parts_.number, 0);
    if (closing_) co_return;
    if (!chunks) {
      core_->on_disk_failed(now());
      co_return;
    }
    listed_ = std::move(*chunks);
    listed_join_ = request.join;
  }
  auto at = std::lower_bound(
      listed_.begin(), listed_.end(), request.range.begin,
      [](const store::ChunkVersion& chunk, uint64_t begin) { return chunk.chunk < begin; });
  for (; at != listed_.end() && listed.chunks.size() < wire::kMostListed; ++at)
    listed.chunks.push_back({at->chunk, at->version});
  listed.next = at == listed_.end() ? UINT64_MAX : at->chunk;
  if (at == listed_.end()) {
    listed_.clear();
    listed_.shrink_to_fit();
    listed_join_ = 0;
  }
  reply(from, header, wire::FrameType::kListed, wire::encode_listed(listed));
}

wire::Digested ReplicaHost::digest(BlockRange range, std::span<const std::byte> data) const {
  wire::Digested digested;
  for (uint64_t i = 0; i < range.blocks(); ++i) {
    digested.checksums.push_back(
        block_checksum(salt_, range.begin + i, data.data() + i * kBlockBytes));
    digested.state.push_back(0);
  }
  return digested;
}

// What the blocks are to be according to the checksums that the engine keeps; nothing is read.
wire::Digested ReplicaHost::expected_content(BlockRange range) const {
  wire::Digested content;
  content.checksums.reserve(range.blocks());
  content.state.reserve(range.blocks());
  for (uint64_t block = range.begin; block < range.end; ++block) {
    const auto expected = parts_.engine->expected_checksum(parts_.number, block);
    content.checksums.push_back(expected.value_or(0));
    content.state.push_back(expected ? 0 : 1);
  }
  return content;
}

// After the writes that came before the question.
Task<void> ReplicaHost::serve_sums(Endpoint from, wire::FrameHeader header,
                                   wire::CopyRequest request) {
  {
    io::RangeLock::Write guard(member_lock_, request.range.begin, request.range.end);
    co_await guard;
  }
  if (closing_) co_return;
  reply(from, header, wire::FrameType::kSummed,
        wire::encode_digested(expected_content(request.range)));
}

Task<void> ReplicaHost::serve_digest(Endpoint from, wire::FrameHeader header,
                                     wire::CopyRequest request) {
  const BlockRange range = request.range;
  Buffer buffer = co_await take(range.blocks() * kBlockBytes);
  Status done = co_await read_blocks(range, buffer.first(range.blocks() * kBlockBytes));
  wire::Digested digested;
  if (done) {
    digested = digest(range, buffer.first(range.blocks() * kBlockBytes));
  } else {
    // What cannot be read here differs from anything: block by block.
    for (uint64_t at = range.begin; at < range.end; ++at) {
      done = co_await read_blocks({at, at + 1}, buffer.first(kBlockBytes));
      digested.checksums.push_back(done ? block_checksum(salt_, at, buffer.data()) : 0);
      digested.state.push_back(done ? 0 : 2);
    }
  }
  if (closing_) co_return;
  reply(from, header, wire::FrameType::kDigested, wire::encode_digested(digested));
}

Task<void> ReplicaHost::serve_copy(Endpoint from, wire::FrameHeader header,
                                   wire::CopyRequest request, Buffer payload) {
  const BlockRange range = request.range;
  const uint64_t bytes = range.blocks() * kBlockBytes;
  wire::Digested result;
  result.ok = may_be_copied_to(header, request);
  if (result.ok && request.kind == WriteKind::kData) {
    result.ok = header.payload_bytes == bytes && request.checksums.size() == range.blocks();
    for (uint64_t i = 0; i < range.blocks() && result.ok; ++i) {
      result.ok = block_checksum(salt_, range.begin + i, payload.data() + i * kBlockBytes) ==
                  request.checksums[i];
    }
  }
  if (result.ok) {
    io::RangeLock::Write guard(member_lock_, range.begin, range.end);
    co_await guard;
    // It may have waited: the join may be over.
    Status done(Code::kCancelled, "the resync is over");
    if (!closing_ && may_be_copied_to(header, request) && core_->begin_store(now(), request.join)) {
      const uint64_t version = std::max<uint64_t>(1, request.version);
      if (request.kind == WriteKind::kData) {
        done = co_await parts_.engine->append_write(parts_.number, header.epoch, version,
                                                    range.begin * kBlockBytes, payload.first(bytes),
                                                    request.checksums);
      } else {
        done = co_await parts_.engine->append_zero(parts_.number, header.epoch, version,
                                                   range.begin * kBlockBytes, bytes, false);
      }
      // No join begins before that (R10).
      if (inside_core_ > 0) co_await io::yield(reactor());
      if (!closing_) core_->on_stored(now());
    }
    result.ok = done.is_ok();
    if (!result.ok)
      log::warning("replication", "a block of a resync could not be stored",
                   {{"why", done.message()}});
  }
  if (closing_) co_return;
  reply(from, header, wire::FrameType::kCopied, wire::encode_digested(result));
}

Task<void> ReplicaHost::serve_fetch(Endpoint from, wire::FrameHeader header,
                                    wire::CopyRequest request) {
  const BlockRange range = request.range;
  const uint64_t bytes = range.blocks() * kBlockBytes;
  Buffer buffer = co_await take(bytes);
  const Status done = co_await read_blocks(range, buffer.first(bytes));
  if (closing_) co_return;
  wire::Digested digested;
  const bool seek = header.type == static_cast<uint8_t>(wire::FrameType::kSeek);
  if (done && (seek || core_->trusts_itself())) {
    digested = digest(range, buffer.first(bytes));
    reply(from, header, wire::FrameType::kFetched, wire::encode_digested(digested),
          buffer.first(bytes));
    co_return;
  }
  digested.ok = false;
  if (done.code() == Code::kDamaged) {  // other errors may pass
    digested.checksums.assign(range.blocks(), 0);
    digested.state.assign(range.blocks(), 2);
  }
  reply(from, header, wire::FrameType::kFetched, wire::encode_digested(digested));
}

}  // namespace cvol::replication
