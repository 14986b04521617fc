// Attach: makes a volume a block device of this host, and keeps it one across restarts of volumed.
//
// Two methods. `kernel`: the kernel's nbd driver, configured by netlink; the kernel holds the
// device, and after a restart volumed gives it new sockets (NBD_CMD_RECONFIGURE). `fuse`: where the
// kernel has no nbd; a small process, cvol-holder, one per attached volume, outlives volumed: it
// serves one file through FUSE, forwards it as an NBD client that reconnects and sends unanswered
// requests again, and a loop device with direct I/O makes the file a block device.
//
// Threading: any thread; calls block. One volume's calls are serialised inside.
// Durability: the map device <-> volume is persisted in state_dir before attach() returns.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "volumed/base/result.h"

namespace cvol::attach {

enum class Method { kAuto, kKernel, kFuse };

struct AttachOptions {
  Method method = Method::kAuto;  // kAuto: kernel if it has nbd (modprobe is tried), fuse else
  std::string run_dir;            // FUSE mount points; a tmpfs as a rule
  std::string state_dir;          // persisted map, one JSON file per device
  std::string nbd_socket;         // where cvol-holder connects: path of nbd.sock
  std::string holder_binary;      // path of cvol-holder; empty: next to this executable, or PATH
  // Marks devices as ours: the id of the data directory. Devices with another mark are left alone.
  std::string instance;
  // fuse method: the holder of a device has ended by itself; I/O of the device fails until the
  // volume is attached again. On a thread of the attacher's; it must not call back. May be empty.
  std::function<void(const std::string& volume, const std::string& device)> on_lost;
  uint32_t kernel_connections = 2;
  // kernel method: gives one end of a socketpair to the NBD server, in transmission phase, serving
  // `volume` (nbd::Server::serve_connected). Takes the descriptor.
  std::function<Status(const std::string& volume, int descriptor)> serve;
};

struct Device {
  std::string volume;  // name
  std::string path;    // "/dev/nbd0", "/dev/loop3"
  std::string method;  // "kernel", "fuse"
  uint64_t size_bytes = 0;
};

class Attacher {
 public:
  virtual ~Attacher() = default;

  // Idempotent: a volume that is attached already answers its device. kUnsupported, with what is
  // missing, if the host has neither method.
  virtual Result<Device> attach(const std::string& volume, uint64_t size_bytes) = 0;
  // kBusy while the device is open (mounted). kNotFound if it is not attached.
  virtual Status detach(const std::string& volume) = 0;
  // The attachment has ended elsewhere: I/O of the device ends with errors, what waits for it too.
  // Waits for nothing, least of all for an operation on the volume, which may itself be waiting for
  // I/O. discard() comes next.
  virtual void cut(const std::string&) {}
  // The attachment has ended elsewhere: what is under way on the device fails, and the device goes,
  // whoever has it open or mounted. Idempotent.
  virtual Status discard(const std::string& volume) { return detach(volume); }
  // The volume has grown: the device follows.
  virtual Status resize(const std::string& volume, uint64_t size_bytes) = 0;
  virtual std::vector<Device> list() const = 0;

  // Once at start, when the NBD server listens: devices that still exist are connected again; what
  // is left of those that do not is cleaned up. Returns the devices that live.
  virtual Result<std::vector<Device>> reconcile() = 0;

  static Result<std::unique_ptr<Attacher>> open(AttachOptions options);
};

}  // namespace cvol::attach
