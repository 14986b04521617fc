// The manager on a real disk engine and NBD server, with an attacher and file systems of paper.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <mutex>
#include <set>
#include <thread>

#include "volumed/base/units.h"
#include "volumed/meta/rocksdb_store.h"
#include "volumed/volume/volume_manager.h"

namespace cvol::volume {

// What the host's kernel would know; outlives the manager, as the kernel does.
struct FakeHost {
  std::mutex attached_mutex;                    // held by the attacher, which any thread may ask
  std::map<std::string, std::string> attached;  // volume -> device
  std::map<std::string, std::string> content;   // device -> file system on it
  std::map<std::string, std::string> mounts;    // target -> source
  std::set<std::string> busy;                   // targets that cannot be unmounted
  int formats = 0;
  int formats_anew = 0;                // of them, over what a mkfs had left
  std::map<std::string, int> grown;    // target -> how often
  std::map<std::string, int> trimmed;  // the same
  Status grow_fails;
  Status make_fails;
  Status check_fails;
  std::map<std::string, std::vector<std::string>> flags;  // target -> of its mount
  std::map<std::string, std::string> groups;              // target -> group
  std::map<std::string, bool> read_only;                  // device
  bool became_read_only = false;                          // file systems, after an error

  // The manager's own threads look at these too.
  std::string users_of(const std::string& device) {
    std::lock_guard lock(mutex);
    return users[device];
  }
  void set_users(const std::string& device, const std::string& who) {
    std::lock_guard lock(mutex);
    users[device] = who;
  }
  bool is_held(const std::string& volume) {
    std::lock_guard lock(mutex);
    return held.contains(volume);
  }
  void hold(const std::string& volume, bool holds) {
    std::lock_guard lock(mutex);
    holds ? (void)held.insert(volume) : (void)held.erase(volume);
  }
  std::mutex mutex;
  std::map<std::string, std::string> users;  // device -> who else has it
  std::set<std::string> held;                // volumes whose device cannot be detached
};

class FakeAttacher final : public attach::Attacher {
 public:
  explicit FakeAttacher(FakeHost& host) : host_(host) {}
  Result<attach::Device> attach(const std::string& volume, uint64_t size) override {
    std::lock_guard lock(host_.attached_mutex);
    host_.attached[volume] = "/dev/fake-" + volume;
    return attach::Device{volume, host_.attached[volume], "fuse", size};
  }
  Status detach(const std::string& volume) override {
    if (host_.is_held(volume)) return Status(Code::kBusy, "the device is in use");
    std::lock_guard lock(host_.attached_mutex);
    host_.attached.erase(volume);
    return Status::ok();
  }
  Status resize(const std::string&, uint64_t) override { return Status::ok(); }
  std::vector<attach::Device> list() const override {
    std::lock_guard lock(host_.attached_mutex);
    std::vector<attach::Device> devices;
    for (const auto& [volume, path] : host_.attached) devices.push_back({volume, path, "fuse", 0});
    return devices;
  }
  Result<std::vector<attach::Device>> reconcile() override { return list(); }

 private:
  FakeHost& host_;
};

class FakeFileSystems final : public FileSystems {
 public:
  explicit FakeFileSystems(FakeHost& host) : host_(host) {}
  Result<std::string> probe(const std::string&, const std::string& device) override {
    return host_.content[device];
  }
  Status make(const std::string&, const std::string& device, const std::string& type,
              const std::vector<std::string>&) override {
    if (!host_.make_fails.is_ok()) return host_.make_fails;
    ++host_.formats;
    host_.content[device] = type;
    return Status::ok();
  }
  Status make_anew(const std::string& volume, const std::string& device, const std::string& type,
                   const std::vector<std::string>& options) override {
    CVOL_TRY(make(volume, device, type, options));
    ++host_.formats_anew;
    return Status::ok();
  }
  Result<uint64_t> trim(const std::string& target, uint64_t, uint64_t) override {
    ++host_.trimmed[target];
    return uint64_t{4096};
  }
  Status mount_device(const std::string&, const std::string& device, const std::string& target,
                      const std::string&, bool) override {
    host_.mounts[target] = device;
    return Status::ok();
  }
  Status unmount(const std::string&, const std::string& target) override {
    if (host_.busy.contains(target)) return Status(Code::kBusy, target + " is in use");
    host_.mounts.erase(target);
    return Status::ok();
  }
  bool is_mounted(const std::string& target) override { return host_.mounts.contains(target); }
  Result<std::string> users(const std::string& device, const std::vector<std::string>&) override {
    return host_.users_of(device);
  }
  Result<mount::Seen> what_is_at(const std::string& target, const std::string& device) override {
    auto mounted = host_.mounts.find(target);
    if (mounted == host_.mounts.end()) return mount::Seen::kNothing;
    // A bind mount is of the device that its source is of.
    for (auto next = mounted; next != host_.mounts.end(); next = host_.mounts.find(next->second))
      mounted = next;
    if (device.empty()) return mount::Seen::kOurs;
    return mounted->second == device ? mount::Seen::kOurs : mount::Seen::kForeign;
  }
  Status grow(const std::string&, const std::string&, const std::string& target,
              const std::string&) override {
    if (!host_.grow_fails.is_ok()) return host_.grow_fails;
    ++host_.grown[target];
    return Status::ok();
  }
  Status bind(const std::string&, const std::string& source, const std::string& target) override {
    host_.mounts[target] = source;
    return Status::ok();
  }
  Status unmount_lazily(const std::string&, const std::string& target) override {
    host_.mounts.erase(target);
    return Status::ok();
  }
  Status make_data_folder(const std::string&, const std::string&) override { return Status::ok(); }
  Status check(const std::string&, const std::string&, const std::string&, bool) override {
    return host_.check_fails;
  }
  Status mount_with(const std::string&, const std::string& device, const std::string& target,
                    const std::string&, const std::vector<std::string>& flags) override {
    host_.mounts[target] = device;
    host_.flags[target] = flags;
    return Status::ok();
  }
  Status give_to_group(const std::string&, const std::string& target,
                       const std::string& group) override {
    host_.groups[target] = group;
    return Status::ok();
  }
  Status show_files(const std::string&, const std::string& source, const std::string& target,
                    bool) override {
    host_.mounts[target] = source;
    return Status::ok();
  }
  Status show_device(const std::string&, const std::string& device,
                     const std::string& target) override {
    host_.mounts[target] = device;
    return Status::ok();
  }
  Status hide(const std::string&, const std::string& target, const std::string&) override {
    if (host_.busy.contains(target)) return Status(Code::kBusy, target + " is in use");
    host_.mounts.erase(target);
    return Status::ok();
  }
  Status set_read_only(const std::string&, const std::string& device, bool read_only) override {
    host_.read_only[device] = read_only;
    return Status::ok();
  }
  Result<mount::Usage> usage(const std::string&) override {
    mount::Usage usage;
    usage.total_bytes = 1000;
    usage.read_only = host_.became_read_only;
    return usage;
  }

 private:
  FakeHost& host_;
};

class VolumeManagerTest : public testing::Test {
 protected:
  void SetUp() override {
    char folder[] = "/tmp/cvol-manager-XXXXXX";
    ASSERT_NE(::mkdtemp(folder), nullptr);
    folder_ = folder;
    std::filesystem::create_directories(folder_ + "/disks");
    start();
  }
  void TearDown() override {
    manager_.reset();
    std::filesystem::remove_all(folder_);
  }
  void start() {
    manager_.reset();
    auto store = meta::open_rocksdb_store(folder_ + "/meta");
    ASSERT_TRUE(store.is_ok()) << store.message();
    ManagerOptions options;
    options.data_dir = options.run_dir = folder_;
    options.node_name = "n1";
    options.boot_id = boot_id_;
    options.first_disk.capacity_bytes = 256 * kMiB;
    options.first_disk.journal_bytes = 16 * kMiB;
    options.scrub_interval = scrub_interval_;
    options.file_systems = std::make_unique<FakeFileSystems>(host_);
    options.host_space = [this](const std::string&) { return host_space_; };
    options.make_attacher = [this](attach::AttachOptions) {
      return Result<std::unique_ptr<attach::Attacher>>(std::make_unique<FakeAttacher>(host_));
    };
    adjust(options);
    store_ = store->get();
    auto manager = VolumeManager::start(std::move(options), wrap(std::move(*store)));
    ASSERT_TRUE(manager.is_ok()) << manager.message();
    manager_ = std::move(*manager);
  }
  virtual void adjust(ManagerOptions&) {}
  virtual std::unique_ptr<meta::MetadataStore> wrap(std::unique_ptr<meta::MetadataStore> store) {
    return store;
  }
  // Changes the stored record while nothing runs, as a crash would have left it.
  void edit_record(const std::string& name, const std::function<void(v1::VolumeRecord&)>& change) {
    manager_.reset();
    auto store = meta::open_rocksdb_store(folder_ + "/meta");
    ASSERT_TRUE(store.is_ok());
    Catalog catalog(**store, "default");
    std::vector<std::string> problems;
    auto entries = catalog.load_volumes(problems);
    ASSERT_TRUE(entries.is_ok());
    for (VolumeEntry& entry : *entries) {
      if (entry.record.name() != name) continue;
      v1::VolumeRecord next = entry.record;
      change(next);
      ASSERT_TRUE(catalog.update_volume(entry, next).is_ok());
    }
  }
  // In the metadata only, as if the disk could not be written any more.
  void note_failure(const std::string& disk_id, const std::string& reason) {
    manager_.reset();
    auto store = meta::open_rocksdb_store(folder_ + "/meta");
    ASSERT_TRUE(store.is_ok());
    Catalog catalog(**store, "default");
    ASSERT_TRUE(catalog.put_disk_failure(disk_id, reason).is_ok());
  }
  void wait_for_scrub() {
    for (int i = 0; i < 2000; ++i) {
      if (manager_->disks()[0].scrub.record.state != store::ScrubState::kRunning) return;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    FAIL() << "the scrub does not end";
  }
  // Events come from the shards by way of a worker: a moment later.
  bool has_event(const std::string& kind, const std::string& subject, const std::string& word) {
    for (int i = 0; i < 400; ++i) {
      for (const Event& event : manager_->events().after(0)) {
        if (event.kind == kind && event.subject == subject &&
            event.message.find(word) != std::string::npos) {
          return true;
        }
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return false;
  }
  static CreateRequest request(const std::string& name, uint64_t size = 64 * kMiB) {
    CreateRequest create;
    create.name = name;
    create.size_bytes = size;
    return create;
  }
  void create(const std::string& name) {
    auto made = manager_->create(request(name));
    ASSERT_TRUE(made.is_ok()) << made.message();
  }

  std::string folder_;
  std::string boot_id_ = "boot-1";
  std::chrono::seconds scrub_interval_{0};
  FakeHost host_;
  HostSpace host_space_{100 * kGiB, 60 * kGiB, 1};  // whatever the file system of the test has
  meta::MetadataStore* store_ = nullptr;            // the manager's
  std::unique_ptr<VolumeManager> manager_;
};

}  // namespace cvol::volume
