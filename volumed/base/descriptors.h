// Descriptors: how many files and sockets this process may have open, and which part of them the
// listeners may hand out. Disks, records and devices need the rest: a stranger who opens
// connections must never keep a disk from opening a file.
//
// Threading: raise_descriptor_limit() once, before threads are started; the rest anywhere.
#pragma once

#include <cstdint>

namespace cvol {

// Raises the soft limit (RLIMIT_NOFILE) to the hard one, at most to 1,048,576. Returns the limit
// that holds then; what is refused leaves the limit as it is.
uint64_t raise_descriptor_limit();

// The limit that holds now.
uint64_t descriptor_limit();

// Connections that each kind of listener may have open at once.
struct ConnectionBudgets {
  uint64_t nbd_tcp = 0;      // clients of the NBD server on TCP
  uint64_t nbd_unix = 0;     // on RUN_DIR/nbd.sock: devices of this host
  uint64_t http = 0;         // metrics and health; the Docker plugin has as many
  uint64_t replication = 0;  // connections of other nodes, and of strangers, for each shard
};

// All together stay below half of `limit`, with `shards` listeners of replication; none is below 4.
ConnectionBudgets connection_budgets(uint64_t limit, uint64_t shards);

// True of an errno (positive) that says that descriptors or memory are short, of this process or of
// the host: it passes, and is never a fault of the disk or the connection that met it.
bool means_shortage(int error);

}  // namespace cvol
