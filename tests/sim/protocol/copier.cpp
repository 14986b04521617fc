#include "tests/sim/protocol/copier.h"

#include <fmt/format.h>

#include "tests/sim/protocol/node.h"
#include "volumed/base/assert.h"

namespace cvol::sim {
namespace {
constexpr std::size_t kOpenPieces = 4;
constexpr uint64_t kPieceBlocks = 4;
constexpr uint64_t kCompareBlocks = 16;
constexpr uint64_t kDifferences = 60;  // then they are no passing ones
}  // namespace

void Copier::reset() {
  sources_.clear();
}

// --- primary ---

void Copier::start(const ReplicaId& joiner, uint64_t join, Seq commit_point) {
  Source source;
  source.join = join;
  source.commit_point = commit_point;
  sources_[joiner] = source;
  node_.world_.count("resyncs_begun");
  Packet ask;
  ask.kind = Packet::Kind::kAsk;
  ask.join = join;
  ask.after = commit_point;
  node_.transmit(joiner, std::move(ask));
}

void Copier::stop(const ReplicaId& joiner, uint64_t join) {
  const auto at = sources_.find(joiner);
  if (at != sources_.end() && at->second.join == join) sources_.erase(at);
}

void Copier::on_link_down(const ReplicaId& peer) {
  const auto at = sources_.find(peer);
  if (at == sources_.end()) return;
  const uint64_t join = at->second.join;
  sources_.erase(at);
  node_.enter([&](Replica& replica, Nanoseconds now) {
    replica.on_copy_done(now, peer, join, /*ok=*/false);
  });
}

void Copier::add_ranges(Source& source, const std::vector<BlockRange>& ranges, uint64_t largest) {
  std::vector<bool> wanted(node_.settings_.blocks);
  for (const BlockRange& range : ranges) {
    for (uint64_t i = range.begin; i < range.end; ++i) wanted[i] = true;
  }
  uint64_t i = 0;
  while (i < wanted.size()) {
    if (!wanted[i++]) continue;
    BlockRange piece{i - 1, i};
    const uint64_t most = 1 + node_.world_.random().below(largest);
    while (i < wanted.size() && wanted[i] && piece.blocks() < most) piece.end = ++i;
    source.todo.push_back(piece);
  }
}

void Copier::on_newer(const Packet& packet) {
  const auto at = sources_.find(packet.from);
  if (at == sources_.end() || at->second.join != packet.join || at->second.asked) return;
  Source& source = at->second;
  source.asked = true;
  // What is under way here may have been sent before the joiner was there.
  std::vector<BlockRange> ranges = node_.disk().tail(source.commit_point, /*pending=*/true);
  if (node_.settings_.options.mutant != replication::Mutant::kJoinWithoutOwnTail)
    ranges.insert(ranges.end(), packet.ranges.begin(), packet.ranges.end());
  add_ranges(source, ranges, kPieceBlocks);
  go_on(packet.from);
}

void Copier::go_on(const ReplicaId& joiner) {
  auto at = sources_.find(joiner);
  if (at == sources_.end() || !at->second.asked) return;
  while (at != sources_.end() && at->second.open.size() < kOpenPieces && !at->second.todo.empty()) {
    const BlockRange range = at->second.todo.front();
    at->second.todo.pop_front();
    const uint64_t join = at->second.join;
    OpId op = 0;
    opening_ = joiner;
    node_.enter([&](Replica& replica, Nanoseconds now) {
      op = replica.copy_piece(now, joiner, join, range);
    });
    at = sources_.find(joiner);
    if (op == 0) {
      if (at != sources_.end() && at->second.join == join) sources_.erase(at);
      return;
    }
    if (at != sources_.end() && at->second.join == join) at->second.open.insert(op);
  }
  if (at == sources_.end() || !at->second.open.empty() || at->second.waiting > 0) return;
  Source& source = at->second;
  if (!source.comparing && node_.settings_.compare_copies) {
    source.comparing = true;
    add_ranges(source, {{0, node_.settings_.blocks}}, kCompareBlocks);
    return go_on(joiner);
  }
  const uint64_t join = source.join;
  sources_.erase(at);
  node_.enter([&](Replica& replica, Nanoseconds now) {
    replica.on_copy_done(now, joiner, join, /*ok=*/true);
  });
}

// The range is locked: nothing of it is in flight.
void Copier::copy(OpId op, BlockRange range) {
  ReplicaId joiner = opening_;
  for (const auto& [id, source] : sources_) {
    if (source.open.contains(op)) joiner = id;
  }
  const auto at = sources_.find(joiner);
  if (at == sources_.end()) return;
  at->second.open.insert(op);
  Packet piece;
  piece.kind = at->second.comparing ? Packet::Kind::kCompare : Packet::Kind::kPiece;
  piece.join = at->second.join;
  piece.op = op;
  piece.range = range;
  node_.later(node_.disk().read_time(), [this, joiner, piece](Replica&, Nanoseconds) mutable {
    const auto source = sources_.find(joiner);
    if (source == sources_.end() || !source->second.open.contains(piece.op)) return;
    piece.blocks = node_.content(piece.range);
    node_.transmit(joiner, std::move(piece));
  });
}

void Copier::on_finished(OpId op) {
  for (auto& [id, source] : sources_) source.open.erase(op);
}

void Copier::on_piece_done(const Packet& packet) {
  auto at = sources_.find(packet.from);
  // Of an earlier life of this process the same op may be answered late: joins differ.
  if (at == sources_.end() || at->second.join != packet.join) return;
  if (at->second.open.erase(packet.op) == 0) return;
  node_.enter(
      [&](Replica& replica, Nanoseconds now) { replica.on_copied(now, packet.op, packet.ok); });
  at = sources_.find(packet.from);
  if (at == sources_.end() || at->second.join != packet.join) return;
  // A write that the joiner refused under an old epoch may be on its way to it again.
  if (!packet.differs.empty()) {
    if (++at->second.differences > kDifferences) return node_.world_.fail(packet.differs);
    node_.later(node_.settings_.tick, [this, joiner = packet.from, join = packet.join,
                                       range = packet.range](Replica&, Nanoseconds) {
      const auto source = sources_.find(joiner);
      if (source == sources_.end() || source->second.join != join) return;
      --source->second.waiting;
      source->second.todo.push_back(range);
      go_on(joiner);
    });
    ++at->second.waiting;
  }
  go_on(packet.from);
}

std::string Copier::describe() const {
  std::string text;
  for (const auto& [joiner, source] : sources_) {
    text += fmt::format("; copies to node {}:{}{} {} pieces to do, {} open, {} wait",
                        node_.directory_.node_of(joiner), source.asked ? "" : " not told,",
                        source.comparing ? " compares," : "", source.todo.size(),
                        source.open.size(), source.waiting);
  }
  return text;
}

// --- joiner ---

bool Copier::is_mine(const Packet& packet) const {
  return packet.join != 0 && packet.join == node_.replica()->ready_join();
}

void Copier::write_piece(const Packet& packet) {
  Packet done;
  done.kind = Packet::Kind::kPieceDone;
  done.join = packet.join;
  done.op = packet.op;
  if (!node_.replica_->begin_store(node_.clock(), packet.join))
    return node_.transmit(packet.from, std::move(done));
  node_.disk().append(
      packet.range, packet.blocks,
      [this, process = node_.process(), to = packet.from, done](AppendResult result) mutable {
        if (node_.process() != process) return;
        done.ok = result == AppendResult::kDurable;
        node_.run([this, to, done](Replica& replica, Nanoseconds now) {
          replica.on_stored(now);
          node_.transmit(to, done);
        });
      },
      /*holds_up_later=*/false);
}

// Everything that was sent before it has arrived before it, and takes effect before it looks.
void Copier::compare(const Packet& packet) {
  Packet done;
  done.kind = Packet::Kind::kPieceDone;
  done.join = packet.join;
  done.op = packet.op;
  if (!is_mine(packet)) return node_.transmit(packet.from, std::move(done));
  if (node_.disk().under_way(packet.range)) {
    node_.later(kMillisecond, [this, packet](Replica&, Nanoseconds) { compare(packet); });
    return;
  }
  for (uint64_t i = packet.range.begin; i < packet.range.end; ++i) {
    const Block& theirs = packet.blocks[i - packet.range.begin];
    const Block& mine = node_.disk().block(i);
    if (mine.value == theirs.value) continue;
    done.differs = fmt::format("R10: copied, but block {} of node {} holds {} and not {}", i,
                               node_.index(), sim::describe(mine), sim::describe(theirs));
  }
  done.range = packet.range;
  done.ok = true;
  node_.transmit(packet.from, std::move(done));
}

void Copier::on_packet(const Packet& packet) {
  switch (packet.kind) {
    case Packet::Kind::kAsk: {
      Packet newer;
      newer.kind = Packet::Kind::kNewer;
      newer.join = packet.join;
      // What is under way here came after the join was ready, and is under way at the source too.
      newer.ranges = node_.disk().tail(packet.after, /*pending=*/false);
      return node_.transmit(packet.from, std::move(newer));
    }
    case Packet::Kind::kNewer:
      return on_newer(packet);
    case Packet::Kind::kPiece:
      return write_piece(packet);
    case Packet::Kind::kCompare:
      return compare(packet);
    case Packet::Kind::kPieceDone:
      return on_piece_done(packet);
    default:
      CVOL_ASSERT(false);
  }
}

}  // namespace cvol::sim
