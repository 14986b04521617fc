#include "volumed/volume/file_systems.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "volumed/mount/mount.h"

namespace cvol::volume {
namespace {

class RealFileSystems final : public FileSystems {
 public:
  Result<std::string> probe(const std::string& device) override { return mount::probe(device); }
  Status make(const std::string& device, const std::string& type) override {
    return mount::make_file_system(device, type);
  }
  Status mount_device(const std::string& device, const std::string& target,
                      const std::string& type) override {
    return mount::mount_device(device, target, type, false);
  }
  Status unmount(const std::string& target) override { return mount::unmount(target); }
  bool is_mounted(const std::string& target, std::string* device) override {
    return mount::is_mounted(target, device);
  }
  Status grow(const std::string& device, const std::string& target,
              const std::string& type) override {
    return mount::grow_file_system(device, target, type);
  }
  Status bind(const std::string& source, const std::string& target) override;
  Status unmount_lazily(const std::string& target) override;
  Status make_data_folder(const std::string& path) override;
};

Status RealFileSystems::bind(const std::string& source, const std::string& target) {
  std::error_code error;
  std::filesystem::create_directories(target, error);
  if (error) return status_from_errno(error.value(), "create " + target);
  if (mount::is_mounted(target, nullptr))
    return Status(Code::kFailedPrecondition,
                  "something is mounted at " + target + " already; choose another target");
  if (::mount(source.c_str(), target.c_str(), nullptr, MS_BIND, nullptr) != 0)
    return status_from_errno(errno, "bind " + source + " to " + target);
  return Status::ok();
}

Status RealFileSystems::unmount_lazily(const std::string& target) {
  if (::umount2(target.c_str(), MNT_DETACH) == 0 || errno == EINVAL || errno == ENOENT)
    return Status::ok();
  return status_from_errno(errno, "unmount " + target);
}

Status RealFileSystems::make_data_folder(const std::string& path) {
  if (::mkdir(path.c_str(), 0755) != 0) {
    return errno == EEXIST ? Status::ok() : status_from_errno(errno, "create " + path);
  }
  if (::chmod(path.c_str(), 0755) != 0) return status_from_errno(errno, "chmod " + path);
  return Status::ok();
}

}  // namespace

std::unique_ptr<FileSystems> FileSystems::real() { return std::make_unique<RealFileSystems>(); }

}  // namespace cvol::volume
