// Moving a cluster's records from one metadata store into another, for good.
//
// At every moment at most one of the two stores may be used, whatever crashes in between:
//
//   1. `migrating` is put into the target, which nobody uses from then on;
//   2. the records are copied, the `cluster` record last, and read back;
//   3. `migrated_to` is put into the source, as its last change: nobody uses it from then on;
//   4. the source is read once more, and `migrating` taken out of the target.
//
// A migration that was interrupted is continued by running it again. Leased records (`alive/`) are
// not copied: who is alive says so again.
//
// Threading: any thread; blocks. One migration at a time of a pair of stores.
#pragma once

#include <string>
#include <string_view>

#include "volumed/meta/keys.h"
#include "volumed/meta/metadata_store.h"

namespace cvol::meta {

struct Migration {
  std::string cluster;   // name, as in Keys
  std::string from_uri;  // names of the two, for people: "rocksdb:/var/lib/cvol/meta"
  std::string to_uri;
};

// Nothing else may change the records meanwhile. ok: the target may be used, and the source not any
// more; also if that was so before. Else both stores can be used as before, or a run of the same
// again is needed (check_not_migrating tells):
//   kNotFound            the source has no cluster record
//   kAlreadyExists       the target has a cluster already, or records of unknown origin
//   kFailedPrecondition  the source has been migrated to another store
//   kBusy                somebody changes the records of either
//   kDamaged             what was read back is not what was written
//   kUnavailable         a store is away: run it again
Status migrate_store(MetadataStore& from, MetadataStore& to, const Migration& migration);

// To be called before a store is used. kFailedPrecondition: its records have moved to another
// store, or it is being filled; the text says what to do.
Status check_not_migrating(MetadataStore& store, const Keys& keys);

}  // namespace cvol::meta
