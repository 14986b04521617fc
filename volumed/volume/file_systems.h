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

  // As in mount/mount.h.
  virtual Result<std::string> probe(const std::string& device) = 0;
  virtual Status make(const std::string& device, const std::string& type) = 0;
  virtual Status mount_device(const std::string& device, const std::string& target,
                              const std::string& type) = 0;
  virtual Status unmount(const std::string& target) = 0;
  virtual bool is_mounted(const std::string& target, std::string* device) = 0;
  virtual Status grow(const std::string& device, const std::string& target,
                      const std::string& type) = 0;

  // Makes `target` (created if absent) show `source`. kFailedPrecondition if something else is
  // mounted there.
  virtual Status bind(const std::string& source, const std::string& target) = 0;
  // Takes a mount whose device is gone out of the tree, though processes may hang in it.
  virtual Status unmount_lazily(const std::string& target) = 0;
  // The folder within a mounted file system that users get, made if absent.
  virtual Status make_data_folder(const std::string& path) = 0;

  static std::unique_ptr<FileSystems> real();
};

}  // namespace cvol::volume
