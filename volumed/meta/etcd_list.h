// Reading a prefix of etcd's keys in pages.
#pragma once

#include <atomic>
#include <string>
#include <string_view>
#include <vector>

#include "volumed/meta/etcd_endpoints.h"

namespace cvol::meta {

struct EtcdListing {
  std::vector<Entry> entries;  // in order of keys
  Revision revision = 0;       // as of which they were read, all of them
};

// The first key behind all that begin with the prefix, as etcd's range_end takes it; for the empty
// prefix, "\0": no end.
std::string end_of_prefix(std::string_view prefix);
// The key a range begins with: etcd takes no empty one.
std::string begin_of_prefix(std::string_view prefix);

// Any thread. `keys_only`: without values. A listing that is overtaken by a compaction begins anew.
Result<EtcdListing> list_etcd(EtcdEndpoints& endpoints, std::string_view prefix, bool keys_only,
                              const std::atomic<bool>* stop = nullptr);

}  // namespace cvol::meta
