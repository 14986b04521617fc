#include "nbd/attach/holders.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <set>

#include "nbd/attach/host.h"
#include "volumed/base/log.h"

namespace cvol::attach {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMostArgumentBytes = 64 * 1024;
constexpr std::chrono::seconds kEndTime{10};
constexpr char kProgram[] = "@cvol-holder";
constexpr char kClaim[] = "/instance";

std::vector<std::string> words_of(const fs::path& process) {
  Descriptor file(open((process / "cmdline").c_str(), O_RDONLY | O_CLOEXEC));
  std::string text(kMostArgumentBytes, '\0');
  const ssize_t got = file.is_open() ? read(file.number(), text.data(), text.size()) : 0;
  text.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
  std::vector<std::string> words;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\0', at), text.size());
    words.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return words;
}

std::string link_of(const fs::path& path) {
  std::error_code error;
  const fs::path target = fs::read_symlink(path, error);
  return error ? "" : target.string();
}

// Anybody can name a process as he likes; only ours are root's and live where volumed does.
bool may_be_ours(const fs::path& process) {
  struct stat owner {};
  if (stat(process.c_str(), &owner) != 0 || owner.st_uid != 0) return false;
  return link_of(process / "ns/pid") == link_of("/proc/self/ns/pid");
}

bool is_at_or_below(const std::string& path, const std::string& root) {
  return path == root || path.starts_with(root + "/");
}

std::string names_of(const std::vector<Holder>& holders) {
  std::set<std::string> names;
  for (const Holder& holder : holders) names.insert(holder.volume);
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "'" : ", '") + name + "'";
  return text;
}

}  // namespace

bool parse_holder(const std::vector<std::string>& words, Holder& into) {
  if (words.empty() || words[0] != kProgram) return false;
  for (std::size_t i = 1; i + 1 < words.size(); i += 2) {
    if (words[i] == "--volume") into.volume = words[i + 1];
    if (words[i] == "--mount") into.mount = words[i + 1];
    if (words[i] == "--instance") into.instance = words[i + 1];
  }
  return !into.volume.empty() && !into.mount.empty();
}

std::vector<Holder> find_holders(const std::string& root) {
  std::vector<Holder> found;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator("/proc", error)) {
    const std::string pid = entry.path().filename();
    if (pid.find_first_not_of("0123456789") != std::string::npos) continue;
    Holder holder;
    if (!parse_holder(words_of(entry.path()), holder)) continue;
    if (!is_at_or_below(holder.mount, root) || !may_be_ours(entry.path())) continue;
    holder.pid = std::strtoll(pid.c_str(), nullptr, 10);
    holder.start = process_start_time(holder.pid);
    if (holder.start != 0) found.push_back(std::move(holder));
  }
  return found;
}

Status end_holders(const std::string& directory, const std::string& instance) {
  const std::vector<Holder> holders = find_holders(directory);
  for (const Holder& holder : holders) {
    if (holder.instance == instance) continue;
    return Status(Code::kFailedPrecondition,
                  "the device of volume '" + holder.volume + "' at " + directory + " belongs to " +
                      (holder.instance.empty() ? "a cvol that does not name itself"
                                               : "another instance of cvol, " + holder.instance) +
                      " and stays. If nothing needs it any more, end process " +
                      std::to_string(holder.pid) + " (cvol-holder)");
  }
  for (const Holder& holder : holders) {
    log::warning("attach", "a holder is ended", {{"volume", holder.volume}, {"pid", holder.pid}});
    if (process_start_time(holder.pid) == holder.start)
      kill(static_cast<pid_t>(holder.pid), SIGKILL);
  }
  for (const Holder& holder : holders) {
    if (!wait_until(kEndTime, [&] { return process_start_time(holder.pid) != holder.start; }))
      return Status(Code::kBusy, "cvol-holder (" + std::to_string(holder.pid) + ") of volume '" +
                                     holder.volume + "' does not end; try again");
  }
  return Status::ok();
}

Status check_run_dir(const std::string& run_dir, const std::string& instance) {
  std::error_code error;
  const fs::path real = fs::canonical(run_dir, error);
  if (error) return Status::ok();  // nothing was ever attached there
  std::vector<Holder> foreign;
  for (Holder& holder : find_holders(real.string() + "/attach/attach")) {
    if (!holder.instance.empty() && holder.instance != instance) foreign.push_back(holder);
  }
  if (foreign.empty()) return Status::ok();
  const std::string claim = read_line(run_dir + kClaim);
  const std::size_t space = claim.find(' ');
  const std::string data_dir = space == std::string::npos ? "" : claim.substr(space + 1);
  return Status(Code::kFailedPrecondition,
                "run directory " + run_dir + " belongs to another instance of cvol" +
                    (data_dir.empty() ? "" : " (data directory " + data_dir + ")") +
                    ", whose volumes are attached here: " + names_of(foreign) +
                    ". Start volumed with that data directory, or with another --run-dir");
}

Status claim_run_dir(const std::string& run_dir, const std::string& instance,
                     const std::string& data_dir) {
  const std::string path = run_dir + kClaim;
  const std::string fresh = path + ".new";
  const std::string text = instance + " " + data_dir + "\n";
  Descriptor file(open(fresh.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!file.is_open()) return status_from_errno(errno, "create " + fresh);
  if (write(file.number(), text.data(), text.size()) != static_cast<ssize_t>(text.size()))
    return status_from_errno(errno, "write " + fresh);
  if (rename(fresh.c_str(), path.c_str()) != 0) return status_from_errno(errno, "rename " + fresh);
  return Status::ok();
}

}  // namespace cvol::attach
