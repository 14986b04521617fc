#include "replication/node/copier.h"

#include <algorithm>
#include <cstring>

#include "replication/node/replica_host.h"
#include "volumed/base/assert.h"
#include "volumed/base/checksum.h"
#include "volumed/base/log.h"
#include "volumed/base/units.h"

namespace cvol::replication {
namespace {

constexpr uint64_t kPieceBlocks = 256;   // 1 MiB, while nobody uses the volume
constexpr uint64_t kCheckBlocks = 2048;  // compared at once
constexpr std::size_t kIdleWindow = 8;
constexpr int kMostRounds = 5;
constexpr uint64_t kBusyBlocks = 32;                          // 128 KiB, while somebody does
constexpr io::Nanoseconds kBusyFor = 100 * io::kMillisecond;  // after an operation
constexpr io::Nanoseconds kLeastPause = 2 * io::kMillisecond;
constexpr io::Nanoseconds kMostPause = 50 * io::kMillisecond;
constexpr int64_t kPauses = 5;  // a sixth of the time is the resync's
constexpr io::Nanoseconds kRefusedPause = 10 * io::kMillisecond;
constexpr int kSendAttempts = 50;

bool all_zero(const std::byte* data, std::size_t bytes) {
  return data[0] == std::byte{0} && std::memcmp(data, data + 1, bytes - 1) == 0;
}

}  // namespace

Copier::Copier(ReplicaHost& host, const ReplicaId& target, uint64_t join, Seq commit_point)
    : host_(host), target_(target), join_(join), commit_point_(commit_point) {
  started_ = host.now();
}

Copier::~Copier() {
  CVOL_ASSERT(under_way_.empty());
}

void Copier::stop() {
  stopping_ = true;
  piece_done_.wake_all();
}

// Pieces that wait for their range will not get it any more.
void Copier::abandon() {
  under_way_.clear();
  stop();
}

void Copier::tell() {
  for (ResyncProgress& progress : host_.resyncs_) {
    if (progress.target != target_) continue;
    progress.total_bytes = total_bytes_;
    progress.done_bytes = looked_bytes_;
    progress.verifying = verifying_;
    const int64_t spent = host_.now() - started_;
    if (looked_bytes_ > 0 && total_bytes_ > looked_bytes_)
      progress.seconds_left = static_cast<uint64_t>(
          static_cast<double>(spent) / 1e9 * static_cast<double>(total_bytes_ - looked_bytes_) /
          static_cast<double>(looked_bytes_));
  }
}

Task<void> Copier::run() {
  co_await io::yield(host_.reactor());  // core is not to be called from within its own call
  bool ok = co_await find_candidates();
  if (ok) {
    tell();
    log::info("replication", "resync: looking at what may differ",
              {{"volume", host_.volume().to_string()},
               {"target", target_.to_string()},
               {"bytes", total_bytes_}});
    ok = co_await copy_all(candidates_);
  }
  verifying_ = true;
  tell();
  std::vector<Candidate> pieces = wider(candidates_);
  for (int round = 0; ok && !pieces.empty() && round < kMostRounds; ++round) {
    ok = co_await copy_all(pieces);
    pieces.clear();
    pieces.swap(unequal_);
    if (ok && !pieces.empty())
      log::warning("replication",
                   "resync: blocks differ after they were copied, and are copied again",
                   {{"pieces", pieces.size()}});
  }
  if (!pieces.empty()) ok = false;
  std::erase_if(host_.resyncs_, [&](const ResyncProgress& p) { return p.target == target_; });
  over_ = true;
  if (!host_.closing_ && !stopping_) host_.core().on_copy_done(host_.now(), target_, join_, ok);
}

// --- what may differ ---

Task<bool> Copier::find_candidates() {
  std::map<uint64_t, uint64_t> theirs;
  const bool listed = co_await host_.list_replica(target_, join_, theirs);
  if (!listed || stopping_) co_return false;
  auto ours = co_await host_.parts_.engine->changed_chunks(host_.parts_.number, 0);
  if (!ours || stopping_ || host_.closing_) co_return false;
  co_await host_.grown(host_.size_bytes());
  if (stopping_ || host_.closing_) co_return false;
  const uint64_t end = host_.blocks_here();
  std::vector<Candidate> gone;
  const auto add = [&](std::vector<Candidate>& list, uint64_t chunk, bool absent) {
    const uint64_t begin = chunk * kBlocksPerChunk;
    if (begin >= end) return;
    const uint64_t stop = std::min(end, begin + kBlocksPerChunk);
    total_bytes_ += (stop - begin) * kBlockBytes;
    if (!list.empty() && list.back().range.end == begin && list.back().absent == absent &&
        list.back().range.blocks() + kBlocksPerChunk <= kPieceBlocks) {
      list.back().range.end = stop;
    } else {
      list.push_back({{begin, stop}, &list == &gone, absent});
    }
  };
  auto their = theirs.begin();
  for (const store::ChunkVersion& our : *ours) {
    while (their != theirs.end() && their->first < our.chunk) {
      add(gone, their->first, false);
      ++their;
    }
    const bool both = their != theirs.end() && their->first == our.chunk;
    const bool newer_there = both && their->second > commit_point_.value;
    if (!both || our.version > commit_point_.value || newer_there)
      add(candidates_, our.chunk, !both);
    if (both) ++their;
  }
  for (; their != theirs.end(); ++their) add(gone, their->first, false);
  // First, so that there is room for the rest: the disk there may be nearly full.
  candidates_.insert(candidates_.begin(), gone.begin(), gone.end());
  co_return true;
}

// --- pieces ---

bool Copier::client_is_busy() const {
  const Replica& core = host_.core();
  return core.has_other_than_pieces() || host_.now() - core.last_operation() < kBusyFor;
}

std::size_t Copier::window() const {
  return client_is_busy() ? 1 : kIdleWindow;
}

void Copier::begin_piece(const Candidate& piece) {
  host_.beginning_ = this;  // copy() may come from within
  beginning_ = &piece;
  const OpId op = host_.core().copy_piece(host_.now(), target_, join_, piece.range);
  host_.beginning_ = nullptr;
  beginning_ = nullptr;
  if (op == 0) {
    failed_ = true;
    return;
  }
  under_way_[op] = piece;
}

// Looks at every piece: copies what differs, or (verifying_) compares.
Task<bool> Copier::copy_all(const std::vector<Candidate>& pieces) {
  std::size_t next = 0;
  uint64_t done = 0;  // blocks of the next piece
  while (!failed_ && !stopping_ && !host_.closing_) {
    if (next >= pieces.size() && under_way_.empty()) break;
    if (next < pieces.size() && under_way_.size() < window()) {
      if (client_is_busy()) {
        const io::Nanoseconds pause = std::clamp(kPauses * piece_took_, kLeastPause, kMostPause);
        const int64_t slept = co_await host_.reactor().sleep(pause);
        if (slept < 0) break;
        if (failed_ || stopping_ || host_.closing_) break;
      }
      Candidate part = pieces[next];
      part.range.begin += done;
      const bool small = client_is_busy() && !verifying_;
      const uint64_t most = small ? kBusyBlocks : part.range.blocks();
      part.range.end = std::min(part.range.end, part.range.begin + most);
      done += part.range.blocks();
      if (part.range.end == pieces[next].range.end) {
        ++next;
        done = 0;
      }
      begin_piece(part);
      continue;
    }
    co_await piece_done_.wait();
  }
  // What is under way ends by itself.
  while (!under_way_.empty()) co_await piece_done_.wait();
  co_return !failed_ && !stopping_ && !host_.closing_;
}

void Copier::piece_locked(OpId op, BlockRange range) {
  Candidate piece = beginning_ != nullptr ? *beginning_ : Candidate{range};
  const auto at = under_way_.find(op);
  if (at != under_way_.end()) piece = at->second;
  host_.scope_.spawn(copy_piece(op, piece));
}

// The join was given up, or the piece never began.
void Copier::piece_ended(OpId op, bool ok) {
  if (!ok) failed_ = true;
  under_way_.erase(op);
  piece_done_.wake_all();
}

Task<void> Copier::copy_piece(OpId op, Candidate piece) {
  ++running_;
  co_await io::yield(host_.reactor());
  const io::Nanoseconds begun = host_.now();
  bool ok = false;
  if (verifying_) {
    ok = co_await check_locked(piece);
  } else {
    ok = co_await copy_locked(piece);
    looked_bytes_ += piece.range.blocks() * kBlockBytes;
  }
  --running_;
  piece_took_ = host_.now() - begun;
  tell();
  if (host_.closing_) {
    piece_ended(op, false);
    co_return;
  }
  // Gone meanwhile: the join was given up, and finish() has told us.
  ReplicaHost::Work* work = host_.find_work(op);
  if (work == nullptr) co_return;
  host_.works_.erase(op);
  delete work;
  piece_ended(op, ok);
  host_.core().on_copied(host_.now(), op, ok);
}

// What is all zeroes goes as such, whole chunks if it can, so that thin stays thin.
std::vector<Copier::Action> Copier::decide(const Candidate& piece, const std::byte* data,
                                           const wire::Digested& ours,
                                           const wire::Digested& theirs) {
  const BlockRange range = piece.range;
  std::vector<Action> actions(range.blocks(), Action::kNone);
  for (uint64_t begin = range.begin; begin < range.end;) {
    const uint64_t end = std::min(range.end, (begin / kBlocksPerChunk + 1) * kBlocksPerChunk);
    const uint64_t first = begin - range.begin, stop = end - range.begin;
    bool differs = piece.gone || piece.absent;
    for (uint64_t i = first; i < stop; ++i) {
      if (!piece.absent && theirs.state[i] == 0 && theirs.checksums[i] == ours.checksums[i])
        continue;
      actions[i] = Action::kData;
      differs = true;
    }
    if (differs && all_zero(data + first * kBlockBytes, (stop - first) * kBlockBytes))
      std::fill(actions.begin() + static_cast<std::ptrdiff_t>(first),
                actions.begin() + static_cast<std::ptrdiff_t>(stop), Action::kZero);
    begin = end;
  }
  return actions;
}

// What the target has in the range. False: the resync cannot go on.
Task<bool> Copier::ask_target(wire::FrameType type, BlockRange range, wire::Digested& theirs) {
  wire::CopyRequest request;
  request.join = join_;
  request.range = range;
  ReplicaHost::Call question;
  question.until = host_.now() + host_.disk_patience();
  const bool asked =
      co_await host_.call(question, target_, type, wire::encode_copy_request(request));
  if (!asked || stopping_ || host_.closing_) co_return false;
  auto digested = wire::decode_digested(question.body);
  if (!digested || digested->checksums.size() != range.blocks()) co_return false;
  theirs = std::move(*digested);
  co_return true;
}

Task<bool> Copier::copy_locked(Candidate piece) {
  const BlockRange range = piece.range;
  const uint64_t bytes = range.blocks() * kBlockBytes;
  Buffer buffer = co_await host_.take(bytes);
  wire::Digested theirs;
  if (!piece.absent) {
    const bool told = co_await ask_target(wire::FrameType::kDigest, range, theirs);
    if (!told) co_return false;
  }
  // R14: what is damaged here comes from another in-sync replica.
  const Status read = co_await host_.read_or_fetch(range, buffer.first(bytes), nullptr, false);
  std::vector<bool> unread(range.blocks(), false);
  if (!read) {
    const bool whole = co_await read_around_damage(range, buffer.first(bytes), theirs, unread);
    if (!whole) co_return false;
  }
  const wire::Digested ours = host_.digest(range, buffer.first(bytes));
  std::vector<Action> actions = decide(piece, buffer.data(), ours, theirs);
  for (uint64_t i = 0; i < range.blocks(); ++i) {
    if (unread[i]) actions[i] = Action::kNone;
  }
  for (uint64_t i = 0; i < range.blocks();) {
    uint64_t end = i + 1;
    while (end < range.blocks() && actions[end] == actions[i]) ++end;
    if (actions[i] != Action::kNone) {
      const bool sent =
          co_await send_run({range.begin + i, range.begin + end}, actions[i],
                            buffer.data() + i * kBlockBytes, ours.checksums.data() + i);
      if (!sent || stopping_ || host_.closing_) co_return false;
    }
    i = end;
  }
  co_return true;
}

// --- comparing what was copied ---

// Fewer, wider ranges: a comparison keeps nobody waiting for long.
std::vector<Copier::Candidate> Copier::wider(const std::vector<Candidate>& pieces) {
  std::vector<Candidate> wide;
  for (const Candidate& piece : pieces) {
    const bool adjacent = !wide.empty() && wide.back().range.end == piece.range.begin &&
                          wide.back().range.blocks() + piece.range.blocks() <= kCheckBlocks;
    if (adjacent) {
      wide.back().range.end = piece.range.end;
    } else {
      wide.push_back({piece.range});
    }
  }
  return wide;
}

// A block that was never written, and one of zeroes, are the same.
bool Copier::is_same(uint64_t block, const wire::Digested& ours, const wire::Digested& theirs,
                     std::size_t at) const {
  alignas(kBlockBytes) static constexpr std::byte kZeroes[kBlockBytes]{};
  if (ours.state[at] == theirs.state[at]) return ours.checksums[at] == theirs.checksums[at];
  const uint64_t written = ours.state[at] == 0 ? ours.checksums[at] : theirs.checksums[at];
  return written == short_checksum(block_checksum(host_.salt_, block, kZeroes));
}

Task<bool> Copier::check_locked(Candidate piece) {
  const BlockRange range = piece.range;
  wire::Digested theirs;
  const bool told = co_await ask_target(wire::FrameType::kSums, range, theirs);
  if (!told) co_return false;
  const wire::Digested ours = host_.expected_content(range);
  for (uint64_t begin = range.begin; begin < range.end; begin += kPieceBlocks) {
    const BlockRange part{begin, std::min(range.end, begin + kPieceBlocks)};
    bool same = true;
    for (uint64_t block = part.begin; block < part.end && same; ++block)
      same = is_same(block, ours, theirs, block - range.begin);
    if (same) continue;
    const bool copied = co_await copy_locked({part});
    if (!copied) co_return false;
    unequal_.push_back({part});
  }
  co_return true;
}

// Block by block. A block that is damaged here, and that the target has as it should be, needs no
// copy: when the target is in the set, the block here is mended from it (R14). A block that differs
// there cannot be copied.
Task<bool> Copier::read_around_damage(BlockRange range, std::span<std::byte> into,
                                      wire::Digested& theirs, std::vector<bool>& unread) {
  for (uint64_t i = 0; i < range.blocks(); ++i) {
    const BlockRange block{range.begin + i, range.begin + i + 1};
    const std::span<std::byte> memory = into.subspan(i * kBlockBytes, kBlockBytes);
    const Status read = co_await host_.read_or_fetch(block, memory, nullptr, false);
    if (stopping_ || host_.closing_) co_return false;
    if (read) continue;
    const auto expected =
        host_.parts_.engine->expected_checksum(host_.parts_.number, range.begin + i);
    const bool unreadable = read.code() == Code::kDamaged || read.code() == Code::kIo;
    const bool whole_there = unreadable && expected && !theirs.state.empty() &&
                             theirs.state[i] == 0 &&
                             short_checksum(theirs.checksums[i]) == *expected;
    if (!whole_there) {
      log::warning("replication", "resync: a block cannot be read here", {{"why", read.message()}});
      co_return false;
    }
    std::memset(memory.data(), 1, memory.size());  // anything but zeroes: a chunk is not given up
    unread[i] = true;
  }
  co_return true;
}

// A run of blocks that differ.
Task<bool> Copier::send_run(BlockRange run, Action action, const std::byte* data,
                            const uint64_t* checksums) {
  const uint64_t bytes = run.blocks() * kBlockBytes;
  wire::CopyRequest request;
  request.join = join_;
  request.range = run;
  request.version = host_.core().last_seq().value;
  const bool zero = action == Action::kZero;
  request.kind = zero ? WriteKind::kZero : WriteKind::kData;
  if (!zero) request.checksums.assign(checksums, checksums + run.blocks());
  const std::span<const std::byte> payload{data, zero ? 0 : bytes};
  host_.resync_sent_ += payload.size();
  for (ResyncProgress& progress : host_.resyncs_) {
    if (progress.target == target_) progress.sent_bytes += payload.size();
  }
  // The target takes blocks of its own epoch only. An attach or a detach begins a new one, which
  // one of the two knows a little before the other: that ends no resync.
  for (int attempt = 0; attempt < kSendAttempts; ++attempt) {
    if (attempt > 0) {
      const int64_t slept = co_await host_.reactor().sleep(kRefusedPause);
      if (slept < 0 || stopping_ || host_.closing_) co_return false;
    }
    ReplicaHost::Call question;
    question.until = host_.now() + host_.disk_patience();
    const bool got = co_await host_.call(question, target_, wire::FrameType::kCopy,
                                         wire::encode_copy_request(request), payload);
    if (!got) co_return false;
    auto result = wire::decode_digested(question.body);
    if (result && result->ok) co_return true;
  }
  co_return false;
}

// --- driver calls ---

void ReplicaHost::start_copy(const ReplicaId& joiner, uint64_t join, Seq joiner_commit_point) {
  auto copier = std::make_unique<Copier>(*this, joiner, join, joiner_commit_point);
  ResyncProgress progress;
  progress.target = joiner;
  progress.started = now();
  resyncs_.push_back(progress);
  scope_.spawn(copier->run());
  copiers_[join] = std::move(copier);
}

void ReplicaHost::stop_copy(const ReplicaId&, uint64_t join) {
  const auto at = copiers_.find(join);
  if (at != copiers_.end()) at->second->stop();
}

void ReplicaHost::copy(OpId op, BlockRange range) {
  Copier* copier = beginning_;
  for (auto& [join, other] : copiers_) {
    if (other->has_piece(op)) copier = other.get();
  }
  Work* work = find_work(op);
  if (work == nullptr) {
    work = new Work;
    work->on_heap = true;
    work->kind = OpKind::kCopy;
    works_[op] = work;
  }
  if (copier == nullptr) {  // of hold_range()
    work->held = true;
    return;
  }
  work->copier = copier;
  copier->piece_locked(op, range);
}

}  // namespace cvol::replication
