// What the two methods of attaching have in common. The Attacher keeps records and locks; a backend
// makes and unmakes devices.
//
// Threading: any thread; the Attacher never makes two calls about one volume at once.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "nbd/attach/attach.h"
#include "nbd/attach/device_record.h"

namespace cvol::attach {

class DeviceBackend {
 public:
  virtual ~DeviceBackend() = default;

  // "kernel", "fuse".
  virtual const char* method() const = 0;
  // kUnsupported, with what is missing, if this host cannot do it.
  virtual Status check_support() = 0;
  // Fills device and what else belongs to the method. After an error nothing is left behind.
  virtual Status attach(DeviceRecord& record) = 0;
  virtual Status detach(const DeviceRecord& record) = 0;
  virtual Status resize(const DeviceRecord& record, uint64_t size_bytes) = 0;
  // I/O of the device ends with errors from now on. Waits for nothing; does nothing if there is no
  // such device.
  virtual void cut(const DeviceRecord& record) = 0;
  // Does the device of this record still exist, with all that keeps it going?
  virtual bool is_alive(const DeviceRecord& record) = 0;
  // At start: connects a living device again; `record` follows what was found.
  virtual Status revive(DeviceRecord& record) = 0;
  // Removes what is left of a device that is not alive, and what still serves it. What belongs to
  // another instance stays.
  virtual void clean_up(const DeviceRecord& record) = 0;
  // For a record that cannot be read: fills `record`, of which volume and instance are set, from
  // what the host knows. False if this host has no living device of that volume and instance.
  virtual bool find_living(DeviceRecord& record) = 0;
  // At start, after the records: what belongs to this instance but to no record.
  virtual void clean_orphans(const std::function<bool(const std::string& volume)>& is_known) = 0;
};

// In volumed. What waits for I/O of the device goes through cvol-device (mount/device_program.h).
std::unique_ptr<DeviceBackend> make_fuse_backend(const AttachOptions& options);
std::unique_ptr<DeviceBackend> make_kernel_backend(const AttachOptions& options);

// In cvol-device: does the work itself.
std::unique_ptr<DeviceBackend> make_local_fuse_backend(const AttachOptions& options);

// Where the lock files of steps are, for every user of this run directory.
inline std::string step_lock_dir(const AttachOptions& options) {
  return options.run_dir + "/locks";
}

}  // namespace cvol::attach
