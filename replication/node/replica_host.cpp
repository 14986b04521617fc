#include "replication/node/replica_host.h"

#include <algorithm>
#include <cstring>

#include "replication/node/copier.h"
#include "replication/node/state.h"
#include "volumed/base/assert.h"
#include "volumed/base/checksum.h"
#include "volumed/base/log.h"
#include "volumed/base/units.h"

namespace cvol::replication {
namespace {

constexpr uint64_t kBufferBytes = 64 * kMiB;
constexpr int kRepairRounds = 4;  // of one read: a block may be damaged after it was looked at
constexpr io::Nanoseconds kMendedAfter = 5 * io::kSecond;  // a failed disk is looked at again
constexpr uint64_t kMostWriteBlocks = kGiB / kBlockBytes;  // zeroes; data is bounded by its payload

bool all_zero(std::span<const std::byte> data) {
  return data.empty() || (data[0] == std::byte{0} &&
                          std::memcmp(data.data(), data.data() + 1, data.size() - 1) == 0);
}

}  // namespace

Result<std::unique_ptr<ReplicaHost>> ReplicaHost::open(Parts parts, const Record* record) {
  CVOL_ASSERT(parts.exchange != nullptr && parts.engine != nullptr);
  auto info = parts.engine->replica(parts.number);
  if (!info) return info.status();
  auto bytes = parts.engine->replica_state(parts.number);
  if (!bytes) return bytes.status();
  Durable durable;
  if (!bytes->empty()) {
    auto state = decode_state(*bytes);
    if (!state) return state.status();
    durable = std::move(*state);
  } else if (record == nullptr) {
    return Status(Code::kUnavailable,
                  "the metadata store is away, and this replica was never used: nothing says what "
                  "it belongs to");
  }
  // One that was never used adopts the record below, as news: it says nothing to anybody before
  // that is on stable storage, and leaves the primary that is recorded the time to begin.
  durable.incarnation = std::max(durable.incarnation, parts.incarnation);
  std::unique_ptr<ReplicaHost> host(new ReplicaHost(std::move(parts), std::move(durable), *info));
  host->parts_.exchange->add(host.get());
  host->wake_links();
  if (record != nullptr) host->set_record(*record);
  return host;
}

ReplicaHost::ReplicaHost(Parts parts, Durable durable, const store::ReplicaInfo& info)
    : parts_(std::move(parts)),
      salt_(checksum_salt(parts_.volume)),
      local_size_(info.size_bytes),
      next_call_(reactor().random().next() >> 1),
      buffers_(kBufferBytes, kBufferBytes / 4) {
  buffers_.set_on_return(
      [](void* self) { static_cast<ReplicaHost*>(self)->buffer_waiters_.wake_one(); }, this);
  Replica::Start start;
  start.self = parts_.self;
  start.durable = std::move(durable);
  start.commit_point = Seq{info.commit_point};
  start.last_seq = Seq{info.last_seq};
  start.now = now();
  core_ = std::make_unique<Replica>(*this, parts_.exchange->options(), std::move(start));
}

ReplicaHost::~ReplicaHost() {
  CVOL_ASSERT(scope_.running() == 0 && works_.empty());
}

Task<void> ReplicaHost::close() {
  closing_ = true;
  parts_.exchange->remove(this);
  // Front ends look elsewhere; internal work ends.
  std::vector<OpId> open;
  for (const auto& [op, work] : works_) open.push_back(op);
  std::sort(open.begin(), open.end());
  for (const OpId op : open) finish(op, Outcome::kNotPrimary);
  for (auto& [join, copier] : copiers_) copier->abandon();
  std::vector<uint64_t> numbers;
  for (const auto& [number, call] : calls_) numbers.push_back(number);
  for (const uint64_t number : numbers) {
    Call* lost = calls_[number];
    lost->lost = true;
    if (lost->waiter) reactor().schedule(std::exchange(lost->waiter, {}));
  }
  changed_.wake_all();
  buffer_waiters_.wake_all();
  while (guests_ > 0) co_await guests_left_.wait();
  co_await scope_.join();
  copiers_.clear();
}

void ReplicaHost::set_record(const Record& record) {
  if (!closing_) core_->on_record(now(), record);
}

bool ReplicaHost::busy() const {
  return core_->operations() > 0 || core_->role() == Role::kRecovering ||
         core_->role() == Role::kReconciling || core_->role() == Role::kHandedOver ||
         core_->is_candidate() || !copiers_.empty() ||
         (core_->role() == Role::kFollower && !core_->trusts_itself());
}

bool ReplicaHost::rests() const {
  return core_->rests() && calls_.empty() && !busy();
}

void ReplicaHost::tick(io::Nanoseconds now) {
  core_->tick(now);
  if (core_->disk_failed()) look_at_disk(now);
  for (const auto& [number, call] : calls_) {
    const bool left = !call->while_in_sync.is_nil() &&
                      core_->record().find_in_sync(call->while_in_sync) == nullptr;
    if (call->answered || call->lost || (now < call->until && !left)) continue;
    call->lost = true;
    if (call->waiter) reactor().schedule(std::exchange(call->waiter, {}));
  }
  std::erase_if(copiers_, [](const auto& entry) { return entry.second->over(); });
}

// A verify may have found the disk sound; or what made this replica give it up was an error that
// passed. A disk that fails again is given up again.
void ReplicaHost::look_at_disk(Nanoseconds now) {
  if (disk_looked_ == 0) disk_looked_ = now;
  if (now - disk_looked_ < kMendedAfter) return;
  disk_looked_ = now;
  if (closing_ || parts_.engine->info().failed) return;
  disk_looked_ = 0;
  core_->on_disk_mended(now);
}

Task<Buffer> ReplicaHost::take(std::size_t bytes) {
  Buffer buffer = buffers_.try_take(bytes);
  while (buffer.empty()) {
    co_await buffer_waiters_.wait();
    buffer = buffers_.try_take(bytes);
    if (!buffer.empty()) buffer_waiters_.wake_one();
  }
  co_return buffer;
}

// --- links ---

std::optional<Endpoint> ReplicaHost::endpoint_of(const ReplicaId& id) const {
  const Member* found = member(id);
  if (found == nullptr) return std::nullopt;
  return parts_.exchange->endpoint_of(*found);
}

void ReplicaHost::wake_links() {
  if (links_pending_ || closing_) return;
  links_pending_ = true;
  scope_.spawn(links_soon());
}

// Outside of any call of core: it may be told of links only then.
Task<void> ReplicaHost::links_soon() {
  co_await io::yield(reactor());
  links_pending_ = false;
  if (closing_) co_return;
  std::vector<std::pair<ReplicaId, bool>> news;
  for (const Member& peer : core_->record().members) {
    if (peer.replica == parts_.self) continue;
    const auto endpoint = parts_.exchange->endpoint_of(peer);
    if (!endpoint) continue;
    parts_.exchange->mesh().want(*endpoint);
    const bool up = parts_.exchange->is_up(*endpoint);
    if (told_links_[peer.replica] != up) news.emplace_back(peer.replica, up);
  }
  for (const auto& [replica, up] : news) {
    told_links_[replica] = up;
    core_->on_link(now(), replica, up);
  }
}

void ReplicaHost::on_link(const Endpoint& peer, bool up) {
  std::vector<ReplicaId> there;
  for (const Member& known : core_->record().members) {
    if (known.replica == parts_.self) continue;
    const auto endpoint = parts_.exchange->endpoint_of(known);
    if (endpoint && *endpoint == peer) there.push_back(known.replica);
  }
  if (!up) {
    std::vector<Call*> lost;
    for (const auto& [number, call] : calls_) {
      if (call->to == peer) lost.push_back(call);
    }
    for (Call* call : lost) {
      call->lost = true;
      if (call->waiter) reactor().schedule(std::exchange(call->waiter, {}));
    }
  }
  for (const ReplicaId& replica : there) {
    told_links_[replica] = up;
    core_->on_link(now(), replica, up);
  }
}

void ReplicaHost::on_process_dead(const Endpoint& peer) {
  std::vector<ReplicaId> there;
  for (const Member& known : core_->record().members) {
    const auto endpoint = parts_.exchange->endpoint_of(known);
    if (endpoint && *endpoint == peer) there.push_back(known.replica);
  }
  for (const ReplicaId& replica : there) {
    told_links_[replica] = false;
    core_->on_peer_dead(now(), replica);
  }
}

void ReplicaHost::changed() {
  changed_.wake_all();
  wake_links();
  if (parts_.changed) parts_.changed();
}

void ReplicaHost::event(const std::string& text) {
  log::info("replication", text,
            {{"volume", parts_.volume.to_string()}, {"replica", parts_.self.to_string()}});
  if (parts_.event) parts_.event(text);
}

// --- messages ---

void ReplicaHost::send(const Message& message) {
  const auto endpoint = endpoint_of(message.to);
  if (!endpoint) return;
  wire::FrameHeader header;
  header.type = static_cast<uint8_t>(message.type);
  header.volume = wire::tag_of(parts_.volume);
  header.from = wire::tag_of(message.from);
  header.to = wire::tag_of(message.to);
  header.epoch = message.epoch.value;
  header.seq = message.seq.value;
  if (message.type == MessageType::kPrepare && message.kind == WriteKind::kData) {
    const Work* work = find_work(message.op);
    CVOL_ASSERT(work != nullptr && work->payload.size() == message.range.blocks() * kBlockBytes);
    header.payload_bytes = static_cast<uint32_t>(work->payload.size());
    parts_.exchange->send(*endpoint, header, wire::encode_message(message, work->checksums),
                          work->payload);
    return;
  }
  parts_.exchange->send(*endpoint, header, wire::encode_message(message, {}));
}

ReplicaId ReplicaHost::id_from_tag(uint64_t tag, const Record* record) const {
  for (const Member& known : core_->record().members) {
    if (wire::tag_of(known.replica) == tag) return known.replica;
  }
  if (record != nullptr) {
    for (const Member& known : record->members) {
      if (wire::tag_of(known.replica) == tag) return known.replica;
    }
  }
  return {};
}

void ReplicaHost::on_core_frame(const Endpoint&, Frame frame) {
  auto decoded = wire::decode_message(frame.header, frame.body);
  if (!decoded) {
    log::warning("replication", "a message is dropped", {{"why", decoded.message()}});
    return;
  }
  Message& message = decoded->message;
  message.from = id_from_tag(frame.header.from, message.record.get());
  message.to = parts_.self;
  if (message.from.is_nil() || message.from == parts_.self) return;
  if (frame.header.to != wire::tag_of(parts_.self)) return;
  if (message.type == MessageType::kReached) cut_tail(message);
  if (message.type == MessageType::kPrepare) {
    const uint64_t blocks = message.range.blocks();
    if (blocks > kMostWriteBlocks) {
      log::warning("replication", "a write is dropped: it is longer than any that is sent", {});
      return;
    }
    if (message.range.end > std::max(local_size_, size_bytes()) / kBlockBytes &&
        message.epoch <= core_->epoch())
      return;
    Prepared prepared;
    if (message.kind == WriteKind::kData) {
      if (decoded->checksums.size() != blocks ||
          frame.header.payload_bytes != blocks * kBlockBytes) {
        log::warning("replication", "a write is dropped: its payload does not fit it", {});
        return;
      }
      for (uint64_t i = 0; i < blocks; ++i) {
        const std::byte* block = frame.payload.data() + i * kBlockBytes;
        if (block_checksum(salt_, message.range.begin + i, block) == decoded->checksums[i])
          continue;
        // Changed on the way: neither it nor what follows can be taken.
        log::error("replication", "a block was changed on its way; the connection is made anew",
                   {{"volume", parts_.volume.to_string()}});
        if (const Member* sender = member(message.from)) parts_.exchange->reset(*sender);
        return;
      }
      prepared.payload = std::move(frame.payload);
      prepared.checksums = std::move(decoded->checksums);
    }
    message.ticket = next_prepared_++;
    prepared_[message.ticket] = std::move(prepared);
    return take_prepare(std::move(message));
  }
  core_->on_message(now(), message);
}

// A member may have grown already to a size that this replica has not heard of: there is nothing to
// be written again beyond the end that is known here, and nothing could be read there.
void ReplicaHost::cut_tail(Message& reached) const {
  const uint64_t end = size_bytes() / kBlockBytes;
  auto tail = std::make_shared<std::vector<BlockRange>>();
  for (BlockRange range : *reached.tail) {
    range.end = std::min(range.end, end);
    if (!range.empty()) tail->push_back(range);
  }
  reached.tail = std::move(tail);
}

// One that reaches beyond the end of what is here waits until the replica has grown, and all that
// come after it wait too: of overlapping writes the later one must not be applied first (R2).
void ReplicaHost::take_prepare(Message prepare) {
  const bool beyond_end = prepare.range.end > local_size_ / kBlockBytes;
  if ((beyond_end || !beyond_.empty()) && prepare.epoch == core_->epoch()) {
    beyond_.push_back(std::move(prepare));
    return;
  }
  core_->on_message(now(), prepare);
}

// --- size ---

uint64_t ReplicaHost::blocks_here() const {
  return std::min(local_size_, size_bytes()) / kBlockBytes;
}

Task<void> ReplicaHost::grown(uint64_t end_bytes, const FrontEnd* front_end) {
  const auto gone = [&] { return closing_ || is_gone(front_end); };
  while (!gone() && end_bytes > local_size_ && end_bytes <= size_bytes()) co_await changed_.wait();
}

void ReplicaHost::grew() {
  changed_.wake_all();
  std::vector<Message> waited;
  waited.swap(beyond_);
  for (Message& prepare : waited) take_prepare(std::move(prepare));  // some may wait for more
}

// --- the disk ---

void ReplicaHost::persist(const Durable& state, uint64_t ticket) {
  persist_next_ = {state, ticket};
  if (persisting_ || closing_) return;
  persisting_ = true;
  scope_.spawn(persist_loop());
}

Task<void> ReplicaHost::persist_loop() {
  co_await io::yield(reactor());
  while (persist_next_ && !closing_) {
    const auto [state, ticket] = std::move(*persist_next_);
    persist_next_.reset();
    // A member has the volume's size before it says that it knows the record.
    if (state.record.size_bytes > local_size_) {
      const Status grown =
          co_await parts_.engine->resize_replica(parts_.number, state.record.size_bytes);
      if (!grown) {
        log::error("replication", "cannot grow a replica", {{"why", grown.message()}});
        core_->on_disk_failed(now());
        break;
      }
      local_size_ = state.record.size_bytes;
      grew();
    }
    const Status put =
        co_await parts_.engine->put_replica_state(parts_.number, encode_state(state));
    if (closing_) break;
    if (!put) {
      log::error("replication", "cannot keep the replication state", {{"why", put.message()}});
      core_->on_disk_failed(now());
      break;
    }
    core_->on_persisted(now(), ticket);
  }
  persisting_ = false;
}

ReplicaHost::Work* ReplicaHost::find_work(OpId op) const {
  const auto at = works_.find(op);
  return at == works_.end() ? nullptr : at->second;
}

void ReplicaHost::begin_for_core(Task<void> task) {
  ++inside_core_;
  scope_.spawn(std::move(task));
  --inside_core_;
}

void ReplicaHost::release(Work* work) {
  CVOL_ASSERT(work->pending > 0);
  if (--work->pending > 0) return;
  if (!work->finished) {
    if (is_gone(work->front_end)) detach(*work);
    return;
  }
  if (work->on_heap) {
    delete work;
  } else if (work->waiter) {
    reactor().schedule(std::exchange(work->waiter, {}));
  }
}

void ReplicaHost::finish(OpId op, Outcome outcome) {
  const auto at = works_.find(op);
  if (at == works_.end()) {  // a piece of a resync that never began
    for (auto& [join, copier] : copiers_) {
      if (copier->has_piece(op)) return copier->piece_ended(op, false);
    }
    return;
  }
  Work* work = at->second;
  works_.erase(at);
  work->finished = true;
  work->outcome = outcome;
  if (work->copier != nullptr) work->copier->piece_ended(op, false);
  if (work->kind == OpKind::kRepair || work->kind == OpKind::kCopy) changed_.wake_all();
  if (work->pending > 0) return;
  if (work->on_heap) {
    delete work;
  } else if (work->waiter) {
    reactor().schedule(std::exchange(work->waiter, {}));
  }
}

void ReplicaHost::append(OpId op, WriteKind kind, Epoch epoch, Seq seq, BlockRange range) {
  Work* work = find_work(op);
  CVOL_ASSERT(work != nullptr);
  if (kind == WriteKind::kData) {
    if (work->payload.empty()) work->payload = work->data;
    sum_payload(*work, range);
  }
  ++work->pending;
  begin_for_core(append_own(work, kind, epoch, seq, range));
}

void ReplicaHost::sum_payload(Work& work, BlockRange range) const {
  CVOL_ASSERT(work.payload.size() == range.blocks() * kBlockBytes);
  work.checksums.resize(range.blocks());
  for (uint64_t i = 0; i < range.blocks(); ++i) {
    work.checksums[i] =
        block_checksum(salt_, range.begin + i, work.payload.data() + i * kBlockBytes);
  }
}

Task<void> ReplicaHost::append_own(Work* work, WriteKind kind, Epoch epoch, Seq seq,
                                   BlockRange range) {
  Status done;
  const uint64_t offset = range.begin * kBlockBytes;
  if (kind == WriteKind::kData) {
    done = co_await parts_.engine->append_write(parts_.number, epoch.value, seq.value, offset,
                                                work->payload, work->checksums);
  } else {
    done = co_await parts_.engine->append_zero(parts_.number, epoch.value, seq.value, offset,
                                               range.blocks() * kBlockBytes,
                                               kind == WriteKind::kZeroKeep);
  }
  AppendResult result = AppendResult::kDurable;
  if (!done) {
    work->status = done;
    result = done.code() == Code::kNoSpace ? AppendResult::kNoSpace : AppendResult::kFailed;
  }
  if (inside_core_ > 0) co_await io::yield(reactor());
  if (!closing_) core_->on_appended(now(), seq, result);
  release(work);
}

void ReplicaHost::append_prepared(const Message& prepare) {
  const auto at = prepared_.find(prepare.ticket);
  CVOL_ASSERT(at != prepared_.end());
  Prepared prepared = std::move(at->second);
  prepared_.erase(at);
  begin_for_core(append_for_primary(prepare, std::move(prepared)));
}

void ReplicaHost::drop_prepared(const Message& prepare) {
  prepared_.erase(prepare.ticket);
}

Task<void> ReplicaHost::append_for_primary(Message prepare, Prepared prepared) {
  io::RangeLock::Write guard(member_lock_, prepare.range.begin, prepare.range.end);
  co_await guard;
  const uint64_t offset = prepare.range.begin * kBlockBytes;
  const uint64_t bytes = prepare.range.blocks() * kBlockBytes;
  Status done;
  if (prepare.kind == WriteKind::kData) {
    done = co_await parts_.engine->append_write(parts_.number, prepare.epoch.value,
                                                prepare.seq.value, offset,
                                                prepared.payload.first(bytes), prepared.checksums);
  } else {
    done =
        co_await parts_.engine->append_zero(parts_.number, prepare.epoch.value, prepare.seq.value,
                                            offset, bytes, prepare.kind == WriteKind::kZeroKeep);
  }
  AppendResult result = AppendResult::kDurable;
  if (!done)
    result = done.code() == Code::kNoSpace ? AppendResult::kNoSpace : AppendResult::kFailed;
  if (inside_core_ > 0) co_await io::yield(reactor());
  if (!closing_) core_->on_appended(now(), prepare.seq, result);
}

void ReplicaHost::collect_tail(Seq after, uint64_t ticket) {
  begin_for_core(tail_task(after, ticket));
}

Task<void> ReplicaHost::tail_task(Seq after, uint64_t ticket) {
  std::vector<BlockRange> ranges;
  auto chunks = co_await parts_.engine->changed_chunks(parts_.number, after.value);
  if (inside_core_ > 0) co_await io::yield(reactor());
  if (closing_) co_return;
  if (!chunks) {
    core_->on_disk_failed(now());
    co_return;
  }
  const uint64_t end = local_size_ / kBlockBytes;
  for (const store::ChunkVersion& chunk : *chunks) {
    const uint64_t begin = chunk.chunk * kBlocksPerChunk;
    if (!ranges.empty() && ranges.back().end == begin) {
      ranges.back().end = std::min(end, begin + kBlocksPerChunk);
    } else {
      ranges.push_back({begin, std::min(end, begin + kBlocksPerChunk)});
    }
  }
  for (const store::ZeroedRange& zeroed : parts_.engine->zeroed_after(parts_.number, after.value))
    ranges.push_back({zeroed.first_block, zeroed.first_block + zeroed.blocks});
  core_->on_tail(now(), ticket, std::move(ranges));
}

void ReplicaHost::note_commit_point(Seq seq) {
  parts_.engine->note_commit_point(parts_.number, seq.value);
}

// --- payloads that are made here ---

void ReplicaHost::make_payload(OpId op, OpKind kind, BlockRange range) {
  Work* work = find_work(op);
  if (work == nullptr) {  // an internal operation that core has just made
    work = new Work;
    work->on_heap = true;
    work->kind = kind;
    works_[op] = work;
  }
  ++work->pending;
  begin_for_core(make_own_payload(op, work, kind, range));
}

Task<void> ReplicaHost::make_own_payload(OpId op, Work* work, OpKind kind, BlockRange range) {
  Status made;
  WriteKind write_kind = WriteKind::kData;
  co_await grown(range.end * kBlockBytes);
  if (range.blocks() * kBlockBytes > kMaxRequestBytes) {
    made = Status(Code::kInvalidArgument, "a payload that is made here is larger than any request");
    work->status = made;
  } else if (!work->finished) {
    Buffer buffer = co_await take(range.blocks() * kBlockBytes);
    work->whole = std::move(buffer);
    if (kind == OpKind::kWrite) {
      made = co_await overlay_client_data(work, range);
    } else if (kind == OpKind::kRepair || kind == OpKind::kRewrite) {
      made = co_await read_or_fetch(range, work->whole.first(range.blocks() * kBlockBytes));
    } else {  // kUndo: others have what is to be taken back
      made = co_await read_blocks(range, work->whole.first(range.blocks() * kBlockBytes));
    }
    work->payload = work->whole.first(range.blocks() * kBlockBytes);
    if (made && kind != OpKind::kWrite && all_zero(work->payload)) write_kind = WriteKind::kZero;
    // It goes to others only: append() is not called for it.
    if (made && kind == OpKind::kUndo) sum_payload(*work, range);
    if (!made) work->status = made;
  }
  if (inside_core_ > 0) co_await io::yield(reactor());
  PayloadResult result = PayloadResult::kMade;
  if (!made)
    result = made.code() == Code::kDamaged ? PayloadResult::kDamaged : PayloadResult::kFailed;
  if (!closing_ && !work->finished) core_->on_payload(now(), op, result, write_kind);
  release(work);
}

// Whole blocks around what the front end writes.
Task<Status> ReplicaHost::overlay_client_data(Work* work, BlockRange range) {
  const std::span<std::byte> blocks = work->whole.first(range.blocks() * kBlockBytes);
  const uint64_t skip = work->offset - range.begin * kBlockBytes;
  const bool head = skip > 0;
  const bool tail = skip + work->length < blocks.size();
  const uint64_t last = blocks.size() - kBlockBytes;
  if (head || (tail && last == 0))
    CVOL_CO_TRY(co_await read_or_fetch({range.begin, range.begin + 1}, blocks.first(kBlockBytes),
                                       work->front_end));
  if (tail && last > 0)
    CVOL_CO_TRY(
        co_await read_or_fetch({range.end - 1, range.end}, blocks.subspan(last), work->front_end));
  if (work->zero_edge) {
    std::memset(blocks.data() + skip, 0, work->length);
  } else {
    std::memcpy(blocks.data() + skip, work->data.data(), work->length);
  }
  co_return Status::ok();
}

Task<Status> ReplicaHost::read_blocks(BlockRange range, std::span<std::byte> into) {
  co_return co_await parts_.engine->read(parts_.number, range.begin * kBlockBytes, into);
}

// --- reads ---

void ReplicaHost::read(OpId op, BlockRange range) {
  Work* work = find_work(op);
  CVOL_ASSERT(work != nullptr);
  ++work->pending;
  begin_for_core(work->asks_status ? look_at_status(op, work) : read_own(op, work, range));
}

// What it sees of writes that are on their way is answered when they are committed (R6).
Task<void> ReplicaHost::look_at_status(OpId op, Work* work) {
  if (inside_core_ > 0) co_await io::yield(reactor());
  auto extents = extents_of(work->offset, work->length);
  if (extents) {
    work->extents = std::move(*extents);
  } else {
    work->status = extents.status();
  }
  if (!closing_) core_->on_read(now(), op, extents.is_ok());
  release(work);
}

Task<void> ReplicaHost::read_own(OpId op, Work* work, BlockRange range) {
  const uint64_t bytes = range.blocks() * kBlockBytes;
  const uint64_t skip = work->offset - range.begin * kBlockBytes;
  std::span<std::byte> into = work->into;
  const bool direct = into.size() == bytes && skip == 0 &&
                      reinterpret_cast<uintptr_t>(into.data()) % kBlockBytes == 0;
  if (!direct) {
    work->whole = co_await take(bytes);
    into = work->whole.first(bytes);
  }
  Status done = co_await read_blocks(range, into);
  for (int round = 0; !done && round < kRepairRounds && !closing_; ++round) {
    const Status repaired = co_await repair_damage(range, work->front_end);
    if (repaired.code() == Code::kCancelled) done = repaired;
    if (!repaired) break;
    done = co_await read_blocks(range, into);
  }
  if (!done) work->status = done;
  if (done && !direct) std::memcpy(work->into.data(), into.data() + skip, work->into.size());
  if (inside_core_ > 0) co_await io::yield(reactor());
  if (!closing_) core_->on_read(now(), op, done.is_ok());
  release(work);
}

// --- questions to other replicas ---

Task<bool> ReplicaHost::call(Call& question, const ReplicaId& to, wire::FrameType type,
                             std::span<const std::byte> body, std::span<const std::byte> payload) {
  const auto endpoint = endpoint_of(to);
  if (!endpoint || closing_ || !parts_.exchange->is_up(*endpoint)) co_return false;
  question.to = *endpoint;
  const uint64_t number = next_call_++;
  calls_[number] = &question;
  wire::FrameHeader header;
  header.type = static_cast<uint8_t>(type);
  header.volume = wire::tag_of(parts_.volume);
  header.from = wire::tag_of(parts_.self);
  header.to = wire::tag_of(to);
  header.epoch = core_->epoch().value;
  header.seq = number;
  header.payload_bytes = static_cast<uint32_t>(payload.size());
  parts_.exchange->send(*endpoint, header, body, payload);
  co_await CallDone{question};
  calls_.erase(number);
  co_return question.answered;
}

// --- the register ---

void ReplicaHost::propose(const Record& next, uint64_t ticket) {
  parts_.exchange->reg().propose(
      parts_.volume, next,
      [exchange = parts_.exchange, volume = parts_.volume, self = parts_.self, ticket](
          CasResult result, uint64_t revision) {
        ReplicaHost* host = exchange->host_of(volume);
        if (host != nullptr && host->parts_.self == self && !host->closing_)
          host->core_->on_proposed(host->now(), ticket, result, revision);
      });
}

void ReplicaHost::fetch_record() {
  parts_.exchange->reg().fetch(
      parts_.volume, [exchange = parts_.exchange, volume = parts_.volume, self = parts_.self,
                      known = core_->epoch()](Result<Record> record) {
        ReplicaHost* host = exchange->host_of(volume);
        if (host != nullptr && host->parts_.self == self && record && !host->closing_)
          host->core_->on_fetched(host->now(), *record, known);
      });
}

void ReplicaHost::claim(const Record& known) {
  if (parts_.claim) parts_.claim(known);
}

}  // namespace cvol::replication
