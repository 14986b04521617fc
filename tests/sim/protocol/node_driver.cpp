// What a replica asks of its node: replication::Driver on the model disk, network and register.
#include <fmt/format.h>

#include <algorithm>

#include "tests/sim/protocol/node.h"
#include "volumed/base/assert.h"

namespace cvol::sim {

using Operation = Packet::Operation;

// --- messages ---

void Node::send(const Message& message) {
  auto packet = std::make_shared<Packet>();
  packet->message = message;
  if (message.type == replication::MessageType::kPrepare) {
    const auto at = works_.find(message.op);
    CVOL_ASSERT(at != works_.end());
    const Work& work = at->second;
    CVOL_ASSERT(work.values.size() == message.range.blocks());
    // An undo is not appended here: its version is known from here only.
    const bool appended = work.version.seq == message.seq;
    const Version version = appended ? work.version : Version{message.epoch, message.seq};
    for (const uint64_t value : work.values) packet->blocks.push_back({value, version});
  }
  const int to = directory_.node_of(message.to);
  if (to >= 0) network_.send(index_, to, std::move(packet));
}

void Node::transmit(const ReplicaId& to, Packet packet) {
  packet.from = id_;
  packet.to = to;
  const int node = directory_.node_of(to);
  if (node >= 0) network_.send(index_, node, std::make_shared<Packet>(std::move(packet)));
}

// --- the disk ---

void Node::persist(const Durable& state, uint64_t ticket) {
  if (state.incarnation != incarnation_ && !disk_->behind())
    world_.fail(fmt::format("node {} distrusts its disk without cause", index_));
  incarnation_ = state.incarnation;
  disk_->persist(state, of_this_life([ticket](Replica& replica, Nanoseconds now) {
                   replica.on_persisted(now, ticket);
                 }));
}

void Node::note_commit_point(Seq seq) {
  disk_->note_commit_point(seq);
}

std::vector<Block> Node::content(BlockRange range) const {
  const auto begin = disk_->blocks().begin();
  return {begin + static_cast<int64_t>(range.begin), begin + static_cast<int64_t>(range.end)};
}

void Node::make_payload(OpId op, OpKind kind, BlockRange range) {
  Work& work = works_[op];
  work.range = range;
  later(disk_->read_time(), [this, op, kind, range](Replica& replica, Nanoseconds now) {
    const auto at = works_.find(op);
    if (at == works_.end()) return;
    if (kind != OpKind::kWrite) {  // this replica's own content
      bool zero = true;
      at->second.values.clear();
      for (const Block& block : content(range)) {
        at->second.values.push_back(block.value);
        zero = zero && reads_as_zero(block.value);
      }
      at->second.kind = zero ? WriteKind::kZero : WriteKind::kData;
    }
    if (disk_->failed()) return replica.on_disk_failed(now);
    replica.on_payload(now, op, replication::PayloadResult::kMade, at->second.kind);
  });
}

void Node::append(OpId op, WriteKind, Epoch epoch, Seq seq, BlockRange range) {
  const auto at = works_.find(op);
  CVOL_ASSERT(at != works_.end() && at->second.values.size() == range.blocks());
  at->second.version = {epoch, seq};
  std::vector<Block> blocks;
  for (const uint64_t value : at->second.values) blocks.push_back({value, at->second.version});
  disk_->append(range, std::move(blocks), [this, seq, process = process_](AppendResult result) {
    if (process != process_) return;
    run([seq, result](Replica& replica, Nanoseconds now) {
      replica.on_appended(now, seq, result);
    });
  });
}

void Node::append_prepared(const Message& prepare) {
  const auto at = prepared_.find(prepare.ticket);
  CVOL_ASSERT(at != prepared_.end());
  std::vector<Block> blocks = std::move(at->second);
  prepared_.erase(at);
  const Seq seq = prepare.seq;
  disk_->append(prepare.range, std::move(blocks),
                [this, seq, process = process_](AppendResult result) {
                  if (process != process_) return;
                  run([seq, result](Replica& replica, Nanoseconds now) {
                    replica.on_appended(now, seq, result);
                  });
                });
}

void Node::drop_prepared(const Message& prepare) {
  const bool known = prepared_.erase(prepare.ticket) == 1;
  CVOL_ASSERT(known);
}

// The data is what the disk holds at some moment between the call and its end.
void Node::read(OpId op, BlockRange range) {
  const Nanoseconds time = disk_->read_time();
  const Nanoseconds before = world_.between(0, time);
  later(before, [this, op, range, rest = time - before](Replica&, Nanoseconds) {
    const auto at = works_.find(op);
    if (at == works_.end()) return;
    at->second.data = content(range);
    later(rest, [op](Replica& replica, Nanoseconds now) { replica.on_read(now, op, true); });
  });
}

void Node::collect_tail(Seq after, uint64_t ticket) {
  later(disk_->read_time(), [this, after, ticket](Replica& replica, Nanoseconds now) {
    std::vector<BlockRange> ranges = disk_->tail(after, /*pending=*/false);
    for (BlockRange& range : ranges) {  // coarse ones are allowed
      if (!world_.percent(20)) continue;
      range.begin -= std::min<uint64_t>(range.begin, world_.random().below(3));
      range.end = std::min(settings_.blocks, range.end + world_.random().below(3));
    }
    replica.on_tail(now, ticket, std::move(ranges));
  });
}

// --- the register ---

void Node::propose(const Record& next, uint64_t ticket) {
  world_.note(6, static_cast<uint64_t>(index_), next.epoch.value, ticket);
  if (world_.tracing())
    world_.trace(fmt::format("node {}: proposes {}", index_, replication::describe(next)));
  register_.compare_and_swap(
      index_, next, [this, ticket, process = process_](CasResult result, uint64_t revision) {
        if (process != process_) return;
        run([ticket, result, revision](Replica& replica, Nanoseconds now) {
          replica.on_proposed(now, ticket, result, revision);
        });
      });
}

void Node::fetch_record() {
  register_.fetch(index_,
                  [this, process = process_, known = replica_->epoch()](const Record& record) {
                    if (process != process_) return;
                    run([record, known](Replica& replica, Nanoseconds now) {
                      replica.on_fetched(now, record, known);
                    });
                  });
}

void Node::claim(const Record&) {
  world_.count("claims");
}

// --- copying ---

void Node::start_copy(const ReplicaId& joiner, uint64_t join, Seq joiner_commit_point) {
  copier_.start(joiner, join, joiner_commit_point);
}
void Node::stop_copy(const ReplicaId& joiner, uint64_t join) {
  copier_.stop(joiner, join);
}
void Node::copy(OpId op, BlockRange range) {
  copier_.copy(op, range);
}

// --- front ends ---

void Node::take_open(int from, const Packet& request) {
  const OpId op = next_op_++;
  Work& work = works_[op];
  work.client = true;
  work.front_end = from;
  work.request = request;
  enter([&](Replica& replica, Nanoseconds now) {
    replica.open_connection(now, op, {request.session, request.connection});
  });
}

void Node::take_request(int from, const Packet& request) {
  const OpId op = next_op_++;
  Work& work = works_[op];
  work.client = true;
  work.front_end = from;
  work.request = request;
  work.range = request.range;
  for (const Block& block : request.blocks) work.values.push_back(block.value);
  const Replica::Caller caller{request.session, request.connection};
  work.kind = request.operation == Operation::kZero       ? WriteKind::kZero
              : request.operation == Operation::kZeroKeep ? WriteKind::kZeroKeep
                                                          : WriteKind::kData;
  enter([&, kind = work.kind](Replica& replica, Nanoseconds now) {
    if (request.operation == Operation::kRead) {
      work.asked = invariants_.least(request.range);
      replica.read(now, op, caller, request.range);
    } else {
      replica.write(now, op, caller, kind, request.range,
                    request.operation == Operation::kPartialWrite);
    }
  });
}

void Node::probe(BlockRange range) {
  run([this, range](Replica& replica, Nanoseconds) {
    if (replica.role() != replication::Role::kActive) return;
    Packet request;
    request.kind = Packet::Kind::kRequest;
    request.session = replica.record().session.generation;
    request.connection = replica.connection();
    request.range = range;
    take_request(-1, request);
  });
}

void Node::finish(OpId op, Outcome outcome) {
  copier_.on_finished(op);
  const auto at = works_.find(op);
  if (at == works_.end()) return;
  const Work work = std::move(at->second);
  works_.erase(at);
  if (work.client) answer(work, outcome);
}

void Node::answer(const Work& work, Outcome outcome) {
  Packet reply;
  reply.kind =
      work.request.kind == Packet::Kind::kOpen ? Packet::Kind::kOpened : Packet::Kind::kAnswer;
  reply.session = work.request.session;
  reply.connection = work.request.connection;
  reply.number = work.request.number;
  reply.outcome = outcome;
  if (reply.kind == Packet::Kind::kAnswer && outcome == Outcome::kDone) {
    if (work.request.operation == Operation::kRead) {
      reply.blocks = work.data;
      invariants_.on_read(*this, work.range, work.data, work.asked);
    } else {
      std::vector<Block> written;
      for (const uint64_t value : work.values) written.push_back({value, work.version});
      invariants_.on_written(*this, work.range, written);
    }
  }
  if (work.front_end >= 0)
    network_.send(index_, work.front_end, std::make_shared<Packet>(std::move(reply)));
}

// --- what it tells ---

void Node::changed() {
  if (replica_ == nullptr) return;
  world_.note(7, static_cast<uint64_t>(index_), static_cast<uint64_t>(replica_->role()),
              replica_->epoch().value);
  if (world_.tracing())
    world_.trace(fmt::format("node {}: is {} in epoch {}", index_, name_of(replica_->role()),
                             replica_->epoch().value));
}

void Node::event(const std::string& text) {
  if (world_.tracing()) world_.trace(fmt::format("node {}: {}", index_, text));
}

}  // namespace cvol::sim
