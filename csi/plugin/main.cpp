// cvol-csi: CSI's services in a process of their own, over the API of a volumed.
//
//   cvol-csi --endpoint unix:///csi/csi.sock --mode node --api unix:/run/cvol/api.sock
#include <signal.h>

#include <CLI/CLI.hpp>
#include <iostream>

#include "csi/csi_server.h"
#include "volumed/api/channel.h"
#include "volumed/base/descriptors.h"
#include "volumed/base/log.h"

namespace {

int fail(const cvol::Status& status) {
  std::cerr << "cvol-csi: " << status.message() << "\n";
  return status.code() == cvol::Code::kInvalidArgument ? 2 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  using namespace cvol;
  csi::CsiOptions options;
  std::string api;
  std::string level = "info";
  options.version = CVOL_VERSION;
  options.endpoint = "unix:///run/cvol/csi.sock";
  CLI::App app("cvol-csi: serves the Container Storage Interface", "cvol-csi");
  app.set_version_flag("--version", std::string("cvol-csi ") + CVOL_VERSION);
  app.add_option("--endpoint", options.endpoint, "Where to serve (unix:///run/cvol/csi.sock)")
      ->envname("CSI_ENDPOINT");
  app.add_option("--mode", options.mode, "controller, node or all (all)")
      ->check(CLI::IsMember({"controller", "node", "all"}));
  app.add_option("--api", api, "The volumed to speak to (CVOL_API, or unix:/run/cvol/api.sock)");
  app.add_option("--log-level", level, "trace, debug, info, warning or error (info)")
      ->check(CLI::IsMember({"trace", "debug", "info", "warning", "error"}));
  CLI11_PARSE(app, argc, argv);
  log::set_level(level);
  raise_descriptor_limit();
  // Blocked before any thread is made, so that all inherit it.
  sigset_t stop;
  sigemptyset(&stop);
  sigaddset(&stop, SIGTERM);
  sigaddset(&stop, SIGINT);
  pthread_sigmask(SIG_BLOCK, &stop, nullptr);
  auto channel = api::make_channel(api::api_address(api));
  if (!channel) return fail(channel.status());
  auto server = csi::CsiServer::start(options, std::move(*channel));
  if (!server) return fail(server.status());
  int number = 0;
  sigwait(&stop, &number);
  log::info("csi", "stopping", {{"signal", number}});
  return 0;
}
