// Runs steps that touch volumed's own devices in a program of their own, cvol-device.
//
// Such a step (mount(2), opening a block device, LOOP_CONFIGURE ...) waits in the kernel for I/O
// that volumed itself serves. If volumed did it in a thread of its own and were killed, the thread
// would wait for a reply that only the next volumed can give, and the dying process would keep its
// descriptors, with the locks on data that the next one needs. cvol-device has none of them: it
// stays behind, and ends when the next volumed serves.
//
// One step at a time per volume: cvol-device holds a lock file while it works, also when volumed is
// gone. A step that has not begun when volumed dies never begins.
//
// Threading: any thread; calls block until the step is over. There is no limit of time on the step
// itself, because one that was given up would still happen later; only the wait for an earlier step
// of the same volume has one (kBusy: nothing was done).
#pragma once

#include <chrono>
#include <string>
#include <string_view>
#include <vector>

#include "volumed/base/result.h"

namespace cvol::mount {

// How long a step waits for an earlier one of the same volume, left by a volumed that is gone.
constexpr std::chrono::seconds kStepLockTime{20};

class DeviceProgram {
 public:
  // `lock_dir`: for the lock files, made if absent; all users of one volume name the same. The
  // program is next to this executable, or in PATH.
  explicit DeviceProgram(std::string lock_dir);

  // Answers what the step answers ("" for most). Without a volume there is no lock.
  Result<std::string> run(const std::string& volume, const std::vector<std::string>& words) const;
  Status do_step(const std::string& volume, const std::vector<std::string>& words) const {
    return run(volume, words).status();
  }

  // At start, when NBD is served: waits for the steps that an earlier volumed left. False if some
  // are still under way afterwards.
  bool wait_for_earlier_steps(std::chrono::milliseconds most) const;

 private:
  const std::string lock_dir_;
  const std::string program_;
};

// The line that cvol-device says: "ok VALUE" or "CODE TEXT"; line ends become spaces.
std::string encode_answer(const Result<std::string>& answer);
Result<std::string> decode_answer(std::string_view line);

}  // namespace cvol::mount
