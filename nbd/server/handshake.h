// The server's side of the fixed newstyle handshake, up to the choice of an export.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "nbd/protocol/protocol.h"
#include "nbd/server/server.h"
#include "volumed/io/reactor.h"

namespace cvol::nbd {

struct HandshakeOutcome {
  std::shared_ptr<Export> target;
  Agreement agreement;
  ExportName name;
};

class Handshake {
 public:
  // Both outlive run().
  Handshake(io::Reactor& reactor, io::Stream& stream, ExportDirectory& directory)
      : reactor_(reactor), stream_(stream), directory_(directory) {}

  // kCancelled: the client went away in order. Any other error is the reason to log.
  Task<Result<HandshakeOutcome>> run();

  // Whether it is the client's turn, and when it last said or took something.
  bool waits_for_client() const { return waits_for_client_; }
  io::Nanoseconds last_progress() const { return last_progress_; }

 private:
  enum class Next { kMoreOptions, kTransmission, kAbort };

  Task<Status> receive(void* into, std::size_t bytes);
  Task<Status> send(std::string text);
  Task<Result<Next>> serve_option(OptionHeader header, std::vector<std::byte> data);
  Task<Result<Next>> export_name(std::vector<std::byte> data);
  Task<Result<Next>> go(OptionHeader header, std::vector<std::byte> data);
  Task<Status> list(OptionHeader header, bool empty);
  Task<Status> meta_context(OptionHeader header, std::vector<std::byte> data);
  Task<Result<std::shared_ptr<Export>>> open(const ExportName& name);

  io::Reactor& reactor_;
  io::Stream& stream_;
  ExportDirectory& directory_;
  bool no_zeroes_ = false;
  bool waits_for_client_ = true;
  io::Nanoseconds last_progress_ = reactor_.now();
  bool reads_only(const ExportName& name, const Export& target) const;

  std::string context_export_;  // the export that base:allocation was set for
  HandshakeOutcome outcome_;
};

}  // namespace cvol::nbd
