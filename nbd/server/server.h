// The NBD server: fixed newstyle NBD over unix and TCP sockets (NBD proto.md), on a shard.
//
// Threading: made, started and stopped on one shard's thread; connections are handed to the shard
// that owns the volume they open. Malformed input closes that connection with a logged reason and
// harms nothing else.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "volumed/base/block_device.h"
#include "volumed/base/result.h"
#include "volumed/base/waiting_requests.h"
#include "volumed/io/reactor.h"

namespace cvol::nbd {

// What a write does that the device refuses for lack of space.
enum class OnFull : uint8_t {
  kDevicesWait,  // cvol's own devices wait for space, other clients get the error
  kWait,
  kError,
};

// A volume as the server sees it. Shared by all of its connections; the last one to go ends it.
struct Export {
  std::string name;
  std::shared_ptr<BlockDevice> device;
  io::Reactor* reactor = nullptr;  // the shard that owns the device
  bool read_only = false;
  // May change while it is used. Null: kError.
  std::shared_ptr<const std::atomic<OnFull>> on_full = nullptr;
  // Where requests that wait for space are noted; may be null.
  std::shared_ptr<WaitingRequests> for_space = nullptr;
};

// Where exports come from. Called on the server's shard; must not block: the work is done
// elsewhere and answered through `done`, on any thread, exactly once.
class ExportDirectory {
 public:
  virtual ~ExportDirectory() = default;
  // Opening may change state: a client that connects attaches the volume (DESIGN.md section 7).
  virtual void open(std::string name,
                    std::function<void(Result<std::shared_ptr<Export>>)> done) = 0;
  // The same, with the session that the client gave along with the name; empty: none.
  virtual void open_for(std::string name, std::string session,
                        std::function<void(Result<std::shared_ptr<Export>>)> done) {
    (void)session;
    open(std::move(name), std::move(done));
  }
  virtual void list(std::function<void(std::vector<std::string>)> done) = 0;
  // Does a file system of this host lie on the volume? A connection under its plain name then reads
  // only: a client that writes beside the file system destroys it. Must not block.
  virtual bool is_in_use(const std::string&) { return false; }
};

// Export names may carry a session, "NAME@SESSION/GENERATION" (SESSION: letters and digits, up to
// 64; GENERATION: a decimal number). It is how a front end that sends unanswered requests again
// fences its own past (rule R12): a connection with generation g ends those of the same session
// with a lower one and waits until what they had admitted is done, before it is admitted itself.
// A name with a session writes to a volume that is mounted, too: cvol-holder serves the mount that
// way.

struct ServerOptions {
  // Bound of request payloads in memory, per shard. Beyond it each volume may always have one
  // request, or several up to a 256th of this (memory_shares.h).
  uint64_t buffer_bytes = 256 * 1024 * 1024;
  uint32_t requests_per_connection = 128;  // under way at once; more wait in the socket
  // Connections at once, in handshake or later, from 1: by TCP, and by unix sockets (devices of
  // this host). Neither takes the other's. A further one ends the oldest that is still silent in
  // its handshake, or is refused if there is none.
  uint64_t tcp_connections = 3072;
  uint64_t unix_connections = 1024;
  // A client that says nothing for so long before it has chosen an export is disconnected.
  io::Nanoseconds silence = 10 * io::kSecond;
};

class Server {
 public:
  virtual ~Server() = default;
  // Address as for Reactor::listen. May be called several times.
  virtual Status listen(const std::string& address) = 0;
  // Serves one connected socket (for kernel NBD: a socketpair's end) without a handshake, directly
  // in transmission phase. Takes the descriptor. Any thread.
  virtual void serve_connected(int descriptor, std::shared_ptr<Export> target) = 0;
  // Ends all connections of a volume and returns when their admitted requests are done.
  virtual Task<void> disconnect(std::string name) = 0;
  // Connections per export, for status displays. Any thread.
  virtual uint64_t connections(const std::string& name) const = 0;
  // Stops listening, ends all connections, waits for them.
  virtual Task<void> stop() = 0;

  static std::unique_ptr<Server> make(io::Reactor& reactor, ExportDirectory& directory,
                                      ServerOptions options);
};

}  // namespace cvol::nbd
