// A client that sends arbitrary bytes to the NBD server, in the simulator: after the first byte,
// which chooses how far the handshake is done properly. Nothing may crash, hang or leak.
#include <map>
#include <vector>

#include "nbd/protocol/protocol.h"
#include "nbd/server/server.h"
#include "tests/fuzz/fuzz.h"
#include "volumed/base/bytes.h"
#include "volumed/base/log.h"
#include "volumed/io/scope.h"
#include "volumed/io/sim/sim_reactor.h"

namespace cvol::nbd {
namespace {

// A device that remembers nothing.
class NullDevice final : public BlockDevice {
 public:
  uint64_t size() const override { return 1 << 20; }
  Task<Status> read(uint64_t, std::span<std::byte> into) override {
    std::fill(into.begin(), into.end(), std::byte{0});
    co_return Status::ok();
  }
  Task<Status> write(uint64_t, std::span<const std::byte>, bool) override {
    co_return Status::ok();
  }
  Task<Status> flush() override { co_return Status::ok(); }
  Task<Status> write_zeroes(uint64_t, uint64_t, bool, bool) override { co_return Status::ok(); }
  Task<Status> trim(uint64_t, uint64_t, bool) override { co_return Status::ok(); }
  Task<Result<std::vector<Extent>>> block_status(uint64_t, uint64_t length) override {
    co_return std::vector<Extent>{{length, true, true}};
  }
};

class OneExport final : public ExportDirectory {
 public:
  explicit OneExport(io::Reactor& reactor) {
    export_ = std::make_shared<Export>();
    export_->name = "v";
    export_->device = std::make_shared<NullDevice>();
    export_->reactor = &reactor;
  }
  void open(std::string name, std::function<void(Result<std::shared_ptr<Export>>)> done) override {
    if (name == "v") return done(export_);
    done(Status(Code::kNotFound, "no such volume"));
  }
  void list(std::function<void(std::vector<std::string>)> done) override { done({"v"}); }

 private:
  std::shared_ptr<Export> export_;
};

std::string opening(uint8_t how) {
  std::string bytes;
  if (how % 4 == 0) return bytes;
  bytes += std::string("\0\0\0\3", 4);  // client flags
  if (how % 4 == 1) return bytes;
  const auto option = [&bytes](uint32_t code, const std::string& data) {
    std::byte header[16];
    store_be(&header[0], kOptionMagic);
    store_be(&header[8], code);
    store_be(&header[12], static_cast<uint32_t>(data.size()));
    bytes.append(reinterpret_cast<const char*>(header), sizeof header);
    bytes += data;
  };
  if (how % 4 == 3) option(static_cast<uint32_t>(OptionCode::kStructuredReply), "");
  if (how % 8 == 7) option(static_cast<uint32_t>(OptionCode::kExtendedHeaders), "");
  option(static_cast<uint32_t>(OptionCode::kGo), std::string("\0\0\0\1v\0\0", 7));
  return bytes;
}

Task<void> drain(io::Stream* stream) {
  std::byte buffer[4096];
  while (true) {
    const int64_t got = co_await stream->recv(buffer, sizeof buffer);
    if (got <= 0) break;
  }
}

Task<void> client(io::Reactor* reactor, std::string bytes, Server* server) {
  Result<io::Stream> stream = reactor->connect("unix:/nbd");
  if (stream) {
    io::Scope scope;
    scope.spawn(drain(&*stream));
    const iovec iov{bytes.data(), bytes.size()};
    co_await stream->sendv(&iov, 1);
    co_await reactor->sleep(io::kSecond);
    stream->shutdown();
    co_await scope.join();
  }
  co_await server->stop();
}

}  // namespace
}  // namespace cvol::nbd

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  using namespace cvol;
  log::set_level("off");
  if (size < 1) return 0;
  io::SimWorld world(data[0]);
  io::SimReactor reactor(world);
  nbd::OneExport exports(reactor);
  auto server = nbd::Server::make(reactor, exports, {});
  reactor.start([](nbd::Server* made) -> Task<void> {
    CVOL_ASSERT(made->listen("unix:/nbd"));
    co_return;
  }(server.get()));
  std::string bytes = nbd::opening(data[0]);
  bytes.append(reinterpret_cast<const char*>(data + 1), size - 1);
  CVOL_ASSERT(reactor.run(nbd::client(&reactor, std::move(bytes), server.get())));
  world.run_until([] { return false; });
  return 0;
}
