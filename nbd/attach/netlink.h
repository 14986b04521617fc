// The kernel's nbd driver, spoken to by generic netlink (linux/nbd-netlink.h).
//
// Threading: a NbdNetlink is used by one thread at a time; each call opens nothing that outlives
// it. The descriptors that are given to the kernel stay the caller's: the kernel takes its own
// reference.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "volumed/base/result.h"

struct nl_sock;

namespace cvol::attach {

struct KernelDeviceOptions {
  std::string backend_identifier;  // what reconfigure must repeat; /sys/block/nbdN/backend
  uint64_t size_bytes = 0;
  uint32_t block_bytes = 4096;
  // A request is then sent again on another socket, and its own is given up. The driver tells in no
  // other way that a socket has ended: what was in flight when volumed died waits this long in all,
  // so it is what a restart under load costs. Short is safe. Behind the socket of a dead volumed
  // nobody reads. A living one that was only slow has either admitted the first copy, which then
  // stands before the second in the order of writes, or sees the hang-up and drops it
  // (nbd/server/transmission.cpp). Not shorter, because a disk may take seconds for a flush, and
  // each such request would be done twice.
  uint64_t timeout_seconds = 5;
  uint64_t dead_connection_seconds = 86'400;  // with no socket left, I/O waits so long
  uint64_t server_flags = 0;                  // transmission flags of NBD proto.md
};

class NbdNetlink {
 public:
  // kUnsupported: this kernel has no nbd driver loaded.
  static Result<NbdNetlink> open();

  // Makes a device of `sockets`, in transmission phase; answers its index.
  Result<uint32_t> connect(const KernelDeviceOptions& options, const std::vector<int>& sockets);
  // Offers the device one socket in place of a dead one. Success does not mean that it was taken:
  // with no dead one the kernel drops it, which the other end sees as a hang-up.
  Status offer_socket(uint32_t index, const std::string& backend_identifier, int socket);
  Status resize(uint32_t index, const std::string& backend_identifier, uint64_t size_bytes);
  Status disconnect(uint32_t index);

  // Joins the group that tells about dead connections; afterwards only wait_link_dead() is used.
  Status join_events();
  // Waits for news: the devices that lost a connection. Empty when `wake_descriptor` became
  // readable.
  Result<std::vector<uint32_t>> wait_link_dead(int wake_descriptor);

 private:
  struct Free {
    void operator()(nl_sock* socket) const;
  };
  std::unique_ptr<nl_sock, Free> socket_;
  int family_ = 0;
};

}  // namespace cvol::attach
