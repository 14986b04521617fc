// One connection to an NBD server on a unix socket, from connect to transmission phase; blocking.
//
// Threading: connect_export() on any thread. Of a Connection, one thread may send while another
// receives; shut_down() may be called from any thread to wake both.
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "nbd/client/codec.h"
#include "volumed/base/result.h"

namespace cvol::nbd::client {

class Connection {
 public:
  Connection() = default;
  Connection(int descriptor, ExportInfo info) : descriptor_(descriptor), info_(info) {}
  Connection(Connection&& other) noexcept;
  Connection& operator=(Connection&& other) noexcept;
  ~Connection();

  bool is_open() const { return descriptor_ >= 0; }
  const ExportInfo& info() const { return info_; }
  void set_info(const ExportInfo& info) { info_ = info; }

  // Sends header and payload whole. kUnavailable: the connection is gone.
  Status send(std::span<const std::byte> header, std::span<const std::byte> payload);
  // Receives exactly into.size() bytes. kUnavailable: the connection is gone.
  Status receive(std::span<std::byte> into);
  // Ends both directions; a send or receive that is under way on another thread returns.
  void shut_down();

 private:
  int descriptor_ = -1;
  ExportInfo info_;
};

// Connects to the unix socket `path` and opens `export_name` by NBD_OPT_GO. Takes at most
// `timeout_seconds` for each message of the handshake. kUnavailable: nobody listens, or the server
// does not answer in time; kNotFound and kPermission as apply_go_reply().
Result<Connection> connect_export(const std::string& path, const std::string& export_name,
                                  int timeout_seconds);

}  // namespace cvol::nbd::client
