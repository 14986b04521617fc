#include "volumed/volume/record_map.h"

namespace cvol::volume {
namespace {

// Empty: nil.
Status parse_id(const std::string& text, Uuid& into) {
  into = Uuid{};
  if (text.empty()) return Status::ok();
  auto id = Uuid::parse(text);
  if (!id) return Status(Code::kDamaged, "a volume's record holds the id '" + text + "'");
  into = *id;
  return Status::ok();
}

}  // namespace

Result<replication::Record> to_replication(const v1::VolumeRecord& record, uint64_t revision) {
  replication::Record result;
  result.epoch.value = record.epoch();
  result.revision = revision;
  result.lineage = record.lineage();
  result.size_bytes = record.size_bytes();
  result.min_in_sync = record.min_in_sync() == 0 ? 1 : record.min_in_sync();
  CVOL_TRY(parse_id(record.primary(), result.primary));
  CVOL_TRY(parse_id(record.session().id(), result.session.id));
  CVOL_TRY(parse_id(record.session().node_id(), result.session.node));
  result.session.generation = record.session().generation();
  for (const v1::InSyncRecord& entry : record.in_sync()) {
    replication::InSync in_sync;
    CVOL_TRY(parse_id(entry.replica_id(), in_sync.replica));
    in_sync.incarnation = entry.incarnation();
    result.in_sync.push_back(in_sync);
  }
  for (const v1::MemberRecord& entry : record.members()) {
    replication::Member member;
    CVOL_TRY(parse_id(entry.replica_id(), member.replica));
    CVOL_TRY(parse_id(entry.node_id(), member.node));
    CVOL_TRY(parse_id(entry.disk_id(), member.disk));
    result.members.push_back(member);
  }
  return result;
}

void from_replication(const replication::Record& decided, v1::VolumeRecord& record) {
  record.set_epoch(decided.epoch.value);
  record.set_primary(decided.primary.to_string());
  record.clear_in_sync();
  for (const replication::InSync& entry : decided.in_sync) {
    v1::InSyncRecord& in_sync = *record.add_in_sync();
    in_sync.set_replica_id(entry.replica.to_string());
    in_sync.set_incarnation(entry.incarnation);
  }
}

}  // namespace cvol::volume
