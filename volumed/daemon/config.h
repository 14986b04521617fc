// Config: what volumed is told, by /etc/cvol/volumed.toml and by flags; flags win.
//
// Every key of the file is a flag of the same name: `data-dir = "/x"` is --data-dir /x. Unknown
// keys are refused by name. Pure but for load_config().
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "volumed/base/result.h"
#include "volumed/base/units.h"

namespace cvol::daemon {

constexpr const char* kDefaultConfig = "/etc/cvol/volumed.toml";

struct Config {
  std::string data_dir = "/var/lib/cvol";
  std::string run_dir = "/run/cvol";
  std::string node_name;  // empty: the host's name
  std::string cluster = "default";
  std::vector<std::string> listen;              // API on TCP, besides RUN_DIR/api.sock
  std::vector<std::string> nbd_listen;          // NBD on TCP, besides RUN_DIR/nbd.sock
  std::string http = "tcp:127.0.0.1:9480";      // or "off"
  std::string metadata;                         // empty: "rocksdb:DATA_DIR/meta"
  uint64_t journal_size = 0;                    // of the first disk, bytes; 0: the engine's choice
  uint64_t disk_capacity = 0;                   // of the first disk, bytes; 0: what is free
  uint64_t buffer_size = 256 * kMiB;            // bound of data in memory, per shard
  std::string read_cache = "page";              // small reads: page (the kernel's page cache), none
  uint64_t scrub_rate = 32 * kMiB;              // bytes per second
  uint64_t scrub_interval = 14ull * 24 * 3600;  // seconds; 0: no scrub unless told
  uint64_t trim_interval = 24ull * 3600;        // seconds; 0: no trim unless told
  uint32_t overcommit_limit = 0;                // sizes above so many times the disks; 0: no limit
  std::string log_level = "info";
  std::string attach_method = "auto";                     // auto, kernel, fuse, none
  std::string docker_plugin_dir = "/run/docker/plugins";  // or "off"
  std::string zone;                                       // failure domain of this node
  std::string replication_listen;                         // empty: tcp:127.0.0.1:9482 in a cluster
  std::string replication_advertise;                      // empty: replication_listen
  uint64_t beacon_ms = 250;  // replication's times (replication/core/options.h)
  uint64_t lease_ms = 1500;
  uint64_t grace_ms = 2500;
  uint64_t replica_timeout_ms = 1000;
  bool strict_reads = false;
  bool accept_other_times = false;
  uint64_t rebuild_after = 300;      // seconds until a lost replica is replaced
  std::string csi_endpoint = "off";  // "unix:///path", or "off"
  std::string csi_mode = "all";      // controller, node, all
  bool privileged_mounts = false;    // without nosuid and nodev
  bool docker_activate = true;       // make dockerd look for the plugin
  bool insecure = false;             // listen beyond loopback without certificates
};

// One key, and the flag of the same name.
struct ConfigKey {
  const char* name;
  const char* value;  // how --help calls the value; "" for a switch
  const char* help;
  bool repeated;  // may be given several times (an array in the file)
  Status (*set)(Config& config, const std::string& text);
};
const std::vector<ConfigKey>& config_keys();

// Applies the text of a configuration file. The error names the line or the key.
Status parse_config(std::string_view toml, Config& config);

// What holds between keys: addresses beyond loopback need `insecure`; fills in what is empty.
Status finish_config(Config& config);

struct Invocation {
  Config config;
  bool done = false;  // --help or --version was answered
};
// Flags, and the file that they name (or the default one, if it exists).
Result<Invocation> load_config(int argc, char** argv);

}  // namespace cvol::daemon
