// A copy of an embedded store's records in one file beside it: the store itself is kept once, and
// one flipped bit can keep it from being opened. Format: docs/formats.md, "Copy of the records".
//
// Threading: any thread; the calls block. A copy is the records of one moment; records that go with
// a lease are not in it.
#pragma once

#include <cstddef>
#include <string>

#include "volumed/base/result.h"
#include "volumed/meta/keys.h"
#include "volumed/meta/metadata_store.h"

namespace cvol::meta {

// Replaces the file; on stable storage on return. An error leaves the file that was there.
Status write_store_copy(MetadataStore& store, const Keys& keys, const std::string& path);

// Puts the records of the copy into a store that has none of this cluster; returns how many. The
// record of the cluster comes last: a restore that a crash cut short is made again. 0, and nothing
// is changed: the store has records already, or there is no copy. kDamaged, kUnsupported: the file
// does not hold, or a newer version wrote it.
Result<std::size_t> restore_store_copy(MetadataStore& store, const Keys& keys,
                                       const std::string& path);

}  // namespace cvol::meta
