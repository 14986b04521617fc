// Commands of a cluster: copies, primaries, nodes.
#include <algorithm>
#include <chrono>
#include <iostream>
#include <thread>

#include "volumed/base/units.h"
#include "volumed/cli/commands.h"
#include "volumed/cli/output.h"

namespace cvol::cli {
namespace {

using namespace std::chrono_literals;

Status show_volume(const Settings& settings, std::ostream& out, const v1::Volume& volume,
                   const std::string& sentence) {
  if (settings.json) {
    out << to_json(volume).dump(2) << "\n";
  } else {
    out << sentence << "\n";
  }
  return Status::ok();
}

Status change_node(api::ApiClient& api, const Settings& settings, std::ostream& out,
                   const char* change, const std::string& sentence) {
  v1::ChangeNodeRequest request;
  request.set_node(settings.node);
  request.set_change(change);
  auto done = api.change_node(request);
  if (!done) return done.status();
  if (!settings.json) out << sentence << "\n";
  return Status::ok();
}

uint32_t count_in_sync(const v1::Volume& volume) {
  uint32_t count = 0;
  for (const v1::Replica& copy : volume.copies()) count += copy.in_sync() ? 1 : 0;
  return count;
}

}  // namespace

std::string describe_resync(const v1::Resync& resync) {
  const uint64_t percent =
      resync.total_bytes() == 0 ? 100 : resync.done_bytes() * 100 / resync.total_bytes();
  std::string text = std::to_string(std::min<uint64_t>(percent, 100)) + " % of " +
                     format_size(resync.total_bytes()) + " looked at, " +
                     format_size(resync.sent_bytes()) + " sent";
  if (resync.verifying()) return text + ", verifying";
  if (resync.seconds_left() > 0) text += ", " + std::to_string(resync.seconds_left()) + " s left";
  return text;
}

Status force_attach_volume(api::ApiClient& api, const Settings& settings, std::ostream& out) {
  v1::AttachVolumeRequest request;
  request.set_name(settings.name);
  auto done = api.force_attach_volume(request);
  if (!done) return done.status();
  return show_volume(settings, out, done->volume(),
                     done->volume().device().empty() ? "Volume " + settings.name + " is ours now."
                                                     : done->volume().device());
}

Status explain_volume(api::ApiClient& api, const Settings& settings, std::ostream& out) {
  v1::ExplainVolumeRequest request;
  request.set_name(settings.name);
  auto done = api.explain_volume(request);
  if (!done) return done.status();
  if (settings.json) {
    out << to_json(*done).dump(2) << "\n";
    return Status::ok();
  }
  for (const std::string& sentence : done->sentences()) out << sentence << "\n";
  return Status::ok();
}

Status modify_volume(api::ApiClient& api, const Settings& settings, std::ostream& out) {
  if (settings.replicas == 0 && settings.min_in_sync == 0 && settings.on_full.empty())
    return Status(Code::kInvalidArgument,
                  "nothing is to be changed; give --replicas, --min-in-sync or --on-full");
  v1::ModifyVolumeRequest request;
  request.set_name(settings.name);
  request.set_replicas(settings.replicas);
  request.set_min_in_sync(settings.min_in_sync);
  request.set_on_full(settings.on_full);
  auto done = api.modify_volume(request);
  if (!done) return done.status();
  const v1::Volume& volume = done->volume();
  if (settings.replicas == 0 && settings.min_in_sync == 0)
    return show_volume(settings, out, volume, "Volume " + volume.name() + " is changed.");
  return show_volume(settings, out, volume,
                     "Volume " + volume.name() + " is to have " +
                         std::to_string(volume.replicas()) + " copies, " +
                         std::to_string(count_in_sync(volume)) +
                         " are in sync now. 'cvol volume resync " + volume.name() + "' waits.");
}

Status move_volume(api::ApiClient& api, const Settings& settings, std::ostream& out) {
  v1::MoveVolumeRequest request;
  request.set_name(settings.name);
  request.set_node(settings.node);
  auto done = api.move_volume(request);
  if (!done) return done.status();
  return show_volume(
      settings, out, done->volume(),
      "The primary of volume " + settings.name + " is on node " + settings.node + ".");
}

Status watch_resync(api::ApiClient& api, const Settings& settings, std::ostream& out) {
  v1::GetVolumeRequest request;
  request.set_name(settings.name);
  std::string last;
  while (true) {
    auto found = api.get_volume(request);
    if (!found) return found.status();
    const v1::Volume& volume = found->volume();
    if (count_in_sync(volume) >= volume.replicas())
      return show_volume(settings, out, volume, "All copies are in sync.");
    if (!settings.json) {
      std::string line = std::to_string(count_in_sync(volume)) + " of " +
                         std::to_string(volume.replicas()) + " copies in sync";
      for (const v1::Resync& resync : volume.resyncs()) line += "; " + describe_resync(resync);
      if (line != last) out << line << std::endl;
      last = line;
    }
    std::this_thread::sleep_for(500ms);
  }
}

// Progress goes to standard error, so that scripts get what they asked for.
Status verify_volume(api::ApiClient& api, const Settings& settings, std::ostream& out) {
  v1::VerifyVolumeRequest request;
  request.set_name(settings.name);
  v1::VerifyVolumeProgress last;
  int shown = -1;
  const Status done = api.verify_volume(request, [&](const v1::VerifyVolumeProgress& progress) {
    if (!settings.json) out << progress.differences();
    const int percent = progress.size_bytes() == 0
                            ? 100
                            : static_cast<int>(progress.done_bytes() * 100 / progress.size_bytes());
    if (percent != shown && !settings.json) std::cerr << "\r" << percent << " %" << std::flush;
    shown = percent;
    last = progress;
  });
  if (shown >= 0 && !settings.json) std::cerr << "\r";
  if (!done) return done;
  if (settings.json) {
    out << to_json(last).dump(2) << "\n";
  } else if (last.differing_blocks() == 0) {
    out << "All in-sync copies of volume " << settings.name << " are equal.\n";
  }
  if (last.differing_blocks() == 0) return Status::ok();
  return Status(Code::kDamaged, std::to_string(last.differing_blocks()) +
                                    " blocks differ between copies of volume " + settings.name);
}

Status rebuild_record(api::ApiClient& api, const Settings& settings, std::ostream& out) {
  v1::RebuildRecordRequest request;
  request.set_name(settings.name);
  request.set_accept_data_loss(settings.accept_data_loss);
  auto done = api.rebuild_record(request);
  if (!done) return done.status();
  if (!settings.json) out << "The record of volume " << settings.name << " is rebuilt.\n";
  return Status::ok();
}

Status migrate_cluster(api::ApiClient& api, const Settings& settings, std::ostream& out) {
  v1::MigrateClusterRequest request;
  request.set_to(settings.to);
  auto done = api.migrate_cluster(request);
  if (!done) return done.status();
  if (!settings.json)
    out << "The records are in " << settings.to << " now. Start volumed again with --metadata "
        << settings.to << "; until then volumes are served, and nothing can be changed.\n";
  return Status::ok();
}

Status cordon_node(api::ApiClient& api, const Settings& settings, std::ostream& out) {
  return change_node(api, settings, out, "cordon",
                     "Node " + settings.node + " takes no new copies.");
}

Status uncordon_node(api::ApiClient& api, const Settings& settings, std::ostream& out) {
  return change_node(api, settings, out, "uncordon", "Node " + settings.node + " takes copies.");
}

Status drain_node(api::ApiClient& api, const Settings& settings, std::ostream& out) {
  return change_node(api, settings, out, "drain",
                     "The copies on node " + settings.node +
                         " move to other nodes; 'cvol node ls' shows when it is drained.");
}

Status remove_node(api::ApiClient& api, const Settings& settings, std::ostream& out) {
  return change_node(api, settings, out, "rm", "Node " + settings.node + " is forgotten.");
}

}  // namespace cvol::cli
