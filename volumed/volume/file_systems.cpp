// Every call is a step of cvol-device: it may wait for I/O that this process serves.
#include "volumed/volume/file_systems.h"

#include <filesystem>

#include "volumed/mount/device_program.h"
#include "volumed/mount/mountinfo.h"

namespace cvol::volume {
namespace {

class RealFileSystems final : public FileSystems {
 public:
  explicit RealFileSystems(const std::string& lock_dir) : program_(lock_dir) {}

  Result<std::string> probe(const std::string& volume, const std::string& device) override {
    return program_.run(volume, {"probe", device});
  }
  Status make(const std::string& volume, const std::string& device,
              const std::string& type) override {
    return program_.do_step(volume, {"make", device, type});
  }
  Status mount_device(const std::string& volume, const std::string& device,
                      const std::string& target, const std::string& type) override {
    return program_.do_step(volume, {"mount", device, target, type});
  }
  Status unmount(const std::string& volume, const std::string& target) override {
    return program_.do_step(volume, {"unmount", target});
  }
  Status grow(const std::string& volume, const std::string& device, const std::string& target,
              const std::string& type) override {
    return program_.do_step(volume, {"grow", device, target, type});
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
