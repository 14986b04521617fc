// FileSystems: mount, mkfs and bind as the volume manager needs them; a fake one in tests.
//
// Threading: any thread; calls block.
#pragma once

#include <memory>
#include <string>

#include "volumed/base/result.h"

namespace cvol::volume {

class FileSystems {
 public:
  virtual ~FileSystems() = default;

  // As in mount/mount.h. `volume`: its name; steps of one volume never overlap.
  virtual Result<std::string> probe(const std::string& volume, const std::string& device) = 0;
  virtual Status make(const std::string& volume, const std::string& device,
                      const std::string& type) = 0;
  virtual Status mount_device(const std::string& volume, const std::string& device,
                              const std::string& target, const std::string& type) = 0;
  virtual Status unmount(const std::string& volume, const std::string& target) = 0;
  virtual Status unmount_lazily(const std::string& volume, const std::string& target) = 0;
  virtual bool is_mounted(const std::string& target) = 0;
  virtual Status grow(const std::string& volume, const std::string& device,
                      const std::string& target, const std::string& type) = 0;
  virtual Status bind(const std::string& volume, const std::string& source,
                      const std::string& target) = 0;
  virtual Status make_data_folder(const std::string& volume, const std::string& path) = 0;

  // `lock_dir` as in mount/device_program.h.
  static std::unique_ptr<FileSystems> real(const std::string& lock_dir);
};

}  // namespace cvol::volume
