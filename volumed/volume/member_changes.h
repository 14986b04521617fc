// Changes of a record's members that depend on what the record says: made within the
// compare-and-swap that writes it (Cluster::update), so that nothing may change in between. Pure.
#pragma once

#include <cvol/v1/records.pb.h>

#include <optional>
#include <string>

#include "volumed/base/result.h"

namespace cvol::volume {

// The replicas of a node that is gone for good leave the members. kFailedPrecondition, and nothing
// is changed, if one of them is in the in-sync set: it may hold what no other does. kCancelled if
// the node has none: there is nothing to be written.
Status leave_out_node(v1::VolumeRecord& record, const std::string& node_id,
                      const std::string& node_name);

// The same, and `successor` becomes a member in their place; `added` tells. Not if the volume is
// not "ready", has enough members without it, or has one on the successor's node: a node serves one
// replica of a volume.
Status take_place(v1::VolumeRecord& record, const std::string& node_id,
                  const std::string& node_name, const std::optional<v1::MemberRecord>& successor,
                  bool& added);

}  // namespace cvol::volume
