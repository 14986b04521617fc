#include "volumed/volume/catalog.h"

#include <google/protobuf/util/time_util.h>

#include "volumed/base/log.h"
#include "volumed/base/uuid.h"
#include "volumed/meta/record_rules.h"

namespace cvol::volume {
namespace {

using google::protobuf::util::TimeUtil;

std::string make_id() {
  Random random = Random::from_system();
  return Uuid::make(random).to_string();
}

}  // namespace

Status Catalog::put_new(const std::string& key, google::protobuf::Message& record) {
  auto done = store_.commit({{{key, 0}}, {{key, meta::encode_record(record), 0}}});
  if (!done) return done.status();
  if (!done->applied) return Status(Code::kAlreadyExists, "record " + key + " exists");
  return Status::ok();
}

Result<v1::NodeRecord> Catalog::find_node(const std::string& id, const std::string& name) {
  auto entries = store_.list(keys_.nodes());
  if (!entries) return entries.status();
  for (const meta::Entry& entry : *entries) {
    auto node = meta::parse_record<v1::NodeRecord>(entry.key, entry.value);
    if (!node && (node.code() == Code::kUnsupported || entry.key == keys_.node(id)))
      return node.status();
    if (!node) {  // another node's: no reason for this one to stay down
      log::error("volume", "the record of a node cannot be read and is left out",
                 {{"key", entry.key}, {"error", node.message()}});
      continue;
    }
    if (id.empty() ? node->name() == name : node->id() == id) return node;
    if (node->name() == name)
      return Status(
          Code::kAlreadyExists,
          "node name '" + name + "' belongs to another node, " + node->id() +
              ", whose data directory this is not; choose another --node-name, start "
              "with that node's data directory, or remove that node first ('cvol node rm " +
              name + "')");
  }
  return v1::NodeRecord();
}

Result<v1::NodeRecord> Catalog::register_node(const std::string& id, const std::string& name,
                                              const std::string& boot_id) {
  auto cluster = store_.get(keys_.cluster());
  if (!cluster) return cluster.status();
  if (*cluster) {
    CVOL_TRY(meta::parse_record<v1::ClusterRecord>((*cluster)->key, (*cluster)->value).status());
  } else {
    v1::ClusterRecord record;
    record.set_id(make_id());
    record.set_name(cluster_);
    *record.mutable_created() = TimeUtil::GetCurrentTime();
    // Another node that starts for the first time may have made it just now.
    const Status made = put_new(keys_.cluster(), record);
    if (!made && made.code() != Code::kAlreadyExists) return made;
  }
  auto node = find_node(id, name);
  if (!node) return node.status();
  const bool known = !node->id().empty();
  if (!known) {
    node->set_id(id.empty() ? make_id() : id);
    *node->mutable_created() = TimeUtil::GetCurrentTime();
  }
  node->set_name(name);
  node->set_boot_id(boot_id);
  auto done = store_.commit({{}, {{keys_.node(node->id()), meta::encode_record(*node), 0}}});
  // A store without space takes nothing new; a node that it knows serves what needs no change.
  if (!done && !(known && done.code() == Code::kNoSpace)) return done.status();
  return node;
}

Result<std::vector<VolumeEntry>> Catalog::load_volumes(std::vector<std::string>& problems) {
  auto entries = store_.list(keys_.volumes());
  if (!entries) return entries.status();
  std::vector<VolumeEntry> volumes;
  for (const meta::Entry& entry : *entries) {
    auto record = meta::read_volume(entry.key, entry.value);
    if (record.code() == Code::kUnsupported) return record.status();
    if (!record) {
      problems.push_back(record.message());
      continue;
    }
    volumes.push_back({std::move(*record), entry.revision});
  }
  return volumes;
}

Status Catalog::insert_volume(VolumeEntry& entry) {
  const std::string key = keys_.volume(entry.record.id());
  const std::string name_key = keys_.name(entry.record.name());
  v1::NameRecord name;
  name.set_volume_id(entry.record.id());
  auto text = meta::write_volume(key, nullptr, entry.record);
  if (!text) return text.status();
  auto done = store_.commit(
      {{{key, 0}, {name_key, 0}}, {{key, *text, 0}, {name_key, meta::encode_record(name), 0}}});
  if (!done) return done.status();
  if (!done->applied)
    return Status(Code::kAlreadyExists,
                  "the name '" + entry.record.name() + "' is taken; choose another");
  entry.revision = done->revision;
  return Status::ok();
}

Status Catalog::update_volume(VolumeEntry& entry, v1::VolumeRecord next) {
  const std::string key = keys_.volume(entry.record.id());
  auto text = meta::write_volume(key, &entry.record, next);
  if (!text) return text.status();
  auto done = store_.commit({{{key, entry.revision}}, {{key, *text, 0}}});
  if (!done) return done.status();
  if (!done->applied)
    return Status(Code::kBusy, "the record of volume '" + entry.record.name() +
                                   "' changed meanwhile; try again");
  entry.record = std::move(next);
  entry.revision = done->revision;
  return Status::ok();
}

Result<VolumeEntry> Catalog::load_volume(const std::string& id) {
  auto entry = store_.get(keys_.volume(id));
  if (!entry) return entry.status();
  if (!*entry) return Status(Code::kNotFound, "there is no volume with id " + id);
  auto record = meta::read_volume((*entry)->key, (*entry)->value);
  if (!record) return record.status();
  return VolumeEntry{std::move(*record), (*entry)->revision};
}

Status Catalog::begin_removal(VolumeEntry& entry) {
  v1::VolumeRecord next = entry.record;
  next.set_state("removing");
  const std::string key = keys_.volume(entry.record.id());
  auto text = meta::write_volume(key, &entry.record, next);
  if (!text) return text.status();
  auto done = store_.commit(
      {{{key, entry.revision}}, {{key, *text, 0}, {keys_.name(entry.record.name()), {}, 0}}});
  if (!done) return done.status();
  if (!done->applied)
    return Status(Code::kBusy, "the record of volume '" + entry.record.name() +
                                   "' changed meanwhile; try again");
  entry.record = std::move(next);
  entry.revision = done->revision;
  return Status::ok();
}

Status Catalog::write_or_erase(VolumeEntry& entry, v1::VolumeRecord next) {
  if (next.members_size() > 0) return update_volume(entry, std::move(next));
  const std::string key = keys_.volume(entry.record.id());
  // Whoever hears of the end hears first that it is a removal.
  auto done = store_.commit({{{key, entry.revision}}, {note_of_removal(entry), {key, {}, 0}}});
  if (!done) return done.status();
  if (!done->applied)
    return Status(Code::kBusy, "the record of volume '" + entry.record.name() +
                                   "' changed meanwhile; try again");
  entry.record = std::move(next);
  return Status::ok();
}

Status Catalog::put_claim(v1::ClaimRecord claim) {
  const std::string key = keys_.claim(claim.volume_id(), claim.replica_id());
  auto text = meta::write_record(key, claim);
  if (!text) return text.status();
  return store_.commit({{}, {{key, *text, 0}}}).status();
}

Result<std::vector<v1::ClaimRecord>> Catalog::load_claims(const std::string& volume_id) {
  auto entries = store_.list(keys_.claims(volume_id));
  if (!entries) return entries.status();
  std::vector<v1::ClaimRecord> claims;
  for (const meta::Entry& entry : *entries) {
    auto claim = meta::read_claim(entry.key, entry.value);
    if (!claim) return claim.status();
    claims.push_back(std::move(*claim));
  }
  return claims;
}

Status Catalog::erase_claims(const std::vector<v1::ClaimRecord>& claims) {
  if (claims.empty()) return Status::ok();
  meta::Transaction transaction;
  for (const v1::ClaimRecord& claim : claims)
    transaction.changes.push_back({keys_.claim(claim.volume_id(), claim.replica_id()), {}, 0});
  return store_.commit(transaction).status();
}

Result<v1::ClusterRecord> Catalog::load_cluster() {
  auto entry = store_.get(keys_.cluster());
  if (!entry) return entry.status();
  if (!*entry) return Status(Code::kNotFound, "there is no record of the cluster");
  return meta::read_cluster((*entry)->key, (*entry)->value);
}

Result<std::vector<v1::NodeRecord>> Catalog::load_nodes() {
  auto entries = store_.list(keys_.nodes());
  if (!entries) return entries.status();
  std::vector<v1::NodeRecord> nodes;
  for (const meta::Entry& entry : *entries) {
    auto record = meta::read_node(entry.key, entry.value);
    if (record.code() == Code::kUnsupported) return record.status();
    if (!record) {
      log::error("volume", "the record of a node cannot be read and is left out",
                 {{"key", entry.key}, {"error", record.message()}});
      continue;
    }
    nodes.push_back(std::move(*record));
  }
  return nodes;
}

Status Catalog::put_node(v1::NodeRecord record) {
  const std::string key = keys_.node(record.id());
  auto text = meta::write_record(key, record);
  if (!text) return text.status();
  return store_.commit({{}, {{key, *text, 0}}}).status();
}

Status Catalog::erase_node(const v1::NodeRecord& node) {
  v1::NodeRecord removed = node;
  auto done = store_.commit({{{keys_.alive(node.id()), 0}},
                             {{keys_.node(node.id()), {}, 0},
                              {keys_.removed_node(node.id()), meta::encode_record(removed), 0}}});
  if (!done) return done.status();
  if (!done->applied)
    return Status(Code::kFailedPrecondition, "node " + node.name() +
                                                 " is back; drain it ('cvol node drain " +
                                                 node.name() + "') and stop its volumed first");
  return Status::ok();
}

Status Catalog::erase_volume(const VolumeEntry& entry) {
  const std::string key = keys_.volume(entry.record.id());
  auto done = store_.commit(
      {{{key, entry.revision}},
       {note_of_removal(entry), {key, {}, 0}, {keys_.name(entry.record.name()), {}, 0}}});
  if (!done) return done.status();
  if (!done->applied)
    return Status(Code::kBusy, "the record of volume '" + entry.record.name() +
                                   "' changed meanwhile; try again");
  return Status::ok();
}

Result<std::vector<v1::DiskRecord>> Catalog::load_disks(
    std::map<std::string, std::string>& unreadable) {
  auto entries = store_.list(keys_.disks());
  if (!entries) return entries.status();
  std::vector<v1::DiskRecord> disks;
  for (const meta::Entry& entry : *entries) {
    auto record = meta::read_disk(entry.key, entry.value);
    if (record.code() == Code::kUnsupported) return record.status();
    if (!record) {
      log::error("volume", "the record of a disk cannot be read and is left out",
                 {{"key", entry.key}, {"error", record.message()}});
      unreadable[entry.key.substr(keys_.disks().size())] = record.message();
      continue;
    }
    disks.push_back(std::move(*record));
  }
  return disks;
}

Status Catalog::put_disk(v1::DiskRecord record) {
  if (!record.has_created()) *record.mutable_created() = TimeUtil::GetCurrentTime();
  const std::string key = keys_.disk(record.id());
  auto text = meta::write_record(key, record);
  if (!text) return text.status();
  return store_.commit({{}, {{key, *text, 0}}}).status();
}

Result<std::vector<v1::DiskFailureRecord>> Catalog::load_disk_failures() {
  auto entries = store_.list(keys_.disk_failures());
  if (!entries) return entries.status();
  std::vector<v1::DiskFailureRecord> failures;
  for (const meta::Entry& entry : *entries) {
    auto record = meta::parse_record<v1::DiskFailureRecord>(entry.key, entry.value);
    if (record.code() == Code::kUnsupported) return record.status();
    if (record) {
      failures.push_back(std::move(*record));
      continue;
    }
    // A record that cannot be read still says that there was a failure.
    failures.emplace_back();
    failures.back().set_id(entry.key.substr(keys_.disk_failures().size()));
    failures.back().set_reason(record.message());
  }
  return failures;
}

Status Catalog::put_disk_failure(const std::string& disk_id, const std::string& reason) {
  v1::DiskFailureRecord record;
  record.set_id(disk_id);
  record.set_reason(reason);
  *record.mutable_time() = TimeUtil::GetCurrentTime();
  return store_.commit({{}, {{keys_.disk_failure(disk_id), meta::encode_record(record), 0}}})
      .status();
}

Status Catalog::erase_disk_failure(const std::string& disk_id) {
  return store_.commit({{}, {{keys_.disk_failure(disk_id), {}, 0}}}).status();
}

}  // namespace cvol::volume
