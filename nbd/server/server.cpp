#include "nbd/server/server.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <list>
#include <map>
#include <mutex>

#include "nbd/server/handshake.h"
#include "nbd/server/shard_state.h"
#include "nbd/server/transmission.h"
#include "volumed/base/assert.h"
#include "volumed/base/log.h"

namespace cvol::nbd {
namespace {

constexpr io::Nanoseconds kHandshakeTime = 30 * io::kSecond;
constexpr io::Nanoseconds kAcceptPause = 100 * io::kMillisecond;
constexpr io::Nanoseconds kComplaintPause = 10 * io::kSecond;  // between two of the same

// Where a client comes from. Each kind has a budget of its own.
enum class Origin : uint8_t { kTcp, kUnix, kHanded };

class ServerImpl final : public Server {
 public:
  ServerImpl(io::Reactor& reactor, ExportDirectory& directory, ServerOptions options)
      : reactor_(reactor), directory_(directory), options_(options) {}
  ~ServerImpl() override { CVOL_ASSERT(connections_.empty() && scope_.running() == 0); }

  Status listen(const std::string& address) override;
  void serve_connected(int descriptor, std::shared_ptr<Export> target) override;
  Task<void> disconnect(std::string name) override;
  uint64_t connections(const std::string& name) const override;
  Task<void> stop() override;

 private:
  // A connection in transmission; it lives on the shard of its export.
  struct Connection {
    std::string volume;
    io::Reactor* reactor = nullptr;
    Origin origin = Origin::kHanded;       // kHanded: not by a listener
    Transmission* transmission = nullptr;  // touched on `reactor` only
    bool ended = false;                    // on `reactor`: the transmission is gone
    bool cut = false;                      // on `reactor`: end it as soon as it begins
  };

  // A client in its handshake.
  struct Shaking {
    int handle = -1;
    Origin origin = Origin::kTcp;
    Handshake* handshake = nullptr;
    bool ended = false;  // by us
  };

  Task<void> accept_loop(std::size_t listener, Origin origin);
  bool make_room(Origin origin);
  bool may_complain();
  Task<void> shake_hands(io::Stream stream, Origin origin);
  Task<void> watchdog(Shaking* shaking, io::CancelToken* token);
  void transmit(int descriptor, std::shared_ptr<Export> target, Agreement agreement,
                ExportName name, Origin origin);
  uint64_t& open_of(Origin origin) { return origin == Origin::kUnix ? open_unix_ : open_tcp_; }
  static Task<void> run_transmission(ServerImpl* server, ShardState* shard, int descriptor,
                                     std::shared_ptr<Export> target, Agreement agreement,
                                     ExportName name, Resends resends,
                                     std::shared_ptr<Connection> connection);
  ShardState& shard_of(io::Reactor& reactor);
  void connection_ended(const std::shared_ptr<Connection>& connection);
  void cut(const std::shared_ptr<Connection>& connection);
  void close_shards();

  io::Reactor& reactor_;
  ExportDirectory& directory_;
  ServerOptions options_;
  bool stopping_ = false;
  std::vector<std::unique_ptr<io::Listener>> listeners_;
  std::list<Shaking*> shaking_;  // the oldest first
  std::vector<std::shared_ptr<Connection>> connections_;
  // Accepted clients, in handshake or later; the kernel's dead ones must not keep clients out.
  uint64_t open_tcp_ = 0;
  uint64_t open_unix_ = 0;
  io::Nanoseconds complained_ = 0;  // when the log was told last that accepting does not work
  uint64_t shards_closing_ = 0;
  io::WaitList changed_;
  io::Scope scope_;
  mutable std::mutex mutex_;
  std::map<std::string, uint64_t> counts_;                      // guarded by mutex_
  std::map<io::Reactor*, std::unique_ptr<ShardState>> shards_;  // guarded by mutex_
};

Status ServerImpl::listen(const std::string& address) {
  Result<io::Listener> listener = reactor_.listen(address, io::Watch::kPatiently);
  if (!listener) return listener.status();
  listeners_.push_back(std::make_unique<io::Listener>(std::move(*listener)));
  const Origin origin = address.starts_with("unix:") ? Origin::kUnix : Origin::kTcp;
  scope_.spawn(accept_loop(listeners_.size() - 1, origin));
  log::info("nbd", "listening", {{"address", address}});
  return Status::ok();
}

// Whoever floods the listener does not flood the log.
bool ServerImpl::may_complain() {
  const io::Nanoseconds now = reactor_.now();
  if (complained_ != 0 && now - complained_ < kComplaintPause) return false;
  complained_ = now;
  return true;
}

// Descriptors or memory may be short: accepting goes on when they are there again.
Task<void> ServerImpl::accept_loop(std::size_t index, Origin origin) {
  io::Listener& listener = *listeners_[index];
  while (!stopping_) {
    const int64_t handle = co_await listener.accept();
    if (stopping_) {
      if (handle >= 0) io::Stream(&reactor_, static_cast<int>(handle)).close();
      break;
    }
    if (handle < 0) {
      if (may_complain())
        log::warning("nbd", "cannot accept a connection; trying again",
                     {{"error", status_from_errno(static_cast<int>(-handle), "accept").message()}});
      co_await reactor_.sleep(kAcceptPause);
      continue;
    }
    io::Stream stream(&reactor_, static_cast<int>(handle));
    if (!make_room(origin)) continue;
    scope_.spawn(shake_hands(std::move(stream), origin));
  }
}

// Whether one more client may stay. The oldest that has not chosen an export makes room for it:
// those who say nothing must not keep out those who do.
bool ServerImpl::make_room(Origin origin) {
  const uint64_t most =
      origin == Origin::kUnix ? options_.unix_connections : options_.tcp_connections;
  if (open_of(origin) < most) return true;
  for (Shaking* shaking : shaking_) {
    if (shaking->origin != origin || shaking->ended || !shaking->handshake->waits_for_client())
      continue;
    shaking->ended = true;
    reactor_.shutdown_handle(shaking->handle);
    return true;
  }
  if (may_complain())
    log::warning("nbd", "too many connections; refusing one",
                 {{"from", origin == Origin::kUnix ? "unix" : "tcp"}, {"most", most}});
  return false;
}

// Ends a handshake that takes too long, or whose client is silent.
Task<void> ServerImpl::watchdog(Shaking* shaking, io::CancelToken* token) {
  const io::Nanoseconds begun = reactor_.now();
  while (true) {
    const int64_t ended = co_await reactor_.sleep(options_.silence, token);
    if (ended != 0) co_return;
    const io::Nanoseconds now = reactor_.now();
    const Handshake& handshake = *shaking->handshake;
    const bool silent =
        handshake.waits_for_client() && now - handshake.last_progress() >= options_.silence;
    if (silent || now - begun >= kHandshakeTime) break;
  }
  shaking->ended = true;
  reactor_.shutdown_handle(shaking->handle);
}

Task<void> ServerImpl::shake_hands(io::Stream stream, Origin origin) {
  ++open_of(origin);
  Handshake handshake(reactor_, stream, directory_);
  Shaking shaking{stream.handle(), origin, &handshake, false};
  shaking_.push_back(&shaking);
  io::CancelToken token;
  io::Scope watch;
  watch.spawn(watchdog(&shaking, &token));
  Result<HandshakeOutcome> outcome = co_await handshake.run();
  token.cancel();
  co_await watch.join();
  shaking_.remove(&shaking);
  if (!outcome) {
    if (outcome.code() != Code::kCancelled)
      log::warning("nbd", "closing a connection", {{"why", outcome.message()}});
  } else if (!stopping_ && !shaking.ended) {
    transmit(stream.release(), std::move(outcome->target), outcome->agreement, outcome->name,
             origin);
    ++open_of(origin);  // of the transmission; the handshake's goes below
  }
  --open_of(origin);
  changed_.wake_all();
}

ShardState& ServerImpl::shard_of(io::Reactor& reactor) {
  std::lock_guard lock(mutex_);
  std::unique_ptr<ShardState>& state = shards_[&reactor];
  if (state == nullptr) state = std::make_unique<ShardState>(reactor, options_.buffer_bytes);
  return *state;
}

// Hands the socket to the shard that owns the device.
void ServerImpl::transmit(int descriptor, std::shared_ptr<Export> target, Agreement agreement,
                          ExportName name, Origin origin) {
  const Resends resends = origin == Origin::kHanded ? Resends::kAfterHangUp : Resends::kBySession;
  auto connection = std::make_shared<Connection>();
  connection->volume = target->name;
  connection->reactor = target->reactor;
  connection->origin = origin;
  connections_.push_back(connection);
  {
    std::lock_guard lock(mutex_);
    ++counts_[connection->volume];
  }
  log::info("nbd", "connected", {{"volume", connection->volume}});
  ShardState& shard = shard_of(*target->reactor);
  target->reactor->post([this, &shard, descriptor, target, agreement, name, resends, connection] {
    shard.scope().spawn(
        run_transmission(this, &shard, descriptor, target, agreement, name, resends, connection));
  });
}

Task<void> ServerImpl::run_transmission(ServerImpl* server, ShardState* shard, int descriptor,
                                        std::shared_ptr<Export> target, Agreement agreement,
                                        ExportName name, Resends resends,
                                        std::shared_ptr<Connection> connection) {
  {
    auto transmission = std::make_unique<Transmission>(
        *shard, io::Stream(&shard->reactor(), descriptor), target, agreement, name,
        server->options_.requests_per_connection, resends);
    connection->transmission = transmission.get();
    if (connection->cut) transmission->shutdown();
    co_await transmission->run();
    connection->transmission = nullptr;
    connection->ended = true;
  }
  target.reset();
  server->reactor_.post([server, connection] { server->connection_ended(connection); });
}

void ServerImpl::connection_ended(const std::shared_ptr<Connection>& connection) {
  {
    std::lock_guard lock(mutex_);
    if (--counts_[connection->volume] == 0) counts_.erase(connection->volume);
  }
  log::info("nbd", "disconnected", {{"volume", connection->volume}});
  std::erase(connections_, connection);
  if (connection->origin != Origin::kHanded) --open_of(connection->origin);
  changed_.wake_all();
}

void ServerImpl::cut(const std::shared_ptr<Connection>& connection) {
  connection->reactor->post([connection] {
    connection->cut = true;
    if (connection->transmission != nullptr) connection->transmission->shutdown();
  });
}

void ServerImpl::serve_connected(int descriptor, std::shared_ptr<Export> target) {
  reactor_.post([this, descriptor, target = std::move(target)] {
    if (stopping_) {
      io::Stream(&reactor_, descriptor).close();
      return;
    }
    transmit(descriptor, target, Agreement{}, ExportName{target->name, "", 0}, Origin::kHanded);
  });
}

Task<void> ServerImpl::disconnect(std::string name) {
  for (const auto& connection : connections_) {
    if (connection->volume == name) cut(connection);
  }
  auto any = [&] {
    return std::any_of(connections_.begin(), connections_.end(),
                       [&](const auto& connection) { return connection->volume == name; });
  };
  while (any()) co_await changed_.wait();
}

uint64_t ServerImpl::connections(const std::string& name) const {
  std::lock_guard lock(mutex_);
  const auto found = counts_.find(name);
  return found == counts_.end() ? 0 : found->second;
}

Task<void> ServerImpl::stop() {
  stopping_ = true;
  for (const auto& listener : listeners_) listener->shutdown();
  for (Shaking* shaking : shaking_) reactor_.shutdown_handle(shaking->handle);
  for (const auto& connection : connections_) cut(connection);
  while (!connections_.empty() || !shaking_.empty()) co_await changed_.wait();
  co_await scope_.join();
  close_shards();
  while (shards_closing_ != 0) co_await changed_.wait();
}

// Each shard's state ends on its own thread, when nothing runs there any more.
void ServerImpl::close_shards() {
  std::lock_guard lock(mutex_);
  for (auto& [reactor, owned] : shards_) {
    ++shards_closing_;
    auto* state = owned.release();
    reactor->post([this, state, on = reactor] {
      state->close_then([this, state, on] {
        on->post([this, state] {
          delete state;
          reactor_.post([this] {
            --shards_closing_;
            changed_.wake_all();
          });
        });
      });
    });
  }
  shards_.clear();
}

}  // namespace

std::unique_ptr<Server> Server::make(io::Reactor& reactor, ExportDirectory& directory,
                                     ServerOptions options) {
  return std::make_unique<ServerImpl>(reactor, directory, options);
}

}  // namespace cvol::nbd
