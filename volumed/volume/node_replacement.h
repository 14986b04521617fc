// Replacing a node: the node that is asked takes the places of one that is gone for good.
//
// Of each volume the lost node's replica leaves the members, and in the same change a new one is
// placed on a disk of this node, unless this node has one already or may not take it: repair then
// finds another place. Last the lost node is taken out of the cluster, so that it does not come
// back as it was. Everything is looked at before anything is changed; a call that was cut off is
// made again.
//
// Threading: any thread but a shard's; calls block for the metadata store.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "volumed/volume/cluster.h"

namespace cvol::volume {

struct TakenPlaces {
  uint32_t here = 0;       // new replicas on this node
  uint32_t elsewhere = 0;  // replicas that repair has to make on other nodes
};

// `lost` is not alive, as far as is known here. `volumes`: ids of all. kFailedPrecondition, and
// nothing is changed: this node cannot take replicas, or the lost one holds an in-sync replica, or
// it is back.
Result<TakenPlaces> replace_node(Cluster& cluster, Catalog& catalog, const v1::NodeRecord& lost,
                                 const std::vector<std::string>& volumes);

}  // namespace cvol::volume
