#include "nbd/server/server.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
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
constexpr uint64_t kMostConnections = 4096;

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
    bool accepted = false;                 // its client came by a listener
    Transmission* transmission = nullptr;  // touched on `reactor` only
    bool ended = false;                    // on `reactor`: the transmission is gone
    bool cut = false;                      // on `reactor`: end it as soon as it begins
  };

  Task<void> accept_loop(std::size_t listener);
  Task<void> shake_hands(io::Stream stream);
  Task<void> watchdog(int handle, io::CancelToken* token);
  void transmit(int descriptor, std::shared_ptr<Export> target, Agreement agreement,
                ExportName name, Resends resends);
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
  uint64_t handshakes_ = 0;
  std::vector<int> shaking_;  // sockets in handshake
  std::vector<std::shared_ptr<Connection>> connections_;
  uint64_t accepted_ = 0;  // of connections_; the kernel's dead ones must not keep clients out
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
  scope_.spawn(accept_loop(listeners_.size() - 1));
  log::info("nbd", "listening", {{"address", address}});
  return Status::ok();
}

Task<void> ServerImpl::accept_loop(std::size_t index) {
  io::Listener& listener = *listeners_[index];
  while (!stopping_) {
    const int64_t handle = co_await listener.accept();
    if (stopping_) {
      if (handle >= 0) io::Stream(&reactor_, static_cast<int>(handle)).close();
      break;
    }
    if (handle < 0) {
      log::warning("nbd", "accept failed", {{"errno", -handle}});
      co_await reactor_.sleep(100 * io::kMillisecond);
      continue;
    }
    io::Stream stream(&reactor_, static_cast<int>(handle));
    if (accepted_ + handshakes_ >= kMostConnections) {
      log::warning("nbd", "too many connections; refusing one", {{"most", kMostConnections}});
      continue;
    }
    scope_.spawn(shake_hands(std::move(stream)));
  }
}

// Ends a handshake that takes too long.
Task<void> ServerImpl::watchdog(int handle, io::CancelToken* token) {
  const int64_t expired = co_await reactor_.sleep(kHandshakeTime, token);
  if (expired == 0) reactor_.shutdown_handle(handle);
}

Task<void> ServerImpl::shake_hands(io::Stream stream) {
  ++handshakes_;
  shaking_.push_back(stream.handle());
  io::CancelToken token;
  io::Scope watch;
  watch.spawn(watchdog(stream.handle(), &token));
  Handshake handshake(reactor_, stream, directory_);
  Result<HandshakeOutcome> outcome = co_await handshake.run();
  token.cancel();
  co_await watch.join();
  std::erase(shaking_, stream.handle());
  --handshakes_;
  if (!outcome) {
    if (outcome.code() != Code::kCancelled)
      log::warning("nbd", "closing a connection", {{"why", outcome.message()}});
  } else if (!stopping_) {
    transmit(stream.release(), std::move(outcome->target), outcome->agreement, outcome->name,
             Resends::kBySession);
  }
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
                          ExportName name, Resends resends) {
  auto connection = std::make_shared<Connection>();
  connection->volume = target->name;
  connection->reactor = target->reactor;
  connection->accepted = resends == Resends::kBySession;
  if (connection->accepted) ++accepted_;
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
  if (connection->accepted) --accepted_;
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
    transmit(descriptor, target, Agreement{}, ExportName{target->name, "", 0},
             Resends::kAfterHangUp);
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
  for (int handle : shaking_) reactor_.shutdown_handle(handle);
  for (const auto& connection : connections_) cut(connection);
  while (!connections_.empty() || handshakes_ != 0) co_await changed_.wait();
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
