// The plugin against an API in this process whose answers the test decides.
#include "csi/docker_plugin.h"

#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <filesystem>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <set>

#include "cvol/v1/cvol.grpc.pb.h"

namespace cvol::csi {
namespace {

using Json = nlohmann::json;
using grpc::ServerContext;
using grpc::Status;
using grpc::StatusCode;

class FakeApi : public v1::Cvol::Service {
 public:
  Status CreateVolume(ServerContext*, const v1::CreateVolumeRequest* request,
                      v1::CreateVolumeResponse*) override {
    std::lock_guard lock(mutex_);
    if (slow_create) {
      // Another node makes one of this name meanwhile.
      volumes_[request->name()].set_id("another");
      return Status(StatusCode::UNAVAILABLE, "node n2 did not answer");
    }
    v1::Volume& volume = volumes_[request->name()];
    volume.set_id(request->id());
    volume.set_name(request->name());
    volume.set_size_bytes(request->size_bytes());
    volume.set_fs(request->fs());
    volume.set_replicas(request->replicas());
    return Status::OK;
  }
  Status GetVolume(ServerContext*, const v1::GetVolumeRequest* request,
                   v1::GetVolumeResponse* response) override {
    if (faults > 0) {
      --faults;
      return Status(StatusCode::UNAVAILABLE, "away");
    }
    std::lock_guard lock(mutex_);
    auto found = volumes_.find(request->name());
    if (found == volumes_.end()) return Status(StatusCode::NOT_FOUND, "no such volume");
    *response->mutable_volume() = found->second;
    for (const auto& id : users_[request->name()]) response->mutable_volume()->add_mount_ids(id);
    response->mutable_volume()->set_mounted_here(!mounted_elsewhere);
    return Status::OK;
  }
  Status ListVolumes(ServerContext*, const v1::ListVolumesRequest*,
                     v1::ListVolumesResponse* response) override {
    std::lock_guard lock(mutex_);
    for (const auto& [name, volume] : volumes_) *response->add_volumes() = volume;
    return Status::OK;
  }
  Status RemoveVolume(ServerContext*, const v1::RemoveVolumeRequest* request,
                      v1::RemoveVolumeResponse*) override {
    std::lock_guard lock(mutex_);
    if (!users_[request->name()].empty()) {
      return Status(StatusCode::FAILED_PRECONDITION, "still mounted");
    }
    // By name or by id.
    std::erase_if(volumes_, [&](const auto& entry) {
      return entry.first == request->name() || entry.second.id() == request->name();
    });
    return Status::OK;
  }
  Status MountVolume(ServerContext*, const v1::MountVolumeRequest* request,
                     v1::MountVolumeResponse* response) override {
    const char* refusal = mount_refusal;
    if (refusal != nullptr) return Status(StatusCode::DATA_LOSS, refusal);
    std::lock_guard lock(mutex_);
    last_mount_ = *request;
    users_[request->name()].insert(request->caller_id());
    response->set_mountpoint("/mnt/" + request->name());
    return Status::OK;
  }
  Status UnmountVolume(ServerContext*, const v1::UnmountVolumeRequest* request,
                       v1::UnmountVolumeResponse*) override {
    if (faults > 0) {
      --faults;
      return Status(StatusCode::ABORTED, "busy");
    }
    std::lock_guard lock(mutex_);
    last_unmount_ = *request;
    if (request->undo().empty()) users_[request->name()].erase(request->caller_id());
    return Status::OK;
  }

  // For the test's thread.
  v1::Volume volume(const std::string& name) {
    std::lock_guard lock(mutex_);
    return volumes_[name];
  }
  std::size_t volume_count() {
    std::lock_guard lock(mutex_);
    return volumes_.size();
  }
  std::size_t user_count(const std::string& name) {
    std::lock_guard lock(mutex_);
    return users_[name].size();
  }
  void add_user(const std::string& name, const std::string& user) {
    std::lock_guard lock(mutex_);
    users_[name].insert(user);
  }

  v1::UnmountVolumeRequest last_unmount() {
    std::lock_guard lock(mutex_);
    return last_unmount_;
  }
  v1::MountVolumeRequest last_mount() {
    std::lock_guard lock(mutex_);
    return last_mount_;
  }

  std::atomic<bool> mounted_elsewhere{false};
  std::atomic<bool> slow_create{false};
  std::atomic<int> faults{0};
  std::atomic<const char*> mount_refusal{nullptr};

 private:
  std::mutex mutex_;
  std::map<std::string, v1::Volume> volumes_;
  std::map<std::string, std::set<std::string>> users_;
  v1::UnmountVolumeRequest last_unmount_;
  v1::MountVolumeRequest last_mount_;
};

class DockerPluginTest : public testing::Test {
 protected:
  DockerPluginTest() {
    grpc::ServerBuilder builder;
    builder.RegisterService(&api_);
    server_ = builder.BuildAndStart();
    directory_ = testing::TempDir() + "plugin-" + std::to_string(getpid());
    start();
  }
  ~DockerPluginTest() override {
    plugin_.reset();
    server_->Shutdown();
    std::filesystem::remove_all(directory_);
  }
  void start() {
    auto plugin = DockerPlugin::start(socket_path(), server_->InProcessChannel({}));
    ASSERT_TRUE(plugin.is_ok()) << plugin.message();
    plugin_ = std::move(*plugin);
  }
  std::string socket_path() const { return directory_ + "/plugins/cvol.sock"; }

  // One request as dockerd sends it; the JSON of the answer.
  Json call(const std::string& method, const std::string& body, int* status = nullptr) {
    int descriptor = socket(AF_UNIX, SOCK_STREAM, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, socket_path().c_str(), sizeof address.sun_path - 1);
    EXPECT_EQ(connect(descriptor, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    std::string text = "POST /" + method +
                       " HTTP/1.1\r\nHost: \r\nUser-Agent: Go-http-client/1.1\r\nContent-Length: " +
                       std::to_string(body.size()) + "\r\nConnection: close\r\n\r\n" + body;
    EXPECT_EQ(write(descriptor, text.data(), text.size()), static_cast<ssize_t>(text.size()));
    std::string answer;
    char buffer[4096];
    for (ssize_t got; (got = read(descriptor, buffer, sizeof buffer)) > 0;) {
      answer.append(buffer, static_cast<std::size_t>(got));
    }
    close(descriptor);
    if (status != nullptr) *status = std::atoi(answer.c_str() + 9);
    std::size_t start = answer.find("\r\n\r\n");
    return start == std::string::npos ? Json() : Json::parse(answer.substr(start + 4));
  }
  std::string error_of(const std::string& method, const std::string& body) {
    return call(method, body).value("Err", "");
  }

  FakeApi api_;
  std::unique_ptr<grpc::Server> server_;
  std::string directory_;
  std::unique_ptr<DockerPlugin> plugin_;
};

TEST_F(DockerPluginTest, SaysWhatItIs) {
  EXPECT_EQ(call("Plugin.Activate", "")["Implements"][0], "VolumeDriver");
  EXPECT_EQ(call("VolumeDriver.Capabilities", "{}\n")["Capabilities"]["Scope"], "global");
}

TEST_F(DockerPluginTest, TheSocketIsPrivateAndReplacedAfterACrash) {
  struct stat attributes {};
  ASSERT_EQ(stat(socket_path().c_str(), &attributes), 0);
  EXPECT_EQ(attributes.st_mode & 0777, 0600u);
  plugin_.reset();
  EXPECT_FALSE(std::filesystem::exists(socket_path()));
  int stale = socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, socket_path().c_str(), sizeof address.sun_path - 1);
  ASSERT_EQ(bind(stale, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  close(stale);
  start();
  EXPECT_EQ(error_of("VolumeDriver.List", "{}"), "");
}

TEST_F(DockerPluginTest, AVolumeLivesFromCreateToRemove) {
  EXPECT_NE(error_of("VolumeDriver.Get", R"({"Name":"v1"})"), "");
  EXPECT_EQ(error_of("VolumeDriver.Create", R"({"Name":"v1","Opts":{"size":"1G","fs":"xfs"}})"),
            "");
  EXPECT_EQ(api_.volume("v1").size_bytes(), 1u << 30);
  EXPECT_EQ(api_.volume("v1").fs(), "xfs");
  EXPECT_EQ(call("VolumeDriver.List", "{}")["Volumes"][0]["Name"], "v1");
  Json mounted = call("VolumeDriver.Mount", R"({"Name":"v1","ID":"a"})");
  EXPECT_EQ(mounted["Mountpoint"], "/mnt/v1");
  EXPECT_EQ(call("VolumeDriver.Get", R"({"Name":"v1"})")["Volume"]["Name"], "v1");
  EXPECT_EQ(error_of("VolumeDriver.Unmount", R"({"Name":"v1","ID":"a"})"), "");
  EXPECT_EQ(error_of("VolumeDriver.Remove", R"({"Name":"v1"})"), "");
  EXPECT_EQ(api_.volume_count(), 0u);
}

TEST_F(DockerPluginTest, MountsAreASetOfIds) {
  EXPECT_EQ(error_of("VolumeDriver.Create", R"({"Name":"v1","Opts":null})"), "");
  for (const char* id : {"a", "a", "b"}) {
    std::string body = std::string(R"({"Name":"v1","ID":")") + id + "\"}";
    EXPECT_EQ(error_of("VolumeDriver.Mount", body), "");
  }
  EXPECT_EQ(api_.user_count("v1"), 2u);
  EXPECT_EQ(error_of("VolumeDriver.Unmount", R"({"Name":"v1","ID":"a"})"), "");
  EXPECT_EQ(error_of("VolumeDriver.Unmount", R"({"Name":"v1","ID":"never-seen"})"), "");
  EXPECT_EQ(api_.user_count("v1"), 1u);
}

TEST_F(DockerPluginTest, IdsThatDockerdLostDoNotKeepAVolume) {
  EXPECT_EQ(error_of("VolumeDriver.Create", R"({"Name":"v1"})"), "");
  EXPECT_EQ(error_of("VolumeDriver.Mount", R"({"Name":"v1","ID":"lost"})"), "");
  EXPECT_EQ(error_of("VolumeDriver.Remove", R"({"Name":"v1"})"), "");
  EXPECT_EQ(api_.volume_count(), 0u);
}

TEST_F(DockerPluginTest, UsersOfAnotherNodeAreNotForgotten) {
  EXPECT_EQ(error_of("VolumeDriver.Create", R"({"Name":"v1"})"), "");
  api_.add_user("v1", "docker:of-the-other-node");
  api_.mounted_elsewhere = true;
  EXPECT_EQ(error_of("VolumeDriver.Remove", R"({"Name":"v1"})"), "still mounted");
  EXPECT_EQ(api_.user_count("v1"), 1u);
  EXPECT_EQ(api_.volume_count(), 1u);
}

// Whether a user is stale is for the API to say, which sees what the host does with the device.
TEST_F(DockerPluginTest, ALostUserIsForgottenOnlyAsStale) {
  EXPECT_EQ(error_of("VolumeDriver.Create", R"({"Name":"v1"})"), "");
  EXPECT_EQ(error_of("VolumeDriver.Mount", R"({"Name":"v1","ID":"lost"})"), "");
  EXPECT_EQ(error_of("VolumeDriver.Remove", R"({"Name":"v1"})"), "");
  EXPECT_TRUE(api_.last_unmount().stale());
}

TEST_F(DockerPluginTest, EachMountAndUnmountHasAWordOfItsOwn) {
  EXPECT_EQ(error_of("VolumeDriver.Create", R"({"Name":"v1"})"), "");
  EXPECT_EQ(error_of("VolumeDriver.Mount", R"({"Name":"v1","ID":"a"})"), "");
  const std::string first = api_.last_mount().use();
  EXPECT_EQ(error_of("VolumeDriver.Mount", R"({"Name":"v1","ID":"a"})"), "");
  EXPECT_FALSE(first.empty());
  EXPECT_NE(api_.last_mount().use(), first);
  EXPECT_EQ(error_of("VolumeDriver.Unmount", R"({"Name":"v1","ID":"a"})"), "");
  EXPECT_FALSE(api_.last_unmount().use().empty());
  EXPECT_FALSE(api_.last_unmount().stale());
}

TEST_F(DockerPluginTest, ACreateThatIsGivenUpRemovesNobodyElsesVolume) {
  api_.slow_create = true;
  std::thread waiting([this] { call("VolumeDriver.Create", R"({"Name":"v1"})"); });
  for (int i = 0; i < 400 && api_.volume_count() == 0; ++i) usleep(5000);
  plugin_.reset();
  waiting.join();
  EXPECT_EQ(api_.volume_count(), 1u);
}

TEST_F(DockerPluginTest, NewNamesHaveTwoLettersAndOldOnesStayUsable) {
  EXPECT_NE(error_of("VolumeDriver.Create", R"({"Name":"m"})").find("two or more"),
            std::string::npos);
  EXPECT_EQ(api_.volume_count(), 0u);
  api_.volume("m");  // made before
  EXPECT_EQ(error_of("VolumeDriver.Create", R"({"Name":"m"})"), "");
  EXPECT_EQ(error_of("VolumeDriver.Mount", R"({"Name":"m","ID":"a"})"), "");
}

TEST_F(DockerPluginTest, OtherUsersKeepAVolume) {
  EXPECT_EQ(error_of("VolumeDriver.Create", R"({"Name":"v1"})"), "");
  api_.add_user("v1", "cli:/srv/x");
  EXPECT_EQ(error_of("VolumeDriver.Remove", R"({"Name":"v1"})"), "still mounted");
  EXPECT_EQ(api_.volume_count(), 1u);
}

TEST_F(DockerPluginTest, APassingFaultIsNotAnAnswer) {
  EXPECT_EQ(error_of("VolumeDriver.Create", R"({"Name":"v1"})"), "");
  api_.faults = 3;
  EXPECT_EQ(error_of("VolumeDriver.Get", R"({"Name":"v1"})"), "");
  EXPECT_EQ(error_of("VolumeDriver.Mount", R"({"Name":"v1","ID":"a"})"), "");
  api_.faults = 3;
  EXPECT_EQ(error_of("VolumeDriver.Unmount", R"({"Name":"v1","ID":"a"})"), "");
  EXPECT_EQ(api_.user_count("v1"), 0u);
}

TEST_F(DockerPluginTest, AStopEndsACallThatWaits) {
  EXPECT_EQ(error_of("VolumeDriver.Create", R"({"Name":"v1"})"), "");
  api_.faults = 1'000'000;
  std::thread waiting(
      [this] { EXPECT_TRUE(call("VolumeDriver.Get", R"({"Name":"v1"})").is_null()); });
  usleep(300'000);
  plugin_.reset();
  waiting.join();
  api_.faults = 0;
}

TEST_F(DockerPluginTest, RefusalsCarryTheirText) {
  EXPECT_NE(error_of("VolumeDriver.Create", R"({"Name":"v1","Opts":{"siez":"1G"}})").find("siez"),
            std::string::npos);
  api_.mount_refusal = "block 7 is damaged";
  EXPECT_EQ(error_of("VolumeDriver.Mount", R"({"Name":"v1","ID":"a"})"), "block 7 is damaged");
}

TEST_F(DockerPluginTest, NonsenseIsAnsweredAndHarmsNothing) {
  int status = 0;
  call("VolumeDriver.Create", "{\"Name\":", &status);
  EXPECT_EQ(status, 400);
  call("VolumeDriver.Nothing", "{}", &status);
  EXPECT_EQ(status, 404);
  EXPECT_EQ(error_of("VolumeDriver.List", "{}"), "");
}

}  // namespace
}  // namespace cvol::csi
