// Names in place of ids in sentences for people.
#pragma once

#include <cvol/v1/records.pb.h>

#include <map>
#include <string>

namespace cvol::volume {

// Replication speaks of replicas by their ids, or the first eight digits of them: each becomes the
// name of its node ("on node2"), as far as the record and `nodes` (ids -> names) know it. Pure.
std::string with_node_names(const v1::VolumeRecord& record,
                            const std::map<std::string, std::string>& nodes, std::string text);

}  // namespace cvol::volume
