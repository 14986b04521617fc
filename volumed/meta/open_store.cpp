#include "volumed/meta/open_store.h"

#include "volumed/meta/rocksdb_store.h"

namespace cvol::meta {
namespace {

constexpr std::string_view kRocksDb = "rocksdb:";
constexpr std::string_view kEtcd = "etcd:";

}  // namespace

Result<std::unique_ptr<MetadataStore>> open_store(const std::string& uri, const EtcdTls& tls) {
  if (uri.starts_with(kRocksDb) && uri.size() > kRocksDb.size())
    return open_rocksdb_store(uri.substr(kRocksDb.size()));
  if (!uri.starts_with(kEtcd))
    return Status(Code::kInvalidArgument,
                  "'" + uri +
                      "' is no metadata store; write it like rocksdb:/var/lib/cvol/meta or "
                      "etcd:10.0.0.1:2379,10.0.0.2:2379,10.0.0.3:2379");
  auto endpoints = parse_etcd_endpoints(uri.substr(kEtcd.size()));
  if (!endpoints) return endpoints.status();
  EtcdOptions options;
  options.endpoints = std::move(*endpoints);
  options.tls = tls;
  return open_etcd_store(std::move(options));
}

}  // namespace cvol::meta
