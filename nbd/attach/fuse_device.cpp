// The FUSE + loop method: cvol-holder serves RUN_DIR/attach/NAME/volume, a loop device makes it a
// block device. Which file belongs to which volume is plain from the path, so what is found in /sys
// and the mount table decides; the record only adds who the holder is.
//
// All this waits for I/O of the volume, and so runs in cvol-device (fuse_backend.cpp starts it).
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <vector>

#include "nbd/attach/backend.h"
#include "nbd/attach/holders.h"
#include "nbd/attach/host.h"
#include "nbd/attach/loop.h"
#include "volumed/base/log.h"

namespace cvol::attach {
namespace {

constexpr std::chrono::seconds kHolderStartTime{40};  // its handshake has 30 s
constexpr std::chrono::seconds kHolderEndTime{5};

std::string find_holder(const std::string& configured) {
  if (!configured.empty()) return configured;
  std::error_code error;
  std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", error);
  std::string beside = self.parent_path() / "cvol-holder";
  return access(beside.c_str(), X_OK) == 0 ? beside : "cvol-holder";
}

// Reads the holder's line; "" if none came in time.
std::string read_answer(int descriptor) {
  auto end = std::chrono::steady_clock::now() + kHolderStartTime;
  std::string text;
  while (text.find('\n') == std::string::npos && text.size() < 4096) {
    auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
        end - std::chrono::steady_clock::now());
    pollfd wait{descriptor, POLLIN, 0};
    if (left.count() <= 0 || poll(&wait, 1, static_cast<int>(left.count())) == 0) return "";
    char buffer[1024];
    ssize_t got = read(descriptor, buffer, sizeof buffer);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    text.append(buffer, static_cast<std::size_t>(got));
  }
  return text.substr(0, text.find('\n'));
}

// Starts the holder with stdout on a pipe and stderr on its log; it puts itself in the background.
// Answers its line.
Result<std::string> run_holder(const std::string& binary, const std::vector<std::string>& words,
                               const std::string& log_path) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return status_from_errno(errno, "make a pipe");
  Descriptor reading(ends[0]);
  Descriptor writing(ends[1]);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, writing.number(), 1);
  posix_spawn_file_actions_addopen(&actions, 2, log_path.c_str(), O_RDWR | O_CREAT | O_APPEND,
                                   0600);
  posix_spawn_file_actions_addclosefrom_np(&actions, 3);
  std::vector<char*> arguments;
  // systemd leaves processes whose name begins with "@" alone until file systems are unmounted.
  arguments.push_back(const_cast<char*>("@cvol-holder"));
  for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  char* environment[] = {const_cast<char*>("PATH=/usr/sbin:/usr/bin:/sbin:/bin"), nullptr};
  pid_t pid = -1;
  int error = posix_spawnp(&pid, binary.c_str(), &actions, nullptr, arguments.data(), environment);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) return status_from_errno(error, "start " + binary);
  writing = Descriptor();
  std::string answer = read_answer(reading.number());
  waitpid(pid, nullptr, 0);  // only the first process, which ends as soon as it has forked
  return answer;
}

class LocalFuseBackend : public DeviceBackend {
 public:
  explicit LocalFuseBackend(const AttachOptions& options)
      : nbd_socket_(options.nbd_socket),
        instance_(options.instance),
        root_(options.run_dir + "/attach"),
        logs_(options.run_dir + "/holder-log"),
        holder_(find_holder(options.holder_binary)) {}

  const char* method() const override { return "fuse"; }
  Status check_support() override;
  Status attach(DeviceRecord& record) override;
  Status detach(const DeviceRecord& record) override;
  Status resize(const DeviceRecord& record, uint64_t size_bytes) override;
  void cut(const DeviceRecord& record) override;
  bool is_alive(const DeviceRecord& record) override;
  Status revive(DeviceRecord&) override { return Status::ok(); }  // the holder does it by itself
  void clean_up(const DeviceRecord& record) override;
  bool find_living(DeviceRecord& record) override;
  void clean_orphans(const std::function<bool(const std::string&)>& is_known) override;

 private:
  std::string directory(const std::string& volume) const { return root_ + "/" + volume; }
  std::string log_file(const std::string& volume) const { return logs_ + "/" + volume + ".log"; }
  std::string file(const std::string& volume) const { return directory(volume) + "/volume"; }
  Status start_holder(DeviceRecord& record);
  Status prepare_directory(const DeviceRecord& record);
  Status remove_rest(const DeviceRecord& record);
  void undo_attach(const DeviceRecord& record);

  const std::string nbd_socket_;
  const std::string instance_;
  const std::string root_;
  const std::string logs_;
  const std::string holder_;
};

Status LocalFuseBackend::check_support() {
  std::string missing;
  if (access("/dev/fuse", R_OK | W_OK) != 0) missing += " /dev/fuse (modprobe fuse)";
  if (access("/dev/loop-control", R_OK | W_OK) != 0)
    missing += " /dev/loop-control (modprobe loop)";
  if (missing.empty()) return Status::ok();
  return Status(Code::kUnsupported, "attach by FUSE needs what this host does not have:" + missing);
}

Status LocalFuseBackend::prepare_directory(const DeviceRecord& record) {
  const std::string& volume = record.volume;
  CVOL_TRY(remove_rest(record));  // of an earlier holder
  std::error_code error;
  std::filesystem::create_directories(directory(volume), error);
  if (!error) std::filesystem::create_directories(logs_, error);
  if (error) return Status(Code::kIo, "create " + directory(volume) + ": " + error.message());
  return Status::ok();
}

Status LocalFuseBackend::start_holder(DeviceRecord& record) {
  std::vector<std::string> words = {"--volume", record.volume, "--mount", directory(record.volume),
                                    "--socket", nbd_socket_};
  if (!record.instance.empty()) words.insert(words.end(), {"--instance", record.instance});
  Result<std::string> answer = run_holder(holder_, words, log_file(record.volume));
  if (!answer) return answer.status();
  long long pid = 0;
  unsigned long long size = 0;
  if (std::sscanf(answer->c_str(), "ok %lld %llu", &pid, &size) == 2) {
    record.holder_pid = pid;
    record.holder_start = process_start_time(pid);
    record.size_bytes = size;
    return Status::ok();
  }
  std::string reason = answer->rfind("error ", 0) == 0 ? answer->substr(6) : "it said nothing";
  return Status(Code::kUnavailable,
                "cvol-holder did not start: " + reason + "; its log is " + log_file(record.volume));
}

Status LocalFuseBackend::attach(DeviceRecord& record) {
  CVOL_TRY(prepare_directory(record));
  if (Status status = start_holder(record); !status) {
    undo_attach(record);
    return status;
  }
  Result<std::string> device = loop_attach(file(record.volume));
  if (!device) {
    undo_attach(record);
    return device.status();
  }
  record.device = *device;
  return Status::ok();
}

Status LocalFuseBackend::detach(const DeviceRecord& record) {
  if (std::string device = loop_of_file(file(record.volume)); !device.empty()) {
    CVOL_TRY(check_device_is_free(device));
    CVOL_TRY(loop_detach(device));
  }
  std::string target = directory(record.volume);
  if (umount2(target.c_str(), 0) != 0 && errno != EINVAL && errno != ENOENT) {
    return status_from_errno(errno, "unmount " + target);
  }
  if (!wait_until(kHolderEndTime, [&] {
        uint64_t start = process_start_time(record.holder_pid);
        return start == 0 || start != record.holder_start;
      })) {
    log::warning("attach", "cvol-holder has not ended yet", {{"pid", record.holder_pid}});
  }
  return remove_rest(record);
}

Status LocalFuseBackend::resize(const DeviceRecord& record, uint64_t size_bytes) {
  std::string path = file(record.volume);
  if (truncate(path.c_str(), static_cast<off_t>(size_bytes)) != 0) {
    return status_from_errno(errno, "resize " + path);
  }
  return loop_update_size(record.device);
}

// With the holder goes its connection to the kernel, and all that waits there.
void LocalFuseBackend::cut(const DeviceRecord& record) {
  const bool held =
      record.holder_pid > 0 && process_start_time(record.holder_pid) == record.holder_start;
  if (held) kill(static_cast<pid_t>(record.holder_pid), SIGKILL);
}

// Asks the holder nothing: while volumed is away it may be waiting.
bool LocalFuseBackend::is_alive(const DeviceRecord& record) {
  uint64_t start = process_start_time(record.holder_pid);
  return start != 0 && start == record.holder_start && !record.device.empty() &&
         loop_of_file(file(record.volume)) == record.device;
}

void LocalFuseBackend::clean_up(const DeviceRecord& record) {
  undo_attach(record);
}

void LocalFuseBackend::undo_attach(const DeviceRecord& record) {
  if (Status status = remove_rest(record); !status) {
    log::warning("attach", "what is left of a device stays",
                 {{"volume", record.volume}, {"reason", status.message()}});
  }
}

// The holder first: a user who has the device beyond our reach must not go on writing beside the
// next one. Then the loop device, while its file still has the path by which it is found.
Status LocalFuseBackend::remove_rest(const DeviceRecord& record) {
  const std::string& volume = record.volume;
  CVOL_TRY(end_holders(directory(volume), record.instance));
  if (std::string device = loop_of_file(file(volume)); !device.empty()) {
    unmount_all_of_device(device);
    if (Status status = loop_detach(device); !status) {
      log::warning("attach", "a dead loop device stays until its users end",
                   {{"device", device}, {"reason", status.message()}});
    }
  }
  std::string target = directory(volume);
  while (umount2(target.c_str(), MNT_DETACH) == 0) {
  }
  rmdir(target.c_str());
  return Status::ok();
}

bool LocalFuseBackend::find_living(DeviceRecord& record) {
  const std::string device = loop_of_file(file(record.volume));
  const std::vector<Holder> holders = find_holders(directory(record.volume));
  if (device.empty() || holders.size() != 1 || holders[0].instance != record.instance) return false;
  record.method = method();
  record.device = device;
  record.boot_id = boot_id();
  record.holder_pid = holders[0].pid;
  record.holder_start = holders[0].start;
  record.size_bytes = loop_size(device);
  return true;
}

void LocalFuseBackend::clean_orphans(const std::function<bool(const std::string&)>& is_known) {
  std::vector<std::string> names;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(root_, error)) {
    std::string name = entry.path().filename();
    if (!is_known(name)) names.push_back(name);
  }
  for (const std::string& name : names) {
    log::warning("attach", "cleaning up a device without a record", {{"volume", name}});
    DeviceRecord record;
    record.volume = name;
    record.instance = instance_;
    clean_up(record);
  }
}

}  // namespace

std::unique_ptr<DeviceBackend> make_local_fuse_backend(const AttachOptions& options) {
  return std::make_unique<LocalFuseBackend>(options);
}

}  // namespace cvol::attach
