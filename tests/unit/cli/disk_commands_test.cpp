// cvol disk scrub and verify, against an API that answers from a script.
#include <gtest/gtest.h>

#include <deque>
#include <sstream>

#include "volumed/cli/commands.h"

namespace cvol::cli {
namespace {

constexpr int64_t kNow = 1'700'000'000;

// Disk commands only: everything else answers kUnsupported.
class ScriptedApi final : public api::ApiClient {
 public:
  std::deque<v1::Disk> looks;  // the answers of list_disks, the last one for ever
  v1::ScrubDiskRequest scrubbed;
  v1::StopScrubRequest stopped;
  v1::VerifyDiskRequest verified;
  v1::MoveDiskRequest moved;
  int lists = 0;

  Result<v1::ListDisksResponse> list_disks() override {
    ++lists;
    v1::ListDisksResponse response;
    *response.add_disks() = looks.front();
    if (looks.size() > 1) looks.pop_front();
    return response;
  }
  Result<v1::ScrubDiskResponse> scrub_disk(const v1::ScrubDiskRequest& request) override {
    scrubbed = request;
    v1::ScrubDiskResponse response;
    *response.mutable_disk() = looks.front();
    return response;
  }
  Result<v1::StopScrubResponse> stop_scrub(const v1::StopScrubRequest& request) override {
    stopped = request;
    v1::StopScrubResponse response;
    *response.mutable_disk() = looks.front();
    return response;
  }
  Result<v1::VerifyDiskResponse> verify_disk(const v1::VerifyDiskRequest& request) override {
    verified = request;
    v1::VerifyDiskResponse response;
    *response.mutable_disk() = looks.front();
    return response;
  }

  Result<v1::GetStatusResponse> get_status() override { return none(); }
  Result<v1::ListNodesResponse> list_nodes() override { return none(); }
  Result<v1::AddDiskResponse> add_disk(const v1::AddDiskRequest&) override { return none(); }
  Result<v1::RemoveDiskResponse> remove_disk(const v1::RemoveDiskRequest&) override {
    return none();
  }
  Result<v1::MoveDiskResponse> move_disk(const v1::MoveDiskRequest& request) override {
    moved = request;
    v1::MoveDiskResponse response;
    *response.mutable_disk() = looks.front();
    return response;
  }
  Result<v1::CreateVolumeResponse> create_volume(const v1::CreateVolumeRequest&) override {
    return none();
  }
  Result<v1::ListVolumesResponse> list_volumes() override { return none(); }
  Result<v1::GetVolumeResponse> get_volume(const v1::GetVolumeRequest&) override { return none(); }
  Result<v1::ResizeVolumeResponse> resize_volume(const v1::ResizeVolumeRequest&) override {
    return none();
  }
  Result<v1::RemoveVolumeResponse> remove_volume(const v1::RemoveVolumeRequest&) override {
    return none();
  }
  Result<v1::AttachVolumeResponse> attach_volume(const v1::AttachVolumeRequest&) override {
    return none();
  }
  Result<v1::DetachVolumeResponse> detach_volume(const v1::DetachVolumeRequest&) override {
    return none();
  }
  Result<v1::MountVolumeResponse> mount_volume(const v1::MountVolumeRequest&) override {
    return none();
  }
  Result<v1::UnmountVolumeResponse> unmount_volume(const v1::UnmountVolumeRequest&) override {
    return none();
  }
  Result<v1::AttachVolumeResponse> force_attach_volume(const v1::AttachVolumeRequest&) override {
    return none();
  }
  Result<v1::ModifyVolumeResponse> modify_volume(const v1::ModifyVolumeRequest&) override {
    return none();
  }
  Result<v1::TrimVolumeResponse> trim_volume(const v1::TrimVolumeRequest&) override {
    return Status(Code::kUnsupported, "not here");
  }
  Result<v1::MoveVolumeResponse> move_volume(const v1::MoveVolumeRequest&) override {
    return none();
  }
  Result<v1::ExplainVolumeResponse> explain_volume(const v1::ExplainVolumeRequest&) override {
    return none();
  }
  Result<v1::ChangeNodeResponse> change_node(const v1::ChangeNodeRequest&) override {
    return none();
  }
  Result<v1::RebuildRecordResponse> rebuild_record(const v1::RebuildRecordRequest&) override {
    return none();
  }
  Result<v1::MigrateClusterResponse> migrate_cluster(const v1::MigrateClusterRequest&) override {
    return none();
  }
  Status verify_volume(const v1::VerifyVolumeRequest&,
                       const std::function<void(const v1::VerifyVolumeProgress&)>&) override {
    return none();
  }
  Status watch_events(const v1::WatchEventsRequest&,
                      const std::function<void(const v1::Event&)>&) override {
    return none();
  }

 private:
  static Status none() { return Status(Code::kUnsupported, "not in this test"); }
};

v1::Disk disk(const std::string& state, uint32_t percent = 0, uint64_t damaged = 0) {
  v1::Disk made;
  made.set_id("6d5a1f0e-0000-4000-8000-000000000000");
  made.set_path("/data/one");
  made.set_state("ok");
  v1::Scrub& scrub = *made.mutable_scrub();
  scrub.set_state(state);
  scrub.set_progress_percent(percent);
  if (state == "done") {
    scrub.mutable_completed()->set_seconds(kNow);
    scrub.set_completed_bytes(3ull << 30);
    scrub.set_completed_damaged_blocks(damaged);
  }
  for (uint64_t i = 0; i < damaged; ++i) {
    v1::Damage& found = *scrub.add_damage();
    found.set_volume("pg");
    found.set_offset(i * 4096);
    found.set_file("chunks");
  }
  return made;
}

TEST(ScrubColumn, SaysWhatIsKnownOfTheDisk) {
  EXPECT_EQ(describe_scrub(disk("never").scrub(), kNow), "never");
  EXPECT_EQ(describe_scrub(disk("running", 47).scrub(), kNow), "running 47 %");
  EXPECT_EQ(describe_scrub(disk("stopped", 5).scrub(), kNow), "stopped at 5 %");
  EXPECT_EQ(describe_scrub(disk("done").scrub(), kNow + 59), "just now, clean");
  EXPECT_EQ(describe_scrub(disk("done").scrub(), kNow + 600), "10 min ago, clean");
  EXPECT_EQ(describe_scrub(disk("done").scrub(), kNow + 3600), "1 hour ago, clean");
  EXPECT_EQ(describe_scrub(disk("done").scrub(), kNow + 3 * 86400), "3 days ago, clean");
  EXPECT_EQ(describe_scrub(disk("done", 0, 3).scrub(), kNow + 2 * 86400), "2 days ago, 3 damaged");
  v1::Scrub verify = disk("running", 9).scrub();
  verify.set_verify(true);
  EXPECT_EQ(describe_scrub(verify, kNow), "verify 9 %");
}

TEST(ScrubDisk, BeginsAndDoesNotWaitUnlessTold) {
  ScriptedApi api;
  api.looks = {disk("running", 1)};
  Settings settings;
  settings.name = "6d5a";
  settings.rate = "64MiB/s";
  std::ostringstream out;
  ASSERT_TRUE(scrub_disk(api, settings, out).is_ok());
  EXPECT_EQ(api.scrubbed.disk(), "6d5a");
  EXPECT_EQ(api.scrubbed.rate(), 64u << 20);
  EXPECT_EQ(api.lists, 0);
  EXPECT_NE(out.str().find("is being scrubbed"), std::string::npos);
  settings.rate = "slow";
  EXPECT_EQ(scrub_disk(api, settings, out).code(), Code::kInvalidArgument);
}

TEST(ScrubDisk, WaitsAndTellsWhatIsDamaged) {
  ScriptedApi api;
  api.looks = {disk("running", 1), disk("running", 60), disk("done", 0, 2)};
  Settings settings;
  settings.name = "/data/one/";
  settings.wait = true;
  std::ostringstream out;
  EXPECT_EQ(scrub_disk(api, settings, out).code(), Code::kDamaged);
  EXPECT_GE(api.lists, 2);
  EXPECT_EQ(out.str(),
            "  volume pg, offset 0 (file 'chunks', block 0)\n"
            "  volume pg, offset 4096 (file 'chunks', block 0)\n");
  api.looks = {disk("running", 1), disk("done")};
  std::ostringstream clean;
  EXPECT_TRUE(scrub_disk(api, settings, clean).is_ok());
  EXPECT_EQ(clean.str(), "Scrub of disk /data/one: 3GiB read, no damage.\n");
  api.looks = {disk("running", 1), disk("stopped", 30)};
  EXPECT_EQ(scrub_disk(api, settings, clean).code(), Code::kCancelled);
}

TEST(ScrubDisk, StopsWhatRuns) {
  ScriptedApi api;
  api.looks = {disk("stopped", 40)};
  Settings settings;
  settings.name = "6d5a";
  settings.stop = true;
  std::ostringstream out;
  ASSERT_TRUE(scrub_disk(api, settings, out).is_ok());
  EXPECT_EQ(api.stopped.disk(), "6d5a");
  settings.wait = true;
  EXPECT_EQ(scrub_disk(api, settings, out).code(), Code::kInvalidArgument);
}

TEST(MoveDisk, NamesTheDiskAndItsNewPlace) {
  ScriptedApi api;
  api.looks = {disk("done")};
  Settings settings;
  settings.name = "6d5a";
  settings.path = "/data/../data/two";
  settings.accept_data_loss = true;
  std::ostringstream out;
  ASSERT_TRUE(move_disk(api, settings, out).is_ok());
  EXPECT_EQ(api.moved.disk(), "6d5a");
  EXPECT_EQ(api.moved.path(), "/data/two");
  EXPECT_TRUE(api.moved.accept_data_loss());
  EXPECT_NE(out.str().find("/data/one"), std::string::npos) << out.str();
}

TEST(VerifyDisk, WaitsByDefaultAndTellsWhyADiskStaysFailed) {
  ScriptedApi api;
  v1::Disk failed = disk("done", 0, 1);
  failed.set_state("failed");
  failed.mutable_scrub()->set_verify(true);
  failed.mutable_scrub()->set_outcome("1 damaged blocks were found; the disk stays failed");
  api.looks = {disk("running", 1), failed};
  Settings settings;
  settings.name = "6d5a";
  std::ostringstream out;
  const Status refused = verify_disk(api, settings, out);
  EXPECT_EQ(refused.code(), Code::kFailedPrecondition);
  EXPECT_NE(refused.message().find("stays failed"), std::string::npos);
  EXPECT_NE(out.str().find("volume pg"), std::string::npos);
  settings.accept_damage = true;
  settings.no_wait = true;
  api.looks = {disk("running", 1)};
  EXPECT_TRUE(verify_disk(api, settings, out).is_ok());
  EXPECT_TRUE(api.verified.accept_damage());
}

}  // namespace
}  // namespace cvol::cli
