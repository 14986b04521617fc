#include "volumed/meta/etcd_list.h"

namespace cvol::meta {
namespace {

// Records are a few KiB, and 1 MiB at most (records.h).
constexpr int64_t kValuesPerPage = 128;
constexpr int64_t kKeysPerPage = 4096;
constexpr int kMaxRestarts = 10;

// Appends the next page. Returns the outcome, and false in `more` after the last one.
EtcdOutcome read_page(EtcdEndpoints& endpoints, const EtcdCall& call,
                      etcdserverpb::RangeRequest& request, EtcdListing& listing, bool& more) {
  etcdserverpb::RangeResponse response;
  EtcdOutcome outcome = endpoints.call(call, [&](EtcdEndpoint& to, grpc::ClientContext& context) {
    response.Clear();
    return to.kv->Range(&context, request, &response);
  });
  more = false;
  if (!outcome.status.is_ok()) return outcome;
  if (listing.revision == 0) {
    listing.revision = static_cast<Revision>(response.header().revision());
    request.set_revision(response.header().revision());  // of all the pages to come
  }
  for (mvccpb::KeyValue& found : *response.mutable_kvs()) {
    listing.entries.push_back({std::move(*found.mutable_key()), std::move(*found.mutable_value()),
                               static_cast<Revision>(found.mod_revision())});
  }
  more = response.more() && response.kvs_size() > 0;
  if (more) request.set_key(listing.entries.back().key + '\0');
  return outcome;
}

}  // namespace

std::string begin_of_prefix(std::string_view prefix) {
  return prefix.empty() ? std::string(1, '\0') : std::string(prefix);
}

std::string end_of_prefix(std::string_view prefix) {
  std::string end(prefix);
  while (!end.empty() && static_cast<unsigned char>(end.back()) == 0xff) end.pop_back();
  if (end.empty()) return std::string(1, '\0');
  end.back() = static_cast<char>(end.back() + 1);
  return end;
}

Result<EtcdListing> list_etcd(EtcdEndpoints& endpoints, std::string_view prefix, bool keys_only,
                              const std::atomic<bool>* stop) {
  const std::string doing = "list " + std::string(prefix);
  EtcdCall call{doing};
  call.stop = stop;
  for (int restarts = 0;; ++restarts) {
    etcdserverpb::RangeRequest request;
    request.set_key(begin_of_prefix(prefix));
    request.set_range_end(end_of_prefix(prefix));
    request.set_limit(keys_only ? kKeysPerPage : kValuesPerPage);
    request.set_keys_only(keys_only);
    EtcdListing listing;
    EtcdOutcome outcome;
    bool more = true;
    while (more) outcome = read_page(endpoints, call, request, listing, more);
    if (outcome.status.is_ok()) return listing;
    const bool compacted = outcome.code == grpc::StatusCode::OUT_OF_RANGE;
    if (!compacted || restarts == kMaxRestarts) return outcome.status;
  }
}

}  // namespace cvol::meta
