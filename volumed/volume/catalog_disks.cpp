// Catalog: records of disks, and of replicas that outlive their volumes.
#include <google/protobuf/util/time_util.h>

#include "volumed/base/log.h"
#include "volumed/meta/record_rules.h"
#include "volumed/volume/catalog.h"

namespace cvol::volume {
namespace {

using google::protobuf::util::TimeUtil;
constexpr int kMostTries = 100;  // of a record that others change all the time

}  // namespace

Result<std::optional<v1::DiskRecord>> Catalog::load_disk(const std::string& id) {
  auto entry = store_.get(keys_.disk(id));
  if (!entry) return entry.status();
  if (!*entry) return std::optional<v1::DiskRecord>();
  auto record = meta::read_disk((*entry)->key, (*entry)->value);
  if (!record) return record.status();
  return std::optional<v1::DiskRecord>(std::move(*record));
}

Status Catalog::update_disk(const std::string& id,
                            const std::function<void(v1::DiskRecord&)>& change) {
  const std::string key = keys_.disk(id);
  for (int i = 0; i < kMostTries; ++i) {
    auto entry = store_.get(key);
    if (!entry) return entry.status();
    if (!*entry) return Status(Code::kNotFound, "there is no record of disk " + id);
    auto record = meta::read_disk((*entry)->key, (*entry)->value);
    if (!record) return record.status();
    change(*record);
    auto text = meta::write_record(key, *record);
    if (!text) return text.status();
    auto done = store_.commit({{{key, (*entry)->revision}}, {{key, *text, 0}}});
    if (!done) return done.status();
    if (done->applied) return Status::ok();
  }
  return Status(Code::kBusy, "the record of disk " + id + " changes all the time; try again");
}

Status Catalog::erase_disk(const std::string& disk_id) {
  return store_.commit({{}, {{keys_.disk(disk_id), {}, 0}, {keys_.disk_failure(disk_id), {}, 0}}})
      .status();
}

Result<std::vector<v1::RemovedRecord>> Catalog::load_removed() {
  auto entries = store_.list(keys_.removed());
  if (!entries) return entries.status();
  std::vector<v1::RemovedRecord> all;
  for (const meta::Entry& entry : *entries) {
    auto record = meta::parse_record<v1::RemovedRecord>(entry.key, entry.value);
    const Status kept = record ? meta::check_rules(*record) : record.status();
    if (kept) {
      all.push_back(std::move(*record));
    } else {
      log::warning("volume", "a record of a removed replica cannot be read; the replica is kept",
                   {{"error", kept.message()}});
    }
  }
  return all;
}

Status Catalog::put_removed(const std::string& replica, const std::string& volume,
                            const std::string& disk) {
  v1::RemovedRecord record;
  record.set_replica_id(replica);
  record.set_volume_id(volume);
  record.set_disk_id(disk);
  *record.mutable_time() = TimeUtil::GetCurrentTime();
  return store_.commit({{}, {{keys_.removed(replica), meta::encode_record(record), 0}}}).status();
}

Status Catalog::erase_removed(const std::string& replica) {
  return store_.commit({{}, {{keys_.removed(replica), {}, 0}}}).status();
}

}  // namespace cvol::volume
