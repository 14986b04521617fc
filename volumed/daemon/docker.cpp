#include "volumed/daemon/docker.h"

#ifdef CVOL_DOCKER_PLUGIN
#include "csi/csi_server.h"
#include "csi/docker_plugin.h"
#include "volumed/api/channel.h"
#include "volumed/daemon/host.h"
#endif

namespace cvol::daemon {

#ifdef CVOL_DOCKER_PLUGIN

namespace {

class RealDockerFront final : public DockerFront {
 public:
  explicit RealDockerFront(std::unique_ptr<csi::DockerPlugin> plugin)
      : plugin_(std::move(plugin)) {}

 private:
  std::unique_ptr<csi::DockerPlugin> plugin_;
};

class RealCsiFront final : public CsiFront {
 public:
  explicit RealCsiFront(std::unique_ptr<csi::CsiServer> server) : server_(std::move(server)) {}

 private:
  std::unique_ptr<csi::CsiServer> server_;
};

}  // namespace

Result<std::unique_ptr<CsiFront>> CsiFront::start(const std::string& endpoint,
                                                  const std::string& mode, const std::string& api) {
  auto channel = api::make_channel(api);
  if (!channel) return channel.status();
  auto server = csi::CsiServer::start({endpoint, mode, CVOL_VERSION}, std::move(*channel));
  if (!server) return server.status();
  return std::unique_ptr<CsiFront>(std::make_unique<RealCsiFront>(std::move(*server)));
}

Result<std::unique_ptr<DockerFront>> DockerFront::start(const std::string& folder,
                                                        const std::string& api) {
  CVOL_TRY(make_folder(folder, 0755));
  auto channel = api::make_channel(api);
  if (!channel) return channel.status();
  auto plugin = csi::DockerPlugin::start(folder + "/cvol.sock", std::move(*channel));
  if (!plugin) return plugin.status();
  return std::unique_ptr<DockerFront>(std::make_unique<RealDockerFront>(std::move(*plugin)));
}

#else

Result<std::unique_ptr<CsiFront>> CsiFront::start(const std::string&, const std::string&,
                                                  const std::string&) {
  return Status(Code::kUnsupported, "this volumed was built without it");
}

Result<std::unique_ptr<DockerFront>> DockerFront::start(const std::string&, const std::string&) {
  return Status(Code::kUnsupported, "this volumed was built without it");
}

#endif

}  // namespace cvol::daemon
