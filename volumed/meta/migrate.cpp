#include "volumed/meta/migrate.h"

#include <algorithm>
#include <map>

#include "volumed/base/log.h"
#include "volumed/meta/records.h"

namespace cvol::meta {
namespace {

// Far below what etcd takes in one transaction (128 operations, 1.5 MiB).
constexpr std::size_t kBatchRecords = 50;
constexpr std::size_t kBatchBytes = 256 << 10;

using Records = std::map<std::string, Entry>;

Status foreign(const std::string& text) {
  return Status(Code::kAlreadyExists, text + "; nothing was changed. Choose an empty store");
}

class Migrator {
 public:
  Migrator(MetadataStore& from, MetadataStore& to, const Migration& migration)
      : from_(from), to_(to), migration_(migration), keys_(migration.cluster) {}

  Status run();

 private:
  Result<std::optional<Entry>> read(MetadataStore& store, const std::string& key) const;
  Result<Records> records(MetadataStore& store) const;
  Status read_source();
  Status read_target();
  Status claim_target();
  Status copy();
  Status send(Transaction& batch);
  Status verify();
  Status mark_source();
  Status release_target();
  std::string mark(const std::string& other_store) const;

  MetadataStore& from_;
  MetadataStore& to_;
  const Migration& migration_;
  const Keys keys_;
  std::string cluster_id_;
  Records source_;
  bool source_marked_ = false;
  bool target_has_cluster_ = false;
  Revision target_mark_ = 0;  // of `migrating`; 0: there is none
};

std::string Migrator::mark(const std::string& other_store) const {
  v1::MigrationRecord record;
  record.set_cluster_id(cluster_id_);
  record.set_store(other_store);
  return encode_record(record);
}

// What is to be copied: all but leases and the marks of migrations.
Result<Records> Migrator::records(MetadataStore& store) const {
  auto entries = store.list(keys_.root());
  if (!entries) return entries.status();
  Records found;
  for (Entry& entry : *entries) {
    if (entry.key.starts_with(keys_.alive()) || entry.key == keys_.migrated_to() ||
        entry.key == keys_.migrating())
      continue;
    std::string key = entry.key;
    found.emplace(std::move(key), std::move(entry));
  }
  return found;
}

Result<std::string> id_of_cluster(const Entry& entry) {
  auto record = parse_record<v1::ClusterRecord>(entry.key, entry.value);
  if (!record) return record.status();
  return record->id();
}

Status Migrator::read_source() {
  auto found = records(from_);
  if (!found) return found.status();
  source_ = std::move(*found);
  const auto cluster = source_.find(keys_.cluster());
  if (cluster == source_.end())
    return Status(Code::kNotFound, migration_.from_uri + " has no cluster '" + migration_.cluster +
                                       "': there is nothing to migrate");
  auto id = id_of_cluster(cluster->second);
  if (!id) return id.status();
  cluster_id_ = *id;
  auto migrated = from_.get(keys_.migrated_to());
  if (!migrated) return migrated.status();
  if (!*migrated) return Status::ok();
  auto record = parse_record<v1::MigrationRecord>((*migrated)->key, (*migrated)->value);
  if (!record) return record.status();
  if (record->store() != migration_.to_uri)
    return Status(Code::kFailedPrecondition, migration_.from_uri + " has been migrated to " +
                                                 record->store() + "; use that one");
  source_marked_ = true;
  return Status::ok();
}

Status Migrator::read_target() {
  auto migrated = to_.get(keys_.migrated_to());
  if (!migrated) return migrated.status();
  if (*migrated) return foreign(migration_.to_uri + " has itself been migrated elsewhere");
  auto cluster = to_.get(keys_.cluster());
  if (!cluster) return cluster.status();
  target_has_cluster_ = cluster->has_value();
  if (target_has_cluster_) {
    auto id = id_of_cluster(**cluster);
    if (!id) return id.status();
    if (*id != cluster_id_)
      return foreign(migration_.to_uri + " has another cluster of this name, " + *id);
  }
  auto migrating = to_.get(keys_.migrating());
  if (!migrating) return migrating.status();
  if (!*migrating) return Status::ok();
  auto record = parse_record<v1::MigrationRecord>((*migrating)->key, (*migrating)->value);
  if (!record) return record.status();
  if (record->cluster_id() != cluster_id_)
    return foreign(migration_.to_uri + " is being filled from " + record->store());
  target_mark_ = (*migrating)->revision;
  return Status::ok();
}

// Puts the mark, or puts it anew: what an earlier run has sent and is still on its way is for the
// old one.
Status Migrator::claim_target() {
  Transaction claim{{{keys_.migrating(), target_mark_}},
                    {{keys_.migrating(), mark(migration_.from_uri), 0}}};
  if (target_mark_ == 0) {
    auto found = records(to_);
    if (!found) return found.status();
    if (!found->empty())
      return foreign(migration_.to_uri + " has records but no cluster, such as " +
                     found->begin()->first);
    claim.conditions.push_back({keys_.cluster(), 0});
  }
  auto done = to_.commit(claim);
  if (!done) return done.status();
  if (!done->applied)
    return Status(Code::kBusy, "somebody else has begun to use " + migration_.to_uri);
  target_mark_ = done->revision;
  return Status::ok();
}

// Makes the target's records those of the source, whatever an earlier run has left there.
Status Migrator::copy() {
  auto there = records(to_);
  if (!there) return there.status();
  Transaction batch;
  std::size_t bytes = 0;
  const auto add = [&](const std::string& key, std::optional<std::string> value, Revision old) {
    bytes += key.size() + (value ? value->size() : 0);
    batch.conditions.push_back({key, old});
    batch.changes.push_back({key, std::move(value), 0});
    if (batch.changes.size() < kBatchRecords && bytes < kBatchBytes) return Status::ok();
    bytes = 0;
    return send(batch);
  };
  for (const auto& [key, entry] : *there) {
    if (!source_.contains(key)) CVOL_TRY(add(key, {}, entry.revision));
  }
  const auto add_from_source = [&](const Entry& entry) {
    const auto found = there->find(entry.key);
    if (found == there->end()) return add(entry.key, entry.value, 0);
    if (found->second.value == entry.value) return Status::ok();
    return add(entry.key, entry.value, found->second.revision);
  };
  for (const auto& [key, entry] : source_) {
    if (key != keys_.cluster()) CVOL_TRY(add_from_source(entry));
  }
  CVOL_TRY(send(batch));
  CVOL_TRY(add_from_source(source_.at(keys_.cluster())));
  return send(batch);
}

Status Migrator::send(Transaction& batch) {
  if (batch.changes.empty()) return Status::ok();
  batch.conditions.push_back({keys_.migrating(), target_mark_});
  auto done = to_.commit(batch);
  batch = {};
  if (!done) return done.status();
  if (done->applied) return Status::ok();
  return Status(Code::kBusy, "somebody else changes " + migration_.to_uri + "; run it again");
}

// Every byte is there.
Status Migrator::verify() {
  auto there = records(to_);
  if (!there) return there.status();
  for (const auto& [key, entry] : source_) {
    const auto found = there->find(key);
    if (found == there->end() || found->second.value != entry.value)
      return Status(Code::kDamaged, migration_.to_uri + " does not have " + key + " as " +
                                        migration_.from_uri + " has it; the latter stays in use");
  }
  if (there->size() != source_.size())
    return Status(Code::kDamaged, migration_.to_uri + " has records that " + migration_.from_uri +
                                      " has not; the latter stays in use");
  return Status::ok();
}

// The source's last change. Then nothing may have changed in it since it was copied.
Status Migrator::mark_source() {
  if (!source_marked_) {
    auto done = from_.commit(
        {{{keys_.migrated_to(), 0}}, {{keys_.migrated_to(), mark(migration_.to_uri), 0}}});
    if (!done) return done.status();
    if (!done->applied) return Status(Code::kBusy, "another migration is running");
    source_marked_ = true;
  }
  auto now = records(from_);
  if (!now) return now.status();
  const auto same = [](const auto& a, const auto& b) {
    return a.first == b.first && a.second.revision == b.second.revision;
  };
  if (std::equal(now->begin(), now->end(), source_.begin(), source_.end(), same))
    return Status::ok();
  CVOL_TRY(from_.commit({{}, {{keys_.migrated_to(), {}, 0}}}).status());
  return Status(Code::kBusy, "the records of " + migration_.from_uri +
                                 " have changed while they were copied; it stays in use. Run it "
                                 "again when nothing changes them");
}

Status Migrator::release_target() {
  auto done = to_.commit({{{keys_.migrating(), target_mark_}}, {{keys_.migrating(), {}, 0}}});
  if (!done) return done.status();
  if (done->applied) return Status::ok();
  return Status(Code::kBusy, "somebody else changes " + migration_.to_uri + "; run it again");
}

Status Migrator::run() {
  CVOL_TRY(read_source());
  CVOL_TRY(read_target());
  if (target_mark_ == 0 && target_has_cluster_) {
    if (source_marked_) return Status::ok();  // done before, and maybe changed since
    return foreign(migration_.to_uri + " has this very cluster, but " + migration_.from_uri +
                   " is not marked as migrated");
  }
  if (target_mark_ == 0 && source_marked_)
    return Status(Code::kFailedPrecondition,
                  migration_.from_uri + " has been migrated to " + migration_.to_uri +
                      ", which has no such cluster any more. What is here is out of date: restore "
                      "the other from a copy");
  CVOL_TRY(claim_target());
  CVOL_TRY(copy());
  CVOL_TRY(verify());
  CVOL_TRY(mark_source());
  CVOL_TRY(release_target());
  log::info(
      "meta", "the metadata store has been migrated",
      {{"from", migration_.from_uri}, {"to", migration_.to_uri}, {"records", source_.size()}});
  return Status::ok();
}

}  // namespace

Status migrate_store(MetadataStore& from, MetadataStore& to, const Migration& migration) {
  return Migrator(from, to, migration).run().with_context("migrate the metadata store");
}

Status check_not_migrating(MetadataStore& store, const Keys& keys) {
  auto migrated = store.get(keys.migrated_to());
  if (!migrated) return migrated.status();
  if (*migrated) {
    auto record = parse_record<v1::MigrationRecord>((*migrated)->key, (*migrated)->value);
    if (!record) return record.status();
    return Status(Code::kFailedPrecondition, "the records of this metadata store have moved to " +
                                                 record->store() + "; use --metadata " +
                                                 record->store());
  }
  auto migrating = store.get(keys.migrating());
  if (!migrating) return migrating.status();
  if (!*migrating) return Status::ok();
  auto record = parse_record<v1::MigrationRecord>((*migrating)->key, (*migrating)->value);
  if (!record) return record.status();
  return Status(Code::kFailedPrecondition, "this metadata store is being filled from " +
                                               record->store() +
                                               "; run the migration again to finish it");
}

}  // namespace cvol::meta
