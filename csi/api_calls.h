// ApiCalls: the API as CSI's services use it: gRPC statuses as an orchestrator is to see them.
//
// Threading: any thread; calls block until the daemon answers, at most kApiTime. stop() ends those
// under way with CANCELLED, and all later ones.
#pragma once

#include <cvol/v1/cvol.grpc.pb.h>
#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>

#include <chrono>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "csi/parameters.h"

namespace cvol::csi {

constexpr std::chrono::seconds kApiTime{600};  // mkfs and fsck of a large volume take their time

class ApiCalls {
 public:
  explicit ApiCalls(std::shared_ptr<grpc::Channel> channel)
      : stub_(v1::Cvol::NewStub(std::move(channel))) {}

  template <typename Request, typename Response>
  using Method = grpc::Status (v1::Cvol::Stub::*)(grpc::ClientContext*, const Request&, Response*);

  template <typename Request, typename Response>
  grpc::Status call(Method<Request, Response> method, const Request& request, Response& response,
                    std::chrono::milliseconds time = kApiTime) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + time);
    if (!enter(&context)) return {grpc::StatusCode::UNAVAILABLE, "the plugin is stopping"};
    grpc::Status status = (stub_.get()->*method)(&context, request, &response);
    leave(&context);
    return for_orchestrator(status);
  }

  grpc::Status get(const std::string& name_or_id, v1::Volume& into);
  grpc::Status nodes(std::vector<v1::Node>& into);
  // The node that answers.
  grpc::Status self(v1::Node& into);
  void stop();

 private:
  bool enter(grpc::ClientContext* context);
  void leave(grpc::ClientContext* context);
  static grpc::Status for_orchestrator(const grpc::Status& status);

  std::unique_ptr<v1::Cvol::Stub> stub_;
  std::mutex mutex_;
  bool stopping_ = false;
  std::set<grpc::ClientContext*> open_;
};

// Nodes that live and take replicas, or (all) that live.
std::vector<Place> to_places(const std::vector<v1::Node>& nodes);

}  // namespace cvol::csi
