// Every call is a step of cvol-device: it may wait for I/O that this process serves.
#include "volumed/volume/file_systems.h"

#include <filesystem>

#include "volumed/mount/device_program.h"
#include "volumed/mount/mountinfo.h"
#include "volumed/mount/trim.h"

namespace cvol::volume {
namespace {

std::string join(const std::vector<std::string>& words, char separator) {
  std::string text;
  for (const std::string& word : words) {
    if (!text.empty()) text += separator;
    text += word;
  }
  return text;
}

class RealFileSystems final : public FileSystems {
 public:
  explicit RealFileSystems(const std::string& lock_dir) : program_(lock_dir) {}

  Result<std::string> probe(const std::string& volume, const std::string& device) override {
    return program_.run(volume, {"probe", device});
  }
  Status make(const std::string& volume, const std::string& device, const std::string& type,
              const std::vector<std::string>& options) override {
    return program_.do_step(volume, {"make", device, type, join(options, ' ')});
  }
  Status make_anew(const std::string& volume, const std::string& device, const std::string& type,
                   const std::vector<std::string>& options) override {
    return program_.do_step(volume, {"make-anew", device, type, join(options, ' ')});
  }
  Status mount_device(const std::string& volume, const std::string& device,
                      const std::string& target, const std::string& type,
                      bool privileged) override {
    return program_.do_step(volume,
                            {privileged ? "mount-privileged" : "mount", device, target, type});
  }
  Status unmount(const std::string& volume, const std::string& target) override {
    return program_.do_step(volume, {"unmount", target});
  }
  Status grow(const std::string& volume, const std::string& device, const std::string& target,
              const std::string& type) override {
    return program_.do_step(volume, {"grow", device, target, type});
  }
  Result<uint64_t> trim(const std::string& target, uint64_t offset, uint64_t length) override {
    auto answer =
        program_.run("", {"trim", target, std::to_string(offset), std::to_string(length)});
    if (!answer) return answer.status();
    return mount::decode_trimmed(*answer);
  }
  Status bind(const std::string& volume, const std::string& source,
              const std::string& target) override {
    return program_.do_step(volume, {"bind", source, target});
  }
  Status unmount_lazily(const std::string& volume, const std::string& target) override {
    return program_.do_step(volume, {"unmount-lazily", target});
  }
  Status make_data_folder(const std::string& volume, const std::string& path) override {
    return program_.do_step(volume, {"make-data-folder", path});
  }
  bool is_mounted(const std::string& target) override;
  Result<std::string> users(const std::string& device,
                            const std::vector<std::string>& ours) override {
    return program_.run("", {"users", device, join(ours, '\n')});
  }
  Result<mount::Seen> what_is_at(const std::string& target, const std::string& device) override {
    auto answer = program_.run("", {"what-is-at", target, device});
    if (!answer) return answer.status();
    return mount::decode_seen(*answer);
  }
  Status check(const std::string& volume, const std::string& device, const std::string& type,
               bool read_only) override {
    return program_.do_step(volume, {"check", device, type, read_only ? "ro" : "rw"});
  }
  Status mount_with(const std::string& volume, const std::string& device, const std::string& target,
                    const std::string& type, const std::vector<std::string>& flags) override {
    return program_.do_step(volume, {"mount-with", device, target, type, join(flags, ',')});
  }
  Status give_to_group(const std::string& volume, const std::string& target,
                       const std::string& group) override {
    return program_.do_step(volume, {"give-to-group", target, group});
  }
  Status show_files(const std::string& volume, const std::string& source, const std::string& target,
                    bool read_only) override {
    return program_.do_step(volume, {"show-files", source, target, read_only ? "ro" : "rw"});
  }
  Status show_device(const std::string& volume, const std::string& device,
                     const std::string& target) override {
    return program_.do_step(volume, {"show-device", device, target});
  }
  Status hide(const std::string& volume, const std::string& target,
              const std::string& device) override {
    return program_.do_step(volume, {"hide", target, device});
  }
  Status set_read_only(const std::string& volume, const std::string& device,
                       bool read_only) override {
    return program_.do_step(volume, {"set-read-only", device, read_only ? "ro" : "rw"});
  }
  Result<mount::Usage> usage(const std::string& path) override {
    auto answer = program_.run("", {"usage", path});
    if (!answer) return answer.status();
    return mount::decode_usage(*answer);
  }

 private:
  const mount::DeviceProgram program_;
};

// The table knows real paths only, and to resolve links is to look into directories, perhaps of
// one of our own volumes.
bool RealFileSystems::is_mounted(const std::string& target) {
  const std::string path = std::filesystem::path(target).lexically_normal();
  for (const mount::MountEntry& entry : mount::read_mountinfo()) {
    if (entry.target == path) return true;
  }
  auto answer = program_.run("", {"is-mounted", target});
  return answer.is_ok() && *answer == "yes";
}

}  // namespace

std::unique_ptr<FileSystems> FileSystems::real(const std::string& lock_dir) {
  return std::make_unique<RealFileSystems>(lock_dir);
}

}  // namespace cvol::volume
