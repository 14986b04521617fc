// A metadata store by its name, as in `volumed --metadata`.
#pragma once

#include <memory>
#include <string>

#include "volumed/meta/etcd_store.h"
#include "volumed/meta/metadata_store.h"

namespace cvol::meta {

// "rocksdb:PATH" (rocksdb_store.h; its folder's parent has to exist) or "etcd:HOST:PORT[,...]"
// (etcd_store.h); `tls` is for etcd. kInvalidArgument: neither. Blocks as the two do.
Result<std::unique_ptr<MetadataStore>> open_store(const std::string& uri, const EtcdTls& tls = {});

}  // namespace cvol::meta
