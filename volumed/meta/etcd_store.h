// The metadata store in etcd (v3 API, 3.4 and newer): one member, or three and more.
//
// Threading: any thread. Every watch has a thread of its own. Watches may outlive the store.
// Endpoints: calls go to one of them as long as it answers, and to the next when it does not, so a
// member that is dead or paused costs one call about a second and the others nothing. Reads are
// linearizable: a member that is cut off from its leader answers none.
// Errors: kUnavailable: no endpoint has answered, or (a commit) the outcome is unknown.
// kNoSpace, kPermission, kDamaged: etcd says so. kFailedPrecondition: the endpoints do not belong
// to one cluster, or it has two members.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "volumed/meta/metadata_store.h"

namespace cvol::meta {

// Paths of PEM files. All empty: no TLS.
struct EtcdTls {
  std::string ca;    // who signed the servers' certificates; empty: those that the host trusts
  std::string cert;  // ours, with `key`; both or none
  std::string key;

  bool wanted() const { return !ca.empty() || !cert.empty() || !key.empty(); }
};

struct EtcdOptions {
  std::vector<std::string> endpoints;  // "HOST:PORT", at least one
  EtcdTls tls;
  // How long to wait for a connection before the next endpoint is tried: above a round trip with a
  // TLS handshake, below what a caller notices.
  std::chrono::milliseconds connect_time{300};
  // Of one attempt at a call: above a slow sync of etcd's disks, below its elections.
  std::chrono::milliseconds attempt_time{1000};
  // No new attempt is begun after this: an election (1 to 2 s) fits in. A call ends at most
  // attempt_time and connect_time later.
  std::chrono::milliseconds call_time{4000};
  // A watch asks for a sign of life when it has heard nothing for this long ...
  std::chrono::milliseconds watch_ask_after{2000};
  // ... and goes on at another endpoint when it has heard nothing for this long.
  std::chrono::milliseconds watch_silence{4500};
};

// Splits "HOST:PORT[,HOST:PORT...]". kInvalidArgument: an empty one, or no port.
Result<std::vector<std::string>> parse_etcd_endpoints(const std::string& text);

// Leases are whole seconds (rounded up), and etcd makes very short ones longer (2 s by default).
// kUnavailable: no endpoint has answered: call again. kFailedPrecondition: a cluster of two
// members. kUnsupported: etcd is older than 3.4.
Result<std::unique_ptr<MetadataStore>> open_etcd_store(EtcdOptions options);

}  // namespace cvol::meta
