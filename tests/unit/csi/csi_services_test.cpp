// The CSI services against an API in this process: what they ask of it, and which codes come of its
// answers. The whole of it, on a real cluster: tests/e2e/csi.
#include <csi/csi.grpc.pb.h>
#include <cvol/v1/cvol.grpc.pb.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/server_builder.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <mutex>
#include <thread>

#include "csi/csi_server.h"
#include "csi/parameters.h"

namespace cvol::csi {
namespace {

using grpc::ServerContext;
using grpc::Status;
using grpc::StatusCode;
constexpr char kId[] = "11111111-1111-4111-8111-111111111111";
constexpr int64_t kSize = 64 << 20;

// One volume that is there or not; remembers the last requests.
class FakeApi : public v1::Cvol::Service {
 public:
  Status GetStatus(ServerContext*, const v1::GetStatusRequest*, v1::GetStatusResponse*) override {
    const std::lock_guard lock(order);
    return answer;
  }
  Status ListNodes(ServerContext*, const v1::ListNodesRequest*,
                   v1::ListNodesResponse* response) override {
    const std::lock_guard lock(order);
    for (const char* name : {"n1", "n2"}) {
      v1::Node& node = *response->add_nodes();
      node.set_name(name);
      node.set_zone(std::string("z-") + name);
      node.set_alive(true);
      node.set_self(node.name() == "n1");
      node.set_capacity_bytes(1 << 30);
    }
    return Status::OK;
  }
  Status GetVolume(ServerContext*, const v1::GetVolumeRequest* request,
                   v1::GetVolumeResponse* response) override {
    const std::lock_guard lock(order);
    const bool known = there && (request->name() == kId || request->name() == volume.name());
    if (!known) return Status(StatusCode::NOT_FOUND, "no such volume");
    *response->mutable_volume() = volume;
    return Status::OK;
  }
  Status CreateVolume(ServerContext*, const v1::CreateVolumeRequest* request,
                      v1::CreateVolumeResponse* response) override {
    const std::lock_guard lock(order);
    created = *request;
    if (!answer.ok()) return answer;
    volume.set_id(kId);
    volume.set_name(request->name());
    volume.set_size_bytes(request->size_bytes());
    volume.set_replicas(request->replicas());
    volume.set_min_in_sync(request->min_in_sync());
    volume.set_fs(request->fs());
    *volume.mutable_labels() = request->labels();
    there = true;
    *response->mutable_volume() = volume;
    return Status::OK;
  }
  Status RemoveVolume(ServerContext*, const v1::RemoveVolumeRequest*,
                      v1::RemoveVolumeResponse*) override {
    const std::lock_guard lock(order);
    if (answer.ok()) there = false;
    return answer;
  }
  Status ReserveVolume(ServerContext*, const v1::ReserveVolumeRequest* request,
                       v1::ReserveVolumeResponse*) override {
    const std::lock_guard lock(order);
    reserved = *request;
    return answer;
  }
  Status StageVolume(ServerContext*, const v1::StageVolumeRequest* request,
                     v1::StageVolumeResponse*) override {
    {
      const std::lock_guard lock(order);
      staged = *request;
    }
    ++stagings;
    while (slow) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    return answer;
  }
  Status ShowVolume(ServerContext*, const v1::ShowVolumeRequest* request,
                    v1::ShowVolumeResponse*) override {
    const std::lock_guard lock(order);
    shown = *request;
    return answer;
  }

  // What the test says and reads between two calls is ordered by the calls, but thread sanitizer
  // does not see into the libraries that carry them.
  void pass() { const std::lock_guard lock(order); }

  std::mutex order;
  std::atomic<bool> there{false};
  std::atomic<bool> slow{false};
  std::atomic<int> stagings{0};
  v1::Volume volume;
  Status answer;
  v1::CreateVolumeRequest created;
  v1::ReserveVolumeRequest reserved;
  v1::StageVolumeRequest staged;
  v1::ShowVolumeRequest shown;
};

wire::VolumeCapability mount_by(wire::VolumeCapability::AccessMode::Mode mode) {
  wire::VolumeCapability capability;
  capability.mutable_mount();
  capability.mutable_access_mode()->set_mode(mode);
  return capability;
}

using Mode = wire::VolumeCapability::AccessMode;

class CsiServicesTest : public testing::Test {
 protected:
  CsiServicesTest() {
    grpc::ServerBuilder builder;
    builder.RegisterService(&api_);
    server_ = builder.BuildAndStart();
    folder_ = testing::TempDir() + "csi-" + std::to_string(getpid());
    CsiOptions options;
    options.endpoint = "unix://" + folder_ + "/csi.sock";
    options.version = "1";
    auto csi = CsiServer::start(options, server_->InProcessChannel({}));
    EXPECT_TRUE(csi) << csi.message();
    csi_ = std::move(*csi);
    auto channel =
        grpc::CreateChannel("unix:" + folder_ + "/csi.sock", grpc::InsecureChannelCredentials());
    controller_ = wire::Controller::NewStub(channel);
    node_ = wire::Node::NewStub(channel);
    identity_ = wire::Identity::NewStub(channel);
  }
  ~CsiServicesTest() override {
    api_.slow = false;
    csi_.reset();
    server_->Shutdown();
    std::filesystem::remove_all(folder_);
  }

  template <typename Stub, typename Request, typename Response>
  StatusCode call(Stub& stub,
                  Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                  const Request& request, Response* into = nullptr, int milliseconds = 10'000) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() +
                         std::chrono::milliseconds(milliseconds));
    Response response;
    api_.pass();
    Status status = (stub.*method)(&context, request, into == nullptr ? &response : into);
    api_.pass();
    said_ = status.error_message();
    return status.error_code();
  }

  wire::CreateVolumeRequest create_request() {
    wire::CreateVolumeRequest request;
    request.set_name("v");
    request.mutable_capacity_range()->set_required_bytes(kSize);
    *request.add_volume_capabilities() = mount_by(Mode::SINGLE_NODE_WRITER);
    return request;
  }
  StatusCode create(const wire::CreateVolumeRequest& request) {
    return call(*controller_, &wire::Controller::Stub::CreateVolume, request, &made_);
  }
  wire::NodeStageVolumeRequest stage_request() {
    wire::NodeStageVolumeRequest request;
    request.set_volume_id(kId);
    request.set_staging_target_path("/staging");
    *request.mutable_volume_capability() = mount_by(Mode::SINGLE_NODE_WRITER);
    return request;
  }
  StatusCode stage(const wire::NodeStageVolumeRequest& request, int milliseconds = 10'000) {
    return call(*node_, &wire::Node::Stub::NodeStageVolume, request,
                static_cast<wire::NodeStageVolumeResponse*>(nullptr), milliseconds);
  }

  FakeApi api_;
  std::unique_ptr<grpc::Server> server_;
  std::string folder_;
  std::unique_ptr<CsiServer> csi_;
  std::unique_ptr<wire::Controller::Stub> controller_;
  std::unique_ptr<wire::Node::Stub> node_;
  std::unique_ptr<wire::Identity::Stub> identity_;
  wire::CreateVolumeResponse made_;
  std::string said_;
};

TEST_F(CsiServicesTest, CreateSaysWhatIsWanted) {
  auto request = create_request();
  (*request.mutable_parameters())["replicas"] = "2";
  (*request.mutable_parameters())["mkfsOptions"] = "-i 8192";
  (*request.mutable_accessibility_requirements()
        ->add_preferred()
        ->mutable_segments())[kNodeTopology] = "n2";
  ASSERT_EQ(create(request), StatusCode::OK) << said_;
  EXPECT_EQ(api_.created.replicas(), 2u);
  EXPECT_EQ(api_.created.fs(), "ext4");
  EXPECT_EQ(api_.created.preferred_nodes(0), "n2");
  EXPECT_EQ(made_.volume().volume_id(), kId);
  EXPECT_EQ(made_.volume().volume_context().at("mkfsOptions"), "-i 8192");
  EXPECT_EQ(create(request), StatusCode::OK) << said_;
  (*request.mutable_parameters())["replicas"] = "1";
  EXPECT_EQ(create(request), StatusCode::ALREADY_EXISTS);
}

TEST_F(CsiServicesTest, OnlyWhatThisDriverMadeForTheNameIsAdopted) {
  ASSERT_EQ(create(create_request()), StatusCode::OK) << said_;
  EXPECT_EQ(api_.volume.labels().at(kNameLabel), "v");
  EXPECT_EQ(create(create_request()), StatusCode::OK) << said_;
  (*api_.volume.mutable_labels())[kNameLabel] = "another name of the same checksum";
  EXPECT_EQ(create(create_request()), StatusCode::ALREADY_EXISTS);
  api_.volume.mutable_labels()->clear();  // made by hand
  EXPECT_EQ(create(create_request()), StatusCode::ALREADY_EXISTS);
}

TEST_F(CsiServicesTest, ARelativePathIsNotFound) {
  wire::NodeGetVolumeStatsRequest stats;
  stats.set_volume_id(kId);
  stats.set_volume_path("some/path");
  EXPECT_EQ(
      (call<wire::Node::Stub, wire::NodeGetVolumeStatsRequest, wire::NodeGetVolumeStatsResponse>(
          *node_, &wire::Node::Stub::NodeGetVolumeStats, stats)),
      StatusCode::NOT_FOUND);
  wire::NodeExpandVolumeRequest grow;
  grow.set_volume_id(kId);
  grow.set_volume_path("some/path");
  EXPECT_EQ((call<wire::Node::Stub, wire::NodeExpandVolumeRequest, wire::NodeExpandVolumeResponse>(
                *node_, &wire::Node::Stub::NodeExpandVolume, grow)),
            StatusCode::NOT_FOUND);
}

TEST_F(CsiServicesTest, NoRoomIsResourceExhausted) {
  api_.answer = Status(StatusCode::FAILED_PRECONDITION, "too few nodes");
  EXPECT_EQ(create(create_request()), StatusCode::RESOURCE_EXHAUSTED);
  api_.answer = Status(StatusCode::UNAVAILABLE, "away");
  EXPECT_EQ(create(create_request()), StatusCode::UNAVAILABLE);
  // UNIMPLEMENTED would tell an orchestrator that the call is not served at all.
  api_.answer = Status(StatusCode::UNIMPLEMENTED, "no loop devices");
  EXPECT_EQ(create(create_request()), StatusCode::RESOURCE_EXHAUSTED);
}

TEST_F(CsiServicesTest, DeleteIsDoneWhenItIsGone) {
  wire::DeleteVolumeRequest request;
  const auto remove = [&] {
    return call<wire::Controller::Stub, wire::DeleteVolumeRequest, wire::DeleteVolumeResponse>(
        *controller_, &wire::Controller::Stub::DeleteVolume, request);
  };
  EXPECT_EQ(remove(), StatusCode::INVALID_ARGUMENT);
  request.set_volume_id(kId);
  EXPECT_EQ(remove(), StatusCode::OK);
  ASSERT_EQ(create(create_request()), StatusCode::OK);
  api_.answer = Status(StatusCode::FAILED_PRECONDITION, "published");
  EXPECT_EQ(remove(), StatusCode::FAILED_PRECONDITION);
  api_.answer = Status::OK;
  EXPECT_EQ(remove(), StatusCode::OK);
  EXPECT_FALSE(api_.there);
}

TEST_F(CsiServicesTest, PublishReservesForReadingIfToldSo) {
  ASSERT_EQ(create(create_request()), StatusCode::OK);
  wire::ControllerPublishVolumeRequest request;
  request.set_volume_id(kId);
  request.set_node_id("n2");
  *request.mutable_volume_capability() = mount_by(Mode::SINGLE_NODE_READER_ONLY);
  wire::ControllerPublishVolumeResponse response;
  ASSERT_EQ(
      call(*controller_, &wire::Controller::Stub::ControllerPublishVolume, request, &response),
      StatusCode::OK)
      << said_;
  EXPECT_EQ(api_.reserved.node(), "n2");
  EXPECT_TRUE(api_.reserved.read_only());
  EXPECT_EQ(response.publish_context().at("readonly"), "true");
}

TEST_F(CsiServicesTest, StageTakesFlagsOptionsAndGroup) {
  ASSERT_EQ(create(create_request()), StatusCode::OK);
  auto request = stage_request();
  request.mutable_volume_capability()->mutable_mount()->add_mount_flags("sync");
  request.mutable_volume_capability()->mutable_mount()->set_volume_mount_group("99");
  (*request.mutable_volume_context())["mkfsOptions"] = "-i 8192";
  (*request.mutable_publish_context())["readonly"] = "true";
  ASSERT_EQ(stage(request), StatusCode::OK) << said_;
  EXPECT_EQ(api_.staged.mount_flags(0), "sync");
  EXPECT_EQ(api_.staged.group(), "99");
  EXPECT_EQ(api_.staged.mkfs_options_size(), 2);
  EXPECT_TRUE(api_.staged.read_only());
  request.mutable_volume_capability()->mutable_mount()->set_volume_mount_group("staff");
  EXPECT_EQ(stage(request), StatusCode::INVALID_ARGUMENT);
}

TEST_F(CsiServicesTest, ACallGoesOnAfterItsDeadlineAndHoldsTheVolume) {
  ASSERT_EQ(create(create_request()), StatusCode::OK);
  api_.slow = true;
  EXPECT_EQ(stage(stage_request(), 300), StatusCode::DEADLINE_EXCEEDED);
  EXPECT_EQ(stage(stage_request()), StatusCode::ABORTED);
  api_.slow = false;
  StatusCode code = StatusCode::ABORTED;
  for (int i = 0; i < 1000 && code == StatusCode::ABORTED; ++i) {
    code = stage(stage_request());
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  EXPECT_EQ(code, StatusCode::OK) << said_;
  EXPECT_EQ(api_.stagings, 2);
}

TEST_F(CsiServicesTest, AStopEndsWhatWaits) {
  ASSERT_EQ(create(create_request()), StatusCode::OK);
  api_.slow = true;
  std::thread waiting([this] { EXPECT_NE(stage(stage_request()), StatusCode::OK); });
  while (api_.stagings == 0) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  csi_.reset();
  waiting.join();
}

TEST_F(CsiServicesTest, PublishToAPathIsAloneUnlessSharedOnTheNode) {
  ASSERT_EQ(create(create_request()), StatusCode::OK);
  wire::NodePublishVolumeRequest request;
  request.set_volume_id(kId);
  request.set_target_path("/pod");
  *request.mutable_volume_capability() = mount_by(Mode::SINGLE_NODE_SINGLE_WRITER);
  const auto publish = [&] {
    return call<wire::Node::Stub, wire::NodePublishVolumeRequest, wire::NodePublishVolumeResponse>(
        *node_, &wire::Node::Stub::NodePublishVolume, request);
  };
  EXPECT_EQ(publish(), StatusCode::FAILED_PRECONDITION);  // not staged anywhere
  request.set_staging_target_path("/staging");
  ASSERT_EQ(publish(), StatusCode::OK) << said_;
  EXPECT_TRUE(api_.shown.alone());
  *request.mutable_volume_capability() = mount_by(Mode::SINGLE_NODE_MULTI_WRITER);
  ASSERT_EQ(publish(), StatusCode::OK) << said_;
  EXPECT_FALSE(api_.shown.alone());
  request.set_target_path("pod");
  EXPECT_EQ(publish(), StatusCode::INVALID_ARGUMENT);
}

TEST_F(CsiServicesTest, TheNodeSaysWhereItIs) {
  wire::NodeGetInfoResponse info;
  ASSERT_EQ(call(*node_, &wire::Node::Stub::NodeGetInfo, wire::NodeGetInfoRequest(), &info),
            StatusCode::OK);
  EXPECT_EQ(info.node_id(), "n1");
  EXPECT_EQ(info.accessible_topology().segments().at(kZoneTopology), "z-n1");
}

TEST_F(CsiServicesTest, ProbeTellsTheTruth) {
  wire::ProbeResponse probe;
  ASSERT_EQ(call(*identity_, &wire::Identity::Stub::Probe, wire::ProbeRequest(), &probe),
            StatusCode::OK);
  EXPECT_TRUE(probe.ready().value());
  api_.answer = Status(StatusCode::UNAVAILABLE, "away");
  ASSERT_EQ(call(*identity_, &wire::Identity::Stub::Probe, wire::ProbeRequest(), &probe),
            StatusCode::OK);
  EXPECT_FALSE(probe.ready().value());
}

TEST(CsiEndpoint, IsAUnixSocket) {
  EXPECT_EQ(*parse_endpoint("unix:///run/x.sock"), "/run/x.sock");
  EXPECT_EQ(*parse_endpoint("unix:/run/x.sock"), "/run/x.sock");
  for (const char* bad : {"", "tcp:127.0.0.1:1", "unix://run/x.sock", "/run/x.sock"})
    EXPECT_EQ(parse_endpoint(bad).code(), Code::kInvalidArgument) << bad;
}

}  // namespace
}  // namespace cvol::csi
