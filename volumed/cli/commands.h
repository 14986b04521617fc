// What each command of cvol does, given its arguments. Prints to `out`.
#pragma once

#include <cstdint>
#include <ostream>
#include <string>
#include <vector>

#include "volumed/api/client.h"

namespace cvol::cli {

// Exit codes, as --help lists them.
enum Exit : int {
  kExitOk = 0,
  kExitFailed = 1,
  kExitUsage = 2,
  kExitNotFound = 3,
  kExitUnreachable = 4,
  kExitWrongState = 5,
};

Exit exit_of(Code code);

struct Settings {
  std::string api;
  bool json = false;

  std::string name;
  std::vector<std::string> names;
  std::string size;
  uint32_t replicas = 0;  // not given
  std::string fs = "ext4";
  std::string on_full;              // not given
  std::vector<std::string> labels;  // KEY=VALUE
  bool force = false;
  std::string path;
  std::string capacity;
  std::string journal_size;
  std::string target;
  std::string caller;
  bool follow = false;
  std::string event_kind;
  std::string event_subject;
  std::string event_since;  // a duration
  bool event_here = false;
  std::string rate;
  bool wait = false;
  bool no_wait = false;
  bool stop = false;
  bool accept_damage = false;
  uint32_t min_in_sync = 0;
  bool zone_spread = false;
  std::string node;
  std::string to;
  bool accept_data_loss = false;
  bool in_place = false;
  bool cancel = false;
};

// Each returns what went wrong, if anything.
using Command = Status (*)(api::ApiClient&, const Settings&, std::ostream&);

Status show_status(api::ApiClient& api, const Settings& settings, std::ostream& out);
Status list_nodes(api::ApiClient& api, const Settings& settings, std::ostream& out);
Status list_disks(api::ApiClient& api, const Settings& settings, std::ostream& out);
Status add_disk(api::ApiClient& api, const Settings& settings, std::ostream& out);
Status remove_disk(api::ApiClient& api, const Settings& settings, std::ostream& out);
Status replace_disk(api::ApiClient& api, const Settings& settings, std::ostream& out);
Status move_disk(api::ApiClient& api, const Settings& settings, std::ostream& out);
Status scrub_disk(api::ApiClient& api, const Settings& settings, std::ostream& out);
Status verify_disk(api::ApiClient& api, const Settings& settings, std::ostream& out);
Status create_volume(api::ApiClient& api, const Settings& settings, std::ostream& out);
Status list_volumes(api::ApiClient& api, const Settings& settings, std::ostream& out);
Status inspect_volume(api::ApiClient& api, const Settings& settings, std::ostream& out);
Status resize_volume(api::ApiClient& api, const Settings& settings, std::ostream& out);
Status trim_volume(api::ApiClient& api, const Settings& settings, std::ostream& out);
Status remove_volumes(api::ApiClient& api, const Settings& settings, std::ostream& out);
Status attach_volume(api::ApiClient& api, const Settings& settings, std::ostream& out);
Status detach_volume(api::ApiClient& api, const Settings& settings, std::ostream& out);
Status mount_volume(api::ApiClient& api, const Settings& settings, std::ostream& out);
Status unmount_volume(api::ApiClient& api, const Settings& settings, std::ostream& out);
// All mounts of `cvol volume mount` on this node; waits a few seconds for users that end.
Status unmount_all(api::ApiClient& api, const Settings& settings, std::ostream& out);
// Of a cluster (cluster_commands.cpp).
Status force_attach_volume(api::ApiClient& api, const Settings& settings, std::ostream& out);
Status explain_volume(api::ApiClient& api, const Settings& settings, std::ostream& out);
Status modify_volume(api::ApiClient& api, const Settings& settings, std::ostream& out);
Status move_volume(api::ApiClient& api, const Settings& settings, std::ostream& out);
Status watch_resync(api::ApiClient& api, const Settings& settings, std::ostream& out);
Status verify_volume(api::ApiClient& api, const Settings& settings, std::ostream& out);
Status rebuild_record(api::ApiClient& api, const Settings& settings, std::ostream& out);
Status migrate_cluster(api::ApiClient& api, const Settings& settings, std::ostream& out);
Status cordon_node(api::ApiClient& api, const Settings& settings, std::ostream& out);
Status uncordon_node(api::ApiClient& api, const Settings& settings, std::ostream& out);
Status drain_node(api::ApiClient& api, const Settings& settings, std::ostream& out);
Status remove_node(api::ApiClient& api, const Settings& settings, std::ostream& out);
// The node that answers takes the places of one that is gone.
Status replace_node(api::ApiClient& api, const Settings& settings, std::ostream& out);
Status show_events(api::ApiClient& api, const Settings& settings, std::ostream& out);

// "running 47 %", "3 days ago, clean", "never": the column of `cvol disk ls`. `now`: seconds since
// 1970.
std::string describe_scrub(const v1::Scrub& scrub, int64_t now);

// "12 % of 3.2GiB looked at, 40MiB sent, 30 s left".
std::string describe_resync(const v1::Resync& resync);

}  // namespace cvol::cli
