// Records that vanish or cannot be read: what is open goes on, the fault has a name and a way out.
#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>

#include "tests/unit/volume/manager_fixture.h"
#include "volumed/meta/records.h"

namespace cvol::volume {
namespace {

using namespace std::chrono_literals;
constexpr auto kSoon = 5s;
using K = ConditionKind;

std::string new_id() {
  Random random = Random::from_system();
  return Uuid::make(random).to_string();
}

bool is_free(uint16_t port) {
  const int handle = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const int bound = ::bind(handle, reinterpret_cast<const sockaddr*>(&address), sizeof address);
  ::close(handle);
  return bound == 0;
}

uint16_t free_ports() {
  auto port = static_cast<uint16_t>(30000 + ::getpid() % 2000);
  while (!is_free(port) || !is_free(static_cast<uint16_t>(port + 1))) port += 2;
  return port;
}

bool within(std::chrono::milliseconds time, const std::function<bool()>& holds) {
  for (const auto until = std::chrono::steady_clock::now() + time; !holds();
       std::this_thread::sleep_for(5ms)) {
    if (std::chrono::steady_clock::now() > until) return false;
  }
  return true;
}

// A cluster of one node.
class LostRecordsTest : public VolumeManagerTest {
 protected:
  void SetUp() override {
    port_ = free_ports();
    VolumeManagerTest::SetUp();
  }
  void adjust(ManagerOptions& options) override {
    ManagerOptions::ClusterMode mode;
    mode.listen = "tcp:127.0.0.1:" + std::to_string(port_);
    options.cluster_mode = mode;
  }
  // A volume with a device, and its record.
  VolumeEntry attached(const std::string& name) {
    create(name);
    auto device = manager_->attach(name);
    EXPECT_TRUE(device.is_ok()) << device.message();
    return *stored(*store_, name);
  }
  static std::optional<VolumeEntry> stored(meta::MetadataStore& store, const std::string& name) {
    std::vector<std::string> problems;
    auto entries = Catalog(store, "default").load_volumes(problems);
    EXPECT_TRUE(entries.is_ok()) << entries.message();
    for (const VolumeEntry& entry : *entries) {
      if (entry.record.name() == name) return entry;
    }
    return std::nullopt;
  }
  static void change(meta::MetadataStore& store, std::vector<meta::Change> changes) {
    auto done = store.commit({{}, std::move(changes)});
    ASSERT_TRUE(done.is_ok()) << done.message();
  }
  // While nothing runs.
  void change_offline(const std::function<void(meta::MetadataStore&)>& how) {
    manager_.reset();
    auto store = meta::open_rocksdb_store(folder_ + "/meta");
    ASSERT_TRUE(store.is_ok()) << store.message();
    how(**store);
  }
  // The text of the condition; empty: there is none.
  std::string told(K kind, const std::string& subject, const std::string& word = "") {
    for (const Condition& condition : manager_->conditions()) {
      if (condition.kind == kind && (subject.empty() || condition.subject == subject) &&
          condition.text.find(word) != std::string::npos)
        return condition.text;
    }
    return "";
  }
  bool has_device(const std::string& name) {
    std::lock_guard lock(host_.attached_mutex);
    return host_.attached.contains(name);
  }

  const meta::Keys keys_{"default"};
  uint16_t port_ = 0;
};

TEST_F(LostRecordsTest, WhatIsOpenGoesOnWithoutItsRecord) {
  const VolumeEntry entry = attached("v1");
  const std::string id = entry.record.id();
  change(*store_, {{keys_.volume(id), {}, 0}, {keys_.name("v1"), {}, 0}});
  ASSERT_TRUE(within(kSoon, [&] { return !told(K::kRecordLost, "v1").empty(); }));
  std::this_thread::sleep_for(500ms);  // whoever takes it away does it at once
  EXPECT_TRUE(has_device("v1"));
  EXPECT_EQ(manager_->disks()[0].info.replicas, 1u);
  auto view = manager_->get("v1");
  ASSERT_TRUE(view.is_ok()) << view.message();
  EXPECT_EQ(view->state, VolumeState::kDamaged);
  EXPECT_NE(view->problem.find("rebuild-record"), std::string::npos) << view->problem;
  EXPECT_NE(told(K::kRecordLost, "v1").find("gone from the metadata store"), std::string::npos);
  EXPECT_TRUE(has_event("record_lost", "v1", "is gone"));
  // Nothing can be said of it, and nothing is done to it.
  const Status removed = manager_->remove("v1", /*force=*/true);
  EXPECT_EQ(removed.code(), Code::kFailedPrecondition) << removed.message();
  EXPECT_TRUE(has_device("v1"));
  const Status rebuilt = manager_->rebuild_record("v1", /*accept_data_loss=*/false);
  ASSERT_TRUE(rebuilt.is_ok()) << rebuilt.message();
  EXPECT_TRUE(within(kSoon, [&] { return told(K::kRecordLost, "v1").empty(); }));
  const auto again = stored(*store_, "v1");
  ASSERT_TRUE(again.has_value());
  EXPECT_EQ(again->record.id(), id);
  EXPECT_EQ(again->record.session().id(), entry.record.session().id());
  EXPECT_TRUE(has_device("v1"));
  auto detached = manager_->detach("v1");
  EXPECT_TRUE(detached.is_ok()) << detached.message();
  const Status gone = manager_->remove("v1", false);
  EXPECT_TRUE(gone.is_ok()) << gone.message();
}

TEST_F(LostRecordsTest, ARecordThatIsPutBackIsTakenUpAgain) {
  const VolumeEntry entry = attached("v1");
  auto text = store_->get(keys_.volume(entry.record.id()));
  ASSERT_TRUE(text.is_ok());
  change(*store_, {{keys_.volume(entry.record.id()), {}, 0}});
  ASSERT_TRUE(within(kSoon, [&] { return !told(K::kRecordLost, "v1").empty(); }));
  change(*store_, {{keys_.volume(entry.record.id()), (*text)->value, 0}});
  ASSERT_TRUE(within(kSoon, [&] { return told(K::kRecordLost, "v1").empty(); }));
  EXPECT_TRUE(has_device("v1"));
  EXPECT_TRUE(manager_->detach("v1").is_ok());
}

TEST_F(LostRecordsTest, ARecordThatCannotBeReadAnyMoreIsTold) {
  const VolumeEntry entry = attached("v1");
  change(*store_, {{keys_.volume(entry.record.id()), "rubbish", 0}});
  ASSERT_TRUE(within(kSoon, [&] { return !told(K::kRecordLost, "v1", "cannot be read").empty(); }));
  EXPECT_TRUE(has_device("v1"));
  const Status rebuilt = manager_->rebuild_record("v1", false);
  ASSERT_TRUE(rebuilt.is_ok()) << rebuilt.message();
  EXPECT_TRUE(within(kSoon, [&] { return told(K::kRecordLost, "v1").empty(); }));
  EXPECT_TRUE(stored(*store_, "v1").has_value());
}

// A text that can be read but breaks a rule is acted on as little.
TEST_F(LostRecordsTest, ARecordThatBreaksARuleIsNotActedOn) {
  const VolumeEntry entry = attached("v1");
  v1::VolumeRecord bad = entry.record;
  bad.mutable_session()->clear_id();
  bad.mutable_session()->clear_node_id();
  bad.mutable_stage()->set_path("/etc");
  bad.set_epoch(bad.epoch() + 1);
  change(*store_, {{keys_.volume(entry.record.id()), meta::encode_record(bad), 0}});
  ASSERT_TRUE(within(kSoon, [&] { return !told(K::kRecordLost, "v1", "/etc").empty(); }));
  std::this_thread::sleep_for(300ms);
  EXPECT_TRUE(has_device("v1"));
}

// Another node was quicker than this one's watch: the note of the removal tells.
TEST_F(LostRecordsTest, ARemovalIsToldFromALoss) {
  (void)attached("v1");
  VolumeEntry entry = *stored(*store_, "v1");
  ASSERT_TRUE(Catalog(*store_, "default").erase_volume(entry).is_ok());
  EXPECT_TRUE(within(kSoon, [&] { return !has_device("v1"); }));
  EXPECT_EQ(manager_->get("v1").code(), Code::kNotFound);
  EXPECT_TRUE(told(K::kRecordLost, "").empty());
}

// The same where the note came in another event than the end of the record.
TEST_F(LostRecordsTest, ALateNoteOfARemovalEndsTheVolume) {
  const std::string id = attached("v1").record.id();
  change(*store_, {{keys_.volume(id), {}, 0}, {keys_.name("v1"), {}, 0}});
  ASSERT_TRUE(within(kSoon, [&] { return !told(K::kRecordLost, "v1").empty(); }));
  v1::RemovedVolumeRecord note;
  note.set_volume_id(id);
  note.set_name("v1");
  change(*store_, {{keys_.removed_volume(id), meta::encode_record(note), 0}});
  EXPECT_TRUE(within(kSoon, [&] { return !has_device("v1"); }));
}

TEST_F(LostRecordsTest, AtStartADeviceAndAReplicaWithoutARecordAreKeptAndTold) {
  const std::string id = attached("v1").record.id();
  change_offline([&](meta::MetadataStore& store) {
    change(store, {{keys_.volume(id), {}, 0}, {keys_.name("v1"), {}, 0}});
  });
  start();
  ASSERT_NE(manager_, nullptr);
  EXPECT_TRUE(has_device("v1"));
  EXPECT_NE(told(K::kRecordProblem, "", "the device of volume 'v1'"), "");
  EXPECT_TRUE(within(kSoon, [&] { return !told(K::kReplicaUnknown, id).empty(); }));
  EXPECT_EQ(manager_->disks()[0].info.replicas, 1u);
}

// Nobody has known the record since the start: the replicas know most of it.
TEST_F(LostRecordsTest, ARecordIsMadeAnewByIdFromWhatTheReplicasKnow) {
  const VolumeEntry entry = attached("v1");
  const std::string id = entry.record.id();
  ASSERT_TRUE(manager_->detach("v1").is_ok());
  change_offline([&](meta::MetadataStore& store) { change(store, {{keys_.volume(id), {}, 0}}); });
  start();
  ASSERT_NE(manager_, nullptr);
  EXPECT_EQ(manager_->rebuild_record(new_id(), false).code(), Code::kNotFound);
  const Status rebuilt = manager_->rebuild_record(id, /*accept_data_loss=*/false);
  ASSERT_TRUE(rebuilt.is_ok()) << rebuilt.message();
  EXPECT_TRUE(within(kSoon, [&] { return manager_->get("v1").is_ok(); }));
  const auto again = stored(*store_, "v1");  // its name was still noted
  ASSERT_TRUE(again.has_value());
  EXPECT_EQ(again->record.id(), id);
  EXPECT_EQ(again->record.size_bytes(), entry.record.size_bytes());
  EXPECT_GT(again->record.epoch(), entry.record.epoch());
  EXPECT_EQ(again->record.members(0).replica_id(), entry.record.members(0).replica_id());
  EXPECT_TRUE(within(15s, [&] { return told(K::kReplicaUnknown, id).empty(); }));
  auto device = manager_->attach("v1");
  EXPECT_TRUE(device.is_ok()) << device.message();
  // There is a record now.
  EXPECT_NE(manager_->rebuild_record(id, false).code(), Code::kOk);
}

TEST_F(LostRecordsTest, NoRecordIsMadeAnewOfAVolumeThatWasRemoved) {
  const std::string id = attached("v1").record.id();
  ASSERT_TRUE(manager_->detach("v1").is_ok());
  change_offline([&](meta::MetadataStore& store) {
    ASSERT_TRUE(Catalog(store, "default").erase_volume(*stored(store, "v1")).is_ok());
  });
  start();
  ASSERT_NE(manager_, nullptr);
  EXPECT_EQ(manager_->rebuild_record(id, false).code(), Code::kFailedPrecondition);
  EXPECT_TRUE(within(kSoon, [&] { return !told(K::kReplicaUnknown, id, "was removed").empty(); }));
}

TEST_F(LostRecordsTest, AtStartADeviceOfAVolumeThatWasRemovedMeanwhileGoes) {
  (void)attached("v1");
  change_offline([&](meta::MetadataStore& store) {
    ASSERT_TRUE(Catalog(store, "default").erase_volume(*stored(store, "v1")).is_ok());
  });
  start();
  ASSERT_NE(manager_, nullptr);
  EXPECT_FALSE(has_device("v1"));
}

TEST_F(LostRecordsTest, AtStartAVolumeWhoseRecordCannotBeReadKeepsItsDevice) {
  const std::string id = attached("v1").record.id();
  change_offline([&](meta::MetadataStore& store) {
    change(store, {{keys_.volume(id), "rubbish", 0}});
  });
  start();
  ASSERT_NE(manager_, nullptr);
  EXPECT_TRUE(has_device("v1"));
  EXPECT_NE(told(K::kRecordProblem, "", keys_.volume(id)), "");
  EXPECT_TRUE(within(kSoon, [&] { return !told(K::kReplicaUnknown, id).empty(); }));
}

TEST_F(LostRecordsTest, UnreadableRecordsOfNodesAndDisksAreToldAndKeepNobodyFromServing) {
  const std::string node = keys_.node(new_id());
  create("v1");
  change(*store_, {{node, "rubbish", 0}});
  EXPECT_TRUE(within(kSoon, [&] { return !told(K::kRecordProblem, "", node).empty(); }));
  change(*store_, {{node, {}, 0}});
  EXPECT_TRUE(within(kSoon, [&] { return told(K::kRecordProblem, "", node).empty(); }));
  const std::string disk = keys_.disk(new_id());
  change_offline([&](meta::MetadataStore& store) { change(store, {{disk, "rubbish", 0}}); });
  start();
  ASSERT_NE(manager_, nullptr);
  EXPECT_NE(told(K::kRecordProblem, "", disk), "");
  EXPECT_TRUE(within(kSoon, [&] { return manager_->get("v1").is_ok(); }));
}

// A node that cannot read which disk is its own makes none in its place.
TEST_F(LostRecordsTest, NoDiskIsFormattedInPlaceOfOneWhoseRecordCannotBeRead) {
  const std::string disk = manager_->disks()[0].id;
  change_offline([&](meta::MetadataStore& store) {
    change(store, {{keys_.disk(disk), "rubbish", 0}});
  });
  start();
  ASSERT_NE(manager_, nullptr);
  EXPECT_TRUE(manager_->disks().empty());
  EXPECT_NE(told(K::kRecordProblem, "", keys_.disk(disk)), "");
  auto added = manager_->add_disk(folder_ + "/disks/default", {}, /*force=*/true);
  EXPECT_EQ(added.code(), Code::kDamaged) << added.message();
}

// The record of a node that lives does not go with a key.
TEST_F(LostRecordsTest, ANodeThatLivesKeepsItsNameWithoutItsRecord) {
  const std::string key = keys_.node(manager_->node().id);
  change(*store_, {{key, {}, 0}});
  EXPECT_TRUE(within(kSoon, [&] { return !told(K::kRecordProblem, "", "of node n1").empty(); }));
  ASSERT_EQ(manager_->nodes().size(), 1u);
  create("v1");
}

using RemovalNotesTest = VolumeManagerTest;

TEST_F(RemovalNotesTest, AreKeptForNinetyDays) {
  Catalog catalog(*store_, "default");
  const meta::Keys keys("default");
  create("v1");
  const std::string id = manager_->get("v1")->record.id();
  ASSERT_TRUE(manager_->remove("v1", false).is_ok());
  EXPECT_TRUE(*catalog.was_removed(id));
  EXPECT_TRUE(*catalog.was_name_removed("v1"));
  EXPECT_FALSE(*catalog.was_removed(new_id()));
  v1::RemovedVolumeRecord old;
  old.set_volume_id(new_id());
  old.set_name("v2");
  old.mutable_time()->set_seconds(1000);
  ASSERT_TRUE(
      store_->commit({{}, {{keys.removed_volume(old.volume_id()), meta::encode_record(old), 0}}})
          .is_ok());
  ASSERT_TRUE(catalog.forget_old_removals().is_ok());
  EXPECT_FALSE(*catalog.was_removed(old.volume_id()));
  EXPECT_TRUE(*catalog.was_removed(id));
}

}  // namespace
}  // namespace cvol::volume
