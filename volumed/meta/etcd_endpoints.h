// EtcdEndpoints: the addresses of an etcd cluster, and calls that go to one of them which answers.
//
// Threading: any thread; calls block for EtcdOptions::call_time, plus one attempt.
#pragma once

#include <etcd/rpc.grpc.pb.h>
#include <grpcpp/channel.h>

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "volumed/meta/etcd_store.h"

namespace cvol::meta {

struct EtcdEndpoint {
  EtcdEndpoint(std::string address, std::shared_ptr<grpc::Channel> channel);

  const std::string address;
  const std::shared_ptr<grpc::Channel> channel;
  const std::unique_ptr<etcdserverpb::KV::Stub> kv;
  const std::unique_ptr<etcdserverpb::Lease::Stub> lease;
  const std::unique_ptr<etcdserverpb::Watch::Stub> watch;
  const std::unique_ptr<etcdserverpb::Cluster::Stub> cluster;
  const std::unique_ptr<etcdserverpb::Maintenance::Stub> maintenance;
  // Who answers on this connection belongs to our cluster.
  std::atomic<bool> verified = false;
};

struct EtcdCall {
  std::string_view doing;  // "read /cvol/v1/x", for the error's text
  // False: once the request may have left, an attempt without an answer is the last.
  bool repeat = true;
  // False: a member without a leader may answer too.
  bool need_leader = true;
  const std::atomic<bool>* stop = nullptr;  // no new attempt once it is true
};

struct EtcdOutcome {
  Status status;
  grpc::StatusCode code = grpc::StatusCode::OK;  // etcd's own, where it has answered
  bool repeated = false;  // an earlier attempt ended without an answer, and may have done it
};

class EtcdEndpoints {
 public:
  using Rpc = std::function<grpc::Status(EtcdEndpoint&, grpc::ClientContext&)>;

  static Result<std::shared_ptr<EtcdEndpoints>> make(EtcdOptions options);

  const EtcdOptions& options() const { return options_; }

  EtcdOutcome call(const EtcdCall& call, const Rpc& rpc);

  // An endpoint with a connection, the one that served last if it has one; each is given
  // connect_time. kUnavailable: none. kFailedPrecondition: who answers is of another cluster.
  Result<EtcdEndpoint*> connect();
  // Begins with the next endpoint from now on, if this is the one that serves.
  void avoid(const EtcdEndpoint& endpoint);

  // Asks to be answered by members only that see a leader.
  static void require_leader(grpc::ClientContext& context);

 private:
  explicit EtcdEndpoints(EtcdOptions options) : options_(std::move(options)) {}
  Status connect(EtcdEndpoint& endpoint);
  bool await_connection(EtcdEndpoint& endpoint);
  Status verify(EtcdEndpoint& endpoint);
  grpc::Status attempt(EtcdEndpoint& endpoint, const EtcdCall& call, const Rpc& rpc);

  const EtcdOptions options_;
  std::vector<std::unique_ptr<EtcdEndpoint>> endpoints_;
  std::atomic<std::size_t> current_ = 0;
  std::atomic<uint64_t> cluster_id_ = 0;  // 0: none has answered yet
};

}  // namespace cvol::meta
