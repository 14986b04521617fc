// What is made into a file system, and what never.
#include <future>

#include "tests/unit/volume/manager_fixture.h"
#include "volumed/io/scope.h"

namespace cvol::volume {
namespace {

using ExportPtr = std::shared_ptr<nbd::Export>;

Task<void> write_block(ExportPtr shown, uint64_t offset, std::promise<Status>* done) {
  const std::vector<std::byte> block(kBlockBytes, std::byte{7});
  const Status written = co_await shown->device->write(offset, block, false);
  shown.reset();
  done->set_value(written);
}

class FormatTest : public VolumeManagerTest {
 protected:
  Result<ExportPtr> connect(const std::string& session) {
    std::promise<Result<ExportPtr>> answer;
    manager_->open_for(
        "a", session, [&answer](Result<ExportPtr> opened) { answer.set_value(std::move(opened)); });
    return answer.get_future().get();
  }
  static Status write(const ExportPtr& shown, uint64_t offset) {
    io::Scope scope;
    std::promise<Status> done;
    shown->reactor->post([&] { scope.spawn(write_block(shown, offset, &done)); });
    const Status status = done.get_future().get();
    // The scope's task ends in the same turn, before what is posted next.
    std::promise<void> over;
    shown->reactor->post([&] { over.set_value(); });
    over.get_future().get();
    return status;
  }
  // As an NBD client that comes, writes far behind the first MiB, and goes.
  void write_as_client(uint64_t offset = 40 * kMiB) {
    auto shown = connect("");
    ASSERT_TRUE(shown.is_ok()) << shown.message();
    ASSERT_TRUE(write(*shown, offset).is_ok());
  }
  v1::FormatState state() { return manager_->get("a")->record.format_state(); }
};

TEST_F(FormatTest, DataOfANbdClientIsNeverFormatted) {
  create("a");
  write_as_client();
  EXPECT_EQ(state(), v1::FORMAT_STATE_BLOCK_DEVICE);
  const auto refused = manager_->mount("a", "x", "");
  EXPECT_EQ(refused.code(), Code::kFailedPrecondition);
  EXPECT_NE(refused.message().find("attach"), std::string::npos) << refused.message();
  EXPECT_EQ(host_.formats, 0);
  EXPECT_TRUE(host_.attached.empty());
}

TEST_F(FormatTest, ItIsNeitherWhenTheRecordDoesNotKnowOfIt) {
  create("a");
  write_as_client();
  for (const v1::FormatState before : {v1::FORMAT_STATE_NONE, v1::FORMAT_STATE_STARTED}) {
    edit_record("a", [&](v1::VolumeRecord& next) { next.set_format_state(before); });
    start();
    EXPECT_EQ(manager_->mount("a", "x", "").code(), Code::kFailedPrecondition);
    ASSERT_TRUE(manager_->reserve("a", "n1", false).is_ok());
    StageRequest stage;
    stage.path = "/staging";
    EXPECT_EQ(manager_->stage("a", stage).code(), Code::kFailedPrecondition);
    ASSERT_TRUE(manager_->release("a", "n1").is_ok());
  }
  EXPECT_EQ(host_.formats, 0);
}

TEST_F(FormatTest, AUsersDeviceIsNotedBeforeItIsThere) {
  create("a");
  ASSERT_TRUE(manager_->attach("a").is_ok());
  EXPECT_EQ(state(), v1::FORMAT_STATE_BLOCK_DEVICE);
  ASSERT_TRUE(manager_->detach("a").is_ok());
  // Nothing is stored: it may have a file system.
  ASSERT_TRUE(manager_->mount("a", "x", "").is_ok());
  EXPECT_EQ(host_.formats, 1);
  EXPECT_EQ(state(), v1::FORMAT_STATE_DONE);
}

TEST_F(FormatTest, AFileSystemThatTheUserMadeIsMounted) {
  create("a");
  ASSERT_TRUE(manager_->attach("a").is_ok());
  write_as_client();
  host_.content["/dev/fake-a"] = "ext4";
  ASSERT_TRUE(manager_->mount("a", "x", "").is_ok());
  EXPECT_EQ(host_.formats, 0);
}

TEST_F(FormatTest, AMkfsThatWasCutOffIsMadeAnew) {
  create("a");
  write_as_client();  // stands for what that mkfs wrote
  for (const char* left : {"", "ext4"}) {
    edit_record("a",
                [](v1::VolumeRecord& next) { next.set_format_state(v1::FORMAT_STATE_MAKING); });
    start();
    host_.content["/dev/fake-a"] = left;
    ASSERT_TRUE(manager_->mount("a", "x", "").is_ok());
    EXPECT_EQ(state(), v1::FORMAT_STATE_DONE);
    ASSERT_TRUE(manager_->unmount("a", "x").is_ok());
  }
  EXPECT_EQ(host_.formats_anew, 2);
}

TEST_F(FormatTest, ItIsNotOnceSomebodyHasUsedTheDevice) {
  create("a");
  host_.make_fails = Status(Code::kIo, "killed");
  EXPECT_EQ(manager_->mount("a", "x", "").code(), Code::kIo);
  ASSERT_EQ(state(), v1::FORMAT_STATE_MAKING);
  write_as_client();
  host_.make_fails = Status();
  EXPECT_EQ(state(), v1::FORMAT_STATE_BLOCK_DEVICE);
  EXPECT_EQ(manager_->mount("a", "x", "").code(), Code::kFailedPrecondition);
  EXPECT_EQ(host_.formats, 0);
}

TEST_F(FormatTest, NorWhereAUserHadTheDeviceBefore) {
  create("a");
  ASSERT_TRUE(manager_->attach("a").is_ok());
  host_.make_fails = Status(Code::kIo, "killed");
  EXPECT_EQ(manager_->mount("a", "x", "").code(), Code::kIo);
  EXPECT_EQ(state(), v1::FORMAT_STATE_BLOCK_DEVICE);
}

TEST_F(FormatTest, NoneIsMadeUnderAClient) {
  create("a");
  {
    auto shown = connect("");
    ASSERT_TRUE(shown.is_ok()) << shown.message();
    const auto refused = manager_->mount("a", "x", "");
    EXPECT_EQ(refused.code(), Code::kFailedPrecondition);
    EXPECT_NE(refused.message().find("NBD client"), std::string::npos) << refused.message();
  }
  EXPECT_TRUE(manager_->mount("a", "x", "").is_ok());
}

TEST_F(FormatTest, OurOwnDevicesAreNoClients) {
  create("a");
  auto shown = connect("cvoldevice0123456789abcdef");
  ASSERT_TRUE(shown.is_ok()) << shown.message();
  EXPECT_EQ(state(), v1::FORMAT_STATE_NONE);
  EXPECT_TRUE(manager_->mount("a", "x", "").is_ok());
  EXPECT_EQ(host_.formats, 1);
}

// --- file systems follow their volumes ---

TEST_F(FormatTest, AFileSystemGrowsAtTheNextMount) {
  create("a");
  ASSERT_TRUE(manager_->mount("a", "x", "").is_ok());
  ASSERT_TRUE(manager_->unmount("a", "x").is_ok());
  host_.grown.clear();
  ASSERT_TRUE(manager_->resize("a", 128 * kMiB).is_ok());
  EXPECT_TRUE(host_.grown.empty());
  ASSERT_TRUE(manager_->mount("a", "x", "").is_ok());
  EXPECT_EQ(host_.grown[folder_ + "/mounts/a"], 1);
  EXPECT_EQ(manager_->get("a")->record.fs_size_bytes(), 128 * kMiB);
  // Once.
  ASSERT_TRUE(manager_->unmount("a", "x").is_ok());
  ASSERT_TRUE(manager_->mount("a", "x", "").is_ok());
  EXPECT_EQ(host_.grown[folder_ + "/mounts/a"], 1);
}

TEST_F(FormatTest, OneThatCouldNotGrowIsTriedAgain) {
  create("a");
  ASSERT_TRUE(manager_->mount("a", "x", "").is_ok());
  host_.grow_fails = Status(Code::kIo, "no");
  EXPECT_EQ(manager_->resize("a", 128 * kMiB).code(), Code::kIo);
  ASSERT_TRUE(manager_->unmount("a", "x").is_ok());
  ASSERT_TRUE(manager_->mount("a", "x", "").is_ok());  // its files are there all the same
  EXPECT_TRUE(has_event("file_system_not_grown", "a", "no"));
  ASSERT_TRUE(manager_->unmount("a", "x").is_ok());
  host_.grow_fails = Status();
  host_.grown.clear();
  ASSERT_TRUE(manager_->mount("a", "x", "").is_ok());
  EXPECT_EQ(host_.grown[folder_ + "/mounts/a"], 1);
}

TEST_F(FormatTest, AStagedFileSystemGrowsAtTheNextStaging) {
  create("a");
  StageRequest request;
  request.path = "/staging";
  ASSERT_TRUE(manager_->reserve("a", "n1", false).is_ok());
  ASSERT_TRUE(manager_->stage("a", request).is_ok());
  ASSERT_TRUE(manager_->unstage("a", "/staging").is_ok());
  host_.grown.clear();
  ASSERT_TRUE(manager_->resize("a", 128 * kMiB).is_ok());
  ASSERT_TRUE(manager_->stage("a", request).is_ok());
  EXPECT_EQ(host_.grown["/staging"], 1);
}

}  // namespace
}  // namespace cvol::volume
