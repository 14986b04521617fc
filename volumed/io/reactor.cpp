#include "volumed/io/reactor.h"

#include <cerrno>
#include <utility>

#include "volumed/base/assert.h"

namespace cvol::io {
namespace {

thread_local Reactor* current_reactor = nullptr;

}  // namespace

bool Op::await_suspend(std::coroutine_handle<> awaiting) {
  waiter = awaiting;
  if (own_iov.iov_len != 0 || own_iov.iov_base != nullptr) iov = &own_iov;
  if (!Reactor::begin(*this)) {
    reactor->schedule(waiter);
    return true;
  }
  return reactor->submit(*this);
}

CancelToken::~CancelToken() {
  CVOL_ASSERT(first_ == nullptr);
}

void CancelToken::cancel() {
  cancelled_ = true;
  for (Op* op = first_; op != nullptr;) {
    Op* next = op->next;
    op->reactor->cancel(*op);
    op = next;
  }
}

void CancelToken::link(Op& op) {
  op.next = first_;
  op.previous = nullptr;
  if (first_ != nullptr) first_->previous = &op;
  first_ = &op;
}

void CancelToken::unlink(Op& op) {
  if (op.previous != nullptr) op.previous->next = op.next;
  if (op.next != nullptr) op.next->previous = op.previous;
  if (first_ == &op) first_ = op.next;
  op.next = op.previous = nullptr;
}

bool Reactor::begin(Op& op) {
  if (op.token == nullptr) return true;
  if (op.token->cancelled()) {
    op.token = nullptr;
    op.result = -ECANCELED;
    return false;
  }
  op.token->link(op);
  return true;
}

void Reactor::finish(Op& op) {
  if (op.token != nullptr) std::exchange(op.token, nullptr)->unlink(op);
}

Reactor* Reactor::current() {
  return current_reactor;
}
void Reactor::set_current(Reactor* reactor) {
  current_reactor = reactor;
}

Op Reactor::sleep_until(Nanoseconds when, CancelToken* token) {
  return Op(this, OpKind::kTimer, static_cast<uint64_t>(when < 0 ? 0 : when), token);
}

// --- File ---

File::File(File&& other) noexcept
    : reactor_(other.reactor_), handle_(std::exchange(other.handle_, -1)), access_(other.access_) {}

File& File::operator=(File&& other) noexcept {
  if (this != &other) {
    close();
    reactor_ = other.reactor_;
    handle_ = std::exchange(other.handle_, -1);
    access_ = other.access_;
  }
  return *this;
}

void File::close() {
  if (handle_ >= 0) reactor_->close_handle(std::exchange(handle_, -1));
}

Op File::readv(const iovec* iov, uint32_t count, uint64_t offset) const {
  return Op(reactor_, OpKind::kReadV, handle_, iov, count, offset, false, access_);
}

Op File::writev(const iovec* iov, uint32_t count, uint64_t offset, bool durable) const {
  return Op(reactor_, OpKind::kWriteV, handle_, iov, count, offset, durable, access_);
}

Op File::readv_if_cached(const iovec* iov, uint32_t count, uint64_t offset) const {
  const Access access = access_ == Access::kMemory ? access_ : Access::kIfCached;
  return Op(reactor_, OpKind::kReadV, handle_, iov, count, offset, false, access);
}

Op File::sync() const {
  return Op(reactor_, OpKind::kSync, handle_, nullptr, 0, 0, false, access_);
}

Result<uint64_t> File::size() const {
  return reactor_->file_size(handle_);
}
Status File::resize(uint64_t bytes) const {
  return reactor_->file_resize(handle_, bytes);
}
Status File::allocate(uint64_t bytes) const {
  return reactor_->file_allocate(handle_, bytes);
}

Result<SpaceMap> File::map_space(FileRange range) const {
  return reactor_->file_map_space(handle_, range);
}
Result<uint64_t> File::own(FileRange range) const {
  return reactor_->file_own(handle_, range);
}
Status File::punch(FileRange range) const {
  return reactor_->file_punch(handle_, range);
}

// --- Stream ---

Stream::Stream(Stream&& other) noexcept
    : reactor_(other.reactor_), handle_(std::exchange(other.handle_, -1)) {}

Stream& Stream::operator=(Stream&& other) noexcept {
  if (this != &other) {
    close();
    reactor_ = other.reactor_;
    handle_ = std::exchange(other.handle_, -1);
  }
  return *this;
}

int Stream::release() {
  return std::exchange(handle_, -1);
}

void Stream::close() {
  if (handle_ >= 0) reactor_->close_handle(std::exchange(handle_, -1));
}

void Stream::shutdown() const {
  if (handle_ >= 0) reactor_->shutdown_handle(handle_);
}

Op Stream::recv(void* into, std::size_t bytes) const {
  return Op(reactor_, OpKind::kRecv, handle_, into, bytes);
}

Op Stream::recvv(const iovec* iov, uint32_t count) const {
  return Op(reactor_, OpKind::kRecv, handle_, iov, count, 0, false);
}

Op Stream::sendv(const iovec* iov, uint32_t count) const {
  return Op(reactor_, OpKind::kSend, handle_, iov, count, 0, false);
}

// --- Listener ---

Listener::Listener(Listener&& other) noexcept
    : reactor_(other.reactor_), handle_(std::exchange(other.handle_, -1)) {}

Listener& Listener::operator=(Listener&& other) noexcept {
  if (this != &other) {
    close();
    reactor_ = other.reactor_;
    handle_ = std::exchange(other.handle_, -1);
  }
  return *this;
}

void Listener::close() {
  if (handle_ >= 0) reactor_->close_handle(std::exchange(handle_, -1));
}

void Listener::shutdown() const {
  if (handle_ >= 0) reactor_->shutdown_handle(handle_);
}

Op Listener::accept() const {
  return Op(reactor_, OpKind::kAccept, handle_, nullptr, 0, 0, false);
}

}  // namespace cvol::io
