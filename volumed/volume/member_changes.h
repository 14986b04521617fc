// Changes of a record's members that depend on what the record says: made within the
// compare-and-swap that writes it (Cluster::update), so that nothing may change in between. Pure.
#pragma once

#include <cvol/v1/records.pb.h>

#include <string>

#include "volumed/base/result.h"

namespace cvol::volume {

// The replicas of a node that is gone for good leave the members. kFailedPrecondition, and nothing
// is changed, if one of them is in the in-sync set: it may hold what no other does. kCancelled if
// the node has none: there is nothing to be written.
Status leave_out_node(v1::VolumeRecord& record, const std::string& node_id,
                      const std::string& node_name);

}  // namespace cvol::volume
