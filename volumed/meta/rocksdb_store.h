// The embedded metadata store: RocksDB in a directory of this node. One process at a time.
//
// Leases end when the process does: keys of leases that an earlier process granted are gone after
// open(). A thread for watches and leases runs only while there are any.
// Format: docs/formats.md; a version key that is newer than this code's is refused (kUnsupported).
#pragma once

#include <memory>
#include <string>

#include "volumed/meta/metadata_store.h"

namespace cvol::meta {

constexpr uint32_t kRocksDbStoreVersion = 1;

// Opens or creates. A torn end of the log (a crash in the middle of a write) is cut off: nothing in
// it was acknowledged. Any other damage is kDamaged, with the path and what to do; kBusy if another
// process has it open.
Result<std::unique_ptr<MetadataStore>> open_rocksdb_store(const std::string& path);

}  // namespace cvol::meta
