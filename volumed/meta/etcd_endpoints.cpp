#include "volumed/meta/etcd_endpoints.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>

#include <cstdio>
#include <fstream>
#include <sstream>
#include <thread>

#include "volumed/base/log.h"
#include "volumed/meta/etcd_errors.h"

namespace cvol::meta {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kPauseBetweenAttempts{20};

Result<std::string> read_pem(const std::string& path) {
  if (path.empty()) return std::string();
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  if (!file || text.str().empty())
    return Status(Code::kInvalidArgument, "cannot read the PEM file " + path + " of etcd's TLS");
  return text.str();
}

Result<std::shared_ptr<grpc::ChannelCredentials>> make_credentials(const EtcdTls& tls) {
  if (!tls.wanted()) return grpc::InsecureChannelCredentials();
  if (tls.cert.empty() != tls.key.empty())
    return Status(Code::kInvalidArgument,
                  "TLS to etcd needs a certificate and its key, or neither");
  auto ca = read_pem(tls.ca);
  if (!ca) return ca.status();
  auto cert = read_pem(tls.cert);
  if (!cert) return cert.status();
  auto key = read_pem(tls.key);
  if (!key) return key.status();
  return grpc::SslCredentials({*ca, *key, *cert});
}

grpc::ChannelArguments make_arguments() {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);  // one revision may hold many events; pages are bounded
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);  // a commit is sent once (R5)
  // A connection of its own per store: what one finds out does not hold another up.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 2000);  // the time of one connect
  // etcd hangs up on who sends pings more often than every 5 s.
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 6000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 3000);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  return arguments;
}

// "3.4.23"; what does not look like a version is taken for a new one.
bool older_than_3_4(const std::string& version) {
  int major = 0;
  int minor = 0;
  if (std::sscanf(version.c_str(), "%d.%d", &major, &minor) != 2) return false;
  return major < 3 || (major == 3 && minor < 4);
}

}  // namespace

EtcdEndpoint::EtcdEndpoint(std::string its_address, std::shared_ptr<grpc::Channel> its_channel)
    : address(std::move(its_address)),
      channel(std::move(its_channel)),
      kv(etcdserverpb::KV::NewStub(channel)),
      lease(etcdserverpb::Lease::NewStub(channel)),
      watch(etcdserverpb::Watch::NewStub(channel)),
      cluster(etcdserverpb::Cluster::NewStub(channel)),
      maintenance(etcdserverpb::Maintenance::NewStub(channel)) {}

Result<std::shared_ptr<EtcdEndpoints>> EtcdEndpoints::make(EtcdOptions options) {
  if (options.endpoints.empty())
    return Status(Code::kInvalidArgument, "no etcd endpoint is given; write HOST:PORT");
  auto credentials = make_credentials(options.tls);
  if (!credentials) return credentials.status();
  std::shared_ptr<EtcdEndpoints> made(new EtcdEndpoints(std::move(options)));
  for (const std::string& address : made->options_.endpoints) {
    auto channel = grpc::CreateCustomChannel(address, *credentials, make_arguments());
    made->endpoints_.push_back(std::make_unique<EtcdEndpoint>(address, std::move(channel)));
  }
  return made;
}

void EtcdEndpoints::require_leader(grpc::ClientContext& context) {
  context.AddMetadata("hasleader", "true");
}

void EtcdEndpoints::avoid(const EtcdEndpoint& endpoint) {
  std::size_t current = current_;
  if (endpoints_[current].get() != &endpoint) return;
  current_.compare_exchange_strong(current, (current + 1) % endpoints_.size());
}

Result<EtcdEndpoint*> EtcdEndpoints::connect() {
  std::size_t first = current_;
  Status problem;
  for (std::size_t i = 0; i < endpoints_.size(); ++i) {
    const std::size_t index = (first + i) % endpoints_.size();
    Status status = connect(*endpoints_[index]);
    if (status.is_ok()) {
      // Unless another call has meanwhile found it wanting.
      if (index != first) current_.compare_exchange_strong(first, index);
      return endpoints_[index].get();
    }
    // What is not just silence is worth more to whoever reads it.
    if (problem.is_ok() || problem.code() == Code::kUnavailable) problem = std::move(status);
  }
  return problem;
}

Status EtcdEndpoints::connect(EtcdEndpoint& endpoint) {
  if (endpoint.channel->GetState(true) != GRPC_CHANNEL_READY) {
    // A connection that is made anew may lead to somebody else.
    endpoint.verified = false;
    if (!await_connection(endpoint))
      return Status(Code::kUnavailable, "no connection to etcd at " + endpoint.address);
  }
  return endpoint.verified ? Status::ok() : verify(endpoint);
}

bool EtcdEndpoints::await_connection(EtcdEndpoint& endpoint) {
  const auto until = std::chrono::system_clock::now() + options_.connect_time;
  for (;;) {
    const grpc_connectivity_state state = endpoint.channel->GetState(true);
    if (state == GRPC_CHANNEL_READY) return true;
    // It tries again by itself; where there are others, they come first.
    if (state == GRPC_CHANNEL_TRANSIENT_FAILURE && endpoints_.size() > 1) return false;
    if (!endpoint.channel->WaitForStateChange(state, until)) return false;
  }
}

Status EtcdEndpoints::verify(EtcdEndpoint& endpoint) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + options_.attempt_time);
  etcdserverpb::StatusResponse response;
  const grpc::Status status = endpoint.maintenance->Status(&context, {}, &response);
  if (!status.ok()) return status_from_etcd(status, "ask for the status", endpoint.address);
  if (older_than_3_4(response.version()))
    return Status(Code::kUnsupported, "etcd at " + endpoint.address + " is version " +
                                          response.version() + "; 3.4 or newer is needed");
  uint64_t known = 0;
  const uint64_t found = response.header().cluster_id();
  if (!cluster_id_.compare_exchange_strong(known, found) && known != found)
    return Status(Code::kFailedPrecondition,
                  "etcd at " + endpoint.address +
                      " belongs to another cluster than the one that is in use; give endpoints of "
                      "one cluster only");
  endpoint.verified = true;
  return Status::ok();
}

grpc::Status EtcdEndpoints::attempt(EtcdEndpoint& endpoint, const EtcdCall& call, const Rpc& rpc) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + options_.attempt_time);
  if (call.need_leader) require_leader(context);
  return rpc(endpoint, context);
}

EtcdOutcome EtcdEndpoints::call(const EtcdCall& call, const Rpc& rpc) {
  const auto until = Clock::now() + options_.call_time;
  EtcdOutcome outcome;
  do {
    auto endpoint = connect();
    if (!endpoint) {
      outcome.status = endpoint.status().with_context(call.doing);
      outcome.code = grpc::StatusCode::UNAVAILABLE;
      if (endpoint.code() != Code::kUnavailable) return outcome;
    } else {
      const grpc::Status status = attempt(**endpoint, call, rpc);
      outcome.code = status.error_code();
      if (status.ok()) {
        outcome.status = Status::ok();
        return outcome;
      }
      outcome.status = status_from_etcd(status, call.doing, (*endpoint)->address);
      if (outcome.status.code() != Code::kUnavailable) return outcome;
      log::debug("meta", "etcd has not answered", {{"error", outcome.status.message()}});
      avoid(**endpoint);
      const bool tried = !etcd_has_not_tried(status);
      if (tried && !call.repeat) return outcome;
      outcome.repeated = outcome.repeated || tried;
    }
    std::this_thread::sleep_for(kPauseBetweenAttempts);
  } while (Clock::now() < until && (call.stop == nullptr || !*call.stop));
  return outcome;
}

}  // namespace cvol::meta
