#include <filesystem>
#include <map>
#include <mutex>
#include <set>

#include "nbd/attach/attach.h"
#include "nbd/attach/backend.h"
#include "nbd/attach/device_record.h"
#include "nbd/attach/holder_watch.h"
#include "nbd/attach/host.h"
#include "volumed/base/log.h"
#include "volumed/base/units.h"
#include "volumed/mount/device_program.h"

namespace cvol::attach {
namespace {

constexpr std::chrono::seconds kEarlierStepsTime{10};

Device to_device(const DeviceRecord& record) {
  return {record.volume, record.device, record.method, record.size_bytes};
}

// Records and locks; see the contract in attach.h.
class AttacherImpl : public Attacher {
 public:
  explicit AttacherImpl(AttachOptions options)
      : options_(std::move(options)),
        program_(step_lock_dir(options_)),
        fuse_(make_fuse_backend(options_)),
        kernel_(make_kernel_backend(options_)) {}

  Status load();
  Result<Device> attach(const std::string& volume, uint64_t size_bytes) override;
  Status detach(const std::string& volume) override;
  void cut(const std::string& volume) override;
  Status discard(const std::string& volume) override;
  Status resize(const std::string& volume, uint64_t size_bytes) override;
  std::vector<Device> list() const override;
  Result<std::vector<Device>> reconcile() override;

 private:
  std::shared_ptr<std::mutex> volume_mutex(const std::string& volume);
  bool find(const std::string& volume, DeviceRecord& into) const;
  void remember(const DeviceRecord& record);
  void forget(const std::string& volume);
  DeviceBackend& backend_of(const DeviceRecord& record) const;
  Result<DeviceBackend*> choose_backend();
  Result<Device> attach_anew(const std::string& volume, uint64_t size_bytes);
  void reconcile_record(DeviceRecord record);
  void recover(const std::string& volume);
  void watch(const DeviceRecord& record);
  void tell_lost(const std::string& volume);
  bool is_unreadable(const std::string& volume) const;

  const AttachOptions options_;
  const mount::DeviceProgram program_;
  std::unique_ptr<DeviceBackend> fuse_;
  std::unique_ptr<DeviceBackend> kernel_;
  mutable std::mutex mutex_;
  std::map<std::string, DeviceRecord> records_;  // by volume
  std::set<std::string> unreadable_;             // volumes whose record is there and cannot be read
  std::map<std::string, std::shared_ptr<std::mutex>> volume_mutexes_;  // one at a time per volume
  // The last: its thread uses what is above.
  HolderWatch watch_{[this](const std::string& volume) { tell_lost(volume); }};
};

Status AttacherImpl::load() {
  std::error_code error;
  std::filesystem::create_directories(options_.state_dir, error);
  if (!error) std::filesystem::create_directories(options_.run_dir + "/attach", error);
  if (error) {
    return Status(Code::kIo, "create " + options_.state_dir + " and " + options_.run_dir +
                                 "/attach: " + error.message());
  }
  std::vector<std::string> unreadable;
  Result<std::vector<DeviceRecord>> records = read_records(options_.state_dir, &unreadable);
  if (!records) return records.status();
  for (const DeviceRecord& record : *records) records_[record.volume] = record;
  for (const std::string& volume : unreadable) {
    if (records_.contains(volume)) continue;
    unreadable_.insert(volume);
    recover(volume);
  }
  return Status::ok();
}

// A device that lives keeps living, though its record cannot be read. The file stays as it is.
void AttacherImpl::recover(const std::string& volume) {
  if (!validate_name(volume, "volume")) return;
  DeviceRecord record;
  record.volume = volume;
  record.instance = options_.instance;
  if (!fuse_->find_living(record) && !kernel_->find_living(record)) return;
  log::warning("attach", "a device was found again without its record",
               {{"volume", volume}, {"device", record.device}});
  records_[volume] = record;
  unreadable_.erase(volume);
}

void AttacherImpl::watch(const DeviceRecord& record) {
  if (record.holder_pid > 0) watch_.add(record.volume, record.holder_pid, record.holder_start);
}

void AttacherImpl::tell_lost(const std::string& volume) {
  DeviceRecord record;
  if (!find(volume, record)) return;
  log::error("attach", "the holder of a device has ended; its I/O fails until it is attached again",
             {{"volume", volume}, {"device", record.device}});
  if (options_.on_lost) options_.on_lost(volume, record.device);
}

bool AttacherImpl::is_unreadable(const std::string& volume) const {
  std::lock_guard lock(mutex_);
  return unreadable_.contains(volume);
}

std::shared_ptr<std::mutex> AttacherImpl::volume_mutex(const std::string& volume) {
  std::lock_guard lock(mutex_);
  auto& entry = volume_mutexes_[volume];
  if (entry == nullptr) entry = std::make_shared<std::mutex>();
  return entry;
}

bool AttacherImpl::find(const std::string& volume, DeviceRecord& into) const {
  std::lock_guard lock(mutex_);
  auto found = records_.find(volume);
  if (found == records_.end()) return false;
  into = found->second;
  return true;
}

void AttacherImpl::remember(const DeviceRecord& record) {
  std::lock_guard lock(mutex_);
  records_[record.volume] = record;
}

void AttacherImpl::forget(const std::string& volume) {
  if (Status status = remove_record(options_.state_dir, volume); !status) {
    log::warning("attach", "a device record stays; the next start cleans it up",
                 {{"volume", volume}, {"reason", status.message()}});
  }
  std::lock_guard lock(mutex_);
  records_.erase(volume);
  unreadable_.erase(volume);
}

DeviceBackend& AttacherImpl::backend_of(const DeviceRecord& record) const {
  return record.method == kernel_->method() ? *kernel_ : *fuse_;
}

Result<DeviceBackend*> AttacherImpl::choose_backend() {
  if (options_.method == Method::kFuse) {
    CVOL_TRY(fuse_->check_support());
    return fuse_.get();
  }
  Status kernel = kernel_->check_support();
  if (kernel) return kernel_.get();
  if (options_.method == Method::kKernel) return kernel;
  Status fuse = fuse_->check_support();
  if (fuse) return fuse_.get();
  return Status(Code::kUnsupported, kernel.message() + "; " + fuse.message());
}

Result<Device> AttacherImpl::attach(const std::string& volume, uint64_t size_bytes) {
  CVOL_TRY(validate_name(volume, "volume"));
  auto mutex = volume_mutex(volume);
  std::lock_guard volume_lock(*mutex);
  if (DeviceRecord record; find(volume, record)) {
    if (backend_of(record).is_alive(record)) return to_device(record);
    log::warning("attach", "the device of a volume is dead; it is made anew",
                 {{"volume", volume}, {"device", record.device}});
    backend_of(record).clean_up(record);
    forget(volume);
  }
  return attach_anew(volume, size_bytes);
}

// The record is written before the device is made and once more when it is known, so that a crash
// in between leaves a name to clean up by.
Result<Device> AttacherImpl::attach_anew(const std::string& volume, uint64_t size_bytes) {
  Result<DeviceBackend*> backend = choose_backend();
  if (!backend) return backend.status();
  DeviceRecord record;
  record.volume = volume;
  record.method = (*backend)->method();
  record.size_bytes = size_bytes;
  record.boot_id = boot_id();
  record.instance = options_.instance;
  CVOL_TRY(write_record(options_.state_dir, record));
  Status status = (*backend)->attach(record);
  if (status) {
    status = write_record(options_.state_dir, record);
    if (!status) (*backend)->clean_up(record);
  }
  if (!status) {
    forget(volume);
    return status.with_context("attach volume " + volume);
  }
  remember(record);
  watch(record);
  log::info("attach", "attached",
            {{"volume", volume}, {"device", record.device}, {"method", record.method}});
  return to_device(record);
}

Status AttacherImpl::detach(const std::string& volume) {
  auto mutex = volume_mutex(volume);
  std::lock_guard volume_lock(*mutex);
  DeviceRecord record;
  if (!find(volume, record)) {
    return Status(Code::kNotFound, "volume " + volume + " is not attached on this host");
  }
  if (backend_of(record).is_alive(record)) {
    watch_.remove(volume);
    const Status gone = backend_of(record).detach(record);
    if (!gone && backend_of(record).is_alive(record)) watch(record);
    CVOL_TRY(gone.with_context("detach volume " + volume));
  } else {
    backend_of(record).clean_up(record);
  }
  forget(volume);
  log::info("attach", "detached", {{"volume", volume}, {"device", record.device}});
  return Status::ok();
}

// Without the volume's mutex: whoever has it may be waiting for this.
void AttacherImpl::cut(const std::string& volume) {
  DeviceRecord record;
  if (!find(volume, record) || record.boot_id != boot_id()) return;
  log::warning("attach", "the I/O of a device is ended",
               {{"volume", volume}, {"device", record.device}});
  watch_.remove(volume);
  backend_of(record).cut(record);
}

// I/O is cut first: what would wait for ever ends with errors, and so do the steps and processes
// that wait for it, an unmount for one.
Status AttacherImpl::discard(const std::string& volume) {
  auto mutex = volume_mutex(volume);
  std::lock_guard volume_lock(*mutex);
  DeviceRecord record;
  if (!find(volume, record)) return Status::ok();
  watch_.remove(volume);
  if (record.boot_id == boot_id()) backend_of(record).cut(record);
  backend_of(record).clean_up(record);
  forget(volume);
  log::warning("attach", "discarded", {{"volume", volume}, {"device", record.device}});
  return Status::ok();
}

Status AttacherImpl::resize(const std::string& volume, uint64_t size_bytes) {
  auto mutex = volume_mutex(volume);
  std::lock_guard volume_lock(*mutex);
  DeviceRecord record;
  if (!find(volume, record)) {
    return Status(Code::kNotFound, "volume " + volume + " is not attached on this host");
  }
  if (size_bytes == record.size_bytes) return Status::ok();
  if (size_bytes < record.size_bytes) {
    return Status(Code::kInvalidArgument, "an attached device cannot become smaller");
  }
  CVOL_TRY(backend_of(record).resize(record, size_bytes).with_context("resize " + record.device));
  record.size_bytes = size_bytes;
  remember(record);
  return write_record(options_.state_dir, record);
}

std::vector<Device> AttacherImpl::list() const {
  std::lock_guard lock(mutex_);
  std::vector<Device> devices;
  for (const auto& [volume, record] : records_) devices.push_back(to_device(record));
  return devices;
}

void AttacherImpl::reconcile_record(DeviceRecord record) {
  auto mutex = volume_mutex(record.volume);
  std::lock_guard volume_lock(*mutex);
  DeviceBackend& backend = backend_of(record);
  bool alive = record.boot_id == boot_id() && backend.is_alive(record);
  if (alive) {
    if (Status status = backend.revive(record); status) {
      remember(record);
      watch(record);
      log::info("attach", "found again", {{"volume", record.volume}, {"device", record.device}});
      return;
    } else {
      log::error("attach", "a device could not be connected again; its I/O waits",
                 {{"volume", record.volume}, {"reason", status.message()}});
      return;
    }
  }
  log::warning("attach", "cleaning up after a device that is gone",
               {{"volume", record.volume}, {"device", record.device}});
  if (record.boot_id == boot_id()) backend.clean_up(record);
  forget(record.volume);
}

// What the volumed before this one was in the middle of ends first: only then do /sys and the mount
// table say what is there.
Result<std::vector<Device>> AttacherImpl::reconcile() {
  (void)program_.wait_for_earlier_steps(kEarlierStepsTime);
  std::vector<DeviceRecord> records;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [volume, record] : records_) records.push_back(record);
  }
  for (const DeviceRecord& record : records) reconcile_record(record);
  auto is_known = [this](const std::string& volume) {
    DeviceRecord record;
    return find(volume, record) || is_unreadable(volume);
  };
  fuse_->clean_orphans(is_known);
  kernel_->clean_orphans(is_known);
  return list();
}

}  // namespace

Result<std::unique_ptr<Attacher>> Attacher::open(AttachOptions options) {
  std::error_code error;
  std::filesystem::create_directories(options.run_dir, error);
  // The paths of the mount table and of /sys have no symbolic links in them.
  std::filesystem::path real = std::filesystem::canonical(options.run_dir, error);
  if (error) return Status(Code::kIo, "run directory " + options.run_dir + ": " + error.message());
  options.run_dir = real;
  auto attacher = std::make_unique<AttacherImpl>(std::move(options));
  CVOL_TRY(attacher->load());
  return std::unique_ptr<Attacher>(std::move(attacher));
}

}  // namespace cvol::attach
