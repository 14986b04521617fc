// The trouble of one volume, disk or node is no trouble of other volumes.
#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include <future>

#include "tests/unit/volume/gated_engine.h"
#include "tests/unit/volume/manager_fixture.h"
#include "volumed/meta/records.h"
#include "volumed/volume/keyed_workers.h"

namespace cvol::volume {
namespace {

using namespace std::chrono_literals;
constexpr auto kSoon = 3s;  // far less than any of the waits that others have here

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

// The first of as many as there are shards at most here.
uint16_t free_ports() {
  auto port = static_cast<uint16_t>(20000 + ::getpid() % 10000);
  while (!is_free(port) || !is_free(port + 1)) port += 2;
  return port;
}

Task<Result<std::unique_ptr<store::DiskEngine>>> open_gated(io::Reactor& reactor, std::string path,
                                                            store::EngineOptions options,
                                                            Gate* gate) {
  auto engine = co_await store::open_disk(reactor, path, std::move(options));
  if (!engine || !path.ends_with("gated")) co_return engine;
  std::unique_ptr<store::DiskEngine> gated =
      std::make_unique<GatedEngine>(reactor, std::move(*engine), *gate);
  co_return gated;
}

Task<void> write_block(std::shared_ptr<nbd::Export> shown, std::promise<Status>* done) {
  const std::vector<std::byte> block(kBlockBytes);
  Status written = co_await shown->device->write(0, block, false);
  shown.reset();
  done->set_value(written);
}

// A cluster of one node that runs, and a node "n2" that does not.
class BlockingTest : public VolumeManagerTest {
 protected:
  void SetUp() override {
    port_ = free_ports();
    VolumeManagerTest::SetUp();
    auto node = Catalog(*store_, "default").register_node("", "n2", "boot-1");
    ASSERT_TRUE(node.is_ok()) << node.message();
    away_ = node->id();
  }
  void TearDown() override {
    gate_.shut = false;
    VolumeManagerTest::TearDown();
  }
  void adjust(ManagerOptions& options) override {
    ManagerOptions::ClusterMode mode;
    mode.listen = "tcp:127.0.0.1:" + std::to_string(port_);
    mode.accept_other_times = accept_other_times_;
    options.cluster_mode = mode;
    options.disks.open = [this](io::Reactor& reactor, std::string path,
                                store::EngineOptions engine) {
      return open_gated(reactor, std::move(path), std::move(engine), &gate_);
    };
  }
  // What other nodes see, or do not: n2 has a lease, and answers nothing.
  void set_alive(bool alive) {
    v1::AliveRecord record;
    record.set_node_id(away_);
    record.set_process(new_id());
    const std::string key = Catalog(*store_, "default").keys().alive(away_);
    std::optional<std::string> value;
    if (alive) value = meta::encode_record(record);
    ASSERT_TRUE(store_->commit({{}, {{key, value, 0}}}).is_ok());
  }
  // As another node makes volumes: with one copy.
  void insert(const std::string& name, const std::string& node, const std::string& disk, bool ready,
              const std::string& holder = "") {
    VolumeEntry entry;
    v1::VolumeRecord& record = entry.record;
    record.set_id(new_id());
    record.set_name(name);
    record.set_size_bytes(64 * kMiB);
    record.set_replicas(1);
    record.set_durability("durable");
    record.set_min_in_sync(1);
    record.set_fs("ext4");
    v1::MemberRecord& member = *record.add_members();
    member.set_replica_id(new_id());
    member.set_node_id(node);
    member.set_disk_id(disk);
    member.set_wanted("present");
    member.set_made(ready);
    record.add_in_sync()->set_replica_id(member.replica_id());
    record.set_primary(member.replica_id());
    record.set_epoch(1);
    record.set_state(ready ? "ready" : "creating");
    if (!holder.empty()) {
      record.mutable_session()->set_id(new_id());
      record.mutable_session()->set_node_id(holder);
      record.mutable_session()->set_generation(1);
    }
    ASSERT_TRUE(Catalog(*store_, "default").insert_volume(entry).is_ok());
  }
  static bool within(std::chrono::milliseconds time, const std::function<bool()>& holds) {
    for (const auto until = std::chrono::steady_clock::now() + time; !holds();
         std::this_thread::sleep_for(5ms)) {
      if (std::chrono::steady_clock::now() > until) return false;
    }
    return true;
  }
  std::future<Result<std::shared_ptr<nbd::Export>>> open(const std::string& name) {
    auto opened = std::make_shared<std::promise<Result<std::shared_ptr<nbd::Export>>>>();
    auto answer = opened->get_future();
    manager_->open(name, [opened](auto result) { opened->set_value(std::move(result)); });
    return answer;
  }
  // Smaller than the other: what is made without being told where goes there.
  std::string add_gated_disk() {
    store::FormatOptions format;
    format.capacity_bytes = 128 * kMiB;
    format.journal_bytes = 16 * kMiB;
    auto added = manager_->add_disk(folder_ + "/disks/gated", format, /*force=*/true);
    EXPECT_TRUE(added.is_ok()) << added.message();
    return added->id;
  }
  // As stored; nullopt: there is no such volume.
  std::optional<VolumeEntry> stored(const std::string& name) {
    std::vector<std::string> problems;
    auto entries = Catalog(*store_, "default").load_volumes(problems);
    for (const VolumeEntry& entry : *entries) {
      if (entry.record.name() == name) return entry;
    }
    return std::nullopt;
  }
  bool is_made(const std::string& name) { return stored(name)->record.members(0).made(); }
  void expect_others_are_served();
  bool is_known(const std::string& name) { return manager_->get(name).is_ok(); }

  uint16_t port_ = 0;
  bool accept_other_times_ = false;
  std::string away_;
  Gate gate_;
};

TEST_F(BlockingTest, RemovesByForceThoughNoPrimaryAnswers) {
  insert("far", away_, new_id(), /*ready=*/true);
  ASSERT_TRUE(within(kSoon, [&] { return is_known("far"); }));
  auto shown = open("far").get();
  ASSERT_TRUE(shown.is_ok()) << shown.message();
  // On the heap, where they stay if the write does not end.
  auto* written = new std::promise<Status>;
  auto* scope = new io::Scope;
  io::Reactor& reactor = *(*shown)->reactor;
  std::promise<void> begun;
  reactor.post([&begun, scope, written, target = std::move(*shown)]() mutable {
    scope->spawn(write_block(std::move(target), written));
    begun.set_value();
  });
  begun.get_future().wait();
  shown = Status(Code::kCancelled, "");
  const Status removed = manager_->remove("far", /*force=*/true);
  EXPECT_TRUE(removed.is_ok()) << removed.message();
  auto outcome = written->get_future();
  ASSERT_EQ(outcome.wait_for(kSoon), std::future_status::ready);
  EXPECT_FALSE(outcome.get().is_ok());
  std::promise<void> ended;
  reactor.post([&] {
    delete scope;
    ended.set_value();
  });
  ended.get_future().wait();
  delete written;
}

TEST_F(BlockingTest, OpensVolumesWhileTheHolderOfOthersIsSilent) {
  create("b");
  set_alive(true);
  std::vector<std::string> held = {"h1", "h2", "h3", "h4"};
  for (const std::string& name : held) {
    insert(name, away_, new_id(), /*ready=*/true, away_);
    ASSERT_TRUE(within(kSoon, [&] { return is_known(name); }));
  }
  std::vector<std::future<Result<std::shared_ptr<nbd::Export>>>> waiting;
  for (const std::string& name : held) waiting.push_back(open(name));
  auto opened = open("b");
  EXPECT_EQ(opened.wait_for(kSoon), std::future_status::ready);
  EXPECT_EQ(waiting[0].wait_for(0s), std::future_status::timeout) << "nothing was waited for";
  set_alive(false);
  for (auto& one : waiting) EXPECT_TRUE(one.get().is_ok());
  EXPECT_TRUE(opened.get().is_ok());
}

TEST_F(BlockingTest, StartsWithoutWaitingForPrimariesToConfirm) {
  const std::string self = manager_->node().id;
  std::vector<std::string> left = {"l1", "l2", "l3"};
  for (const std::string& name : left) {
    insert(name, away_, new_id(), /*ready=*/true, self);
    ASSERT_TRUE(within(kSoon, [&] { return is_known(name); }));
  }
  manager_.reset();
  const auto begun = std::chrono::steady_clock::now();
  start();
  EXPECT_LT(std::chrono::steady_clock::now() - begun, 4s);
  for (const std::string& name : left)
    EXPECT_TRUE(within(kSoon, [&] { return manager_->get(name)->attached_node.empty(); })) << name;
}

// What works on a node that has a disk which does not answer.
void BlockingTest::expect_others_are_served() {
  const auto begun = std::chrono::steady_clock::now();
  create("b");
  EXPECT_TRUE(open("b").get().is_ok());
  EXPECT_FALSE(manager_->volumes().empty());
  for (const std::string& problem : manager_->problems())
    EXPECT_NE(problem.find("n2"), std::string::npos) << problem;  // the node that does not run
  EXPECT_TRUE(manager_->explain("b").is_ok());
  EXPECT_TRUE(within(kSoon, [&] {
    const auto local = manager_->get("b")->local;
    return local && local->role == "active";
  }));
  EXPECT_TRUE(manager_->remove("b", /*force=*/true).is_ok());
  EXPECT_LT(std::chrono::steady_clock::now() - begun, kSoon);
}

TEST_F(BlockingTest, ServesOthersWhileADiskHangsThatAReplicaIsMadeOn) {
  const std::string disk = add_gated_disk();
  gate_.shut = true;
  insert("hangs", manager_->node().id, disk, /*ready=*/false);
  ASSERT_TRUE(within(kSoon, [&] { return gate_.waiting > 0; }));
  expect_others_are_served();
  gate_.shut = false;
  EXPECT_TRUE(within(kSoon, [&] { return is_made("hangs"); }));
}

TEST_F(BlockingTest, ServesOthersWhileADiskHangsThatAReplicaIsRemovedFrom) {
  const std::string disk = add_gated_disk();
  insert("hangs", manager_->node().id, disk, /*ready=*/false);
  ASSERT_TRUE(within(kSoon, [&] { return is_made("hangs"); }));
  VolumeEntry entry = *stored("hangs");
  v1::VolumeRecord ready = entry.record;
  ready.set_state("ready");
  ASSERT_TRUE(Catalog(*store_, "default").update_volume(entry, std::move(ready)).is_ok());
  ASSERT_TRUE(within(kSoon, [&] { return is_known("hangs"); }));
  gate_.shut = true;
  auto removed = std::async(std::launch::async, [&] { return manager_->remove("hangs", false); });
  ASSERT_TRUE(within(kSoon, [&] { return gate_.waiting > 0; }));
  expect_others_are_served();
  gate_.shut = false;
  EXPECT_TRUE(removed.get().is_ok());
  EXPECT_FALSE(is_known("hangs"));
  EXPECT_TRUE(within(kSoon, [&] { return manager_->disks()[1].info.replicas == 0; }));
}

// Records of one volume that change while its disk hangs are brought about one after the other.
TEST_F(BlockingTest, RemovesWhatIsStillBeingMade) {
  const std::string disk = add_gated_disk();
  gate_.shut = true;
  insert("hangs", manager_->node().id, disk, /*ready=*/false);
  ASSERT_TRUE(within(kSoon, [&] { return gate_.waiting > 0; }));
  VolumeEntry entry = *stored("hangs");
  ASSERT_TRUE(Catalog(*store_, "default").begin_removal(entry).is_ok());
  expect_others_are_served();  // the records' thread has been through it since
  EXPECT_EQ(gate_.waiting, 1);
  gate_.shut = false;
  EXPECT_TRUE(within(kSoon, [&] { return !stored("hangs"); }));
  EXPECT_EQ(manager_->disks()[1].info.replicas, 0u);
}

// A creation that was cut off: whoever asks again goes on with it, and is not told that it is done.
TEST_F(BlockingTest, GoesOnWithACreationThatWasCutOff) {
  const std::string disk = add_gated_disk();
  gate_.shut = true;
  insert("cut", manager_->node().id, disk, /*ready=*/false);
  ASSERT_TRUE(within(kSoon, [&] { return gate_.waiting > 0; }));
  auto again = std::async(std::launch::async, [&] { return manager_->create(request("cut")); });
  EXPECT_EQ(again.wait_for(300ms), std::future_status::timeout) << "it was called ready";
  gate_.shut = false;
  const auto made = again.get();
  ASSERT_TRUE(made.is_ok()) << made.message();
  EXPECT_EQ(stored("cut")->record.state(), "ready");
  EXPECT_EQ(manager_->volumes().size(), 1u);
}

TEST_F(BlockingTest, MakesAnewWhatWasGivenUpWhileItWasWaitedFor) {
  const std::string disk = add_gated_disk();
  gate_.shut = true;
  insert("cut", manager_->node().id, disk, /*ready=*/false);
  ASSERT_TRUE(within(kSoon, [&] { return gate_.waiting > 0; }));
  auto again = std::async(std::launch::async, [&] { return manager_->create(request("cut")); });
  EXPECT_EQ(again.wait_for(300ms), std::future_status::timeout);
  VolumeEntry entry = *stored("cut");
  const std::string given_up = entry.record.id();
  ASSERT_TRUE(Catalog(*store_, "default").begin_removal(entry).is_ok());
  const auto made = again.get();
  gate_.shut = false;
  ASSERT_TRUE(made.is_ok()) << made.message();
  EXPECT_NE(made->record.id(), given_up);
  EXPECT_EQ(made->record.state(), "ready");
}

TEST_F(BlockingTest, AVolumeThatIsNotWhollyMadeIsNotAttached) {
  create("cut");
  ASSERT_TRUE(within(kSoon, [&] {  // the node may be changing it too
    VolumeEntry entry = *stored("cut");
    v1::VolumeRecord next = entry.record;
    next.set_state("creating");
    return Catalog(*store_, "default").update_volume(entry, next).is_ok();
  }));
  ASSERT_TRUE(within(kSoon, [&] { return !is_known("cut"); }));
  EXPECT_EQ(manager_->attach("cut").code(), Code::kUnavailable);
  EXPECT_TRUE(stored("cut")->record.session().id().empty());
}

// A node whose key is gone, though its lease is not, makes it again.
TEST_F(BlockingTest, MakesItsAliveKeyAgain) {
  const std::string key = Catalog(*store_, "default").keys().alive(manager_->node().id);
  ASSERT_TRUE(store_->commit({{}, {{key, {}, 0}}}).is_ok());
  EXPECT_TRUE(within(10s, [&] {
    auto now = store_->get(key);
    return now.is_ok() && now->has_value();
  }));
}

// Deleted by hand, or lost by the store: nobody has removed the volume.
TEST_F(BlockingTest, AVolumeWhoseRecordVanishesGoesOnAndIsTold) {
  create("pg");
  auto shown = open("pg").get();
  ASSERT_TRUE(shown.is_ok()) << shown.message();
  const VolumeEntry before = *stored("pg");
  const std::string key = Catalog(*store_, "default").keys().volume(before.record.id());
  ASSERT_TRUE(store_->commit({{}, {{key, {}, 0}}}).is_ok());
  const auto is_told = [&] {
    for (const std::string& problem : manager_->problems()) {
      if (problem.find("record of volume 'pg'") != std::string::npos) return true;
    }
    return false;
  };
  EXPECT_TRUE(within(kSoon, is_told));
  EXPECT_TRUE(is_known("pg"));
  EXPECT_EQ(manager_->disks()[0].info.replicas, 1u);
  // It is put back: all is well again.
  v1::VolumeRecord record = before.record;
  ASSERT_TRUE(store_->commit({{}, {{key, meta::encode_record(record), 0}}}).is_ok());
  EXPECT_TRUE(within(kSoon, [&] { return !is_told(); }));
  shown = Status(Code::kCancelled, "");
  EXPECT_TRUE(manager_->remove("pg", /*force=*/true).is_ok());
  EXPECT_TRUE(within(kSoon, [&] { return manager_->disks()[0].info.replicas == 0; }));
  EXPECT_FALSE(is_told());
}

// One record of another node or disk that cannot be read keeps nobody from starting.
TEST_F(BlockingTest, StartsBesideRecordsThatCannotBeRead) {
  const Catalog catalog(*store_, "default");
  const std::string node = catalog.keys().node(new_id());
  const std::string disk = catalog.keys().disk(new_id());
  ASSERT_TRUE(store_->commit({{}, {{node, "rubbish", 0}, {disk, "rubbish", 0}}}).is_ok());
  create("v");
  start();
  ASSERT_NE(manager_, nullptr);
  EXPECT_TRUE(within(kSoon, [&] { return is_known("v"); }));
}

TEST_F(BlockingTest, AVolumeWhoseOnlyCopyIsAwayIsTold) {
  insert("far", away_, new_id(), /*ready=*/true);
  const auto is_told = [&] {
    for (const std::string& problem : manager_->problems()) {
      if (problem.find("volume 'far' cannot be used") != std::string::npos) return true;
    }
    return false;
  };
  EXPECT_TRUE(within(kSoon, is_told));
}

// A copy of a data directory has the id of the first one, which lives.
TEST_F(BlockingTest, RefusesToStartBesideAnotherLifeOfItsId) {
  const std::string id = manager_->node().id;
  const std::string key = Catalog(*store_, "default").keys().alive(id);
  manager_.reset();
  const auto live = [&](const std::string& place) {
    auto store = meta::open_rocksdb_store(folder_ + "/meta");
    ASSERT_TRUE(store.is_ok()) << store.message();
    v1::AliveRecord record;
    record.set_node_id(id);
    record.set_process(new_id());
    record.set_boot_id(boot_id_);
    record.set_data_place(place);
    record.add_replication_addresses("tcp:127.0.0.1:1");
    ASSERT_TRUE((*store)->commit({{}, {{key, meta::encode_record(record), 0}}}).is_ok());
  };
  const auto begin = [this] {
    auto store = meta::open_rocksdb_store(folder_ + "/meta");
    EXPECT_TRUE(store.is_ok()) << store.message();
    ManagerOptions options;
    options.data_dir = options.run_dir = folder_;
    options.node_name = "n1";
    options.boot_id = boot_id_;
    adjust(options);
    return VolumeManager::start(std::move(options), std::move(*store));
  };
  live("1:2");
  const auto refused = begin();
  EXPECT_EQ(refused.code(), Code::kFailedPrecondition);
  EXPECT_NE(refused.message().find("is a copy of the other"), std::string::npos);
  live(data_place(folder_));  // an earlier life of its own: the folder's lock says that it is over
  const auto before = std::chrono::steady_clock::now();
  auto started = begin();
  EXPECT_TRUE(started.is_ok()) << started.message();
  EXPECT_LT(std::chrono::steady_clock::now() - before, 5s);
}

TEST_F(BlockingTest, ANodeWithOtherTimesDoesNotJoin) {
  v1::AliveRecord record;
  record.set_node_id(away_);
  record.set_process(new_id());
  (*record.mutable_settings())["lease"] = "900 ms";
  const std::string key = Catalog(*store_, "default").keys().alive(away_);
  ASSERT_TRUE(store_->commit({{}, {{key, meta::encode_record(record), 0}}}).is_ok());
  const auto begin = [this] {
    manager_.reset();
    auto store = meta::open_rocksdb_store(folder_ + "/meta");
    EXPECT_TRUE(store.is_ok()) << store.message();
    ManagerOptions options;
    options.data_dir = options.run_dir = folder_;
    options.node_name = "n1";
    options.boot_id = boot_id_;
    adjust(options);
    return VolumeManager::start(std::move(options), std::move(*store));
  };
  const auto refused = begin();
  EXPECT_EQ(refused.code(), Code::kFailedPrecondition);
  EXPECT_NE(refused.message().find("--lease (here 1500 ms, there 900 ms)"), std::string::npos)
      << refused.message();
  accept_other_times_ = true;
  auto started = begin();
  EXPECT_TRUE(started.is_ok()) << started.message();
}

// A blank data directory with a known name is another node, and takes nothing over.
TEST_F(BlockingTest, ABlankNodeDoesNotTakeAKnownNameOver) {
  auto taken = Catalog(*store_, "default").register_node(new_id(), "n1", "boot-1");
  EXPECT_EQ(taken.code(), Code::kAlreadyExists);
  EXPECT_NE(taken.message().find("--node-name"), std::string::npos);
  manager_.reset();
  std::filesystem::remove(folder_ + "/node-id");
  auto store = meta::open_rocksdb_store(folder_ + "/meta");
  ASSERT_TRUE(store.is_ok());
  ManagerOptions options;
  options.data_dir = options.run_dir = folder_;
  options.node_name = "n1";
  options.boot_id = boot_id_;
  adjust(options);
  EXPECT_EQ(VolumeManager::start(std::move(options), std::move(*store)).code(),
            Code::kAlreadyExists);
}

TEST(KeyedWorkersTest, KeepsTheOrderOfAKeyWhileAnotherIsBlocked) {
  KeyedWorkers workers(2);
  std::promise<void> gate;
  std::promise<void> done;
  std::vector<int> order;
  workers.post("blocked", [open = gate.get_future().share()] { open.wait(); });
  for (int i = 0; i < 100; ++i) workers.post("free", [&order, i] { order.push_back(i); });
  workers.post("free", [&] { done.set_value(); });
  ASSERT_EQ(done.get_future().wait_for(kSoon), std::future_status::ready);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(order[static_cast<std::size_t>(i)], i);
  gate.set_value();
}

TEST(KeyedWorkersTest, RunsWhatIsQueuedBeforeItStops) {
  KeyedWorkers workers(2);
  std::atomic<int> ran{0};
  for (int i = 0; i < 100; ++i) workers.post(std::to_string(i % 5), [&] { ++ran; });
  workers.stop();
  EXPECT_EQ(ran, 100);
  EXPECT_FALSE(workers.post("late", [&] { ++ran; }));
}

}  // namespace
}  // namespace cvol::volume
