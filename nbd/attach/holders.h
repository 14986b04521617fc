// The cvol-holder processes of this host, found by their arguments, and whom a run directory
// belongs to. A holder names the instance of cvol that started it (the node id kept in its data
// directory): nothing of another instance is ended here.
//
// Threading: any thread; no state. Reads /proc only; waits for no I/O of a device.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "volumed/base/result.h"

namespace cvol::attach {

struct Holder {
  int64_t pid = 0;
  uint64_t start = 0;    // start time: pids are used again
  std::string volume;    // name
  std::string mount;     // where it serves its file
  std::string instance;  // empty: an older cvol started it
};

// Those that serve a file below `root`, or at it. Only processes of root in this pid namespace.
std::vector<Holder> find_holders(const std::string& root);

// Ends every holder at `directory` and waits for that: I/O of the device fails from then on.
// kFailedPrecondition, with nothing done, if one of them belongs to another instance. kBusy if one
// does not end in time.
Status end_holders(const std::string& directory, const std::string& instance);

// Before anything is served or cleaned up in `run_dir`: kFailedPrecondition if holders of another
// instance live there. They would connect to this process, and get another volume of the same name.
// `instance` is empty for a data directory that has no id yet.
Status check_run_dir(const std::string& run_dir, const std::string& instance);
// Notes whom it belongs to from now on. Returns when the file is in place; it need not be durable,
// as no holder outlives the kernel.
Status claim_run_dir(const std::string& run_dir, const std::string& instance,
                     const std::string& data_dir);

// The words of a holder's command line; false if they are not those of a holder. Pure.
bool parse_holder(const std::vector<std::string>& words, Holder& into);

}  // namespace cvol::attach
