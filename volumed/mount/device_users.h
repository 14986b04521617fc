// Who on this host still has a volume's device, beyond what cvol mounted itself: other mount
// namespaces (containers), bind mounts elsewhere, processes, device mapper.
//
// Threading: any thread; reads /proc and /sys only, and waits for no I/O of the device.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "volumed/base/result.h"
#include "volumed/mount/mountinfo.h"

namespace cvol::mount {

// Up to three of them, "sleep (123) in another mount namespace, bash (99)"; "" if there is none.
// `ours`: the paths where cvol mounted the device or showed it. Copies of these mounts that go when
// they go (the namespaces of services, which follow the host's) are no users.
Result<std::string> users_of_device(const std::string& device,
                                    const std::vector<std::string>& ours);

// The mounts of the device `number` among those of another namespace that stay when the host's go.
// `carried`: the peer groups of the mounts below ours. Pure.
std::vector<MountEntry> mounts_that_stay(const std::vector<MountEntry>& theirs,
                                         const std::string& number,
                                         const std::set<std::string>& carried);

}  // namespace cvol::mount
