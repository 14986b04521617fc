#include "volumed/meta/etcd_store.h"

#include <algorithm>

#include "volumed/meta/etcd_endpoints.h"
#include "volumed/meta/etcd_list.h"
#include "volumed/meta/etcd_watch.h"

namespace cvol::meta {
namespace {

using grpc::ClientContext;

Status no_lease(LeaseId lease) {
  return Status(Code::kNotFound, "lease " + std::to_string(lease) + " has ended");
}

class EtcdStore final : public MetadataStore {
 public:
  explicit EtcdStore(std::shared_ptr<EtcdEndpoints> endpoints) : endpoints_(std::move(endpoints)) {}

  // Refuses a cluster of two.
  Status check_members();

  Result<std::optional<Entry>> get(std::string_view key) override;
  Result<std::vector<Entry>> list(std::string_view prefix) override;
  Result<CommitResult> commit(const Transaction& transaction) override;
  Result<std::unique_ptr<Watch>> watch(std::string prefix, WatchCallback callback) override {
    return EtcdWatch::start(endpoints_, std::move(prefix), std::move(callback));
  }
  Result<LeaseId> grant_lease(std::chrono::milliseconds time) override;
  Status keep_alive(LeaseId lease) override;
  Status revoke_lease(LeaseId lease) override;

 private:
  const std::shared_ptr<EtcdEndpoints> endpoints_;
};

Status EtcdStore::check_members() {
  etcdserverpb::MemberListResponse response;
  EtcdCall call{"list the members"};
  call.need_leader = false;  // two members, one of them away: just what is to be told
  const EtcdOutcome outcome = endpoints_->call(call, [&](EtcdEndpoint& to, ClientContext& context) {
    response.Clear();
    return to.cluster->MemberList(&context, {}, &response);
  });
  CVOL_TRY(outcome.status);
  const auto voters =
      std::count_if(response.members().begin(), response.members().end(),
                    [](const etcdserverpb::Member& member) { return !member.islearner(); });
  if (voters != 2) return Status::ok();
  return Status(
      Code::kFailedPrecondition,
      "this etcd cluster has two members. That is worse than one: it stops when either of "
      "them is away, so it fails twice as often and survives nothing. Use one member, or "
      "three ('etcdctl member add', 'etcdctl member remove')");
}

Result<std::optional<Entry>> EtcdStore::get(std::string_view key) {
  etcdserverpb::RangeRequest request;
  request.set_key(std::string(key));
  etcdserverpb::RangeResponse response;
  const std::string doing = "read " + std::string(key);
  const EtcdOutcome outcome =
      endpoints_->call({doing}, [&](EtcdEndpoint& to, ClientContext& context) {
        response.Clear();
        return to.kv->Range(&context, request, &response);
      });
  CVOL_TRY(outcome.status);
  if (response.kvs().empty()) return std::optional<Entry>();
  const mvccpb::KeyValue& found = response.kvs(0);
  return std::optional<Entry>(
      Entry{found.key(), found.value(), static_cast<Revision>(found.mod_revision())});
}

Result<std::vector<Entry>> EtcdStore::list(std::string_view prefix) {
  auto listing = list_etcd(*endpoints_, prefix, false);
  if (!listing) return listing.status();
  return std::move(listing->entries);
}

etcdserverpb::TxnRequest request_of(const Transaction& transaction) {
  etcdserverpb::TxnRequest request;
  for (const Condition& condition : transaction.conditions) {
    auto* compare = request.add_compare();
    compare->set_result(etcdserverpb::Compare::EQUAL);
    compare->set_target(etcdserverpb::Compare::MOD);
    compare->set_key(condition.key);
    compare->set_mod_revision(static_cast<int64_t>(condition.revision));
  }
  for (const Change& change : transaction.changes) {
    if (change.value) {
      auto* put = request.add_success()->mutable_request_put();
      put->set_key(change.key);
      put->set_value(*change.value);
      put->set_lease(static_cast<int64_t>(change.lease));
    } else {
      request.add_success()->mutable_request_delete_range()->set_key(change.key);
    }
  }
  return request;
}

Result<CommitResult> EtcdStore::commit(const Transaction& transaction) {
  const etcdserverpb::TxnRequest request = request_of(transaction);
  etcdserverpb::TxnResponse response;
  EtcdCall call{"commit"};
  // Sent again by us, a second copy could find the first one's work, and "a condition did not hold"
  // would look like somebody else's success.
  call.repeat = false;
  const EtcdOutcome outcome = endpoints_->call(call, [&](EtcdEndpoint& to, ClientContext& context) {
    return to.kv->Txn(&context, request, &response);
  });
  CVOL_TRY(outcome.status);
  return CommitResult{response.succeeded(), static_cast<Revision>(response.header().revision())};
}

Result<LeaseId> EtcdStore::grant_lease(std::chrono::milliseconds time) {
  etcdserverpb::LeaseGrantRequest request;
  request.set_ttl(std::max<int64_t>(std::chrono::ceil<std::chrono::seconds>(time).count(), 1));
  etcdserverpb::LeaseGrantResponse response;
  // A lease that was granted without our hearing of it has no keys, and ends by itself.
  const EtcdOutcome outcome =
      endpoints_->call({"grant a lease"}, [&](EtcdEndpoint& to, ClientContext& context) {
        response.Clear();
        return to.lease->LeaseGrant(&context, request, &response);
      });
  CVOL_TRY(outcome.status);
  if (!response.error().empty())
    return Status(Code::kInternal, "etcd grants no lease: " + response.error());
  return static_cast<LeaseId>(response.id());
}

// One request, one response.
grpc::Status keep_alive_once(EtcdEndpoint& to, ClientContext& context,
                             const etcdserverpb::LeaseKeepAliveRequest& request,
                             etcdserverpb::LeaseKeepAliveResponse& response) {
  auto stream = to.lease->LeaseKeepAlive(&context);
  const bool answered = stream->Write(request) && stream->Read(&response);
  if (answered) {
    context.TryCancel();  // there is nothing more to be said, and its end need not be waited for
    (void)stream->Finish();
    return grpc::Status::OK;
  }
  const grpc::Status status = stream->Finish();
  if (!status.ok()) return status;
  return grpc::Status(grpc::StatusCode::UNAVAILABLE, "the stream ended without an answer");
}

Status EtcdStore::keep_alive(LeaseId lease) {
  etcdserverpb::LeaseKeepAliveRequest request;
  request.set_id(static_cast<int64_t>(lease));
  etcdserverpb::LeaseKeepAliveResponse response;
  const EtcdOutcome outcome =
      endpoints_->call({"keep a lease alive"}, [&](EtcdEndpoint& to, ClientContext& context) {
        response.Clear();
        return keep_alive_once(to, context, request, response);
      });
  if (outcome.status.code() == Code::kNotFound) return no_lease(lease);
  CVOL_TRY(outcome.status);
  return response.ttl() > 0 ? Status::ok() : no_lease(lease);
}

Status EtcdStore::revoke_lease(LeaseId lease) {
  etcdserverpb::LeaseRevokeRequest request;
  request.set_id(static_cast<int64_t>(lease));
  const EtcdOutcome outcome =
      endpoints_->call({"revoke a lease"}, [&](EtcdEndpoint& to, ClientContext& context) {
        etcdserverpb::LeaseRevokeResponse response;
        return to.lease->LeaseRevoke(&context, request, &response);
      });
  if (outcome.status.code() != Code::kNotFound) return outcome.status;
  // Gone: by an earlier attempt of ours, as it should be, or before.
  return outcome.repeated ? Status::ok() : no_lease(lease);
}

}  // namespace

Result<std::vector<std::string>> parse_etcd_endpoints(const std::string& text) {
  std::vector<std::string> endpoints;
  for (std::size_t from = 0; from <= text.size();) {
    const std::size_t to = std::min(text.find(',', from), text.size());
    const std::string endpoint = text.substr(from, to - from);
    const std::size_t colon = endpoint.rfind(':');
    const std::string port = colon == std::string::npos ? "" : endpoint.substr(colon + 1);
    const bool digits =
        !port.empty() && port.size() <= 5 &&
        std::all_of(port.begin(), port.end(), [](char c) { return c >= '0' && c <= '9'; });
    if (!digits || colon == 0 || std::stoi(port) > 65535 || endpoint.find('/') != std::string::npos)
      return Status(Code::kInvalidArgument,
                    "'" + endpoint + "' is no etcd endpoint; write it like 10.0.0.1:2379");
    endpoints.push_back(endpoint);
    from = to + 1;
  }
  return endpoints;
}

Result<std::unique_ptr<MetadataStore>> open_etcd_store(EtcdOptions options) {
  auto endpoints = EtcdEndpoints::make(std::move(options));
  if (!endpoints) return endpoints.status();
  auto store = std::make_unique<EtcdStore>(std::move(*endpoints));
  CVOL_TRY(store->check_members().with_context("open the metadata store"));
  return std::unique_ptr<MetadataStore>(std::move(store));
}

}  // namespace cvol::meta
