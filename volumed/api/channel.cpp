#include "volumed/api/channel.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>

#include <cstdlib>

namespace cvol::api {

std::string api_address(const std::string& given) {
  if (!given.empty()) return given;
  const char* from_environment = std::getenv("CVOL_API");
  return from_environment != nullptr && *from_environment != '\0' ? from_environment : kDefaultApi;
}

Result<std::shared_ptr<grpc::Channel>> make_channel(const std::string& address) {
  std::string target;
  if (address.starts_with("unix:/")) target = address;
  if (address.starts_with("tcp:")) target = address.substr(4);
  if (target.empty())
    return Status(Code::kInvalidArgument, "'" + address +
                                              "' is no API address; write it like "
                                              "unix:/run/cvol/api.sock or tcp:127.0.0.1:9481");
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(64 * 1024 * 1024);  // lists of many volumes
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  // Whoever waits for a volumed that starts hears of it soon.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 200);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
  return grpc::CreateCustomChannel(target, grpc::InsecureChannelCredentials(), arguments);
}

}  // namespace cvol::api
