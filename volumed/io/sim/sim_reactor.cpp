#include "volumed/io/sim/sim_reactor.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

#include "volumed/base/assert.h"

namespace cvol::io {
namespace {

struct Root {
  struct promise_type {
    Root get_return_object() noexcept { return {}; }
    std::suspend_never initial_suspend() noexcept { return {}; }
    std::suspend_never final_suspend() noexcept { return {}; }
    void return_void() noexcept {}
    void unhandled_exception() noexcept { std::terminate(); }
  };
};

Root run_root(Task<void> task, uint64_t* running) {
  co_await std::move(task);
  --*running;
}

std::vector<std::byte> gather(const Op& op) {
  std::vector<std::byte> data;
  for (uint32_t i = 0; i < op.count; ++i) {
    const auto* base = static_cast<const std::byte*>(op.iov[i].iov_base);
    data.insert(data.end(), base, base + op.iov[i].iov_len);
  }
  return data;
}

int64_t read_now(const SimFile& file, const Op& op) {
  uint64_t at = op.offset;
  int64_t total = 0;
  for (uint32_t i = 0; i < op.count; ++i) {
    const uint64_t left = at < file.size() ? file.size() - at : 0;
    const uint64_t bytes = std::min<uint64_t>(op.iov[i].iov_len, left);
    file.read(at, {static_cast<std::byte*>(op.iov[i].iov_base), bytes});
    at += bytes;
    total += static_cast<int64_t>(bytes);
  }
  return total;
}

uint64_t length_of(const Op& op) {
  uint64_t total = 0;
  for (uint32_t i = 0; i < op.count; ++i) total += op.iov[i].iov_len;
  return total;
}

}  // namespace

SimReactor::~SimReactor() {
  CVOL_ASSERT(running_ == 0);
  *alive_ = false;
  if (current() == this) set_current(nullptr);
}

void SimReactor::start(Task<void> task) {
  Reactor* before = current();
  set_current(this);
  ++running_;
  run_root(std::move(task), &running_);
  set_current(before);
}

bool SimReactor::run(Task<void> task) {
  start(std::move(task));
  return world_->run_until([this] { return done(); });
}

void SimReactor::die(Death death) {
  resume();  // what has ended already is told, so that all unwinds
  dead_ = true;
  for (auto& open : handles_) {
    Handle& handle = open.second;
    if (handle.holds_lock) handle.file->locked = false;
    handle.holds_lock = false;
    if (handle.in != nullptr) handle.in->receiver = nullptr;
    if (handle.listener != nullptr) {
      handle.listener->acceptor = nullptr;
      handle.listener->closed = true;
      std::erase_if(world_->listeners,
                    [&](const auto& entry) { return entry.second == handle.listener; });
    }
    if (handle.in == nullptr) continue;
    if (death == Death::kProcess) {
      shutdown_handle(open.first);
    } else {
      handle.in = handle.out = nullptr;  // nobody is told
    }
  }
  const auto pending = pending_;
  for (const auto& [number, op] : pending) {
    if (op->kind == OpKind::kBlocking) continue;  // ends by itself: its answer is needed
    world_->at(now(), [this, alive = alive_, number = number] {
      if (!*alive) return;
      const auto found = pending_.find(number);
      if (found != pending_.end()) finish_op(*found->second, -EIO);
    });
  }
}

void SimReactor::resume() {
  if (!paused_) return;
  paused_ = false;
  std::vector<std::function<void()>> stopped;
  stopped.swap(stopped_);
  for (std::function<void()>& event : stopped) world_->at(now(), std::move(event));
}

void SimReactor::post(std::function<void()> work) {
  auto run = [this, alive = alive_, work = std::move(work)] {
    if (!*alive) return;
    set_current(this);
    work();
  };
  world_->at(now(), [this, alive = alive_, run = std::move(run)] {
    if (!*alive) return;
    if (paused_) {
      stopped_.push_back(run);
    } else {
      run();
    }
  });
}

void SimReactor::schedule(std::coroutine_handle<> handle) {
  ready_.push_back(handle);
  world_->at(now(), resume_event());
}

std::function<void()> SimReactor::resume_event() {
  return [this, alive = alive_] {
    if (!*alive || ready_.empty()) return;
    if (paused_) {
      stopped_.push_back(resume_event());
      return;
    }
    const std::coroutine_handle<> next = ready_.front();
    ready_.pop_front();
    set_current(this);
    next.resume();
  };
}

void SimReactor::complete_at(Op& op, Nanoseconds when, std::function<int64_t()> effect) {
  const auto found = numbers_.find(&op);
  CVOL_ASSERT(found != numbers_.end());
  world_->at(when, [this, alive = alive_, number = found->second, effect = std::move(effect)] {
    if (!*alive) return;
    const auto pending = pending_.find(number);
    if (pending == pending_.end() || dead_) return;  // cancelled, or ended by die()
    finish_op(*pending->second, effect());
  });
}

void SimReactor::finish_op(Op& op, int64_t result) {
  const auto found = numbers_.find(&op);
  CVOL_ASSERT(found != numbers_.end());
  if (paused_) {
    stopped_.push_back([this, alive = alive_, number = found->second, result] {
      const auto pending = pending_.find(number);
      if (*alive && pending != pending_.end()) finish_op(*pending->second, result);
    });
    return;
  }
  pending_.erase(found->second);
  numbers_.erase(found);
  op.result = result;
  finish(op);
  set_current(this);
  op.waiter.resume();
}

bool SimReactor::submit(Op& op) {
  // What a page cache holds is there at once.
  const bool if_cached = op.access == Access::kIfCached;
  if (op.kind == OpKind::kReadV && (op.access == Access::kCached || if_cached) && !dead_) {
    if (!fails(faults().cached_read)) {
      op.result = -EAGAIN;
      if (if_cached) return false;
      start(op);
      return true;
    }
    const auto found = handles_.find(op.handle);
    CVOL_ASSERT(found != handles_.end() && found->second.file != nullptr);
    op.result = read_now(*found->second.file, op);
    return false;
  }
  start(op);
  return true;
}

void SimReactor::start(Op& op) {
  const uint64_t number = next_pending_++;
  pending_[number] = &op;
  numbers_[&op] = number;
  if (dead_ && op.kind != OpKind::kBlocking) {
    // Time goes on, so that whoever tries again and again does not keep others from unwinding.
    world_->at(now() + kMicrosecond, [this, alive = alive_, number] {
      const auto pending = pending_.find(number);
      if (*alive && pending != pending_.end()) finish_op(*pending->second, -EIO);
    });
    return;
  }
  switch (op.kind) {
    case OpKind::kReadV:
    case OpKind::kWriteV:
    case OpKind::kSync:
      return submit_file(op);
    case OpKind::kRecv:
      return submit_receive(op);
    case OpKind::kSend:
      return submit_send(op);
    case OpKind::kAccept:
      return submit_accept(op);
    case OpKind::kConnect:  // dial() does it all
      return complete_at(op, now(), [] { return -EINVAL; });
    case OpKind::kTimer:
      return complete_at(op, std::max(now(), static_cast<Nanoseconds>(op.offset)),
                         [] { return 0; });
    case OpKind::kBlocking: {
      // Runs even on a dead node: its answer is needed to unwind. What it touches checks dead().
      Op* raw = &op;
      world_->at(now() + world_->draw(faults().helper_low, faults().helper_high),
                 [this, alive = alive_, number, raw] {
                   if (!*alive || !pending_.contains(number)) return;
                   const int64_t result = raw->call(raw->context);
                   finish_op(*raw, result);
                 });
      return;
    }
  }
}

void SimReactor::submit_file(Op& op) {
  const auto found = handles_.find(op.handle);
  CVOL_ASSERT(found != handles_.end() && found->second.file != nullptr);
  std::shared_ptr<SimFile> file = found->second.file;
  const Nanoseconds when = now() + world_->draw(faults().disk_low, faults().disk_high);
  Op* raw = &op;
  if (op.kind == OpKind::kSync) {
    if (faults().sync_starved != 0 && fails(faults().sync_starved)) {
      complete_at(op, when, []() -> int64_t { return -ENOMEM; });
      return;
    }
    const uint64_t ticket = file->submit_sync();
    const bool error = fails(faults().sync_error);
    complete_at(op, when, [file, ticket, error]() -> int64_t {
      if (error) return -EIO;
      file->complete_sync(ticket);
      return 0;
    });
    return;
  }
  const uint64_t length = length_of(op);
  CVOL_ASSERT(op.offset % kSimPageBytes == 0 && length % kSimPageBytes == 0);
  if (op.kind == OpKind::kReadV && faults().read_starved != 0 && fails(faults().read_starved)) {
    complete_at(op, when, []() -> int64_t { return -ENOMEM; });
    return;
  }
  if (op.kind == OpKind::kReadV) {
    const uint64_t bad = faults().bad_byte;
    const bool error = fails(faults().read_error) || (bad >= op.offset && bad < op.offset + length);
    complete_at(op, when,
                [file, raw, error]() -> int64_t { return error ? -EIO : read_now(*file, *raw); });
    return;
  }
  // Drawn only where it is asked for: seeds stay what they were.
  if (faults().write_full != 0 && fails(faults().write_full)) {
    complete_at(op, when, []() -> int64_t { return -ENOSPC; });
    return;
  }
  const bool error = fails(faults().write_error);
  auto write = file->submit_write(op.offset, gather(op), op.durable);
  complete_at(op, when, [file, write, length, error]() -> int64_t {
    if (error) return -EIO;  // it stays pending: any part of it may still reach the disk
    file->complete_write(write);
    return static_cast<int64_t>(length);
  });
}

void SimReactor::submit_receive(Op& op) {
  const auto found = handles_.find(op.handle);
  CVOL_ASSERT(found != handles_.end() && found->second.in != nullptr);
  std::shared_ptr<SimPipe> pipe = found->second.in;
  CVOL_ASSERT(pipe->receiver == nullptr);
  pipe->receiver = &op;
  pipe->receiver_node = this;
  world_->at(now(), [this, alive = alive_, pipe] {
    if (*alive) deliver(pipe);
  });
}

// Gives a waiting receive what has arrived.
void SimReactor::deliver(const std::shared_ptr<SimPipe>& pipe) {
  Op* op = pipe->receiver;
  if (op == nullptr || (pipe->bytes.empty() && !pipe->closed)) return;
  SimReactor* node = pipe->receiver_node;
  pipe->receiver = nullptr;
  uint64_t most = std::min<uint64_t>(pipe->bytes.size(), length_of(*op));
  if (most > 1 && fails(faults().short_receive)) most = 1 + random_.below(most);
  int64_t total = 0;
  for (uint32_t i = 0; i < op->count && most > 0; ++i) {
    const uint64_t part = std::min<uint64_t>(op->iov[i].iov_len, most);
    auto* into = static_cast<std::byte*>(op->iov[i].iov_base);
    std::copy_n(pipe->bytes.begin(), part, into);
    pipe->bytes.erase(pipe->bytes.begin(), pipe->bytes.begin() + static_cast<int64_t>(part));
    most -= part;
    total += static_cast<int64_t>(part);
  }
  node->finish_op(*op, total);
}

void SimReactor::submit_send(Op& op) {
  const auto found = handles_.find(op.handle);
  CVOL_ASSERT(found != handles_.end() && found->second.out != nullptr);
  std::shared_ptr<SimPipe> pipe = found->second.out;
  std::shared_ptr<SimPipe> back = found->second.in;
  const bool reset = fails(faults().connection_reset);
  const Nanoseconds drawn = now() + world_->draw_delay(pipe->from, pipe->to);
  const Nanoseconds when = std::max(drawn, pipe->last_arrival);
  pipe->last_arrival = when;
  if (reset) {
    world_->end_pipe(pipe);
    world_->end_pipe(back);
  }
  const int64_t length = static_cast<int64_t>(length_of(op));
  const bool closed = pipe->broken;
  if (!closed) {
    world_->carry(pipe->from, pipe->to, when, [pipe, data = gather(op)] {
      if (pipe->closed) return;
      pipe->bytes.insert(pipe->bytes.end(), data.begin(), data.end());
      if (pipe->receiver != nullptr) pipe->receiver_node->deliver(pipe);
    });
    if (pipe->dialed && world_->is_cut(pipe->from, pipe->to)) world_->notice_cut(pipe, back);
  }
  complete_at(op, closed ? now() : when, [closed, length] { return closed ? -EPIPE : length; });
}

void SimReactor::submit_accept(Op& op) {
  const auto found = handles_.find(op.handle);
  CVOL_ASSERT(found != handles_.end() && found->second.listener != nullptr);
  auto listener = found->second.listener;
  listener->acceptor = &op;
  world_->at(now(), [this, alive = alive_, listener] {
    if (!*alive || listener->acceptor == nullptr) return;
    if (listener->closed) {
      finish_op(*std::exchange(listener->acceptor, nullptr), -EINVAL);
    } else if (!listener->backlog.empty()) {
      const int handle = listener->backlog.front();
      listener->backlog.pop_front();
      finish_op(*std::exchange(listener->acceptor, nullptr), handle);
    }
  });
}

int SimReactor::add_handle(Handle handle) {
  const int number = next_handle_++;
  handles_[number] = std::move(handle);
  return number;
}

Result<File> SimReactor::open(const std::string& path, const OpenOptions& options) {
  if (dead_) return Status(Code::kIo, "open " + path + ": the node is dead");
  std::shared_ptr<SimFile>& file = world_->files[path];
  if (file == nullptr) {
    if (!options.create) {
      world_->files.erase(path);
      return Status(Code::kNotFound, "open " + path + ": no such file");
    }
    file = std::make_shared<SimFile>();
  } else if (options.create) {
    return Status(Code::kAlreadyExists, "open " + path + ": it exists");
  }
  if (options.exclusive && file->locked) {
    return Status(Code::kBusy, path + " is in use by another process");
  }
  Handle handle;
  handle.file = file;
  handle.holds_lock = options.exclusive;
  if (options.exclusive) file->locked = true;
  return File(this, add_handle(std::move(handle)),
              options.cached ? Access::kCached : Access::kQueued);
}

Result<Listener> SimReactor::listen(const std::string& address, Watch) {
  auto state = std::make_shared<SimWorld::ListenerState>();
  state->node = this;
  if (!world_->listeners.emplace(address, state).second)
    return Status(Code::kBusy, "another node listens on " + address);
  Handle handle;
  handle.listener = state;
  return Listener(this, add_handle(std::move(handle)));
}

Result<Stream> SimReactor::connect(const std::string& address) {
  const auto found = world_->listeners.find(address);
  if (found == world_->listeners.end() || found->second->closed || found->second->node->dead())
    return Status(Code::kUnavailable, "connect to " + address + ": connection refused");
  auto listener = found->second;
  const SimHost there_host = listener->node->host_;
  if (world_->is_cut(host_, there_host) || world_->is_cut(there_host, host_))
    return Status(Code::kUnavailable, "connect to " + address + ": no answer");
  const auto [there, back] = world_->make_pipes(host_, there_host);
  Handle mine;
  mine.in = back;
  mine.out = there;
  Handle theirs;
  theirs.in = there;
  theirs.out = back;
  listener->backlog.push_back(listener->node->add_handle(std::move(theirs)));
  world_->at(now() + world_->draw_delay(host_, there_host), [listener] {
    if (listener->acceptor == nullptr || listener->backlog.empty() || listener->node->dead())
      return;
    const int handle = listener->backlog.front();
    listener->backlog.pop_front();
    listener->node->finish_op(*std::exchange(listener->acceptor, nullptr), handle);
  });
  return Stream(this, add_handle(std::move(mine)));
}

Task<Result<Stream>> SimReactor::dial(std::string address, Nanoseconds timeout) {
  const auto found = world_->listeners.find(address);
  const SimHost there = found == world_->listeners.end() ? 0 : found->second->node->host_;
  const Nanoseconds takes = world_->draw_delay(host_, there);
  const int64_t slept = co_await sleep(std::min(takes, timeout));
  if (slept < 0 || takes > timeout)
    co_return Status(Code::kUnavailable, "connect to " + address + ": no answer");
  co_return connect(address);
}

Status SimReactor::make_directories(const std::string&) {
  return Status::ok();
}

Result<std::vector<std::string>> SimReactor::list_directory(const std::string& path) {
  std::vector<std::string> names;
  const std::string prefix = path + "/";
  for (const auto& [name, file] : world_->files) {
    if (name.rfind(prefix, 0) == 0) names.push_back(name.substr(prefix.size()));
  }
  return names;
}

Result<uint64_t> SimReactor::free_bytes(const std::string&) {
  const uint64_t used = world_->allocated_bytes(root_);
  return used < faults().disk_bytes ? faults().disk_bytes - used : 0;
}

Status SimReactor::remove_all(const std::string& path) {
  if (dead_) return Status(Code::kIo, "remove " + path + ": the node is dead");
  world_->files.erase(path);
  return Status::ok();
}

Status SimReactor::sync_directory(const std::string&) {
  return dead_ ? Status(Code::kIo, "sync directory: the node is dead") : Status::ok();
}

void SimReactor::shutdown_handle(int handle) {
  const auto found = handles_.find(handle);
  if (found == handles_.end()) return;
  Handle& state = found->second;
  if (state.listener != nullptr) {
    state.listener->closed = true;
    if (state.listener->acceptor != nullptr) {
      Op* op = std::exchange(state.listener->acceptor, nullptr);
      world_->at(now(), [this, alive = alive_, op] {
        if (*alive && numbers_.contains(op)) finish_op(*op, -EINVAL);
      });
    }
    return;
  }
  if (state.in == nullptr) return;
  const std::shared_ptr<SimPipe> in = state.in, out = state.out;
  in->closed = true;
  out->broken = true;
  world_->at(now(), [in] {
    if (in->receiver != nullptr) in->receiver_node->deliver(in);
  });
  // At once, unless something is in the way.
  world_->arrive({out->from, out->to}, [world = world_, in, out] {
    in->broken = true;
    out->closed = true;
    world->at(world->now(), [out] {
      if (out->receiver != nullptr) out->receiver_node->deliver(out);
    });
  });
}

void SimReactor::close_handle(int handle) {
  const auto found = handles_.find(handle);
  if (found == handles_.end()) return;
  if (found->second.holds_lock) found->second.file->locked = false;
  shutdown_handle(handle);
  if (found->second.listener != nullptr) {
    std::erase_if(world_->listeners,
                  [&](const auto& entry) { return entry.second == found->second.listener; });
  }
  handles_.erase(found);
}

Result<uint64_t> SimReactor::file_size(int handle) {
  return handles_.at(handle).file->size();
}

Status SimReactor::file_resize(int handle, uint64_t bytes) {
  if (dead_) return Status(Code::kIo, "resize: the node is dead");
  handles_.at(handle).file->resize(bytes);
  return Status::ok();
}

Status SimReactor::file_allocate(int handle, uint64_t bytes) {
  if (dead_) return Status(Code::kIo, "reserve space: the node is dead");
  SimFile& file = *handles_.at(handle).file;
  if (bytes <= file.size()) return Status::ok();
  if (world_->allocated_bytes(root_) - file.size() + bytes > faults().disk_bytes)
    return Status(Code::kNoSpace, "reserve space: No space left on device");
  file.resize(bytes);
  return Status::ok();
}

Result<SpaceMap> SimReactor::file_map_space(int handle, FileRange range) {
  if (dead_) return Status(Code::kIo, "read the extents of a file: the node is dead");
  CVOL_ASSERT(range.end <= handles_.at(handle).file->size());
  if (faults().own_fails) return Status(Code::kNoSpace, "reserve space: No space left on device");
  SpaceMap map;
  map.told = true;
  map.holes = handles_.at(handle).file->holes(range);
  return map;
}

// SimFaults::own_fails stands for a file that cannot be filled.
Result<uint64_t> SimReactor::file_own(int handle, FileRange range) {
  if (dead_) return Status(Code::kIo, "reserve space: the node is dead");
  SimFile& file = *handles_.at(handle).file;
  CVOL_ASSERT(range.end <= file.size());
  if (faults().own_fails) return Status(Code::kNoSpace, "reserve space: No space left on device");
  uint64_t missing = 0;
  for (const FileRange& hole : file.holes(range)) missing += hole.end - hole.begin;
  if (missing > 0 && world_->allocated_bytes(root_) + missing > faults().disk_bytes)
    return Status(Code::kNoSpace, "reserve space: No space left on device");
  file.fill(range);
  return missing;
}

Status SimReactor::file_punch(int handle, FileRange range) {
  if (dead_) return Status(Code::kIo, "reserve space: the node is dead");
  SimFile& file = *handles_.at(handle).file;
  CVOL_ASSERT(range.end <= file.size());
  if (world_->before_punch) world_->before_punch(range);
  file.punch(range);
  return Status::ok();
}

void SimReactor::cancel(Op& op) {
  if (op.kind == OpKind::kBlocking) return;
  const auto found = numbers_.find(&op);
  if (found == numbers_.end()) return;
  for (auto& [number, handle] : handles_) {
    if (handle.in != nullptr && handle.in->receiver == &op) handle.in->receiver = nullptr;
    if (handle.listener != nullptr && handle.listener->acceptor == &op)
      handle.listener->acceptor = nullptr;
  }
  world_->at(now(), [this, alive = alive_, number = found->second] {
    const auto pending = pending_.find(number);
    if (*alive && pending != pending_.end()) finish_op(*pending->second, -ECANCELED);
  });
}

}  // namespace cvol::io
