#include "csi/docker_plugin.h"

#include <grpcpp/client_context.h>

#include <chrono>
#include <condition_variable>
#include <ctime>
#include <filesystem>
#include <functional>
#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>

#include "csi/plugin_request.h"
#include "cvol/v1/cvol.grpc.pb.h"
#include "volumed/api/http_server.h"
#include "volumed/base/log.h"
#include "volumed/base/random.h"
#include "volumed/base/units.h"
#include "volumed/base/uuid.h"

namespace cvol::csi {
namespace {

using Json = nlohmann::json;
using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;
using std::chrono::seconds;

// dockerd gives Get, List, Remove and Unmount 60 s, Create and Mount 120 s.
constexpr seconds kShortCall{50};
constexpr seconds kLongCall{90};
constexpr seconds kUndoCall{20};
constexpr seconds kSilence{65};  // after which dockerd has hung up
constexpr milliseconds kRetryPause{250};
constexpr milliseconds kStopPause{100};
constexpr char kIdPrefix[] = "docker:";  // marks our users among those of a volume
constexpr char kContentType[] = "application/vnd.docker.plugins.v1.2+json";

// May the same call succeed later with nothing changed by the user?
bool is_passing(const grpc::Status& status) {
  switch (status.error_code()) {
    case grpc::StatusCode::UNAVAILABLE:
    case grpc::StatusCode::ABORTED:
    case grpc::StatusCode::CANCELLED:
    case grpc::StatusCode::DEADLINE_EXCEEDED:
      return true;
    default:
      return false;
  }
}

std::string rfc3339(const google::protobuf::Timestamp& time) {
  time_t when = time.seconds();
  tm utc{};
  gmtime_r(&when, &utc);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &utc);
  return text;
}

Json describe(const v1::Volume& volume) {
  Json status = {{"size", format_size(volume.size_bytes())},
                 {"allocated", format_size(volume.allocated_bytes())},
                 {"fs", volume.fs()},
                 {"replicas", volume.replicas()},
                 {"state", volume.state()}};
  if (!volume.device().empty()) status["device"] = volume.device();
  if (!volume.node().empty()) status["node"] = volume.node();
  if (!volume.problem().empty()) status["problem"] = volume.problem();
  return {{"Name", volume.name()},
          {"Mountpoint", volume.mountpoint()},
          {"CreatedAt", rfc3339(volume.created())},
          {"Status", std::move(status)}};
}

Json refusal(const std::string& text) {
  return {{"Err", text.empty() ? "unknown error" : text}};
}

Json success() {
  return {{"Err", ""}};
}

Json answer_of(const grpc::Status& status) {
  return status.ok() ? success() : refusal(status.error_message());
}

// A word for one request: made again, it is still the same one.
std::string new_word() {
  Random random = Random::from_system();
  return Uuid::make(random).to_string();
}

// Docker takes `-v m:/data` for a drive letter and writes beside the volume.
Status check_new_name(const std::string& name) {
  if (name.size() != 1) return Status::ok();
  return Status(Code::kInvalidArgument, "volume name '" + name +
                                            "' has one letter, which 'docker run -v " + name +
                                            ":/path' takes for a drive; use two or more");
}

// The caller's time is over. An earlier fault says more than that.
grpc::Status name_cause(const grpc::Status& last, const grpc::Status& fault) {
  const grpc::Status& told = fault.ok() ? last : fault;
  const bool no_api = told.error_code() == grpc::StatusCode::UNAVAILABLE &&
                      told.error_message().find("connect") != std::string::npos;
  if (no_api)
    return {grpc::StatusCode::UNAVAILABLE,
            "volumed does not serve yet: it opens its disks, or waits for its metadata store; its "
            "log says for what"};
  if (last.error_code() != grpc::StatusCode::DEADLINE_EXCEEDED) return last;
  if (!fault.ok()) return {grpc::StatusCode::UNAVAILABLE, fault.error_message()};
  return {grpc::StatusCode::UNAVAILABLE,
          "volumed did not finish in time; 'cvol status' says what it waits for"};
}

std::string caller_of(const PluginRequest& request) {
  return kIdPrefix + (request.id.empty() ? request.name : request.id);
}

// The calls; `target` to answer. Everything that waits ends when stop() is called.
class Calls {
 public:
  explicit Calls(std::shared_ptr<grpc::Channel> api) : stub_(v1::Cvol::NewStub(std::move(api))) {}

  api::HttpResponse handle(const api::HttpRequest& request);
  void stop();

 private:
  using Time = Clock::time_point;

  Json dispatch(const std::string& target, const PluginRequest& request);
  Json create(const PluginRequest& request);
  Json remove(const PluginRequest& request);
  Json mount(const PluginRequest& request);
  Json path(const PluginRequest& request);
  Json unmount(const PluginRequest& request);
  Json get(const PluginRequest& request);
  Json list();

  // One call of the API until `end`, repeated while the fault is a passing one.
  grpc::Status patiently(Time end, const std::function<grpc::Status(grpc::ClientContext*)>& call);
  grpc::Status get_volume(const std::string& name, Time end, v1::Volume& into);
  grpc::Status remove_volume(const std::string& name, Time end);
  grpc::Status unmount_caller(v1::UnmountVolumeRequest request, Time end);
  bool forget_docker_users(const std::string& name, Time end);
  // Waits until `end`; false if the plugin is being stopped.
  bool wait_until(Time end);

  std::unique_ptr<v1::Cvol::Stub> stub_;
  std::mutex mutex_;
  std::condition_variable stopped_;
  bool stopping_ = false;
};

void Calls::stop() {
  std::lock_guard lock(mutex_);
  stopping_ = true;
  stopped_.notify_all();
}

bool Calls::wait_until(Time end) {
  std::unique_lock lock(mutex_);
  return !stopped_.wait_until(lock, end, [this] { return stopping_; });
}

grpc::Status Calls::patiently(Time end,
                              const std::function<grpc::Status(grpc::ClientContext*)>& call) {
  grpc::Status fault;  // the last that was no time-out
  for (;;) {
    grpc::ClientContext context;
    auto left = std::chrono::duration_cast<milliseconds>(end - Clock::now());
    context.set_deadline(std::chrono::system_clock::now() + left);
    grpc::Status status = call(&context);
    if (status.ok() || !is_passing(status)) return status;
    if (status.error_code() != grpc::StatusCode::DEADLINE_EXCEEDED) fault = status;
    if (Clock::now() + kRetryPause >= end) return name_cause(status, fault);
    if (!wait_until(Clock::now() + kRetryPause)) return name_cause(status, fault);
  }
}

grpc::Status Calls::get_volume(const std::string& name, Time end, v1::Volume& into) {
  v1::GetVolumeRequest request;
  v1::GetVolumeResponse response;
  request.set_name(name);
  grpc::Status status = patiently(end, [&](grpc::ClientContext* context) {
    return stub_->GetVolume(context, request, &response);
  });
  if (status.ok()) into = response.volume();
  return status;
}

grpc::Status Calls::remove_volume(const std::string& name, Time end) {
  v1::RemoveVolumeRequest request;
  v1::RemoveVolumeResponse response;
  request.set_name(name);
  return patiently(end, [&](grpc::ClientContext* context) {
    return stub_->RemoveVolume(context, request, &response);
  });
}

grpc::Status Calls::unmount_caller(v1::UnmountVolumeRequest request, Time end) {
  v1::UnmountVolumeResponse response;
  return patiently(end, [&](grpc::ClientContext* context) {
    return stub_->UnmountVolume(context, request, &response);
  });
}

// A Create that is not answered in time is undone. The volume's id is this call's own: one that
// somebody else made meanwhile under the name has another.
Json Calls::create(const PluginRequest& request) {
  Result<CreateOptions> options = parse_create_options(request.options);
  if (!options) return refusal(options.message());
  Time end = Clock::now() + kLongCall;
  v1::Volume before;
  bool is_new = get_volume(request.name, end, before).error_code() == grpc::StatusCode::NOT_FOUND;
  if (is_new) {
    if (Status name = check_new_name(request.name); !name) return refusal(name.message());
  }
  const std::string id = new_word();
  v1::CreateVolumeRequest wanted;
  v1::CreateVolumeResponse response;
  wanted.set_name(request.name);
  wanted.set_id(id);
  wanted.set_size_bytes(options->size_bytes);
  wanted.set_replicas(options->replicas);
  wanted.set_fs(options->file_system);
  grpc::Status status = patiently(end, [&](grpc::ClientContext* context) {
    return stub_->CreateVolume(context, wanted, &response);
  });
  if (is_passing(status) && is_new) (void)remove_volume(id, Clock::now() + kUndoCall);
  return answer_of(status);
}

// dockerd asks only when it knows of no user; ids of its own that are left on this node are those
// that it lost when it died, if nothing has the device any more. Users of another node's dockerd,
// and users that are not Docker's, still refuse the removal.
Json Calls::remove(const PluginRequest& request) {
  Time end = Clock::now() + kShortCall;
  grpc::Status status = remove_volume(request.name, end);
  if (status.error_code() == grpc::StatusCode::FAILED_PRECONDITION &&
      forget_docker_users(request.name, end)) {
    status = remove_volume(request.name, end);
  }
  if (status.error_code() == grpc::StatusCode::NOT_FOUND) return success();
  return answer_of(status);
}

bool Calls::forget_docker_users(const std::string& name, Time end) {
  v1::Volume volume;
  if (!get_volume(name, end, volume).ok()) return false;
  if (!volume.mounted_here()) return false;
  bool found = false;
  for (const std::string& id : volume.mount_ids()) {
    if (id.rfind(kIdPrefix, 0) != 0) continue;
    log::warning("docker", "forgetting a user that dockerd lost", {{"volume", name}, {"id", id}});
    v1::UnmountVolumeRequest stale;
    stale.set_name(name);
    stale.set_caller_id(id);
    stale.set_stale(true);
    if (!unmount_caller(std::move(stale), end).ok()) return false;
    found = true;
  }
  return found;
}

// Mounts are counted: dockerd mounts again with the id that a container has, for `docker cp`. One
// that is not answered in time would never be unmounted: it is taken back, and nothing else.
Json Calls::mount(const PluginRequest& request) {
  v1::MountVolumeRequest wanted;
  v1::MountVolumeResponse response;
  wanted.set_name(request.name);
  wanted.set_caller_id(caller_of(request));
  wanted.set_use(new_word());
  grpc::Status status = patiently(Clock::now() + kLongCall, [&](grpc::ClientContext* context) {
    return stub_->MountVolume(context, wanted, &response);
  });
  if (!status.ok()) {
    if (is_passing(status)) {
      v1::UnmountVolumeRequest undo;
      undo.set_name(request.name);
      undo.set_caller_id(wanted.caller_id());
      undo.set_undo(wanted.use());
      (void)unmount_caller(std::move(undo), Clock::now() + kUndoCall);
    }
    return refusal(status.error_message());
  }
  return {{"Mountpoint", response.mountpoint()}, {"Err", ""}};
}

Json Calls::unmount(const PluginRequest& request) {
  v1::UnmountVolumeRequest wanted;
  wanted.set_name(request.name);
  wanted.set_caller_id(caller_of(request));
  wanted.set_use(new_word());
  grpc::Status status = unmount_caller(std::move(wanted), Clock::now() + kShortCall);
  if (status.error_code() == grpc::StatusCode::NOT_FOUND) return success();
  return answer_of(status);
}

Json Calls::path(const PluginRequest& request) {
  v1::Volume volume;
  grpc::Status status = get_volume(request.name, Clock::now() + kShortCall, volume);
  if (!status.ok()) return refusal(status.error_message());
  return {{"Mountpoint", volume.mountpoint()}, {"Err", ""}};
}

// Only "there is no such volume" may be an answer; after anything else dockerd would throw away
// what it knows of the volume. When patience is over, silence: dockerd hangs up after 60 s.
Json Calls::get(const PluginRequest& request) {
  Time silence = Clock::now() + kSilence;
  Time end = Clock::now() + kShortCall;
  v1::Volume volume;
  for (;;) {
    grpc::Status status = get_volume(request.name, end, volume);
    if (status.ok()) return {{"Volume", describe(volume)}, {"Err", ""}};
    if (status.error_code() == grpc::StatusCode::NOT_FOUND ||
        status.error_code() == grpc::StatusCode::INVALID_ARGUMENT) {
      return refusal(status.error_message());
    }
    bool patient = Clock::now() + kRetryPause < end;
    if (!wait_until(patient ? Clock::now() + kRetryPause : silence) || !patient) {
      return refusal(status.error_message());
    }
  }
}

Json Calls::list() {
  v1::ListVolumesResponse response;
  grpc::Status status = patiently(Clock::now() + kShortCall, [&](grpc::ClientContext* context) {
    return stub_->ListVolumes(context, v1::ListVolumesRequest(), &response);
  });
  if (!status.ok()) return refusal(status.error_message());
  Json volumes = Json::array();
  for (const v1::Volume& volume : response.volumes()) volumes.push_back(describe(volume));
  return {{"Volumes", std::move(volumes)}, {"Err", ""}};
}

Json Calls::dispatch(const std::string& target, const PluginRequest& request) {
  if (target == "/Plugin.Activate") return {{"Implements", Json::array({"VolumeDriver"})}};
  if (target == "/VolumeDriver.Capabilities") return {{"Capabilities", {{"Scope", "global"}}}};
  if (target == "/VolumeDriver.List") return list();
  if (target == "/VolumeDriver.Create") return create(request);
  if (target == "/VolumeDriver.Remove") return remove(request);
  if (target == "/VolumeDriver.Mount") return mount(request);
  if (target == "/VolumeDriver.Path") return path(request);
  if (target == "/VolumeDriver.Unmount") return unmount(request);
  if (target == "/VolumeDriver.Get") return get(request);
  return {};
}

api::HttpResponse Calls::handle(const api::HttpRequest& http) {
  auto respond = [](unsigned status, const Json& json) {
    // Names come back as they were sent: bytes that are not UTF-8 must not end the call.
    return api::HttpResponse{status, kContentType,
                             json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n"};
  };
  if (http.method != "POST") return respond(405, refusal("a volume plugin is called by POST"));
  Result<PluginRequest> request = parse_plugin_request(http.body);
  if (!request) return respond(400, refusal(request.message()));
  Json answer = dispatch(http.target, *request);
  if (answer.is_null()) return respond(404, refusal("no such call: " + http.target.substr(0, 100)));
  if (auto error = answer.find("Err"); error != answer.end() && *error != "") {
    // Get is asked for volumes of other drivers too.
    const bool usual = http.target == "/VolumeDriver.Get";
    (usual ? log::debug : log::warning)(
        "docker", "refused",
        {{"call", http.target}, {"volume", request->name}, {"reason", error->dump()}});
  }
  return respond(200, answer);
}

class DockerPluginImpl : public DockerPlugin {
 public:
  explicit DockerPluginImpl(std::shared_ptr<grpc::Channel> api) : calls_(std::move(api)) {}
  // The server ends its connections first and then waits for the calls; so a Get that waits is let
  // go a moment later, when nobody reads its answer any more.
  ~DockerPluginImpl() override {
    std::thread release([this] {
      std::this_thread::sleep_for(kStopPause);
      calls_.stop();
    });
    server_.reset();
    release.join();
  }

  Status listen(const std::string& socket_path) {
    std::error_code error;
    std::filesystem::create_directories(std::filesystem::path(socket_path).parent_path(), error);
    if (error)
      return Status(Code::kIo, "make the directory of " + socket_path + ": " + error.message());
    api::HttpOptions options;
    options.threads = 16;  // calls about volumes that wait must not keep others waiting
    options.body_bytes = kMaxPluginBody;
    auto handler = [this](const api::HttpRequest& request) { return calls_.handle(request); };
    auto server = api::HttpServer::start("unix:" + socket_path, handler, options);
    if (!server) return server.status();
    server_ = std::move(*server);
    return Status::ok();
  }

 private:
  Calls calls_;
  std::unique_ptr<api::HttpServer> server_;
};

}  // namespace

Result<std::unique_ptr<DockerPlugin>> DockerPlugin::start(std::string socket_path,
                                                          std::shared_ptr<grpc::Channel> api) {
  auto plugin = std::make_unique<DockerPluginImpl>(std::move(api));
  CVOL_TRY(plugin->listen(socket_path).with_context("Docker volume plugin"));
  log::info("docker", "volume plugin listens", {{"socket", socket_path}});
  return std::unique_ptr<DockerPlugin>(std::move(plugin));
}

}  // namespace cvol::csi
