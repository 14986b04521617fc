// Taking the places of a node that is gone for good.
#include <unistd.h>

#include <chrono>
#include <iostream>
#include <thread>

#include "volumed/base/units.h"
#include "volumed/cli/commands.h"
#include "volumed/cli/output.h"

namespace cvol::cli {
namespace {

using namespace std::chrono_literals;
constexpr auto kBetweenLooks = 500ms;

// Volumes with a copy on the node, and how many of them lack copies in sync.
struct Progress {
  std::size_t volumes = 0, waiting = 0;
  std::string resync;  // of one of them
};

Progress look(const v1::ListVolumesResponse& volumes, const std::string& node) {
  Progress seen;
  for (const v1::Volume& volume : volumes.volumes()) {
    bool here = false;
    uint32_t in_sync = 0;
    for (const v1::Replica& copy : volume.copies()) {
      here = here || (copy.node() == node && copy.state() != "leaving");
      in_sync += copy.in_sync() ? 1 : 0;
    }
    if (!here) continue;
    ++seen.volumes;
    if (in_sync >= volume.replicas()) continue;
    ++seen.waiting;
    if (!volume.resyncs().empty())
      seen.resync = "; " + volume.name() + ": " + describe_resync(volume.resyncs(0));
  }
  return seen;
}

Status wait_until_whole(api::ApiClient& api, const std::string& node) {
  const bool terminal = ::isatty(STDERR_FILENO) != 0;
  while (true) {
    auto volumes = api.list_volumes();
    if (!volumes) return volumes.status();
    const Progress seen = look(*volumes, node);
    if (terminal)
      std::cerr << "\r\033[K" << seen.volumes - seen.waiting << " of " << seen.volumes
                << " volumes with a copy here are whole" << seen.resync << std::flush;
    if (seen.waiting == 0) break;
    std::this_thread::sleep_for(kBetweenLooks);
  }
  if (terminal) std::cerr << "\r\033[K";
  return Status::ok();
}

}  // namespace

Status replace_node(api::ApiClient& api, const Settings& settings, std::ostream& out) {
  auto status = api.get_status();
  if (!status) return status.status();
  const std::string& here = status->node().name();
  v1::ChangeNodeRequest request;
  request.set_node(settings.node);
  request.set_change("replace");
  if (auto done = api.change_node(request); !done) return done.status();
  if (settings.wait) {
    if (Status waited = wait_until_whole(api, here); !waited) return waited;
  }
  if (settings.json) return Status::ok();
  out << "Node " << here << " has the places of node " << settings.node << ", which is forgotten. "
      << (settings.wait ? "All volumes with a copy here are whole.\n"
                        : "Its copies are made anew; 'cvol volume ls' shows how far they are.\n");
  return Status::ok();
}

}  // namespace cvol::cli
