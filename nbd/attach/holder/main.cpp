// cvol-holder: holds one attached volume as the file MOUNT/volume (FUSE) and forwards its I/O to
// volumed's NBD socket. It outlives volumed, on purpose: while volumed is away, I/O waits.
//
// Started by volumed (nbd/attach/fuse_device.cpp). It says one line on stdout, "ok PID SIZE" or
// "error TEXT", as soon as it serves, and goes on in the background. It ends when its file system
// is unmounted, or on SIGTERM as soon as nobody has the file open.
#include <fcntl.h>
#include <getopt.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <mutex>
#include <string>
#include <thread>

#include "nbd/attach/holder/volume_file.h"
#include "nbd/client/pipeline.h"
#include "nbd/protocol/device_session.h"

namespace cvol::attach {

namespace {

constexpr off_t kMostLogBytes = 1 << 20;
constexpr std::size_t kKeptLogBytes = 256 * 1024;

// stderr is a file on a tmpfs, which a server that refuses all would fill. Beyond 1 MiB only the
// last quarter stays.
void bound_log() {
  struct stat found {};
  if (fstat(STDERR_FILENO, &found) != 0 || !S_ISREG(found.st_mode)) return;
  if (found.st_size < kMostLogBytes) return;
  static char kept[kKeptLogBytes];
  const ssize_t got =
      pread(STDERR_FILENO, kept, sizeof kept, found.st_size - static_cast<off_t>(sizeof kept));
  if (ftruncate(STDERR_FILENO, 0) != 0 || got <= 0) return;
  const char* from =
      static_cast<const char*>(std::memchr(kept, '\n', static_cast<std::size_t>(got)));
  if (from == nullptr) return;
  std::fprintf(stderr, "(earlier lines were dropped)%.*s", static_cast<int>(kept + got - from),
               from);
}

}  // namespace

void holder_log(const char* level, const std::string& text) {
  static std::mutex mutex;
  std::lock_guard lock(mutex);
  bound_log();
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  tm utc{};
  gmtime_r(&now.tv_sec, &utc);
  char stamp[32];
  std::strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%S", &utc);
  std::fprintf(stderr, "%s.%03ldZ %s holder: %s\n", stamp, now.tv_nsec / 1000000, level,
               text.c_str());
}

namespace {

constexpr std::size_t kThreadStackBytes = 128 * 1024;
constexpr int kSetIoFlusher = 57;  // PR_SET_IO_FLUSHER

struct Arguments {
  std::string volume;
  std::string mount_point;
  nbd::client::PipelineOptions pipeline;
};

bool parse_arguments(int argc, char** argv, Arguments& into) {
  static const option kOptions[] = {
      {"volume", required_argument, nullptr, 'v'}, {"mount", required_argument, nullptr, 'm'},
      {"socket", required_argument, nullptr, 's'}, {"instance", required_argument, nullptr, 'i'},
      {"no-session", no_argument, nullptr, 'n'},   {nullptr, 0, nullptr, 0}};
  for (int c; (c = getopt_long(argc, argv, "", kOptions, nullptr)) != -1;) {
    switch (c) {
      case 'v':
        into.volume = optarg;
        break;
      case 'm':
        into.mount_point = optarg;
        break;
      case 's':
        into.pipeline.socket_path = optarg;
        break;
      case 'i':  // for those who look at the process list (nbd/attach/holders.h)
        break;
      case 'n':
        into.pipeline.with_session = false;
        break;
      default:
        return false;
    }
  }
  into.pipeline.export_name = into.volume;
  into.pipeline.session_prefix = nbd::kDeviceSession;
  into.pipeline.largest_read_bytes = kMaxTransferBytes;
  return optind == argc && !into.volume.empty() && !into.mount_point.empty() &&
         !into.pipeline.socket_path.empty();
}

// The single line for volumed; then stdout leads nowhere, so that nobody waits for its end.
void say(const std::string& line) {
  std::printf("%s\n", line.c_str());
  std::fflush(stdout);
  int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  if (null < 0) return;
  dup2(null, STDOUT_FILENO);
  close(null);
}

// This process is in the path of the kernel's write-back: it must not need memory from it. Each
// step is a help that a container's limits may refuse.
void prepare_for_memory_pressure() {
  mallopt(M_ARENA_MAX, 1);
  mallopt(M_MMAP_THRESHOLD, 256 * 1024);  // large buffers go back to the system when freed
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, kThreadStackBytes);
  pthread_setattr_default_np(&attributes);
  pthread_attr_destroy(&attributes);
  if (mlockall(MCL_CURRENT | MCL_FUTURE) != 0) holder_log("INFO", "memory is not locked");
  if (prctl(kSetIoFlusher, 1, 0, 0, 0) != 0) holder_log("INFO", "not marked as I/O flusher");
  int file = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
  if (file < 0 || write(file, "-1000", 5) != 5)
    holder_log("INFO", "not exempt from the OOM killer");
  if (file >= 0) close(file);
}

// Becomes nobody's child, with a session of its own. False in the process that is to end.
bool detach_from_parent() {
  pid_t child = fork();
  if (child < 0) {
    say(std::string("error fork: ") + std::strerror(errno));
    return false;
  }
  if (child > 0) return false;
  setsid();
  if (chdir("/") != 0) holder_log("INFO", "could not leave the working directory");
  return true;
}

void wait_for_signals(VolumeFile& file, const sigset_t& signals) {
  for (;;) {
    int number = 0;
    if (sigwait(&signals, &number) == 0 && number != SIGHUP) file.want_stop();
  }
}

int serve(const Arguments& arguments) {
  sigset_t signals;
  sigemptyset(&signals);
  for (int number : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&signals, number);
  sigprocmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);

  // The file outlives the process's last thread: the signal thread is never joined.
  auto* file = new VolumeFile(arguments.volume);
  auto pipeline = nbd::client::Pipeline::open(arguments.pipeline, *file);
  if (!pipeline) {
    say("error " + pipeline.message());
    return 1;
  }
  prepare_for_memory_pressure();
  if (Status status = file->mount(arguments.mount_point, **pipeline); !status) {
    say("error " + status.message());
    return 1;
  }
  (*pipeline)->start();
  std::thread(wait_for_signals, std::ref(*file), std::cref(signals)).detach();
  holder_log("INFO", "holds volume " + arguments.volume);
  say("ok " + std::to_string(getpid()) + " " +
      std::to_string((*pipeline)->export_info().size_bytes));
  int error = file->run();
  (*pipeline)->stop();
  holder_log("INFO", error == 0 ? "released volume " + arguments.volume
                                : std::string("FUSE ended: ") + std::strerror(error));
  _exit(error == 0 ? 0 : 1);
}

}  // namespace
}  // namespace cvol::attach

int main(int argc, char** argv) {
  cvol::attach::Arguments arguments;
  if (!cvol::attach::parse_arguments(argc, argv, arguments)) {
    std::fprintf(stderr,
                 "usage: cvol-holder --volume NAME --mount DIR --socket PATH\n"
                 "volumed starts it; by hand: cvol volume attach NAME\n");
    return 2;
  }
  if (!cvol::attach::detach_from_parent()) return 0;
  return cvol::attach::serve(arguments);
}
