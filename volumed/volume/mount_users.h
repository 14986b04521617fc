// The users of a mount in its record: who they are, whose they are, how often each came. Pure.
//
// Users belong to the node where the mount is; only that node takes them out. A caller that counts
// its mounts names each request with a word, so that one that is made again counts once.
#pragma once

#include <cvol/v1/records.pb.h>

#include <string>

namespace cvol::volume {

// Of a caller that counts: dockerd, which loses mounts when it dies (csi/docker_plugin.h).
constexpr const char* kDockerCaller = "docker:";

// How a caller leaves.
struct Leave {
  std::string use;     // not empty: one of its mounts, under this word; what waits is done later
  std::string undo;    // not empty: the mount with this word, if it was made
  bool stale = false;  // all of its mounts, if nothing has the device any more
};

bool has_caller(const v1::MountRecord& mount, const std::string& id);
bool is_leaving(const v1::MountRecord& mount, const std::string& id);
// Mounts under this id; 0: none.
uint32_t uses_of(const v1::MountRecord& mount, const std::string& id);
// Something is left to do: a caller leaves, or the device goes.
bool is_unfinished(const v1::MountRecord& mount);
// Are the users of this mount of the node? Of a record without a node: the session's.
bool is_mount_of(const v1::VolumeRecord& record, const std::string& node_id);

// Adds the caller, or one of its mounts; `earlier_lives` false: what it had mounted before was
// lost, and this one takes its place. Whoever has left and only waits for the device is gone then:
// the mount stays for the new one.
void add_use(v1::MountRecord& mount, const std::string& id, const std::string& use,
             bool earlier_lives);

// True if the request changes nothing: there is no such mount, or it was ended under this word.
bool is_done(const v1::MountRecord& mount, const std::string& id, const Leave& how);
// Takes one mount out while others of the caller stay; false if it is the caller's last.
bool take_one(v1::MountRecord& mount, const std::string& id, const Leave& how);
// Takes the caller out; with the last one goes all that is said of the mount.
void erase_caller(v1::MountRecord& mount, const std::string& id);

}  // namespace cvol::volume
