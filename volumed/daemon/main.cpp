// volumed: one per node; serves the node's volumes.
#include <unistd.h>

#include <iostream>
#include <memory>

#include "volumed/base/log.h"
#include "volumed/daemon/daemon.h"
#include "volumed/daemon/docker.h"
#include "volumed/daemon/dockerd.h"
#include "volumed/daemon/host.h"

namespace {

constexpr int kStopMilliseconds = 4000;   // then the process ends, whatever still hangs
constexpr int kStoreMilliseconds = 1000;  // between two tries to reach the metadata store

int fail(const cvol::Status& status) {
  std::cerr << "volumed: " << status.message() << "\n";
  return status.code() == cvol::Code::kInvalidArgument ? 2 : 1;
}

// Before anything is opened: dockerd looks for the plugin of a container that it starts for 30 s
// only, and disks and the metadata store may take longer. Calls wait for the API. Nothing: it is
// not served, or the volumed before this one still ends.
std::unique_ptr<cvol::daemon::DockerFront> start_docker(const cvol::daemon::Config& config,
                                                        bool is_last_try) {
  using namespace cvol;
  if (::geteuid() != 0 || config.docker_plugin_dir == "off") return nullptr;
  auto docker =
      daemon::DockerFront::start(config.docker_plugin_dir, "unix:" + config.run_dir + "/api.sock");
  if (docker) return std::move(*docker);
  // Everything else works without it.
  if (is_last_try)
    log::error("daemon", "the Docker plugin is not served", {{"error", docker.message()}});
  return nullptr;
}

// After an outage of everything the metadata store may come back after this node, and a file system
// that is full may get space again: both are waited for.
cvol::Result<std::unique_ptr<cvol::daemon::Daemon>> start(const cvol::daemon::Config& config) {
  using namespace cvol;
  const daemon::StartNotice notice;
  while (true) {
    auto running = daemon::Daemon::start(config);
    const bool away = running.code() == Code::kUnavailable && config.metadata.starts_with("etcd:");
    const bool full = running.code() == Code::kNoSpace;  // etcd, or the data directory
    if (!away && !full) return running;
    log::warning("daemon",
                 full ? "there is no space to start with; trying again until there is"
                      : "the metadata store is away; trying again until it answers",
                 {{"metadata", config.metadata}, {"error", running.message()}});
    daemon::notify_systemd(full ? "STATUS=waiting for space\nEXTEND_TIMEOUT_USEC=60000000"
                                : "STATUS=waiting for the metadata store\n"
                                  "EXTEND_TIMEOUT_USEC=60000000");
    if (daemon::wait_for_stop(kStoreMilliseconds) != 0)
      return Status(Code::kCancelled, "stopped before volumed could start");
  }
}

}  // namespace

int main(int argc, char** argv) {
  using namespace cvol;
  auto invocation = daemon::load_config(argc, argv);
  if (!invocation) return fail(invocation.status());
  if (invocation->done) return 0;
  const daemon::Config& config = invocation->config;
  log::set_level(config.log_level);
  daemon::harden_process();
  if (Status status = daemon::catch_stop_signals(); !status) return fail(status);
  auto docker = start_docker(config, /*is_last_try=*/false);
  const auto start_watch = [&] {
    return docker && config.docker_activate
               ? daemon::DockerWatch::start(daemon::Dockerd::find_socket())
               : nullptr;
  };
  auto watch = start_watch();
  auto running = start(config);
  if (!running) return fail(running.status());
  if (!docker) docker = start_docker(config, /*is_last_try=*/true);
  if (!watch) watch = start_watch();
  daemon::lock_memory();
  daemon::notify_systemd("READY=1\nSTATUS=serving");
  log::info("daemon", "serving",
            {{"node", config.node_name},
             {"data", config.data_dir},
             {"run", config.run_dir},
             {"http", config.http}});
  const int signal = daemon::wait_for_stop();
  log::info("daemon", "stopping", {{"signal", signal}});
  daemon::notify_systemd("STOPPING=1");
  daemon::end_process_after(kStopMilliseconds);
  watch.reset();
  docker.reset();
  running->reset();
  log::info("daemon", "stopped");
  return 0;
}
