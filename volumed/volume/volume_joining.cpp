// What a node finds out before it joins a cluster, and before anything is written or touched: that
// no other volumed lives under its id (a copy of the data directory has it too), and that its times
// are those of the nodes that live.
#include <sys/stat.h>

#include <set>
#include <thread>

#include "volumed/base/log.h"
#include "volumed/meta/record_rules.h"
#include "volumed/volume/hosted.h"

namespace cvol::volume {
namespace {

using namespace std::chrono_literals;

constexpr auto kLookAgain = 200ms;

}  // namespace

// The folder itself, not its path: a copy has another one, and so has the same path on another
// host.
std::string data_place(const std::string& data_dir) {
  struct stat info {};
  if (::stat(data_dir.c_str(), &info) != 0) return "";
  return std::to_string(info.st_dev) + ":" + std::to_string(info.st_ino);
}

Result<std::optional<v1::AliveRecord>> VolumeManager::alive_record(const std::string& id) {
  const std::string key = catalog_.keys().alive(id);
  auto entry = store_->get(key);
  if (!entry) return entry.status();
  if (!*entry) return std::optional<v1::AliveRecord>();
  auto record = meta::read_alive((*entry)->key, (*entry)->value);
  // What cannot be read is replaced, as by the next renewal.
  if (!record) return std::optional<v1::AliveRecord>();
  return std::optional<v1::AliveRecord>(std::move(*record));
}

// A key that was written from this very folder, since this host has booted, is that of an earlier
// volumed: this one holds the folder's lock. Of any other one the lease tells: it ends, or it is
// kept, and then somebody lives there.
Status VolumeManager::check_alone(const std::string& id) {
  auto found = alive_record(id);
  if (!found) return found.status();
  if (!*found) return Status::ok();
  const v1::AliveRecord first = **found;
  const std::string place = data_place(options_.data_dir);
  if (!place.empty() && first.data_place() == place && first.boot_id() == options_.boot_id &&
      !options_.boot_id.empty())
    return Status::ok();
  log::info("volume",
            "the lease of an earlier life of this node, or of a copy of it, is waited for",
            {{"node", id}, {"process", first.process()}});
  const auto until = std::chrono::steady_clock::now() + ClusterOptions().alive_time + kLeaseSlack;
  while (std::chrono::steady_clock::now() < until) {
    if (options_.on_waiting) options_.on_waiting();
    std::this_thread::sleep_for(kLookAgain);
    auto now = alive_record(id);
    if (!now) return now.status();
    if (!*now) return Status::ok();
    if ((**now).process() != first.process()) break;  // somebody has just come
  }
  const std::string where =
      first.replication_addresses_size() > 0 ? first.replication_addresses(0) : "?";
  return Status(Code::kFailedPrecondition,
                "another volumed lives under this node's id (" + id + "), at " + where +
                    ": one of the two data directories is a copy of the other. Nothing was "
                    "changed. Stop the other one, or start this one with an empty --data-dir to "
                    "join as a new node");
}

// Leases only hold if all nodes mean the same by them.
Status VolumeManager::check_times(const std::string& id) {
  const ManagerOptions::ClusterMode& mode = *options_.cluster_mode;
  if (mode.accept_other_times) return Status::ok();
  auto nodes = catalog_.load_nodes();
  if (!nodes) return nodes.status();
  const auto own = shared_settings(mode.replication, mode.rebuild_after);
  for (const v1::NodeRecord& node : *nodes) {
    if (node.id() == id) continue;
    auto alive = alive_record(node.id());
    if (!alive) return alive.status();
    if (!*alive) continue;
    std::string differ;
    for (const auto& [name, value] : own) {
      const auto there = (**alive).settings().find(name);
      if (name == "rebuild-after" || there == (**alive).settings().end() || there->second == value)
        continue;
      differ += (differ.empty() ? "" : ", ") + ("--" + name) + " (here " + value + ", there " +
                there->second + ")";
    }
    if (differ.empty()) continue;
    return Status(Code::kFailedPrecondition,
                  "node " + node.name() + " runs with other times than this one: " + differ +
                      ". All nodes of a cluster need the same. Nothing was changed. Give this one "
                      "the same values; to change them on one node after the other, start each "
                      "with --accept-other-times");
  }
  return Status::ok();
}

}  // namespace cvol::volume
