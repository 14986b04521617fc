// Words of users for mount and mkfs: what they may be. Pure.
#include <sys/mount.h>

#include <algorithm>
#include <cctype>
#include <set>
#include <sstream>

#include "volumed/mount/mount.h"
#include "volumed/mount/staging.h"

namespace cvol::mount {
namespace {

constexpr std::size_t kMostFlags = 64;
constexpr std::size_t kMostFlagBytes = 256;

struct Flag {
  const char* name;
  unsigned long set;
  unsigned long clear;
};

constexpr Flag kFlags[] = {
    {"ro", MS_RDONLY, 0},
    {"rw", 0, MS_RDONLY},
    {"nosuid", MS_NOSUID, 0},
    {"suid", 0, MS_NOSUID},
    {"nodev", MS_NODEV, 0},
    {"dev", 0, MS_NODEV},
    {"noexec", MS_NOEXEC, 0},
    {"exec", 0, MS_NOEXEC},
    {"sync", MS_SYNCHRONOUS, 0},
    {"async", 0, MS_SYNCHRONOUS},
    {"dirsync", MS_DIRSYNC, 0},
    {"noatime", MS_NOATIME, MS_RELATIME | MS_STRICTATIME},
    {"atime", 0, MS_NOATIME},
    {"nodiratime", MS_NODIRATIME, 0},
    {"diratime", 0, MS_NODIRATIME},
    {"relatime", MS_RELATIME, MS_NOATIME | MS_STRICTATIME},
    {"strictatime", MS_STRICTATIME, MS_NOATIME | MS_RELATIME},
    {"lazytime", MS_LAZYTIME, 0},
    {"nolazytime", 0, MS_LAZYTIME},
    {"silent", MS_SILENT, 0},
};

Status invalid(const std::string& text) {
  return Status(Code::kInvalidArgument, text);
}

bool is_plain_word(const std::string& word) {
  return !word.empty() && word.size() <= kMostFlagBytes &&
         std::all_of(word.begin(), word.end(), [](unsigned char c) {
           return std::isalnum(c) != 0 ||
                  std::string_view("_-=.:/+@%").find(static_cast<char>(c)) !=
                      std::string_view::npos;
         });
}

Status apply(const std::string& flag, MountOptions& options) {
  static const std::set<std::string> changes_the_call = {
      "bind",      "rbind",      "move",         "remount", "loop",   "private",
      "rprivate",  "shared",     "rshared",      "slave",   "rslave", "offset",
      "sizelimit", "unbindable", "journal_path", "logdev",  "rtdev",  "journal_dev"};
  static const std::set<std::string> of_mount_program = {"defaults", "_netdev", "nofail", "auto",
                                                         "noauto"};
  if (!is_plain_word(flag)) return invalid("mount flag '" + flag + "' is no flag");
  const std::string name = flag.substr(0, flag.find('='));
  if (changes_the_call.contains(name) || name.starts_with("x-"))
    return invalid("mount flag '" + flag + "' is not possible for a volume");
  if (name == "errors" && flag != "errors=remount-ro")
    return invalid("mount flag '" + flag + "': a damaged file system takes no more writes, and " +
                   "neither goes on nor stops its host");
  if (of_mount_program.contains(name)) return Status::ok();
  for (const Flag& known : kFlags) {
    if (flag != known.name) continue;
    options.flags = (options.flags & ~known.clear) | known.set;
    return Status::ok();
  }
  options.data += (options.data.empty() ? "" : ",") + flag;
  return Status::ok();
}

// Of mkfs.ext4 -E: what shapes the file system, not where it begins or what the kernel does with
// it.
Status check_extended(const std::string& value) {
  static const std::set<std::string> known = {
      "stride",    "stripe_width",  "stripe-width",      "resize",     "lazy_itable_init",
      "discard",   "nodiscard",     "lazy_journal_init", "root_owner", "packed_meta_blocks",
      "quotatype", "num_backup_sb", "root_perms"};
  std::istringstream stream(value);
  for (std::string part; std::getline(stream, part, ',');) {
    if (!known.contains(part.substr(0, part.find('='))))
      return invalid("'" + part +
                     "' is not one of the extended options (-E) that ext4 may be given");
  }
  return Status::ok();
}

}  // namespace

Result<MountOptions> parse_mount_flags(const std::vector<std::string>& flags) {
  if (flags.size() > kMostFlags) return invalid("there are more than 64 mount flags");
  MountOptions options;
  for (const std::string& flag : flags) CVOL_TRY(apply(flag, options));
  return options;
}

Status validate_mkfs_options(const std::string& type, const std::vector<std::string>& words) {
  CVOL_TRY(validate_file_system(type));
  // To overwrite what is there (-F, -f) is never an option.
  const std::string with_value = type == "xfs" ? "bdimnLs" : "bCgGiIJLmNOTUE";
  for (std::size_t i = 0; i < words.size(); ++i) {
    const std::string& word = words[i];
    const bool known =
        word.size() == 2 && word[0] == '-' && with_value.find(word[1]) != std::string::npos;
    if (!known)
      return invalid("mkfs option '" + word + "' is not one of those that " + type +
                     " may be given");
    if (++i == words.size()) return invalid("mkfs option '" + word + "' has no value");
    std::string value = words[i];
    std::replace(value.begin(), value.end(), ',', '.');
    std::replace(value.begin(), value.end(), '^', '.');
    if (!is_plain_word(value) || value.find('/') != std::string::npos || value[0] == '-')
      return invalid("'" + words[i] + "' is no value for mkfs option '" + word + "'");
    if (word == "-E") CVOL_TRY(check_extended(words[i]));
  }
  return Status::ok();
}

}  // namespace cvol::mount
