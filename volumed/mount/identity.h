// Whose is what is mounted somewhere: compared by device number, never believed by its path.
//
// Threading: any thread; calls block. To resolve the links of a target may look into a file system
// that hangs: volumed calls what_is_at() in cvol-device.
#pragma once

#include <string>
#include <string_view>

#include "volumed/base/result.h"
#include "volumed/mount/mountinfo.h"

namespace cvol::mount {

enum class Seen {
  kNothing,  // nothing is mounted there
  kOurs,     // the file system of the device, or the device itself
  kForeign,  // something else
};

// The last mount at the target, which covers the others. False if there is none.
bool find_mount(const std::string& target, MountEntry& into);

// `device`: path of a block device. Empty: it is gone; a mount is taken for a volume's then if it
// came from a loop or nbd device, so ask only for targets that a record names.
Seen what_is_at(const std::string& target, const std::string& device);

std::string encode_seen(Seen seen);
// kInternal for any other text.
Result<Seen> decode_seen(std::string_view text);

}  // namespace cvol::mount
