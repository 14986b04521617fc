#include "volumed/volume/member_changes.h"

#include <algorithm>

namespace cvol::volume {

Status leave_out_node(v1::VolumeRecord& record, const std::string& node_id,
                      const std::string& node_name) {
  auto& members = *record.mutable_members();
  const auto is_its = [&](const v1::MemberRecord& member) { return member.node_id() == node_id; };
  const auto in_sync = [&](const v1::MemberRecord& member) {
    return std::any_of(
        record.in_sync().begin(), record.in_sync().end(),
        [&](const v1::InSyncRecord& entry) { return entry.replica_id() == member.replica_id(); });
  };
  for (const v1::MemberRecord& member : members) {
    if (is_its(member) && in_sync(member))
      return Status(Code::kFailedPrecondition,
                    "node " + node_name + " holds an in-sync replica of volume '" + record.name() +
                        "', perhaps the last one; start it again, or remove the volume");
  }
  const auto gone = std::remove_if(members.begin(), members.end(), is_its);
  if (gone == members.end()) return Status(Code::kCancelled, "the node has no replica of it");
  members.erase(gone, members.end());
  record.set_epoch(record.epoch() + 1);
  return Status::ok();
}

Status take_place(v1::VolumeRecord& record, const std::string& node_id,
                  const std::string& node_name, const std::optional<v1::MemberRecord>& successor,
                  bool& added) {
  added = false;
  CVOL_TRY(leave_out_node(record, node_id, node_name));
  if (!successor || record.state() != "ready") return Status::ok();
  uint32_t wanted = 0;
  for (const v1::MemberRecord& member : record.members()) {
    if (member.node_id() == successor->node_id()) return Status::ok();
    wanted += member.wanted() == "removed" ? 0 : 1;
  }
  if (wanted >= record.replicas()) return Status::ok();
  *record.add_members() = *successor;
  added = true;
  return Status::ok();
}

}  // namespace cvol::volume
