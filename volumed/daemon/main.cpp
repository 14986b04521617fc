// volumed: one per node; serves the node's volumes.
#include <iostream>

#include "volumed/base/log.h"
#include "volumed/daemon/daemon.h"
#include "volumed/daemon/host.h"

namespace {

constexpr int kStopMilliseconds = 4000;  // then the process ends, whatever still hangs

int fail(const cvol::Status& status) {
  std::cerr << "volumed: " << status.message() << "\n";
  return status.code() == cvol::Code::kInvalidArgument ? 2 : 1;
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
  auto running = daemon::Daemon::start(config);
  if (!running) return fail(running.status());
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
  running->reset();
  log::info("daemon", "stopped");
  return 0;
}
