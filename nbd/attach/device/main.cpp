// cvol-device: one step on a device or file system of a volume, for volumed.
// volumed/mount/device_program.h says why it is a process of its own.
//
//   cvol-device LOCK_FILE STEP ARGUMENT...
//
// It says one line on stdout: "ok VALUE", or a code's name and a text. It holds LOCK_FILE ("":
// none) while it works. Once it has begun it goes on to the end, whatever becomes of volumed; if
// volumed has gone before that, it does nothing.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <sstream>
#include <string>
#include <vector>

#include "nbd/attach/backend.h"
#include "nbd/attach/host.h"
#include "volumed/mount/device_program.h"
#include "volumed/mount/device_users.h"
#include "volumed/mount/identity.h"
#include "volumed/mount/mount.h"
#include "volumed/mount/staging.h"
#include "volumed/mount/trim.h"

namespace cvol::attach {
namespace {

using Words = std::vector<std::string>;
using Answer = Result<std::string>;

Answer answer_of(const Status& status) {
  if (!status) return status;
  return std::string();
}

Answer fuse_step(const std::string& step, const Words& words) {
  AttachOptions options;
  options.run_dir = words[0];
  options.nbd_socket = words[1];
  options.holder_binary = words[2];
  Result<DeviceRecord> record = decode_record(words[3]);
  if (!record) return record.status();
  options.instance = record->instance;
  auto backend = make_local_fuse_backend(options);
  if (step == "fuse-detach") return answer_of(backend->detach(*record));
  if (step == "fuse-resize") return answer_of(backend->resize(*record, record->size_bytes));
  if (step == "fuse-clean-up") {
    backend->clean_up(*record);
    return std::string();
  }
  Status attached = backend->attach(*record);
  if (!attached) return attached;
  return encode_record(*record);
}

// Words that came as one, with `separator` between them.
Words split(const std::string& text, char separator) {
  Words words;
  std::istringstream stream(text);
  for (std::string word; std::getline(stream, word, separator);) words.push_back(word);
  return words;
}

Answer mount_with_step(const Words& words) {
  auto options = mount::parse_mount_flags(split(words[3], ','));
  if (!options) return options.status();
  return answer_of(mount::mount_with(words[0], words[1], words[2], *options));
}

Answer usage_step(const Words& words) {
  auto usage = mount::usage_of(words[0]);
  if (!usage) return usage.status();
  return mount::encode_usage(*usage);
}

Answer trim_step(const Words& words) {
  auto offset = mount::decode_trimmed(words[1]);
  if (!offset) return offset.status();
  auto length = mount::decode_trimmed(words[2]);
  if (!length) return length.status();
  auto trimmed = mount::trim(words[0], *offset, *length);
  if (!trimmed) return trimmed.status();
  return std::to_string(*trimmed);
}

struct Step {
  const char* name;
  std::size_t arguments;
  Answer (*run)(const Words& words);
};

constexpr Step kSteps[] = {
    {"fuse-attach", 4, [](const Words& w) { return fuse_step("fuse-attach", w); }},
    {"fuse-detach", 4, [](const Words& w) { return fuse_step("fuse-detach", w); }},
    {"fuse-resize", 4, [](const Words& w) { return fuse_step("fuse-resize", w); }},
    {"fuse-clean-up", 4, [](const Words& w) { return fuse_step("fuse-clean-up", w); }},
    {"check-free", 1, [](const Words& w) { return answer_of(check_device_is_free(w[0])); }},
    {"unmount-all", 1,
     [](const Words& w) {
       unmount_all_of_device(w[0]);
       return Answer(std::string());
     }},
    {"probe", 1, [](const Words& w) { return mount::probe(w[0]); }},
    {"make", 3,
     [](const Words& w) {
       return answer_of(mount::make_file_system(w[0], w[1], split(w[2], ' ')));
     }},
    {"make-anew", 3,
     [](const Words& w) {
       return answer_of(mount::make_file_system_anew(w[0], w[1], split(w[2], ' ')));
     }},
    {"trim", 3, trim_step},
    {"check", 3,
     [](const Words& w) { return answer_of(mount::check_file_system(w[0], w[1], w[2] == "ro")); }},
    {"mount-with", 4, mount_with_step},
    {"give-to-group", 2,
     [](const Words& w) {
       return answer_of(mount::give_to_group(
           w[0], static_cast<uint32_t>(std::strtoul(w[1].c_str(), nullptr, 10))));
     }},
    {"show-files", 3,
     [](const Words& w) { return answer_of(mount::show_files(w[0], w[1], w[2] == "ro")); }},
    {"show-device", 2, [](const Words& w) { return answer_of(mount::show_device(w[0], w[1])); }},
    {"hide", 2, [](const Words& w) { return answer_of(mount::hide(w[0], w[1])); }},
    {"set-read-only", 2,
     [](const Words& w) { return answer_of(mount::set_read_only(w[0], w[1] == "ro")); }},
    {"users", 2, [](const Words& w) { return mount::users_of_device(w[0], split(w[1], '\n')); }},
    {"usage", 1, usage_step},
    {"what-is-at", 2,
     [](const Words& w) { return Answer(mount::encode_seen(mount::what_is_at(w[0], w[1]))); }},
    {"mount", 3,
     [](const Words& w) { return answer_of(mount::mount_device(w[0], w[1], w[2], false)); }},
    {"mount-privileged", 3,
     [](const Words& w) { return answer_of(mount::mount_device(w[0], w[1], w[2], false, true)); }},
    {"unmount", 1, [](const Words& w) { return answer_of(mount::unmount(w[0])); }},
    {"unmount-lazily", 1, [](const Words& w) { return answer_of(mount::unmount_lazily(w[0])); }},
    {"grow", 3,
     [](const Words& w) { return answer_of(mount::grow_file_system(w[0], w[1], w[2])); }},
    {"bind", 2, [](const Words& w) { return answer_of(mount::bind(w[0], w[1])); }},
    {"make-data-folder", 1,
     [](const Words& w) { return answer_of(mount::make_data_folder(w[0])); }},
    {"is-mounted", 1,
     [](const Words& w) {
       return Answer(std::string(mount::is_mounted(w[0], nullptr) ? "yes" : "no"));
     }},
};

const Step* find_step(const std::string& name) {
  for (const Step& step : kSteps) {
    if (name == step.name) return &step;
  }
  return nullptr;
}

bool has_reader() {
  pollfd wait{STDOUT_FILENO, 0, 0};
  return poll(&wait, 1, 0) == 0 || (wait.revents & POLLERR) == 0;
}

// Held until this process ends; the file stays. Without a reader, waiting is pointless too.
Status lock(const std::string& path) {
  int file = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (file < 0) return status_from_errno(errno, "open " + path);
  bool locked = wait_until(mount::kStepLockTime,
                           [&] { return flock(file, LOCK_EX | LOCK_NB) == 0 || !has_reader(); });
  if (locked) return Status::ok();
  return Status(Code::kBusy,
                "an earlier operation on this volume is still under way; try again later");
}

Answer run_step(const Step& step, const std::string& lock_file, const Words& words) {
  if (!lock_file.empty()) CVOL_TRY(lock(lock_file));
  // A step that volumed no longer waits for could undo what the next volumed has done since.
  if (!has_reader()) return Status(Code::kCancelled, "nobody waits for this step");
  return step.run(words);
}

}  // namespace
}  // namespace cvol::attach

int main(int argc, char** argv) {
  using namespace cvol;
  const attach::Step* step = argc > 2 ? attach::find_step(argv[2]) : nullptr;
  attach::Words words(argv + (argc > 2 ? 3 : argc), argv + argc);
  if (step == nullptr || words.size() != step->arguments) {
    std::fprintf(stderr, "usage: cvol-device LOCK_FILE STEP ARGUMENT...\nvolumed starts it.\n");
    return 2;
  }
  // Nobody's Ctrl-C: half a step is worse than one that takes its time.
  setsid();
  for (int number : {SIGINT, SIGTERM, SIGHUP, SIGPIPE}) signal(number, SIG_IGN);
  if (chdir("/") != 0) return 2;
  std::string line = mount::encode_answer(attach::run_step(*step, argv[1], words));
  bool said = write(STDOUT_FILENO, line.data(), line.size()) == static_cast<ssize_t>(line.size());
  return said ? 0 : 1;
}
