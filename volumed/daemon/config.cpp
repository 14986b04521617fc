#include "volumed/daemon/config.h"

#include <unistd.h>

#include <toml++/toml.h>

#include <algorithm>
#include <sstream>

namespace cvol::daemon {
namespace {

Status set_size(uint64_t& into, const std::string& text, uint64_t least, uint64_t most) {
  auto size = parse_size(text);
  if (!size) return size.status();
  if (*size != 0 && (*size < least || *size > most))
    return Status(Code::kInvalidArgument,
                  text + " is not between " + format_size(least) + " and " + format_size(most));
  into = *size;
  return Status::ok();
}

Status set_rate(uint64_t& into, const std::string& text) {
  auto rate = parse_rate(text);
  if (!rate) return rate.status();
  into = *rate;
  return Status::ok();
}

Status set_interval(uint64_t& into, const std::string& text) {
  constexpr uint64_t kHour = 3600;
  auto seconds = parse_duration(text);
  if (!seconds) return seconds.status();
  if (*seconds != 0 && (*seconds < kHour || *seconds > 366 * 24 * kHour))
    return Status(Code::kInvalidArgument, text + " is not 0 (never) or between 1h and 366d");
  into = *seconds;
  return Status::ok();
}

Status set_factor(uint32_t& into, const std::string& text) {
  const bool number =
      !text.empty() && text.size() <= 7 &&
      std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
  if (!number || std::stoul(text) > 1'000'000)
    return Status(
        Code::kInvalidArgument,
        "'" + text + "' is no factor; give a number from 1 to 1000000, or 0 for no limit");
  into = static_cast<uint32_t>(std::stoul(text));
  return Status::ok();
}

// "250ms", "1500ms", "2s".
Status set_milliseconds(uint64_t& into, const std::string& text, uint64_t least, uint64_t most) {
  const bool milliseconds = text.ends_with("ms");
  const bool seconds = !milliseconds && text.ends_with("s");
  const std::string digits = text.substr(0, text.size() - (milliseconds ? 2 : seconds ? 1 : 0));
  const bool number =
      !digits.empty() && digits.size() <= 7 &&
      std::all_of(digits.begin(), digits.end(), [](char c) { return c >= '0' && c <= '9'; });
  if (!number || (!milliseconds && !seconds))
    return Status(Code::kInvalidArgument, "'" + text + "' is no time; write it like 250ms or 2s");
  const uint64_t value = std::stoull(digits) * (seconds ? 1000 : 1);
  if (value < least || value > most)
    return Status(Code::kInvalidArgument, text + " is not between " + std::to_string(least) +
                                              "ms and " + std::to_string(most) + "ms");
  into = value;
  return Status::ok();
}

Status set_path(std::string& into, const std::string& text) {
  if (text.empty() || text[0] != '/')
    return Status(Code::kInvalidArgument, "'" + text + "' is no absolute path");
  into = text;
  while (into.size() > 1 && into.back() == '/') into.pop_back();
  return Status::ok();
}

Status set_choice(std::string& into, const std::string& text,
                  std::initializer_list<const char*> choices) {
  std::string all;
  for (const char* choice : choices) {
    if (text == choice) {
      into = text;
      return Status::ok();
    }
    all += (all.empty() ? "" : ", ") + std::string(choice);
  }
  return Status(Code::kInvalidArgument, "'" + text + "' is none of " + all);
}

// "HOST:PORT" with or without "tcp:", or "unix:/path".
Result<std::string> parse_address(const std::string& text) {
  if (text.starts_with("unix:/")) return text;
  const std::string address = text.starts_with("tcp:") ? text : "tcp:" + text;
  const auto colon = address.rfind(':');
  const std::string port = address.substr(colon + 1);
  const bool digits =
      !port.empty() && port.size() <= 5 &&
      std::all_of(port.begin(), port.end(), [](char c) { return c >= '0' && c <= '9'; });
  if (colon < 5 || !digits || std::stoi(port) > 65535)
    return Status(Code::kInvalidArgument,
                  "'" + text + "' is no address; write it like 127.0.0.1:9481 or unix:/path");
  return address;
}

Status add_address(std::vector<std::string>& into, const std::string& text) {
  auto address = parse_address(text);
  if (!address) return address.status();
  into.push_back(*address);
  return Status::ok();
}

Status set_http(Config& config, const std::string& text) {
  if (text == "off") {
    config.http = text;
    return Status::ok();
  }
  auto address = parse_address(text);
  if (!address) return address.status();
  config.http = *address;
  return Status::ok();
}

// "HOST:PORT[,HOST:PORT...]"
bool are_endpoints(const std::string& text) {
  std::istringstream list(text + ",");
  std::string endpoint;
  while (std::getline(list, endpoint, ',')) {
    const bool plain = endpoint.find('/') == std::string::npos && !endpoint.starts_with("tcp:");
    if (!plain || !parse_address(endpoint)) return false;
  }
  return true;
}

Status set_metadata(Config& config, const std::string& text) {
  constexpr std::string_view kEtcd = "etcd:";
  const bool etcd = text.starts_with(kEtcd) && are_endpoints(text.substr(kEtcd.size()));
  if (!etcd && !text.starts_with("rocksdb:/"))
    return Status(Code::kInvalidArgument,
                  "'" + text +
                      "' is no metadata store; write it like rocksdb:/var/lib/cvol/meta or "
                      "etcd:10.0.0.1:2379,10.0.0.2:2379,10.0.0.3:2379");
  config.metadata = text;
  return Status::ok();
}

Status set_switch(bool& into, const std::string& text) {
  if (text != "true" && text != "false")
    return Status(Code::kInvalidArgument, "'" + text + "' is neither true nor false");
  into = text == "true";
  return Status::ok();
}

bool is_loopback(const std::string& address) {
  return address.starts_with("unix:") || address.starts_with("tcp:127.") ||
         address.starts_with("tcp:[::1]:") || address.starts_with("tcp:localhost:");
}

Status bad_key(std::string_view name, const Status& why) {
  return Status(why.code(), std::string(name) + ": " + why.message());
}

Result<std::string> text_of(const toml::node& value) {
  if (const auto* text = value.as_string()) return text->get();
  if (const auto* number = value.as_integer()) return std::to_string(number->get());
  if (const auto* flag = value.as_boolean()) return std::string(flag->get() ? "true" : "false");
  return Status(Code::kInvalidArgument, "the value is no text, number, true or false");
}

Status apply_value(const ConfigKey& key, const toml::node& value, Config& config) {
  auto text = text_of(value);
  if (!text) return bad_key(key.name, text.status());
  Status status = key.set(config, *text);
  return status.is_ok() ? status : bad_key(key.name, status);
}

Status apply_node(const ConfigKey& key, const toml::node& node, Config& config) {
  const auto* array = node.as_array();
  if (array == nullptr) return apply_value(key, node, config);
  if (!key.repeated)
    return bad_key(key.name, Status(Code::kInvalidArgument, "takes one value, not a list"));
  for (const toml::node& value : *array) CVOL_TRY(apply_value(key, value, config));
  return Status::ok();
}

}  // namespace

const std::vector<ConfigKey>& config_keys() {
  static const std::vector<ConfigKey> keys = {
      {"data-dir", "PATH", "Where everything is kept (/var/lib/cvol)", false,
       [](Config& c, const std::string& t) { return set_path(c.data_dir, t); }},
      {"run-dir", "PATH", "Where the sockets are (/run/cvol)", false,
       [](Config& c, const std::string& t) { return set_path(c.run_dir, t); }},
      {"node-name", "NAME", "Name of this node (the host's)", false,
       [](Config& c, const std::string& t) {
         c.node_name = t;
         return validate_name(t, "node");
       }},
      {"cluster", "NAME", "Name of the cluster (default)", false,
       [](Config& c, const std::string& t) {
         c.cluster = t;
         return validate_name(t, "cluster");
       }},
      {"listen", "ADDRESS", "Serve the API here too, like 127.0.0.1:9481", true,
       [](Config& c, const std::string& t) { return add_address(c.listen, t); }},
      {"nbd-listen", "ADDRESS", "Serve NBD here too, like 127.0.0.1:10809", true,
       [](Config& c, const std::string& t) { return add_address(c.nbd_listen, t); }},
      {"http", "ADDRESS", "Metrics and health (127.0.0.1:9480), or off", false, set_http},
      {"metadata", "STORE", "Metadata store (rocksdb:DATA_DIR/meta)", false, set_metadata},
      {"journal-size", "SIZE", "Journal of the first disk, when it is formatted", false,
       [](Config& c, const std::string& t) {
         return set_size(c.journal_size, t, 16 * kMiB, 64 * kGiB);
       }},
      {"disk-capacity", "SIZE", "Most that the first disk takes, when it is formatted", false,
       [](Config& c, const std::string& t) {
         return set_size(c.disk_capacity, t, 64 * kMiB, kMaxVolumeBytes);
       }},
      {"buffer-size", "SIZE", "Bound of data in memory, per shard (256MiB)", false,
       [](Config& c, const std::string& t) {
         CVOL_TRY(set_size(c.buffer_size, t, 16 * kMiB, 64 * kGiB));
         if (c.buffer_size != 0) return Status::ok();
         c.buffer_size = 256 * kMiB;
         return Status(Code::kInvalidArgument, t + " is not between 16MiB and 64GiB");
       }},
      {"scrub-rate", "RATE", "How fast scrubs read, each disk (32MiB/s)", false,
       [](Config& c, const std::string& t) { return set_rate(c.scrub_rate, t); }},
      {"scrub-interval", "TIME", "From one scrub of a disk to the next (14d); 0: only when told",
       false, [](Config& c, const std::string& t) { return set_interval(c.scrub_interval, t); }},
      {"trim-interval", "TIME",
       "From one trim of a mounted file system to the next (1d); 0: only when told", false,
       [](Config& c, const std::string& t) { return set_interval(c.trim_interval, t); }},
      {"overcommit-limit", "FACTOR",
       "Refuse volumes of more than so many times what all disks hold (0: no limit)", false,
       [](Config& c, const std::string& t) { return set_factor(c.overcommit_limit, t); }},
      {"read-cache", "CACHE", "Of small reads: page (the kernel's page cache) or none (page)",
       false,
       [](Config& c, const std::string& t) {
         return set_choice(c.read_cache, t, {"page", "none"});
       }},
      {"log-level", "LEVEL", "trace, debug, info, warning or error (info)", false,
       [](Config& c, const std::string& t) {
         return set_choice(c.log_level, t, {"trace", "debug", "info", "warning", "error"});
       }},
      {"attach-method", "METHOD", "auto, kernel, fuse or none (auto)", false,
       [](Config& c, const std::string& t) {
         return set_choice(c.attach_method, t, {"auto", "kernel", "fuse", "none"});
       }},
      {"docker-plugin-dir", "PATH", "Where dockerd looks for plugins (/run/docker/plugins), or off",
       false,
       [](Config& c, const std::string& t) {
         if (t != "off") return set_path(c.docker_plugin_dir, t);
         c.docker_plugin_dir = t;
         return Status::ok();
       }},
      {"csi-endpoint", "ENDPOINT", "Serve CSI here, like unix:///run/cvol/csi.sock (off)", false,
       [](Config& c, const std::string& t) {
         c.csi_endpoint = t;
         if (t == "off" || (t.starts_with("unix:/") && t.size() > 6)) return Status::ok();
         return Status(Code::kInvalidArgument,
                       "'" + t + "' is no endpoint; write it like unix:///run/cvol/csi.sock");
       }},
      {"csi-mode", "MODE", "Which CSI services: controller, node or all (all)", false,
       [](Config& c, const std::string& t) {
         return set_choice(c.csi_mode, t, {"controller", "node", "all"});
       }},
      {"zone", "NAME", "Failure domain of this node (rack, site); for --zone-spread", false,
       [](Config& c, const std::string& t) {
         c.zone = t;
         return t.empty() ? Status::ok() : validate_name(t, "zone");
       }},
      {"replication-listen", "ADDRESS",
       "Serve other nodes here (127.0.0.1:9482); one port more for each further shard", false,
       [](Config& c, const std::string& t) {
         auto address = parse_address(t);
         if (!address) return address.status();
         c.replication_listen = *address;
         return Status::ok();
       }},
      {"replication-advertise", "ADDRESS", "The same as other nodes reach it", false,
       [](Config& c, const std::string& t) {
         auto address = parse_address(t);
         if (!address) return address.status();
         c.replication_advertise = *address;
         return Status::ok();
       }},
      {"beacon", "TIME", "How often a primary asks for leases (250ms)", false,
       [](Config& c, const std::string& t) { return set_milliseconds(c.beacon_ms, t, 20, 10000); }},
      {"lease", "TIME", "How long a primary may read after a beacon (1500ms)", false,
       [](Config& c, const std::string& t) { return set_milliseconds(c.lease_ms, t, 100, 60000); }},
      {"grace", "TIME", "Silence after which another replica takes over (2500ms)", false,
       [](Config& c, const std::string& t) {
         return set_milliseconds(c.grace_ms, t, 200, 120000);
       }},
      {"replica-timeout", "TIME", "Silence after which a replica is put out of sync (1000ms)",
       false,
       [](Config& c, const std::string& t) {
         return set_milliseconds(c.replica_timeout_ms, t, 100, 60000);
       }},
      {"strict-reads", "", "Have each read confirmed by the other replicas, and trust no clock",
       false, [](Config& c, const std::string& t) { return set_switch(c.strict_reads, t); }},
      {"accept-other-times", "",
       "Join though living nodes have other times: they are being changed", false,
       [](Config& c, const std::string& t) { return set_switch(c.accept_other_times, t); }},
      {"rebuild-after", "TIME", "Until a lost replica is replaced on another node (5min)", false,
       [](Config& c, const std::string& t) {
         auto seconds = parse_duration(t);
         if (!seconds) return seconds.status();
         if (*seconds < 5 || *seconds > 7 * 24 * 3600)
           return Status(Code::kInvalidArgument, t + " is not between 5s and 7d");
         c.rebuild_after = *seconds;
         return Status::ok();
       }},
      {"privileged-mounts", "", "Set-user-id files and devices in volumes have their rights", false,
       [](Config& c, const std::string& t) { return set_switch(c.privileged_mounts, t); }},
      {"docker-activate", "SWITCH", "Make dockerd look for the plugin, on its socket (true)", false,
       [](Config& c, const std::string& t) { return set_switch(c.docker_activate, t); }},
      {"insecure", "", "Allow to listen beyond this host without certificates", false,
       [](Config& c, const std::string& t) { return set_switch(c.insecure, t); }},
  };
  return keys;
}

Status parse_config(std::string_view text, Config& config) {
  toml::table table;
  try {
    table = toml::parse(text);
  } catch (const toml::parse_error& error) {
    std::ostringstream where;
    where << "line " << error.source().begin.line << ": " << error.description();
    return Status(Code::kInvalidArgument, where.str());
  }
  for (const auto& entry : table) {
    const std::string name(entry.first.str());
    const auto& keys = config_keys();
    const auto key = std::find_if(keys.begin(), keys.end(),
                                  [&](const ConfigKey& known) { return name == known.name; });
    if (key == keys.end())
      return Status(Code::kInvalidArgument,
                    "there is no key '" + name + "'; 'volumed --help' lists those there are");
    CVOL_TRY(apply_node(*key, entry.second, config));
  }
  return Status::ok();
}

Status finish_config(Config& config) {
  std::vector<std::string> addresses = config.listen;
  addresses.insert(addresses.end(), config.nbd_listen.begin(), config.nbd_listen.end());
  if (config.http != "off") addresses.push_back(config.http);
  const bool clustered = config.metadata.starts_with("etcd:");
  if (clustered && config.replication_listen.empty())
    config.replication_listen = "tcp:127.0.0.1:9482";
  if (!clustered && !config.replication_listen.empty())
    return Status(Code::kInvalidArgument,
                  "replication-listen needs a cluster: give --metadata etcd:HOST:PORT,...");
  if (clustered) addresses.push_back(config.replication_listen);
  for (const std::string& address : addresses) {
    if (!config.insecure && !is_loopback(address))
      return Status(Code::kInvalidArgument,
                    "refusing to listen on " + address +
                        ": whoever reaches it could read and change every volume. Use a loopback "
                        "address, or --insecure on a network that you trust");
  }
  if (config.node_name.empty()) {
    char name[256] = {};
    if (::gethostname(name, sizeof name - 1) != 0)
      return status_from_errno(errno, "find the host's name");
    config.node_name = name;
    CVOL_TRY(validate_name(config.node_name, "node").with_context("set --node-name"));
  }
  if (config.metadata.empty()) config.metadata = "rocksdb:" + config.data_dir + "/meta";
  return Status::ok();
}

}  // namespace cvol::daemon
