// FileSystems: mount, mkfs and bind as the volume manager needs them; a fake one in tests.
//
// Threading: any thread; calls block.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "volumed/base/result.h"
#include "volumed/mount/identity.h"
#include "volumed/mount/staging.h"

namespace cvol::volume {

class FileSystems {
 public:
  virtual ~FileSystems() = default;

  // As in mount/mount.h. `volume`: its name; steps of one volume never overlap.
  virtual Result<std::string> probe(const std::string& volume, const std::string& device) = 0;
  virtual Status make(const std::string& volume, const std::string& device, const std::string& type,
                      const std::vector<std::string>& options) = 0;
  // The same on a device that holds what is left of a mkfs that was cut off: that goes first.
  virtual Status make_anew(const std::string& volume, const std::string& device,
                           const std::string& type, const std::vector<std::string>& options) = 0;
  virtual Status mount_device(const std::string& volume, const std::string& device,
                              const std::string& target, const std::string& type,
                              bool privileged) = 0;
  virtual Status unmount(const std::string& volume, const std::string& target) = 0;
  virtual Status unmount_lazily(const std::string& volume, const std::string& target) = 0;
  virtual bool is_mounted(const std::string& target) = 0;
  // As users_of_device() of mount/device_users.h.
  virtual Result<std::string> users(const std::string& device,
                                    const std::vector<std::string>& ours) = 0;
  // As in mount/identity.h.
  virtual Result<mount::Seen> what_is_at(const std::string& target, const std::string& device) = 0;
  virtual Status grow(const std::string& volume, const std::string& device,
                      const std::string& target, const std::string& type) = 0;
  // As in mount/trim.h; no step of the volume, which may begin before it is over.
  virtual Result<uint64_t> trim(const std::string& target, uint64_t offset, uint64_t length) = 0;
  virtual Status bind(const std::string& volume, const std::string& source,
                      const std::string& target) = 0;
  virtual Status make_data_folder(const std::string& volume, const std::string& path) = 0;

  // As in mount/staging.h.
  virtual Status check(const std::string& volume, const std::string& device,
                       const std::string& type, bool read_only) = 0;
  virtual Status mount_with(const std::string& volume, const std::string& device,
                            const std::string& target, const std::string& type,
                            const std::vector<std::string>& flags) = 0;
  virtual Status give_to_group(const std::string& volume, const std::string& target,
                               const std::string& group) = 0;
  virtual Status show_files(const std::string& volume, const std::string& source,
                            const std::string& target, bool read_only) = 0;
  virtual Status show_device(const std::string& volume, const std::string& device,
                             const std::string& target) = 0;
  virtual Status hide(const std::string& volume, const std::string& target,
                      const std::string& device) = 0;
  virtual Status set_read_only(const std::string& volume, const std::string& device,
                               bool read_only) = 0;
  virtual Result<mount::Usage> usage(const std::string& path) = 0;

  // `lock_dir` as in mount/device_program.h.
  static std::unique_ptr<FileSystems> real(const std::string& lock_dir);
};

}  // namespace cvol::volume
