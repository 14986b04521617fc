// Before the host shuts down: mounts that nobody else undoes would wait for a volumed that has
// ended.
#include <chrono>
#include <nlohmann/json.hpp>
#include <thread>

#include "volumed/cli/commands.h"
#include "volumed/cli/output.h"

namespace cvol::cli {
namespace {

using namespace std::chrono_literals;
constexpr auto kUnmountTime = 8s;  // of users that are being stopped at the same time
constexpr auto kPause = 200ms;

// Those of `cvol volume mount` without --caller, on the node that answers.
std::vector<v1::UnmountVolumeRequest> find_mounts(const v1::ListVolumesResponse& volumes) {
  std::vector<v1::UnmountVolumeRequest> found;
  for (const v1::Volume& volume : volumes.volumes()) {
    if (!volume.mounted_here()) continue;
    for (const std::string& id : volume.mount_ids()) {
      if (id != "cli" && !id.starts_with("cli:")) continue;
      v1::UnmountVolumeRequest& request = found.emplace_back();
      request.set_name(volume.name());
      request.set_caller_id(id);
    }
  }
  return found;
}

}  // namespace

Status unmount_all(api::ApiClient& api, const Settings& settings, std::ostream& out) {
  auto volumes = api.list_volumes();
  if (!volumes) return volumes.status();
  const auto end = std::chrono::steady_clock::now() + kUnmountTime;
  std::vector<std::string> done;
  Status refused;
  for (const v1::UnmountVolumeRequest& request : find_mounts(*volumes)) {
    Status gone = api.unmount_volume(request).status();
    while (gone.code() == Code::kBusy && std::chrono::steady_clock::now() < end) {
      std::this_thread::sleep_for(kPause);
      gone = api.unmount_volume(request).status();
    }
    if (gone.is_ok()) {
      done.push_back(request.name());
      if (!settings.json) out << "Volume " << request.name() << " is unmounted.\n";
    } else if (refused.is_ok()) {
      refused = gone.with_context("unmount volume " + request.name());
    }
  }
  if (settings.json) out << nlohmann::json(done).dump(2) << "\n";
  return refused;
}

}  // namespace cvol::cli
