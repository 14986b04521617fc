// Blocks that cannot be read here: where their content is found (R14).
#include <fmt/format.h>

#include <cstring>

#include "replication/node/replica_host.h"
#include "volumed/base/checksum.h"
#include "volumed/base/log.h"

namespace cvol::replication {
namespace {

constexpr io::Nanoseconds kFetchAgain = 20 * io::kMillisecond;
// How long a block that no in-sync replica has is looked for on others that do not answer; and how
// long such a one is not asked again.
constexpr io::Nanoseconds kSeekPatience = 3 * io::kSecond;
constexpr io::Nanoseconds kNotSought = 10 * io::kSecond;
// Of a question whose answer needs a disk that may hang: then it is asked again, or another is.
constexpr io::Nanoseconds kAnswerWithin = io::kSecond;

}  // namespace

Task<Status> ReplicaHost::read_or_fetch(BlockRange range, std::span<std::byte> into,
                                        const FrontEnd* front_end, bool patient) {
  Status read = co_await read_blocks(range, into);
  if (read || core_->record().members.size() < 2) co_return read;
  for (uint64_t at = range.begin; at < range.end; ++at) {
    const std::span<std::byte> block = into.subspan((at - range.begin) * kBlockBytes, kBlockBytes);
    read = co_await read_blocks({at, at + 1}, block);
    if (!read) {
      const Code here = read.code();
      Status fetched = co_await fetch_from_peers({at, at + 1}, block, front_end, patient);
      // An error of the disk may pass: only damage, here and there, is damage.
      const bool passes = here != Code::kDamaged && fetched.code() == Code::kDamaged;
      if (!passes) read = std::move(fetched);
    }
    if (!read || closing_) co_return read;
  }
  co_return read;
}

// R14: damage is not absence. Good blocks come from a peer and are written to all again.
Task<Status> ReplicaHost::repair_damage(BlockRange range, const FrontEnd* front_end) {
  if (core_->record().members.size() < 2)
    co_return Status(Code::kDamaged, "there is no other copy");
  if (inside_core_ > 0) co_await io::yield(reactor());
  Buffer block = co_await take(kBlockBytes);
  for (uint64_t at = range.begin; at < range.end; ++at) {
    const Status good = co_await read_blocks({at, at + 1}, block.first(kBlockBytes));
    if (good) continue;
    if (closing_) co_return good;
    const OpId op = core_->repair(now(), {at, at + 1});
    if (op == 0) co_return good;
    Work* work = find_work(op);
    if (work == nullptr) {
      work = new Work;
      work->on_heap = true;
      work->kind = OpKind::kRepair;
      works_[op] = work;
    }
    ++work->pending;
    while (!work->finished && !is_gone(front_end)) co_await changed_.wait();
    const bool given_up = !work->finished;
    const Outcome outcome = work->outcome;
    release(work);
    if (given_up) co_return Status(Code::kCancelled, "nobody waits for the block any more");
    if (outcome != Outcome::kDone) co_return Status(Code::kDamaged, "no copy of a block is good");
    log::warning("replication", "a damaged block was repaired from another replica",
                 {{"volume", parts_.volume.to_string()}, {"block", at}});
    if (parts_.event)
      parts_.event(fmt::format("block {} was damaged and is repaired from another replica", at));
  }
  co_return Status::ok();
}

Task<Status> ReplicaHost::fetch_from_peers(BlockRange range, std::span<std::byte> into,
                                           const FrontEnd* front_end, bool patient) {
  const Nanoseconds until = patient ? now() + kSeekPatience : 0;
  while (!closing_ && core_->is_primary()) {
    bool all_answered = true;
    bool all_damaged = true;
    const std::vector<InSync> in_sync = core_->record().in_sync;
    for (const InSync& peer : in_sync) {
      if (peer.replica == parts_.self) continue;
      const Fetched fetched =
          co_await fetch_from(peer.replica, wire::FrameType::kFetch, range, into, front_end);
      if (fetched == Fetched::kGood) co_return Status::ok();
      if (fetched == Fetched::kNoAnswer) all_answered = false;
      if (fetched == Fetched::kFailed) all_damaged = false;
      if (is_gone(front_end))
        co_return Status(Code::kCancelled, "nobody waits for the block any more");
    }
    if (all_answered) {
      const Fetched sought = co_await seek_outside(range, into, front_end, until);
      if (sought == Fetched::kGood) co_return Status::ok();
      if (is_gone(front_end))
        co_return Status(Code::kCancelled, "nobody waits for the block any more");
      if (sought == Fetched::kDamaged || now() > until) {  // the next one fails at once
        co_return Status(all_damaged ? Code::kDamaged : Code::kIo,
                         "no replica has a good copy of the blocks");
      }
    }
    const int64_t slept = co_await reactor().sleep(kFetchAgain);
    if (slept < 0) break;
  }
  co_return Status(Code::kUnavailable, "this replica is the primary no more");
}

// Replicas outside the set are behind, but a block that was not written since they left is good
// there. kNoAnswer: one of them may have it yet.
Task<ReplicaHost::Fetched> ReplicaHost::seek_outside(BlockRange block, std::span<std::byte> into,
                                                     const FrontEnd* front_end, Nanoseconds until) {
  Fetched outcome = Fetched::kDamaged;
  const std::vector<Member> members = core_->record().members;
  for (const Member& other : members) {
    const bool in_sync = core_->record().find_in_sync(other.replica) != nullptr;
    if (other.replica == parts_.self || in_sync) continue;
    const auto silent = not_sought_until_.find(other.replica);
    if (silent != not_sought_until_.end() && now() < silent->second) continue;
    const Fetched fetched =
        co_await fetch_from(other.replica, wire::FrameType::kSeek, block, into, front_end);
    if (closing_ || is_gone(front_end)) co_return Fetched::kNoAnswer;
    if (fetched == Fetched::kNoAnswer) {
      outcome = Fetched::kNoAnswer;
      if (now() > until) not_sought_until_[other.replica] = now() + kNotSought;
    }
    if (fetched != Fetched::kGood) continue;
    const auto expected = parts_.engine->expected_checksum(parts_.number, block.begin);
    if (expected && short_checksum(block_checksum(salt_, block.begin, into.data())) == *expected)
      co_return Fetched::kGood;
  }
  co_return outcome;
}

Task<ReplicaHost::Fetched> ReplicaHost::fetch_from(ReplicaId peer, wire::FrameType type,
                                                   BlockRange range, std::span<std::byte> into,
                                                   const FrontEnd* front_end) {
  wire::CopyRequest request;
  request.range = range;
  Call question;
  question.front_end = front_end;
  question.until = now() + kAnswerWithin;
  const bool got = co_await call(question, peer, type, wire::encode_copy_request(request));
  if (!got) co_return Fetched::kNoAnswer;
  auto digested = wire::decode_digested(question.body);
  if (!digested) co_return Fetched::kNoAnswer;  // it could not be answered
  if (!digested->ok) {
    const bool damaged = !digested->state.empty() && digested->state[0] == 2;
    co_return damaged ? Fetched::kDamaged : Fetched::kFailed;
  }
  if (question.header.payload_bytes != range.blocks() * kBlockBytes ||
      digested->checksums.size() != range.blocks())
    co_return Fetched::kNoAnswer;
  for (uint64_t i = 0; i < range.blocks(); ++i) {
    const std::byte* block = question.payload.data() + i * kBlockBytes;
    if (block_checksum(salt_, range.begin + i, block) != digested->checksums[i])
      co_return Fetched::kNoAnswer;  // changed on the way
  }
  std::memcpy(into.data(), question.payload.data(), range.blocks() * kBlockBytes);
  co_return Fetched::kGood;
}

}  // namespace cvol::replication
