#include "csi/csi_server.h"

#include <grpcpp/resource_quota.h>
#include <grpcpp/server_builder.h>
#include <sys/stat.h>

#include <chrono>
#include <filesystem>

#include "csi/controller.h"
#include "csi/identity.h"
#include "csi/node.h"
#include "volumed/base/log.h"

namespace cvol::csi {
namespace {

constexpr int kMostThreads = 160;  // calls wait for their operations
constexpr int kMostRequestBytes = 1024 * 1024;
constexpr std::chrono::seconds kStopTime{1};

class CsiServerImpl final : public CsiServer {
 public:
  CsiServerImpl(const CsiOptions& options, std::shared_ptr<grpc::Channel> api)
      : api_(std::move(api)),
        identity_(api_, options.mode != "node", options.version),
        controller_(api_, operations_),
        node_(api_, operations_) {}
  ~CsiServerImpl() override {
    api_.stop();
    if (server_) server_->Shutdown(std::chrono::system_clock::now() + kStopTime);
  }

  Status listen(const CsiOptions& options, const std::string& path) {
    std::error_code error;
    std::filesystem::create_directories(std::filesystem::path(path).parent_path(), error);
    if (error) return Status(Code::kIo, "make the folder of " + path + ": " + error.message());
    grpc::ServerBuilder builder;
    builder.SetResourceQuota(grpc::ResourceQuota("csi").SetMaxThreads(kMostThreads));
    builder.SetMaxReceiveMessageSize(kMostRequestBytes);
    builder.SetSyncServerOption(grpc::ServerBuilder::SyncServerOption::CQ_TIMEOUT_MSEC, 3'600'000);
    builder.AddListeningPort("unix:" + path, grpc::InsecureServerCredentials());
    builder.RegisterService(&identity_);
    if (options.mode != "node") builder.RegisterService(&controller_);
    if (options.mode != "controller") builder.RegisterService(&node_);
    server_ = builder.BuildAndStart();
    if (!server_)
      return Status(Code::kUnavailable, "cannot serve CSI on " + path + "; is it in use?");
    ::chmod(path.c_str(), 0600);
    return Status::ok();
  }

 private:
  ApiCalls api_;
  Operations operations_;
  Identity identity_;
  Controller controller_;
  Node node_;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace

Result<std::string> parse_endpoint(const std::string& endpoint) {
  std::string path;
  if (endpoint.starts_with("unix:///")) path = endpoint.substr(7);
  if (endpoint.starts_with("unix:/") && !endpoint.starts_with("unix://")) path = endpoint.substr(5);
  if (path.size() > 1 && path.size() < 100) return path;
  return Status(Code::kInvalidArgument, "'" + endpoint +
                                            "' is no CSI endpoint; write it like "
                                            "unix:///run/cvol/csi.sock (up to 99 characters)");
}

Result<std::unique_ptr<CsiServer>> CsiServer::start(const CsiOptions& options,
                                                    std::shared_ptr<grpc::Channel> api) {
  auto path = parse_endpoint(options.endpoint);
  if (!path) return path.status();
  auto server = std::make_unique<CsiServerImpl>(options, std::move(api));
  CVOL_TRY(server->listen(options, *path));
  log::info("csi", "serving", {{"socket", *path}, {"mode", options.mode}});
  return std::unique_ptr<CsiServer>(std::move(server));
}

}  // namespace cvol::csi
