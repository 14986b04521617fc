// The kernel method: /dev/nbdN on socketpairs whose other ends the NBD server serves.
//
// When volumed dies, the kernel keeps the device and its waiting requests. The next volumed offers
// new sockets. A socket that the kernel does not take (none of its own is dead yet) it drops, and
// our end of the pair then reports a hang-up: so each socket is offered alone and looked at before
// it is handed to the server.
#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <map>
#include <mutex>
#include <thread>

#include "nbd/attach/backend.h"
#include "nbd/attach/host.h"
#include "nbd/attach/netlink.h"
#include "volumed/base/log.h"
#include "volumed/base/units.h"
#include "volumed/mount/device_program.h"

namespace cvol::attach {
namespace {

constexpr char kIdentifierPrefix[] = "cvol:";
constexpr std::chrono::seconds kReviveTime{20};
constexpr std::chrono::seconds kReadyTime{10};

// What the server behind the socketpairs can do: NBD_FLAG_HAS_FLAGS, SEND_FLUSH, SEND_FUA,
// SEND_TRIM, SEND_WRITE_ZEROES, CAN_MULTI_CONN.
constexpr uint64_t kServerFlags = 1 << 0 | 1 << 2 | 1 << 3 | 1 << 5 | 1 << 6 | 1 << 8;

struct Pair {
  Descriptor ours;    // for the NBD server
  Descriptor kernel;  // for the driver
};

Result<Pair> make_pair() {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
    return status_from_errno(errno, "make a socket pair");
  }
  for (int end : ends) {
    int bytes = 4 << 20;
    setsockopt(end, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof bytes);
  }
  return Pair{Descriptor(ends[0]), Descriptor(ends[1])};
}

bool was_dropped(int descriptor) {
  pollfd wait{descriptor, POLLIN, 0};
  return poll(&wait, 1, 0) == 1 && (wait.revents & (POLLHUP | POLLERR)) != 0;
}

std::string sys_path(uint32_t index, const char* file) {
  return "/sys/block/nbd" + std::to_string(index) + "/" + file;
}

// "cvol:INSTANCE:VOLUME"; "cvol:VOLUME" of a cvol that does not name itself.
std::string identifier_of(const DeviceRecord& record) {
  if (record.instance.empty()) return kIdentifierPrefix + record.volume;
  return kIdentifierPrefix + record.instance + ":" + record.volume;
}

// -1 if the text is not "/dev/nbdN" or "nbdN".
int64_t index_of(const std::string& device) {
  std::string name = device.substr(device.rfind('/') + 1);
  if (name.rfind("nbd", 0) != 0 || name.size() == 3) return -1;
  char* end = nullptr;
  long long index = std::strtoll(name.c_str() + 3, &end, 10);
  return *end == '\0' ? index : -1;
}

void load_module() {
  char* words[] = {const_cast<char*>("modprobe"), const_cast<char*>("nbd"), nullptr};
  char* environment[] = {const_cast<char*>("PATH=/usr/sbin:/usr/bin:/sbin:/bin"), nullptr};
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0);
  pid_t pid = -1;
  if (posix_spawnp(&pid, "modprobe", &actions, nullptr, words, environment) == 0) {
    waitpid(pid, nullptr, 0);
  }
  posix_spawn_file_actions_destroy(&actions);
}

class KernelBackend : public DeviceBackend {
 public:
  explicit KernelBackend(const AttachOptions& options)
      : options_(options), program_(step_lock_dir(options)) {}
  ~KernelBackend() override;

  const char* method() const override { return "kernel"; }
  Status check_support() override;
  Status attach(DeviceRecord& record) override;
  Status detach(const DeviceRecord& record) override;
  Status resize(const DeviceRecord& record, uint64_t size_bytes) override;
  void cut(const DeviceRecord& record) override;
  bool is_alive(const DeviceRecord& record) override;
  Status revive(DeviceRecord& record) override;
  void clean_up(const DeviceRecord& record) override;
  bool find_living(DeviceRecord& record) override;
  void clean_orphans(const std::function<bool(const std::string&)>& is_known) override;

 private:
  void remove_marked(const std::string& instance,
                     const std::function<bool(const std::string&)>& is_known);
  Result<uint32_t> connect(const DeviceRecord& record);
  Result<bool> replace_socket(uint32_t index, const DeviceRecord& record);
  Status disconnect(uint32_t index);
  Status make_writable(const DeviceRecord& record);
  void watch(uint32_t index, const DeviceRecord& record);
  void unwatch(uint32_t index);
  void run_watcher();
  void repair(uint32_t index);

  const AttachOptions options_;
  const mount::DeviceProgram program_;
  std::once_flag module_once_;
  std::mutex mutex_;
  std::map<uint32_t, DeviceRecord> watched_;  // by index
  std::thread watcher_;                       // from the first device on
  Descriptor wake_{eventfd(0, EFD_CLOEXEC)};
};

KernelBackend::~KernelBackend() {
  if (!watcher_.joinable()) return;
  uint64_t one = 1;
  if (write(wake_.number(), &one, sizeof one) == sizeof one) watcher_.join();
}

Status KernelBackend::check_support() {
  if (NbdNetlink::open()) return Status::ok();
  std::call_once(module_once_, load_module);
  return NbdNetlink::open().status();
}

Result<uint32_t> KernelBackend::connect(const DeviceRecord& record) {
  Result<NbdNetlink> link = NbdNetlink::open();
  if (!link) return link.status();
  std::vector<Pair> pairs;
  std::vector<int> sockets;
  for (uint32_t i = 0; i < record.connections; ++i) {
    Result<Pair> pair = make_pair();
    if (!pair) return pair.status();
    sockets.push_back(pair->kernel.number());
    pairs.push_back(std::move(*pair));
  }
  // Served before the kernel has them: its partition scan reads at once.
  for (Pair& pair : pairs) CVOL_TRY(options_.serve(record.volume, pair.ours.release()));
  KernelDeviceOptions device;
  device.backend_identifier = identifier_of(record);
  device.size_bytes = record.size_bytes;
  device.block_bytes = kBlockBytes;
  device.server_flags = kServerFlags;
  return link->connect(device, sockets);
}

Status KernelBackend::attach(DeviceRecord& record) {
  record.connections = options_.kernel_connections;
  Result<uint32_t> index = connect(record);
  if (!index) return index.status();
  record.device = "/dev/nbd" + std::to_string(*index);
  std::string sectors = std::to_string(record.size_bytes / 512);
  if (!wait_until(kReadyTime, [&] { return read_line(sys_path(*index, "size")) == sectors; })) {
    clean_up(record);
    return Status(Code::kIo, record.device + " did not reach its size");
  }
  // The kernel leaves the mark of a reader on the device, for whoever gets it next.
  if (Status status = make_writable(record); !status) {
    clean_up(record);
    return status;
  }
  watch(*index, record);
  return Status::ok();
}

Status KernelBackend::disconnect(uint32_t index) {
  unwatch(index);
  Result<NbdNetlink> link = NbdNetlink::open();
  if (!link) return link.status();
  CVOL_TRY(link->disconnect(index));
  if (wait_until(kReadyTime, [&] { return read_line(sys_path(index, "pid")).empty(); })) {
    return Status::ok();
  }
  return Status(Code::kBusy, "nbd" + std::to_string(index) + " is still open in a process");
}

Status KernelBackend::make_writable(const DeviceRecord& record) {
  return program_.do_step(record.volume, {"set-read-only", record.device, "rw"});
}

Status KernelBackend::detach(const DeviceRecord& record) {
  CVOL_TRY(program_.do_step(record.volume, {"check-free", record.device}));
  CVOL_TRY(make_writable(record));
  return disconnect(static_cast<uint32_t>(index_of(record.device)));
}

Status KernelBackend::resize(const DeviceRecord& record, uint64_t size_bytes) {
  Result<NbdNetlink> link = NbdNetlink::open();
  if (!link) return link.status();
  uint32_t index = static_cast<uint32_t>(index_of(record.device));
  CVOL_TRY(link->resize(index, identifier_of(record), size_bytes));
  std::string sectors = std::to_string(size_bytes / 512);
  if (wait_until(kReadyTime, [&] { return read_line(sys_path(index, "size")) == sectors; })) {
    return Status::ok();
  }
  return Status(Code::kUnsupported, record.device + " did not take its new size; this kernel " +
                                        "may be too old. Detach and attach the volume instead");
}

// A device that is open stays configured until its last user has gone, with errors for all.
void KernelBackend::cut(const DeviceRecord& record) {
  if (!is_alive(record)) return;
  const uint32_t index = static_cast<uint32_t>(index_of(record.device));
  unwatch(index);
  Result<NbdNetlink> link = NbdNetlink::open();
  Status status = link ? link->disconnect(index) : link.status();
  if (!status) log::warning("attach", "a kernel device is not cut", {{"reason", status.message()}});
}

// The attribute "pid" exists while the device is configured; "backend" is what we called it.
bool KernelBackend::is_alive(const DeviceRecord& record) {
  int64_t index = index_of(record.device);
  if (index < 0 || read_line(sys_path(static_cast<uint32_t>(index), "pid")).empty()) return false;
  return read_line(sys_path(static_cast<uint32_t>(index), "backend")) == identifier_of(record);
}

// True: the kernel took a new socket, and the server serves it. False: it has no dead one.
Result<bool> KernelBackend::replace_socket(uint32_t index, const DeviceRecord& record) {
  Result<NbdNetlink> link = NbdNetlink::open();
  if (!link) return link.status();
  Result<Pair> pair = make_pair();
  if (!pair) return pair.status();
  CVOL_TRY(link->offer_socket(index, identifier_of(record), pair->kernel.number()));
  pair->kernel = Descriptor();
  if (was_dropped(pair->ours.number())) return false;
  CVOL_TRY(options_.serve(record.volume, pair->ours.release()));
  return true;
}

// All sockets of the device ended with the process that had their other ends; the kernel may need
// a moment to notice.
Status KernelBackend::revive(DeviceRecord& record) {
  uint32_t index = static_cast<uint32_t>(index_of(record.device));
  uint32_t taken = 0;
  Status failure;
  wait_until(kReviveTime, [&] {
    Result<bool> result = replace_socket(index, record);
    failure = result.status();
    if (result && *result) ++taken;
    return !failure.is_ok() || taken == record.connections;
  });
  watch(index, record);
  log::info("attach", "kernel device connected again",
            {{"device", record.device}, {"sockets", taken}});
  if (taken > 0) return Status::ok();
  return failure.is_ok() ? Status(Code::kBusy, "the kernel reports no dead connection") : failure;
}

void KernelBackend::clean_up(const DeviceRecord& record) {
  remove_marked(record.instance,
                [&](const std::string& volume) { return volume != record.volume; });
}

void KernelBackend::clean_orphans(const std::function<bool(const std::string&)>& is_known) {
  remove_marked(options_.instance, is_known);
}

bool KernelBackend::find_living(DeviceRecord& record) {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/sys/block", error)) {
    if (read_line(entry.path() / "backend") != identifier_of(record)) continue;
    record.method = method();
    record.device = "/dev/" + entry.path().filename().string();
    record.boot_id = boot_id();
    record.connections = options_.kernel_connections;
    record.size_bytes = std::strtoull(read_line(entry.path() / "size").c_str(), nullptr, 10) * 512;
    if (is_alive(record)) return true;
  }
  return false;
}

// Devices of the kernel that carry the mark of this instance and belong to nobody. Those of others
// are their own to clean up.
void KernelBackend::remove_marked(const std::string& instance,
                                  const std::function<bool(const std::string&)>& is_known) {
  DeviceRecord marked;
  marked.instance = instance;
  const std::string mark = identifier_of(marked);
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/sys/block", error)) {
    int64_t index = index_of(entry.path().filename());
    if (index < 0) continue;
    std::string backend = read_line(entry.path() / "backend");
    if (backend.rfind(mark, 0) != 0) continue;
    std::string volume = backend.substr(mark.size());
    if (!validate_name(volume, "volume") || is_known(volume)) continue;
    std::string device = "/dev/" + entry.path().filename().string();
    log::warning("attach", "cleaning up a kernel device", {{"volume", volume}, {"device", device}});
    if (Status gone = program_.do_step(volume, {"unmount-all", device}); !gone) {
      log::warning("attach", "a kernel device stays mounted", {{"reason", gone.message()}});
    }
    if (Status status = disconnect(static_cast<uint32_t>(index)); !status) {
      log::warning("attach", "a kernel device stays", {{"reason", status.message()}});
    }
  }
}

void KernelBackend::watch(uint32_t index, const DeviceRecord& record) {
  std::lock_guard lock(mutex_);
  watched_[index] = record;
  if (!watcher_.joinable()) watcher_ = std::thread(&KernelBackend::run_watcher, this);
}

void KernelBackend::unwatch(uint32_t index) {
  std::lock_guard lock(mutex_);
  watched_.erase(index);
}

// Connections can end while volumed lives (a request that timed out, a server that closed one):
// the driver then sends an event, and gets a new socket.
void KernelBackend::run_watcher() {
  Result<NbdNetlink> link = NbdNetlink::open();
  if (Status joined = link ? link->join_events() : link.status(); !joined) {
    log::error("attach", "no events of the nbd driver", {{"reason", joined.message()}});
    return;
  }
  for (;;) {
    Result<std::vector<uint32_t>> dead = link->wait_link_dead(wake_.number());
    if (dead && dead->empty()) return;
    if (!dead) {
      log::warning("attach", "an event was lost", {{"reason", dead.message()}});
      std::lock_guard lock(mutex_);
      dead = std::vector<uint32_t>();
      for (const auto& [index, record] : watched_) dead->push_back(index);
      if (dead->empty()) continue;
    }
    for (uint32_t index : *dead) repair(index);
  }
}

void KernelBackend::repair(uint32_t index) {
  DeviceRecord record;
  {
    std::lock_guard lock(mutex_);
    auto found = watched_.find(index);
    if (found == watched_.end()) return;
    record = found->second;
  }
  Result<bool> taken = replace_socket(index, record);
  log::warning("attach", "a connection of a kernel device ended",
               {{"device", "nbd" + std::to_string(index)},
                {"volume", record.volume},
                {"replaced", taken && *taken},
                {"reason", taken.message()}});
}

}  // namespace

std::unique_ptr<DeviceBackend> make_kernel_backend(const AttachOptions& options) {
  return std::make_unique<KernelBackend>(options);
}

}  // namespace cvol::attach
